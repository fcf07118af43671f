#!/usr/bin/env python3
"""Programs that people submit mail with, and strangers who do not mean it well, against our listeners.

One line is printed for each part; a program that is not here is skipped by name. The daemon is an
instance of its own under a temporary directory, runs as whoever runs this, or as nobody for root, and
listens on loopback only. Parts may be named on the command line, see PARTS.
"""

import base64
import collections
import concurrent.futures
import itertools
import json
import os
import pwd
import random
import re
import shutil
import signal
import smtplib
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
sys.path.append(f"{TOP}/tests/support")

from waiting import serves, wait

SMTPD = os.environ.get("SMTPD_INTEROP_SMTPD", f"{TOP}/target/release/smtpd")
SMTPCTL = os.path.join(os.path.dirname(SMTPD), "smtpctl")
# "secret", by bcrypt with few rounds.
HASH = "$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW"
NAME = "mx.example.org"


class Skip(Exception):
    """Why a part is not run."""


def needed(*programs):
    for program in programs:
        if not shutil.which(program):
            raise Skip(f"{program} is not installed")


def run(*argv, text="", ok=True, seconds=120, **kw):
    result = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=seconds, errors="replace", **kw)
    if ok and result.returncode:
        raise RuntimeError(f"{argv[0]} ended with {result.returncode}: {(result.stdout + result.stderr)[-400:]}")
    return result.stdout + result.stderr


def plain(user, password):
    return base64.b64encode(b"\0" + user + b"\0" + password).decode()


# The daemon.

class Daemon:
    def __init__(self, top):
        self.dir = top
        ports = [free_port() for _ in range(5)]
        self.starttls, self.smtps, self.verify, self.ecdsa, self.smtps_ecdsa = ports
        authority(top)
        certificate(top, "rsa", ["rsa:2048"], NAME)
        certificate(top, "ecdsa", ["ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"], NAME)
        certificate(top, "client", ["rsa:2048"], "client.example.net")
        write(f"{top}/creds", f"ann {HASH}\nbob {HASH}\n")
        write(f"{top}/mailname", NAME + "\n")
        write(f"{top}/smtpd.conf", f"""
pki rsa cert "{top}/rsa.pem" key "{top}/rsa.key"
pki ecdsa cert "{top}/ecdsa.pem" key "{top}/ecdsa.key"
ca all cert "{top}/ca.pem"
table creds file:{top}/creds
listen on 127.0.0.1 port {self.starttls} tls-require pki rsa auth <creds>
listen on 127.0.0.1 port {self.smtps} smtps pki rsa auth <creds>
listen on 127.0.0.1 port {self.verify} smtps verify pki rsa ca all auth-optional <creds>
listen on 127.0.0.1 port {self.ecdsa} tls pki ecdsa auth-optional <creds>
listen on 127.0.0.1 port {self.smtps_ecdsa} smtps pki ecdsa auth <creds>
smtp limit max-mails 100000
action "in" maildir "{top}/mail" virtual {{ "@" = "{user().pw_name}" }}
match from any for any action "in"
""")
        self.log = f"{top}/log"
        with open(self.log, "wb") as log:
            who = {}
            if os.geteuid() == 0:
                for path in [top] + [os.path.join(top, name) for name in os.listdir(top)]:
                    shutil.chown(path, user().pw_uid, user().pw_gid)
                who = {"user": user().pw_uid, "group": user().pw_gid, "extra_groups": []}
            self.child = subprocess.Popen([SMTPD, "-d", "-R", top], stdin=subprocess.DEVNULL, stdout=log, stderr=log, **who)
        wait("smtpd to serve", lambda: serves(self.ecdsa) or self.child.poll() is not None)
        if self.child.poll() is not None:
            raise RuntimeError(f"smtpd has ended: {read(self.log)}")

    def engine(self):
        with open(f"/proc/{self.child.pid}/task/{self.child.pid}/children") as f:
            for pid in f.read().split():
                if "engine" in read(f"/proc/{pid}/cmdline"):
                    return int(pid)
        raise RuntimeError("there is no engine")

    def mails(self):
        new = f"{self.dir}/mail/new"
        return [read(f"{new}/{name}") for name in os.listdir(new)] if os.path.isdir(new) else []

    def ctl(self, *words):
        return run(SMTPCTL, "-R", self.dir, *words)

    def sessions(self):
        found = re.search(r"^smtp\.session=(\d+)$", self.ctl("show", "stats"), re.M)
        return int(found.group(1)) if found else 0

    def quiet(self):
        """Descriptors, threads and KiB of the engine, when nobody is there any more."""
        wait("the last session to end", lambda: self.sessions() == 0, 90)
        pid = self.engine()
        status = read(f"/proc/{pid}/status")
        number = lambda key: int(re.search(rf"^{key}:\s*(\d+)", status, re.M).group(1))
        return len(os.listdir(f"/proc/{pid}/fd")), number("Threads"), number("VmRSS")

    def stop(self):
        self.child.send_signal(signal.SIGTERM)
        self.child.wait(30)


