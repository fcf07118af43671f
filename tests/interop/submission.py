#!/usr/bin/env python3
"""Programs that people submit mail with, and strangers who do not mean it well, against our listeners.

One line is printed for each part; a program that is not here is skipped by name. The daemon is an
instance of its own under a temporary directory, runs as whoever runs this, or as nobody for root, and
listens on loopback only. Parts may be named on the command line, see PARTS.
"""

import collections
import itertools
import json
import os
import re
import shutil
import smtplib
import ssl
import sys
import tempfile
import time

from instance import NAME, SMTPD, Daemon, Skip, needed, run, serves, wait
from strangers import auth_corpus, fail2ban, guessing, handshakes, hang_ups, injection


# The parts. Each gives what is to be said of it.

class Expected:
    """Messages that clients have sent."""

    def __init__(self, daemon):
        self.daemon, self.subjects = daemon, []

    def subject(self, name):
        self.subjects.append(name)
        return name

    def arrived(self):
        missing = lambda: [s for s in self.subjects
                           if not any(f"\nSubject: {s}\n" in mail for mail in self.daemon.mails())]
        wait(f"the mail of {self.subjects}", lambda: not missing())
        for mail in self.daemon.mails():
            if " with ESMTPSA id " not in mail:
                raise RuntimeError(f"no sign of TLS and AUTH: {mail[:300]}")
        return f"{len(self.subjects)} messages"


def swaks(daemon):
    needed("swaks")
    sent = Expected(daemon)
    for how, port in (("--tls", daemon.starttls), ("--tls-on-connect", daemon.smtps)):
        for mechanism in ("PLAIN", "LOGIN"):
            run("swaks", "--server", "127.0.0.1", "--port", str(port), how, "--auth", mechanism, "--auth-user", "ann",
                "--auth-password", "secret", "--from", "ann@example.org", "--to", "x@example.org",
                "--header", f"Subject: {sent.subject(f'swaks {how} {mechanism}')}")
    return sent.arrived()


def msmtp(daemon):
    needed("msmtp")
    sent = Expected(daemon)
    for starttls, port in (("on", daemon.starttls), ("off", daemon.smtps)):
        for mechanism in ("plain", "login"):
            subject = sent.subject(f"msmtp {starttls} {mechanism}")
            run("msmtp", "--host=127.0.0.1", f"--port={port}", "--tls=on", f"--tls-starttls={starttls}",
                "--tls-certcheck=off", f"--auth={mechanism}", "--user=ann", "--passwordeval=echo secret",
                "--from=ann@example.org", "x@example.org", text=f"Subject: {subject}\n\nhi\n")
    return sent.arrived()


def curl(daemon):
    needed("curl")
    sent = Expected(daemon)
    for scheme, port in (("smtp", daemon.starttls), ("smtps", daemon.smtps)):
        for mechanism in ("PLAIN", "LOGIN"):
            subject = sent.subject(f"curl {scheme} {mechanism}")
            run("curl", "-sS", "--ssl-reqd", "--cacert", f"{daemon.dir}/ca.pem", "--resolve", f"{NAME}:{port}:127.0.0.1",
                "--url", f"{scheme}://{NAME}:{port}", "--user", "ann:secret", "--login-options", f"AUTH={mechanism}",
                "--mail-from", "ann@example.org", "--mail-rcpt", "x@example.org", "-T", "-",
                text=f"Subject: {subject}\n\nhi\n")
    return sent.arrived()


def python(daemon):
    sent = Expected(daemon)
    context = ssl.create_default_context(cafile=f"{daemon.dir}/ca.pem")
    context.check_hostname = False
    for port in (daemon.starttls, daemon.smtps):
        # With the response in the command, as most programs do it, and asked for.
        for initial, mechanism in itertools.product((True, False), ("auth_plain", "auth_login")):
            client = smtplib.SMTP("127.0.0.1", port) if port == daemon.starttls else \
                smtplib.SMTP_SSL("127.0.0.1", port, context=context)
            with client:
                if port == daemon.starttls:
                    client.starttls(context=context)
                client.ehlo()
                client.user, client.password = "ann", "secret"
                client.auth(mechanism[5:].upper(), getattr(client, mechanism), initial_response_ok=initial)
                subject = sent.subject(f"smtplib {port} {mechanism} {initial}")
                client.sendmail("ann@example.org", ["x@example.org"], f"Subject: {subject}\n\nhi\n")
    return sent.arrived()


