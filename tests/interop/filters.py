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
import ssl
import struct
import subprocess
import sys
import tempfile
import threading

import submission
import transcripts
from submission import SMTPD, Skip, needed, read, run, serves, user, wait, write

HERE = os.path.dirname(os.path.abspath(__file__))
INSIDE = "SMTPD_INTEROP_INSIDE"
PACKAGES = ["opensmtpd-filter-rspamd", "opensmtpd-filter-dkimsign", "libopensmtpd0", "opensmtpd-filter-senderscore",
            "opensmtpd"]
# Debian's, which has the modules of Debian's packages.
PYTHON = "/usr/bin/python3"
GTUBE = "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"


# What is started.

class Children:
    """Servers of one part."""

    def __init__(self, top):
        self.top = top
        self.running = []

    def start(self, name, argv, ready, as_root=False, **kw):
        who = {} if as_root else {"user": user().pw_uid, "group": user().pw_gid, "extra_groups": []}
        with open(f"{self.top}/{name}.log", "ab") as log:
            child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **who, **kw)
        self.running.append(child)

        def ended_or_ready():
            if child.poll() is not None:
                raise RuntimeError(f"{name} has ended: {read(f'{self.top}/{name}.log')[-600:]}")
            return ready()
        wait(f"{name} to serve", ended_or_ready, 300)

    def stop(self):
        for child in reversed(self.running):
            child.terminate()
        for child in self.running:
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def listens(port):
    def there():
        try:
            socket.create_connection(("127.0.0.1", port), 2).close()
            return True
        except OSError:
            return False
    return there


def smtpd(children, config):
    """A daemon on port 2525; all mail comes to `mail` unless the configuration says something else."""
    top = children.top
    write(f"{top}/mailname", "mx.example.org\n")
    write(f"{top}/smtpd.conf", config)
    for path, folders, files in os.walk(top):
        for name in [path] + [os.path.join(path, name) for name in folders + files]:
            shutil.chown(name, user().pw_uid, user().pw_gid)
    children.start("smtpd", [SMTPD, "-d", "-R", top], lambda: serves(2525))


TO_MAIL = f"""action "in" maildir "$top/mail" virtual {{ "@" = "{user().pw_name}" }}
match from any for any action "in"
"""


def filtered(children, command, more=""):
    smtpd(children, f"""{more}filter "f" proc-exec "{command}"
listen on 127.0.0.1 port 2525 filter "f"
{TO_MAIL.replace("$top", children.top)}""")


def submit(subject, body="hello\n", sender="ann@example.org", source="127.0.0.1", helo="client.example.net"):
    """The reply to the message, or to what was refused before."""
    try:
        with smtplib.SMTP(source_address=(source, 0), timeout=60) as client:
            code, text = client.connect("127.0.0.1", 2525)
            if code != 220:
                return code, text
            client.ehlo(helo)
            code, text = client.mail(sender)
            if code == 250:
                code, text = client.rcpt("bob@example.com")
            if code == 250:
                code, text = client.data(f"From: <{sender}>\r\nTo: <bob@example.com>\r\nSubject: {subject}\r\n"
                                         f"Date: Sun, 1 Mar 2026 12:00:00 +0000\r\n"
                                         f"Message-ID: <{subject}@example.org>\r\n\r\n{body}".encode())
            return code, text
    except smtplib.SMTPServerDisconnected as error:
        return 0, str(error).encode()


def mails(folder):
    return [open(path, "rb").read() for path in glob.glob(f"{folder}/new/*")]


def arrived(top, subject):
    found = []

    def there():
        found[:] = [text for text in mails(f"{top}/mail") if f"\nSubject: {subject}\n".encode() in text]
        return found
    wait("the mail", there)
    return found[0]


def expect(what, got, want):
    if got != want:
        raise RuntimeError(f"{what}: {got!r} in place of {want!r}")


def program(name):
    place = os.environ.get("SMTPD_INTEROP_FILTERS") or os.path.join(os.environ["SMTPD_INTEROP_PLACE"], "packages")
    path = f"{place}/usr/libexec/opensmtpd/filter-{name}"
    if not os.path.exists(path):
        raise Skip(f"no {path}, and apt-get download gave none")
    libraries = os.path.dirname(next(iter(glob.glob(f"{place}/usr/lib/*/libopensmtpd.so.0*")), ""))
    return f"/usr/bin/env LD_LIBRARY_PATH={libraries} {path}"


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


# The tables.

def tables_of(kind, children, arguments=""):
    """Mail for virtual users and aliases, a login, and users with homes, all out of one table."""
    top = children.top
    submission.authority(top)
    submission.certificate(top, "rsa", ["rsa:2048"], "mx.example.org")
    write(f"{top}/table", f'#!/bin/sh\nexec {PYTHON} {HERE}/table.py {kind} {arguments}\n')
    os.chmod(f"{top}/table", 0o755)
    os.makedirs(f"{top}/home", exist_ok=True)
    smtpd(children, f"""pki rsa cert "{top}/rsa.pem" key "{top}/rsa.key"
table t proc:{top}/table
listen on 127.0.0.1 port 2525 tls pki rsa auth-optional <t>
action "virtual" maildir virtual <t> userbase <t>
action "local" maildir alias <t> userbase <t>
match from any for domain <t> action "virtual"
match from any auth for any action "local"
""")

    def rcpt(address, login=None):
        with smtplib.SMTP("127.0.0.1", 2525, "client.example.net", 60) as client:
            if login:
                client.starttls(context=ssl._create_unverified_context())
                client.login(*login)
            client.ehlo_or_helo_if_needed()
            client.mail("ann@example.net")
            code = client.rcpt(address)[0]
            return client.data(f"Subject: {address}\r\n\r\nhi\r\n")[0] if code == 250 else code
    expect("a virtual user", rcpt("info@virtual.example"), 250)
    expect("no virtual user", rcpt("nobody@virtual.example") in (524, 550), True)
    expect("another domain", rcpt("info@other.example"), 550)
    expect("an alias, after a login", rcpt("postmaster@other.example", ("ann", "secret")), 250)
    expect("no user, after a login", rcpt("root@other.example", ("ann", "secret")), 550)
    try:
        rcpt("postmaster@other.example", ("ann", "wrong"))
        raise RuntimeError("a wrong password was taken")
    except smtplib.SMTPAuthenticationError:
        pass
    wait("both messages in vera's home", lambda: len(mails(f"{top}/home/Maildir")) == 2)
    return "domain, virtual user, alias, credentials, userinfo"


