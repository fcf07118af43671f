#!/usr/bin/env python3
"""Filters and table programs as they are in the field, with the servers behind them, against our smtpd.

One line is printed for each: ok, skipped and why, or FAILED and why. Filters: Debian's
opensmtpd-filter-rspamd with rspamd and redis-server, -dkimsign (its signatures are verified by dkimpy
and opendkim) and -senderscore, which are fetched with apt-get(8) and unpacked unless
SMTPD_INTEROP_FILTERS names a directory that has them; and small ones in Python, shell and awk. No
package has table programs of protocol 0.1, so `table.py` here speaks it to SQLite, PostgreSQL, Redis
and an LDAP server: virtual users, aliases, passwords and users of the system's kind. The transcripts of what
filters are told are compared with what Debian's opensmtpd tells them.

Needs root and Linux: everything runs in namespaces of its own, with a nameserver of its own and no
network but loopback, as an ordinary user, and is stopped by its pid.
"""

import base64
import glob
import os
import shutil
import smtplib
import socket
import struct
import subprocess
import sys
import tempfile
import threading

import transcripts
from databases import ldap, postgresql, redis, sqlite
from instance import SMTPD, Skip, needed, run, user, wait, write
from started import PYTHON, TO_MAIL, Children, arrived, expect, filtered, listens, program, smtpd, submit

HERE = os.path.dirname(os.path.abspath(__file__))
INSIDE = "SMTPD_INTEROP_INSIDE"
PACKAGES = ["opensmtpd-filter-rspamd", "opensmtpd-filter-dkimsign", "libopensmtpd0", "opensmtpd-filter-senderscore",
            "opensmtpd"]
GTUBE = "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"


class Nameserver(threading.Thread):
    """Knows what a score is, and no other name."""

    def __init__(self):
        super().__init__(daemon=True)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 53))
        self.start()

    def run(self):
        while True:
            query, who = self.socket.recvfrom(4096)
            labels, at = [], 12
            while query[at]:
                labels.append(query[at + 1:at + 1 + query[at]].decode().lower())
                at += 1 + query[at]
            question = query[12:at + 5]
            kind = struct.unpack(">H", query[at + 1:at + 3])[0]
            answer = b""
            if labels[4:] == ["score", "senderscore", "com"] and kind == 1:
                score = 5 if labels[0] == "66" else 95
                answer = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + bytes([127, 0, 4, score])
            code = 0 if answer else 3
            head = query[:2] + struct.pack(">HHHHH", 0x8180 | code, 1, bool(answer), 0, 0)
            self.socket.sendto(head + question + answer, who)


# The filters.

def rspamd(children):
    """GTUBE is refused, a score becomes header fields, and greylisting asks to come again."""
    needed("rspamd", "redis-server")
    top, who = children.top, user()
    children.start("redis", ["redis-server", "--port", "6379", "--bind", "127.0.0.1", "--save", "", "--dir", top],
                   listens(6379))
    local = f"{top}/rspamd"
    os.makedirs(f"{local}/local.d")
    for name in ("dkim", "spf", "dmarc", "arc", "rbl", "surbl", "mx_check", "asn", "phishing", "fuzzy_check", "neural",
                 "hfilter", "bayes_expiry", "url_redirector", "milter_headers", "ratelimit", "replies", "rspamd_update"):
        write(f"{local}/local.d/{name}.conf", "enabled = false;\n")
    write(f"{local}/local.d/redis.conf", 'servers = "127.0.0.1:6379";\n')
    write(f"{local}/local.d/options.inc", 'dns { nameserver = ["127.0.0.1"]; timeout = 0.2s; retransmits = 1; }\n'
                                          'local_addrs = [];\n')
    write(f"{local}/local.d/greylist.conf", "timeout = 2s; expire = 1h; check_local = true; whitelist_domains_url = [];\n"
                                            "ipv4_mask = 32;\n")
    write(f"{local}/local.d/multimap.conf", "".join(
        f'{symbol} {{ type = "header"; header = "subject"; regexp = true; map = "{local}/{symbol}.map"; score = {score}; }}\n'
        for symbol, score in (("GREY_ME", 4.5), ("MARK_ME", 8.0))))
    write(f"{local}/GREY_ME.map", "/greyme/\n")
    write(f"{local}/MARK_ME.map", "/markme/\n")
    write(f"{local}/local.d/worker-normal.inc", 'bind_socket = "127.0.0.1:11333"; count = 1;\n')
    for name in ("controller", "proxy", "fuzzy"):
        write(f"{local}/local.d/worker-{name}.inc", f'bind_socket = "{local}/{name}.sock mode=0600";\nenabled = false;\n')
    write(f"{local}/local.d/logging.inc", 'type = "console"; level = "notice";\n')
    for path, folders, files in os.walk(local):
        for name in [path] + [os.path.join(path, name) for name in folders + files]:
            shutil.chown(name, who.pw_uid, who.pw_gid)
    variables = [f"--var={name}={local}" for name in ("LOCAL_CONFDIR", "DBDIR", "RUNDIR", "LOGDIR")]
    children.start("rspamd", ["rspamd", "-c", "/etc/rspamd/rspamd.conf", "-f", *variables], listens(11333))
    filtered(children, program("rspamd") + " -url http://127.0.0.1:11333")
    expect("a harmless message", submit("harmless")[0], 250)
    expect("GTUBE", submit("gtube", GTUBE + "\n")[0], 550)
    wait("a marked message to pass, which is greylisted, too", lambda: submit("markme")[0] == 250)
    text = arrived(top, "markme")
    fields = [name for name in (b"X-Spam: yes", b"X-Spam-Score:") if b"\n" + name in b"\n" + text]
    expect("fields of a marked message", fields, [b"X-Spam: yes", b"X-Spam-Score:"])
    # Somebody of whom nothing is known.
    grey = lambda: submit("greyme", "please wait\n", "grey@example.net")
    code, text = grey()
    expect(f"the first attempt ({text})", code, 451)
    wait("greylisting to let it pass", lambda: grey()[0] == 250)
    return "GTUBE 550, X-Spam: yes, greylisted 451 and then 250"