def nodemailer(daemon):
    needed("node")
    sent = Expected(daemon)
    script = """
        const mailer = require('nodemailer');
        const [port, secure, ca, subject, method] = process.argv.slice(1);
        mailer.createTransport({ host: '127.0.0.1', port: +port, secure: secure === 'yes', requireTLS: true,
            authMethod: method, auth: { user: 'ann', pass: 'secret' },
            tls: { ca: require('fs').readFileSync(ca), servername: 'mx.example.org' } })
          .sendMail({ from: 'ann@example.org', to: 'x@example.org', subject, text: 'hi' })
          .then(() => process.exit(0), error => { console.error(error); process.exit(1); });"""
    env = dict(os.environ, NODE_PATH="/usr/share/nodejs:/usr/lib/nodejs")
    if "Cannot find module" in run("node", "-e", "require('nodemailer')", ok=False, env=env):
        raise Skip("nodemailer is not installed")
    for secure, port in (("no", daemon.starttls), ("yes", daemon.smtps)):
        for method in ("PLAIN", "LOGIN"):
            run("node", "-e", script, str(port), secure, f"{daemon.dir}/ca.pem",
                sent.subject(f"nodemailer {secure} {method}"), method, env=env)
    return sent.arrived()


def s_client(daemon, port, *arguments, text="QUIT\n", starttls=True):
    how = ["-starttls", "smtp"] if starttls else []
    ends = [] if text.startswith("R") or text.startswith("K") else ["-ign_eof"]
    return run("openssl", "s_client", *ends, "-connect", f"127.0.0.1:{port}", "-servername", NAME, *how, "-CAfile",
               f"{daemon.dir}/ca.pem", "-verify_return_error", *arguments, text=text, ok=False, seconds=30)