def rows(top):
    """What the tables hold: service, key, value."""
    who = user()
    return [("domain", "virtual.example", ""), ("alias", "info@virtual.example", "vera"),
            ("alias", "postmaster", "vera"), ("credentials", "ann", "ann:" + submission.HASH),
            ("userinfo", "vera", f"{who.pw_uid}:{who.pw_gid}:{top}/home")]


def sql(top):
    quoted = ["(" + ", ".join("'" + field.replace("'", "''") + "'" for field in row) + ")" for row in rows(top)]
    return ("CREATE TABLE entries (service text, key text, value text, PRIMARY KEY (service, key));\n"
            f"INSERT INTO entries VALUES {', '.join(quoted)};\n")


def has_module(name):
    if subprocess.run([PYTHON, "-c", f"import {name}"], capture_output=True).returncode:
        raise Skip(f"{PYTHON} has no module {name}")


def sqlite(children):
    import sqlite3
    path = f"{children.top}/entries.sqlite"
    with sqlite3.connect(path) as base:
        base.executescript(sql(children.top))
    return tables_of("sqlite", children, path)


def postgresql(children):
    has_module("psycopg2")
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"))
    if not found:
        raise Skip("postgresql is not installed")
    at, top, who = os.path.dirname(found[-1]), children.top, user()
    as_user = {"user": who.pw_uid, "group": who.pw_gid, "extra_groups": [], "cwd": top}
    run(f"{at}/initdb", "-A", "trust", "-U", "smtpd", "-D", f"{top}/base", **as_user)
    children.start("postgres", [f"{at}/postgres", "-D", f"{top}/base", "-p", "5432", "-h", "127.0.0.1", "-k", top],
                   lambda: subprocess.run([f"{at}/pg_isready", "-h", "127.0.0.1", "-q"]).returncode == 0)
    run(f"{at}/psql", "-h", "127.0.0.1", "-U", "smtpd", "-d", "postgres", "-q", text=sql(top))
    return tables_of("postgresql", children, "'host=127.0.0.1 user=smtpd dbname=postgres'")


def redis(children):
    has_module("redis")
    needed("redis-server", "redis-cli")
    children.start("redis", ["redis-server", "--port", "6379", "--bind", "127.0.0.1", "--save", "", "--dir", children.top],
                   listens(6379))
    for service, key, value in rows(children.top):
        run("redis-cli", "-p", "6379", "set", f"{service}:{key}", value)
    return tables_of("redis", children, "127.0.0.1 6379")


def ldap(children):
    has_module("ldap3")
    slapd = shutil.which("slapd", path="/usr/sbin:/usr/libexec:/usr/lib/openldap")
    if not slapd or not os.path.exists("/etc/ldap/schema/core.schema"):
        raise Skip("slapd is not installed")
    top, who = children.top, user()
    os.makedirs(f"{top}/base")
    shutil.chown(f"{top}/base", who.pw_uid, who.pw_gid)
    write(f"{top}/slapd.conf", f"""include /etc/ldap/schema/core.schema
modulepath /usr/lib/ldap
moduleload back_mdb
pidfile {top}/slapd.pid
database mdb
suffix "dc=tables"
directory {top}/base
rootdn "cn=root,dc=tables"
access to * by * read
""")
    entries = ["dn: dc=tables\nobjectClass: dcObject\nobjectClass: organization\no: tables\ndc: tables\n"]
    services = dict.fromkeys(service for service, _, _ in rows(top))
    entries += [f"dn: ou={service},dc=tables\nobjectClass: organizationalUnit\nou: {service}\n" for service in services]
    entries += [f"dn: cn={key},ou={service},dc=tables\nobjectClass: device\ncn: {key}\ndescription: {value or 'yes'}\n"
                for service, key, value in rows(top)]
    write(f"{top}/entries.ldif", "\n".join(entries))
    for name in ("slapd.conf", "entries.ldif"):
        shutil.chown(f"{top}/{name}", who.pw_uid, who.pw_gid)
    as_user = {"user": who.pw_uid, "group": who.pw_gid, "extra_groups": []}
    run(slapd, "-T", "add", "-f", f"{top}/slapd.conf", "-l", f"{top}/entries.ldif", **as_user)
    children.start("slapd", [slapd, "-d", "0", "-f", f"{top}/slapd.conf", "-h", "ldap://127.0.0.1:3890"], listens(3890))
    return tables_of("ldap", children, "ldap://127.0.0.1:3890 dc=tables")


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