def user():
    """Whose the daemon is, and who gets all mail: root can have none."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as s:
        return s.getsockname()[1]


def write(path, text):
    with open(path, "w") as f:
        f.write(text)


def read(path):
    with open(path, errors="replace") as f:
        return f.read()


def authority(top):
    run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=authority.example",
        "-addext", "keyUsage=critical,keyCertSign,cRLSign", "-keyout", f"{top}/ca.key", "-out", f"{top}/ca.pem")


def certificate(top, name, key, host):
    run("openssl", "req", "-newkey", *key, "-nodes", "-subj", f"/CN={host}", "-keyout", f"{top}/{name}.key",
        "-out", f"{top}/{name}.csr")
    write(f"{top}/{name}.ext", f"subjectAltName=DNS:{host}\nextendedKeyUsage=serverAuth,clientAuth\n"
          "basicConstraints=CA:FALSE\nkeyUsage=digitalSignature,keyEncipherment\nsubjectKeyIdentifier=hash\n"
          "authorityKeyIdentifier=keyid\n")
    run("openssl", "x509", "-req", "-in", f"{top}/{name}.csr", "-CA", f"{top}/ca.pem", "-CAkey", f"{top}/ca.key",
        "-CAcreateserial", "-days", "20", "-sha256", "-extfile", f"{top}/{name}.ext", "-out", f"{top}/{name}.pem")
    os.chmod(f"{top}/{name}.key", 0o600)


# A client of our own.

class Client:
    """A session over TLS, with or without STARTTLS."""

    def __init__(self, port, starttls=False, name=NAME, source="127.0.0.1", cert=None, version=None):
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if cert:
            context.load_cert_chain(f"{cert}.pem", f"{cert}.key")
        if version:
            context.minimum_version = context.maximum_version = version
        self.socket = socket.create_connection(("127.0.0.1", port), 60, (source, 0))
        try:
            if starttls:
                self.lines = self.socket.makefile("rb")
                self.reply()
                self.ask("EHLO c.example.net")
                self.ask("STARTTLS")
            self.socket = context.wrap_socket(self.socket, server_hostname=name)
            self.lines = self.socket.makefile("rb")
            if not starttls:
                self.reply()
        except BaseException:
            self.socket.close()
            raise

    def reply(self):
        while True:
            line = self.lines.readline().decode(errors="replace").rstrip()
            if line[3:4] != "-":
                return line

    def ask(self, command):
        self.send(command + "\r\n")
        return self.reply()

    def send(self, text):
        self.socket.sendall(text.encode() if isinstance(text, str) else text)

    def close(self):
        self.lines.close()
        self.socket.close()


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


def auth_corpus(daemon):
    """RFC 4954: whatever stands in user and password is taken or refused, and others go on."""
    answers = collections.Counter()

    def tried(pair):
        number, (name, password) = pair
        client = Client(daemon.smtps_ecdsa, source=f"127.0.{100 + number // 200}.{number % 200 + 1}")
        client.ask("EHLO c.example.net")
        said = client.ask(f"AUTH PLAIN {plain(name, password)}")
        good = said.startswith(("535 5.7.8 ", "501 5.5.2 "))
        if (name, password) == (b"ann", b"secret"):
            good = said.startswith("235 ")
        fine = client.ask("NOOP") == "250 2.0.0 Ok"
        client.close()
        if not good or not fine:
            raise RuntimeError(f"{name!r} {password!r}: {said}")
        return said[:3]
    byte = lambda n: bytes([n])
    pairs = [pair for n in range(256) for pair in ((b"u%d" % n + byte(n), b"secret"), (b"v%d" % n, b"secre" + byte(n) + b"t"))]
    pairs += [(b"", b""), (b"", b"x"), (b"ann", b""), (b"a" * 256, b"x"), (b"w", b"p" * 900), (b"ann", b"secret")]
    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        answers.update(pool.map(tried, enumerate(pairs)))
    client = Client(daemon.smtps_ecdsa)
    expected = [
        ("AUTH PLAIN " + plain(b"ann", b"secret"), "503 "), ("EHLO c.example.net", "250 "), ("AUTH", "501 "),
        ("AUTH PLAIN *", "501 5.5.2"), ("AUTH PLAIN ====", "501 5.5.2"), ("AUTH PLAIN not base64!", "501 5.5.2"),
        ("AUTH PLAIN =", "501 5.5.2"), ("AUTH CRAM-MD5", "504 5.7.4"), ("AUTH LOGIN", "334 "), ("*", "501 5.5.2"),
        ("AUTH PLAIN", "334"), ("*", "501 5.5.2"), ("AUTH PLAIN " + "A" * 1500, "501 5.5.2"),
        ("MAIL FROM:<ann@example.org>", "530 "), ("AUTH PLAIN " + plain(b"ann", b"Secret"), "535 5.7.8"),
        ("MAIL FROM:<ann@example.org>", "530 "), ("AUTH PLAIN " + plain(b"ann", b"secret"), "235 "),
        ("AUTH PLAIN " + plain(b"bob", b"secret"), "503 "), ("MAIL FROM:<ann@example.org>", "250 "),
        ("AUTH PLAIN", "503 "), ("QUIT", "221 ")]
    for command, code in expected:
        said = client.ask(command)
        if not said.startswith(code):
            raise RuntimeError(f"{command[:40]}: {said}")
    client.close()
    client = Client(daemon.smtps_ecdsa)
    client.ask("EHLO c.example.net")
    said = client.ask("AUTH PLAIN " + "A" * 65536)
    if not said.startswith("500 5.0.0 "):
        raise RuntimeError(f"64 KiB: {said}")
    client.close()
    log = read(daemon.log)
    for secret in (plain(b"ann", b"Secret"), "secret", plain(b"ann", b"secret")):
        if secret in log:
            raise RuntimeError(f"{secret} is in the log")
    return ", ".join(f"{count} × {code}" for code, count in sorted(answers.items())) + f", {len(expected)} in order, 64 KiB"


def guessing(daemon):
    """100 wrong passwords over one connection after the other, and over 100 at once; others log in."""
    def guess(source, name, password=b"x"):
        client = Client(daemon.smtps_ecdsa, source=source)
        client.ask("EHLO c.example.net")
        said = client.ask("AUTH PLAIN " + plain(name, password))
        client.close()
        return said
    stop, others = threading.Event(), []

    def log_in():
        while not stop.is_set():
            begun = time.monotonic()
            said = guess("127.0.90.1", b"ann", b"secret")
            others.append((time.monotonic() - begun, said))
    thread = threading.Thread(target=log_in)
    thread.start()
    try:
        at_once = collections.Counter()
        with concurrent.futures.ThreadPoolExecutor(100) as pool:
            at_once.update(said[:9] for said in pool.map(lambda n: guess("127.0.91.1", b"g%d" % n), range(100)))
        one_by_one = collections.Counter()
        client, rest = None, 100
        while rest and one_by_one["454 4.7.0"] < 3:
            if client is None:
                client = Client(daemon.smtps_ecdsa, source="127.0.92.1")
                client.ask("EHLO c.example.net")
            said = client.ask("AUTH PLAIN " + plain(b"h%d" % rest, b"x"))
            one_by_one[said[:9]] += 1
            rest -= 1
            if said.startswith("421 "):
                client = client.close()
        if client:
            client.close()
    finally:
        stop.set()
        thread.join()
    if at_once["454 4.7.0"] < 40 or one_by_one["454 4.7.0"] < 3 or one_by_one["421 4.7.0"] < 5:
        raise RuntimeError(f"no end to guessing: {at_once}, {one_by_one}")
    if not all(said.startswith("235 ") for _, said in others):
        raise RuntimeError(f"others are kept out: {set(said for _, said in others)}")
    show = lambda counts: ", ".join(f"{count} × {code}" for code, count in counts.items())
    return (f"at once: {show(at_once)}; one by one: {show(one_by_one)}; {len(others)} log-ins of others meanwhile, "
            f"the slowest in {max(others)[0] * 1000:.0f} ms")


def fail2ban(daemon):
    needed("fail2ban-regex")
    said = run("fail2ban-regex", "-v", daemon.log, f"{TOP}/etc/fail2ban.conf")
    matched = int(re.search(r"(\d+) matched", said).group(1))
    log = read(daemon.log)
    failures = len(re.findall(r"result=permfail address=127\.0\.", log)) + \
        len(re.findall(r'result="454 4\.7\.0 Too many failed attempts to log in, try again later"', log))
    if not failures or matched != failures:
        raise RuntimeError(f"{matched} lines matched of {failures}: {said[-600:]}")
    return f"{matched} lines of {failures}"


def settled(daemon, work, times=2):
    """Does a thing so many times, and says what the engine has kept of the last."""
    work()
    before = daemon.quiet()
    for _ in range(times - 1):
        work()
    after = daemon.quiet()
    if after[0] > before[0] + 4 or after[1] > before[1] or after[2] > before[2] + 8192:
        raise RuntimeError(f"descriptors, threads, KiB: {before} before, {after} after")
    return f"descriptors, threads, KiB: {before} before, {after} after"


def handshakes(daemon):
    """10,000 handshakes with names by chance, of which many are broken off at any step."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    done = collections.Counter()

    def some(seed):
        dice = random.Random(seed)
        counted = collections.Counter()
        for _ in range(500):
            labels = ("".join(dice.choices("abcxyz0", k=dice.randrange(1, 20))) for _ in range(dice.randrange(1, 6)))
            name = dice.choice([NAME, "a." + NAME, ".".join(labels) + ".example", None])
            with socket.create_connection(("127.0.0.1", dice.choice([daemon.smtps, daemon.smtps_ecdsa])), 30) as s:
                kind = dice.randrange(4)
                if kind == 0:
                    # Step by step, up to any byte.
                    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
                    tls = context.wrap_bio(incoming, outgoing, server_hostname=name)
                    try:
                        tls.do_handshake()
                    except ssl.SSLWantReadError:
                        pass
                    hello = outgoing.read()
                    cut = dice.randrange(len(hello) + 1)
                    s.sendall(hello[:cut])
                    if dice.randrange(2):
                        s.settimeout(0.01)
                        try:
                            s.recv(100)
                        except OSError:
                            pass
                    if dice.randrange(2):
                        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    counted["broken off"] += 1
                elif kind == 1:
                    s.sendall(dice.randbytes(dice.randrange(1, 400)))
                    counted["garbage"] += 1
                else:
                    with context.wrap_socket(s, server_hostname=name) as tls:
                        if kind == 2 and tls.recv(4) != b"220 ":
                            raise RuntimeError("no banner")
                    counted["whole"] += 1
        return counted

    def all_of_them():
        with concurrent.futures.ThreadPoolExecutor(10) as pool:
            for counted in pool.map(some, range(10)):
                done.update(counted)
    kept = settled(daemon, all_of_them, 2)
    return ", ".join(f"{count} {kind}" for kind, count in done.items()) + f"; {kept}"