def dkimsign(children):
    """What it signs, dkimpy and opendkim find good; and not any more when it is changed."""
    needed("openssl", "opendkim")
    top = children.top
    run("openssl", "genrsa", "-traditional", "-out", f"{top}/dkim.key", "2048")
    public = run("openssl", "rsa", "-in", f"{top}/dkim.key", "-pubout", "-outform", "DER", "-out", f"{top}/dkim.der")
    record = "v=DKIM1; k=rsa; p=" + base64.b64encode(open(f"{top}/dkim.der", "rb").read()).decode()
    filtered(children, program("dkimsign") + f" -d example.org -s sel -k {top}/dkim.key")
    body = "".join(f"line {n}: Grüße\n" for n in range(500)) + ".\n..\n \n\n"
    expect("the message", submit("signed", body)[0], 250)
    text = arrived(top, "signed").replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    # Ours in front are not signed, and not a part of what was.
    verified = []
    check = "import dkim, sys; print(dkim.verify(sys.stdin.buffer.read(), dnsfunc=lambda *a, **k: sys.argv[1].encode()))"
    for what in (text, text.replace(b"line 7:", b"line 8:")):
        verified.append(subprocess.run([PYTHON, "-c", check, record], input=what, capture_output=True).stdout.strip())
    expect("dkimpy", verified, [b"True", b"False"])
    write(f"{top}/keys", f"sel._domainkey.example.org {record}\n")
    write(f"{top}/opendkim.conf", f"Mode v\nTestPublicKeys {top}/keys\nSyslog no\nOn-BadSignature reject\n"
                                  "On-NoSignature reject\n")
    good = []
    for name, what in (("good", text), ("bad", text.replace(b"line 7:", b"line 8:"))):
        with open(f"{top}/{name}.eml", "wb") as f:
            f.write(what)
        said = run("opendkim", "-x", f"{top}/opendkim.conf", "-t", f"{top}/{name}.eml", "-v", ok=False)
        good.append("verification (s=sel" in said and "succeeded" in said)
    expect(f"opendkim ({said[-200:]})", good, [True, False])
    return "signature verified by dkimpy and opendkim, a changed line refused by both"


def senderscore(children):
    """A client with a bad score is sent away, one with a good one is told about."""
    Nameserver()
    filtered(children, program("senderscore") + " -blockBelow 20 -blockPhase connect -scoreHeader")
    expect("a bad score", submit("bad", source="127.0.0.66")[0] in (550, 554), True)
    expect("a good score", submit("good", source="127.0.0.7")[0], 250)
    text = arrived(children.top, "good")
    expect("the header", b"\nX-SenderScore: 95\n" in b"\n" + text, True)
    return "score 5 refused, score 95 taken with its header"