def versions(daemon):
    """Every version and cipher that a listener has without `protocols` and `ciphers`, and what it must not have."""
    needed("openssl")
    wanted = {"rsa": daemon.starttls, "ecdsa": daemon.ecdsa}
    spoken = []
    for suite in ("TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256", "TLS_AES_128_GCM_SHA256"):
        for kind, port in wanted.items():
            spoken.append((port, ["-tls1_3", "-ciphersuites", suite], suite))
    for kind, port in wanted.items():
        for end in ("AES256-GCM-SHA384", "CHACHA20-POLY1305", "AES128-GCM-SHA256"):
            cipher = f"ECDHE-{kind.upper()}-{end}"
            spoken.append((port, ["-tls1_2", "-cipher", cipher], cipher))
    for port, arguments, cipher in spoken:
        for starttls, at in ((True, port), (False, daemon.smtps if port == daemon.starttls else daemon.smtps_ecdsa)):
            said = s_client(daemon, at, *arguments, starttls=starttls)
            if f"Cipher is {cipher}" not in said or "Verify return code: 0 (ok)" not in said or "\n221 " not in said:
                raise RuntimeError(f"{cipher}: {said[-500:]}")
    refused = [["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], ["-tls1", "-cipher", "ALL:@SECLEVEL=0"],
               *(["-tls1_2", "-cipher", f"{cipher}:@SECLEVEL=0"] for cipher in
                 ("AES128-SHA", "AES256-GCM-SHA384", "DHE-RSA-AES256-GCM-SHA384", "ECDHE-RSA-AES128-SHA",
                  "ECDHE-RSA-AES256-SHA384", "AECDH-AES128-SHA", "NULL-SHA256"))]
    for arguments in refused:
        said = s_client(daemon, daemon.starttls, *arguments)
        if "Cipher is (NONE)" not in said and "Cipher is" in said:
            raise RuntimeError(f"{arguments}: {said[-500:]}")
    return f"{2 * len(spoken)} handshakes, {len(refused)} refused"


def renegotiation(daemon):
    needed("openssl")
    for port in (daemon.smtps, daemon.smtps_ecdsa):
        said = s_client(daemon, port, "-tls1_2", text="R\nEHLO c.example.net\n", starttls=False)
        if "250 HELP" in said:
            raise RuntimeError(said[-500:])
    # Another key in TLS 1.3 is none of it.
    said = s_client(daemon, daemon.smtps, "-tls1_3", text="K\nQUIT\n", starttls=False)
    if "KEYUPDATE" not in said:
        raise RuntimeError(said[-500:])
    if not serves(daemon.ecdsa):
        raise RuntimeError("nobody is served any more")
    return "refused"


def nmap(daemon):
    needed("nmap")
    found = []
    for port in (daemon.smtps, daemon.smtps_ecdsa):
        said = run("nmap", "-Pn", "-n", "-p", str(port), "--script",
                   "ssl-enum-ciphers,ssl-dh-params,ssl-heartbleed,ssl-poodle,ssl-ccs-injection,sslv2,sslv2-drown,"
                   "ssl-known-key,tls-ticketbleed", "127.0.0.1", seconds=300)
        grades = set(re.findall(r"TLS_\S+ .* - ([A-F])$", said, re.M))
        strength = re.search(r"least strength: (\w)", said)
        if grades != {"A"} or not strength or strength.group(1) != "A" or "VULNERABLE" in said or "warnings" in said:
            found.append(said)
    if found:
        raise RuntimeError(found[0][-1500:])
    return "every cipher has grade A, no warnings"


def testssl(daemon):
    needed("testssl")
    worst = collections.Counter()
    for how, port in ((["--starttls", "smtp"], daemon.starttls), ([], daemon.smtps_ecdsa)):
        out = f"{daemon.dir}/testssl.json"
        if os.path.exists(out):
            os.remove(out)
        run("testssl", "--quiet", "--color", "0", "--nodns", "none", "--add-ca", f"{daemon.dir}/ca.pem", "--jsonfile", out,
            *how, f"127.0.0.1:{port}", ok=False, seconds=900)
        with open(out) as f:
            for finding in json.load(f):
                # WARN means that it could not tell.
                if finding["severity"] not in ("OK", "INFO", "DEBUG", "WARN") and finding["id"] not in OF_THE_CERTIFICATE:
                    worst[f"{finding['severity']} {finding['id']}: {finding['finding']}"] += 1
    if worst:
        raise RuntimeError("; ".join(worst))
    return "no finding above info"


# What a certificate of an authority of our own, asked for by an address, cannot have.
OF_THE_CERTIFICATE = {"cert_trust", "cert_chain_of_trust", "cert_revocation", "cert_crlDistributionPoints", "cert_ocspURL",
                      "DNS_CAArecord", "certificate_transparency", "cert_expirationStatus", "cert_notAfter", "cert_caIssuers",
                      "scanTime", "engine_problem", "overall_grade", "grade_cap_reason_1", "grade_cap_reason_2",
                      "cert_validityPeriod", "chain_of_trust"}


PARTS = [swaks, msmtp, curl, python, nodemailer, versions, renegotiation, injection, nmap, testssl, auth_corpus, guessing,
         fail2ban, handshakes, hang_ups]


def main():
    if not os.path.exists(SMTPD):
        print(f"interop: there is no {SMTPD}")
        return 1
    wanted = [part for part in PARTS if not sys.argv[1:] or part.__name__ in sys.argv[1:]]
    fine = True
    with tempfile.TemporaryDirectory(prefix="smtpd-submission-") as top:
        os.chmod(top, 0o755)
        daemon = Daemon(top)
        engine = daemon.engine()
        try:
            for part in wanted:
                begun = time.monotonic()
                try:
                    verdict = "ok", part(daemon)
                except Skip as skip:
                    verdict = "skipped", str(skip)
                except Exception as error:
                    verdict, fine = ("FAILED", f"{type(error).__name__}: {error}"), False
                print(f"{part.__name__:14} {verdict[0]:8} {verdict[1]} ({time.monotonic() - begun:.1f} s)", flush=True)
            if daemon.engine() != engine:
                print("FAILED: the engine has been started again")
                fine = False
        finally:
            daemon.stop()
            keep = os.environ.get("SMTPD_INTEROP_KEEP")
            if keep:
                os.makedirs(keep, exist_ok=True)
                shutil.copy(daemon.log, f"{keep}/submission.log")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