def injection(daemon):
    """CVE-2011-0411, from either side: what stands behind STARTTLS in clear text counts for nothing."""
    for pause in (0, 0.05):
        with socket.create_connection(("127.0.0.1", daemon.ecdsa), 30) as s:
            s.recv(1000)
            s.sendall(b"EHLO c.example.net\r\n")
            s.recv(1000)
            evil = b"EHLO evil\r\nMAIL FROM:<evil@example.org>\r\n"
            s.sendall(b"STARTTLS\r\n" + (b"" if pause else evil))
            if s.recv(1000) != b"220 2.0.0 Ready to start TLS\r\n":
                raise RuntimeError("no TLS")
            if pause:
                s.sendall(evil)
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            try:
                with context.wrap_socket(s, server_hostname=NAME) as tls:
                    tls.sendall(b"RCPT TO:<x@example.org>\r\n")
                    if not tls.recv(1000).startswith(b"503 "):
                        raise RuntimeError("the injected command counts")
            except (ssl.SSLError, OSError):
                if not pause:
                    raise
    if "evil" in read(daemon.log):
        raise RuntimeError("the log knows the injected command")
    return "forgotten"


def hang_ups(daemon):
    """A client that goes after any byte of a submission, while something is outstanding or not."""
    dialogue = ("EHLO c.example.net\r\nAUTH PLAIN {}\r\nAUTH LOGIN\r\n{}\r\n{}\r\nMAIL FROM:<ann@example.org>\r\n"
                "RCPT TO:<x@example.org>\r\nDATA\r\nSubject: hung up\r\n\r\nhi\r\n.\r\nQUIT\r\n").format(
        plain(b"ann", b"wrong"), base64.b64encode(b"ann").decode(), base64.b64encode(b"secret").decode()).encode()

    def cut(at):
        dice = random.Random(at)
        client = Client(daemon.smtps_ecdsa, source=f"127.0.{110 + at % 100}.{at // 100 + 1}")
        client.send(dialogue[:at])
        if dice.randrange(2):
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        if dice.randrange(2):
            time.sleep(dice.random() / 5)
        client.close()

    def all_of_them():
        with concurrent.futures.ThreadPoolExecutor(32) as pool:
            list(pool.map(cut, range(len(dialogue) + 1)))
    return f"{len(dialogue) + 1} places, three times; " + settled(daemon, all_of_them, 3)


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