SHELL = r"""#!/bin/sh
while read -r line; do [ "$line" = "config|ready" ] && break; done
echo "register|filter|smtp-in|ehlo"; echo "register|ready"
while IFS='|' read -r kind version stamp system phase session token name; do
	case $name in bad.*) answer='reject|550 bad name' ;; *) answer=proceed ;; esac
	echo "filter-result|$session|$token|$answer"
done
"""
AWK = r"""BEGIN { FS = "|" }
$0 == "config|ready" { print "register|filter|smtp-in|mail-from"; print "register|ready"; fflush(); next }
$1 == "filter" { print "filter-result|" $6 "|" $7 "|" ($8 ~ /^eve@/ ? "reject|550 not eve" : "proceed"); fflush() }
"""
PYTHON_FILTER = r"""
import sys
for line in sys.stdin.buffer:
    if line == b"config|ready\n":
        sys.stdout.write("register|filter|smtp-in|data-line\nregister|ready\n")
        sys.stdout.flush()
    elif line.startswith(b"filter|"):
        _, _, _, _, _, session, token, text = line.split(b"|", 7)
        for out in ([b"X-Python: yes\n"] if text.startswith(b"Received: from") else []) + [text]:
            sys.stdout.buffer.write(b"filter-dataline|%s|%s|%s" % (session, token, out))
        sys.stdout.buffer.flush()
"""


def scripts(children):
    """One in the shell, one in awk and one in Python, in one chain."""
    top = children.top
    write(f"{top}/shell", SHELL)
    write(f"{top}/awk", AWK)
    write(f"{top}/python", PYTHON_FILTER)
    smtpd(children, f"""filter "s" proc-exec "/bin/sh {top}/shell"
filter "a" proc-exec "/usr/bin/awk -f {top}/awk"
filter "p" proc-exec "{PYTHON} {top}/python"
listen on 127.0.0.1 port 2525 filter {{ s, a, p }}
{TO_MAIL.replace("$top", top)}""")
    expect("eve", submit("eve", sender="eve@example.org")[0], 550)
    expect("a good client", submit("fine")[0], 250)
    expect("the field", b"\nX-Python: yes\n" in b"\n" + arrived(top, "fine"), True)
    with smtplib.SMTP("127.0.0.1", 2525, timeout=60) as client:
        expect("a bad name", client.ehlo("bad.example.net")[0], 550)
    return "sh, awk and python3 in one chain"


PARTS = [rspamd, dkimsign, senderscore, scripts, transcripts.transcripts, sqlite, postgresql, redis, ldap]


def main():
    fine = True
    for part in PARTS:
        if sys.argv[1:] and part.__name__ not in sys.argv[1:]:
            continue
        top = os.path.join(os.environ["SMTPD_INTEROP_PLACE"], part.__name__)
        os.makedirs(top)
        children = Children(top)
        os.chown(top, user().pw_uid, user().pw_gid)
        try:
            verdict = "ok", part(children)
        except Skip as skip:
            verdict = "skipped", str(skip)
        except Exception as error:
            verdict, fine = ("FAILED", f"{type(error).__name__}: {error}"), False
        finally:
            children.stop()
        print(f"{part.__name__:14} {verdict[0]:8} {verdict[1]}", flush=True)
    return 0 if fine else 1


def enter():
    """Runs this again with a network and a resolv.conf of its own."""
    if os.geteuid() != 0 or not sys.platform.startswith("linux"):
        print("interop: needs root and Linux")
        return 1
    if not os.path.exists(SMTPD):
        print(f"interop: there is no {SMTPD}")
        return 1
    with tempfile.TemporaryDirectory(prefix="smtpd-filters-") as place:
        os.chmod(place, 0o755)
        os.makedirs(f"{place}/packages")
        if not os.environ.get("SMTPD_INTEROP_FILTERS") and shutil.which("apt-get"):
            subprocess.run(["apt-get", "download", *PACKAGES], cwd=f"{place}/packages", capture_output=True)
            for path in glob.glob(f"{place}/packages/*.deb"):
                subprocess.run(["dpkg", "-x", path, f"{place}/packages"], check=True)
        write(f"{place}/resolv.conf", "nameserver 127.0.0.1\n")
        script = "ip link set lo up && mount --make-rprivate / && mount --bind \"$0/resolv.conf\" /etc/resolv.conf && " \
                 "exec \"$@\""
        env = dict(os.environ, SMTPD_INTEROP_PLACE=place, **{INSIDE: "yes"})
        argv = ["unshare", "-mn", "sh", "-c", script, place, sys.executable, "-B", os.path.abspath(__file__), *sys.argv[1:]]
        code = subprocess.run(argv, env=env).returncode
        keep = os.environ.get("SMTPD_INTEROP_KEEP")
        if keep:
            shutil.copytree(place, keep, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.sock", "packages", "base", "spool", ".s.*"))
        return code


if __name__ == "__main__":
    sys.exit(main() if os.environ.get(INSIDE) else enter())
