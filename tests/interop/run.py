#!/usr/bin/env python3
"""Mail from our relay to other mail systems, and from them to us, on loopback.

One line is printed for each peer and direction; a peer that is not here is skipped by name, and
whatever differs in a message that has arrived is a failure. The peers are Debian's postfix,
exim4 and opensmtpd, Dovecot's lmtpd, and hosts made of aiosmtpd that want a login or speak old
TLS only. postfix and opensmtpd come once more to submit, with STARTTLS and AUTH; postfix and we show
each other certificates of clients. exim4 and opensmtpd conflict with others as packages and need not be installed: their
directories may be given as SMTPD_INTEROP_EXIM4 and SMTPD_INTEROP_OPENSMTPD, else they are fetched
with apt-get(8) and unpacked.

Needs root and Linux: everything runs in namespaces of its own, with a copy of /etc, users of its
own and no network but loopback, and is stopped by its pid.
"""

import glob
import os
import shutil
import signal
import smtplib
import subprocess
import sys
import tempfile

from submission import Skip, authority, certificate, serves, wait

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
INSIDE = "SMTPD_INTEROP_INSIDE"
# Who owns mailboxes, here and at the peers.
MAILBOX, UID = "interop", 61001
USERS = ["_smtpd", "_smtpq", "opensmtpd", "opensmtpq", "Debian-exim"]
GROUPS = ["_smtpd", "_smtpq", "opensmtpd", "opensmtpq", "Debian-exim"]
SMTPD = os.environ.get("SMTPD_INTEROP_SMTPD", f"{TOP}/target/release/smtpd")


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as f:
        f.write(text)
    return path


def read(path):
    with open(path, "rb") as f:
        return f.read()


def tree(folder):
    return [os.path.join(top, name) for top, _, names in os.walk(folder) for name in names]


# What is sent.

def header(subject):
    return f"From: <sender@sender.example>\nTo: <box@example.org>\nSubject: {subject}\n" \
           f"Message-ID: <{subject}@sender.example>\nDate: Sun, 1 Mar 2026 12:00:00 +0000\n".encode()


class Message:
    def __init__(self, subject, body, rcpts=1):
        self.subject, self.body, self.rcpts = subject, body, rcpts

    def wire(self):
        return (header(self.subject) + b"\n" + self.body).replace(b"\n", b"\r\n")


LINE = b"0123456789 the quick brown fox jumps over the lazy dog, again and again\n"
MESSAGES = [
    Message("eight-bit", "Grüße, \u20ac und \U0001f4ec\n".encode() + bytes(range(0x80, 0x100)) + b"\n"),
    Message("dots", b".\n..\n...\n.hidden\n \n.\n\n.\n"),
    Message("long-lines", b"x" * 998 + b"\n" + b"." + b"y" * 996 + b"\n" + b"z" * 997 + b"\n"),
    Message("empty", b""),
    Message("ten", b"to ten of them\n", 10),
    Message("large", LINE * (10 * 1024 * 1024 // len(LINE))),
]


def submit(port, domain, message):
    with smtplib.SMTP("127.0.0.1", port, "client.sender.example", 60) as client:
        client.ehlo()
        client.mail("sender@sender.example", ["BODY=8BITMIME"] if client.has_extn("8bitmime") else [])
        for n in range(message.rcpts):
            code, reply = client.rcpt(f"box{n}@{domain}")
            if code != 250:
                raise RuntimeError(f"RCPT: {code} {reply}")
        code, reply = client.data(message.wire())
        if code != 250:
            raise RuntimeError(f"DATA: {code} {reply}")


def split(text):
    """Head and body of a message as it is stored."""
    head, _, body = text.replace(b"\r\n", b"\n").partition(b"\n\n")
    return head, body


def compare(message, texts, copies):
    """What is wrong with the copies of a message that have arrived."""
    if len(texts) != copies:
        return f"{message.subject}: {len(texts)} copies in place of {copies}"
    for text in texts:
        head, body = split(text)
        if body != message.body:
            at = next((n for n, (a, b) in enumerate(zip(body, message.body)) if a != b), min(len(body), len(message.body)))
            return (f"{message.subject}: {len(body)} bytes in place of {len(message.body)}, different at {at}: "
                    f"{body[max(0, at - 20):at + 20]!r}")
        for line in header(message.subject).splitlines():
            if line not in head.splitlines():
                return f"{message.subject}: {line.decode()} is missing"
    return None


def with_subject(mails, message):
    field = b"\nSubject: " + message.subject.encode() + b"\n"
    return [text for text in mails if field in b"\n" + split(text)[0] + b"\n"]


# Servers.

class Server:
    name = None
    # What smtpd.conf(5) has to say of it.
    options = ""
    # It takes and gives mail by SMTP; others only take it.
    relays_back = False
    # It can be spoken to as its configuration says.
    takes_ours = True
    # What must stand in a message that has come from us, and in one that has come to us.
    proof_there = proof_here = ""

    def __init__(self, place, port):
        self.dir = os.path.join(place, self.name)
        self.port = port
        self.domain = f"{self.name}.example"
        self.child = None
        os.makedirs(self.dir)
        self.box = os.path.join(self.dir, "box")
        os.makedirs(self.box)
        os.chown(self.box, UID, UID)

    def host(self):
        return f"relay host smtp://127.0.0.1:{self.port}"

    def tables(self):
        return ""

    def back(self, ours):
        """The port of ours that mail comes back to."""
        return ours.port

    def mails(self):
        return [read(path) for path in tree(self.box) if "/tmp/" not in path[len(self.box):]]

    def spawn(self, *argv, **kw):
        log = open(f"{self.dir}/output", "ab")
        self.child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **kw)
        self.ready()

    def ready(self):
        def ended_or_ready():
            if self.child and self.child.poll() is not None:
                raise RuntimeError(f"{self.name} has ended: {read(self.dir + '/output')[-500:]!r}")
            return serves(self.port)
        wait(f"{self.name} to serve", ended_or_ready)

    def stop(self):
        if self.child and self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)
            try:
                self.child.wait(20)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()


class Ours(Server):
    name = "smtpd"

    @property
    def submission(self):
        return self.port + 100

    def pki(self):
        top = os.path.dirname(self.dir)
        return (f'pki client cert "{top}/client.pem" key "{top}/client.key"\nca peers cert "{top}/ca.pem"\n'
                'table submitters { "ann" = "$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW" }\n'
                'table passwords { "ours" = "ann:secret" }')

    def start(self, peers):
        lines = [self.pki(),
                 f"listen on 127.0.0.1 port {self.submission} tls-require verify pki client ca peers auth <submitters> "
                 "received-auth",
                 f"listen on 127.0.0.1 port {self.submission + 1} tls-require pki client auth <submitters> received-auth", f"listen on 127.0.0.1 port {self.port}", "queue ttl 1h", "smtp max-message-size 40M",
                 f'action "in" maildir "{self.box}" virtual {{ "@" = "{MAILBOX}" }}',
                 f'match from any for domain "{self.domain}" action "in"']
        for peer in peers:
            lines[1:1] = filter(None, [peer.tables()])
            lines += [f'action "{peer.name}" {peer.host()}',
                      f'match from any for domain "{peer.domain}" action "{peer.name}"']
        write(f"{self.dir}/smtpd.conf", "\n".join(lines) + "\n")
        write(f"{self.dir}/mailname", "smtpd.example\n")
        self.spawn(SMTPD, "-d", "-v", "-R", self.dir)

    def accepts(self, peer):
        text = self.pki() + "\n" + peer.tables() + f'\naction "out" {peer.host()}\nmatch from any for any action "out"\n'
        path = write(f"{self.dir}/try/smtpd.conf", "listen on 127.0.0.1 port 1\n" + text)
        write(f"{self.dir}/try/mailname", "smtpd.example\n")
        result = subprocess.run([SMTPD, "-n", "-R", f"{self.dir}/try", "-f", path], capture_output=True)
        return result.returncode == 0, result.stderr.decode().strip()

    def log(self):
        return read(f"{self.dir}/output").decode(errors="replace")


class Postfix(Server):
    name = "postfix"
    relays_back = True

    def security(self, ours):
        return "smtp_tls_security_level = may\nsmtpd_tls_security_level = may\n"

    def start(self, ours, cert):
        if not shutil.which("postfix"):
            raise Skip("postfix is not installed")
        etc = f"{self.dir}/etc"
        data = f"{self.dir}/data"
        for folder in (etc, f"{self.dir}/spool", data):
            os.makedirs(folder)
        shutil.chown(data, "postfix")
        write(f"{etc}/main.cf", f"""compatibility_level = 3.6
queue_directory = {self.dir}/spool
data_directory = {data}
maillog_file = {self.dir}/log
maillog_file_prefixes = {self.dir}
myhostname = mx.{self.domain}
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
alias_maps =
message_size_limit = 41943040
mailbox_size_limit = 0
virtual_mailbox_limit = 0
virtual_mailbox_domains = {self.domain}
virtual_mailbox_base = {self.box}
virtual_mailbox_maps = static:mail/
virtual_uid_maps = static:{UID}
virtual_gid_maps = static:{UID}
relay_domains = {ours.domain}
transport_maps = inline:{{ {ours.domain}=smtp:[127.0.0.1]:{self.back(ours)} }}
smtpd_tls_cert_file = {cert}.pem
smtpd_tls_key_file = {cert}.key
smtpd_tls_loglevel = 1
smtp_dns_support_level = disabled
""" + self.security(ours))
        proto = "/etc/postfix/master.cf.proto"
        lines = []
        for line in read(proto).decode().splitlines():
            if line.startswith("smtp ") and " inet " in line:
                line = line.replace("smtp ", f"127.0.0.1:{self.port} ", 1)
            parts = line.split()
            if len(parts) > 7 and not line.startswith((" ", "#")) and parts[4] == "y":
                parts[4] = "n"
                line = " ".join(parts)
            lines.append(line)
        write(f"{etc}/master.cf", "\n".join(lines) + "\n")
        with open(f"{self.dir}/output", "ab") as log:
            subprocess.run(["postfix", "-c", etc, "check"], check=True, stdout=log, stderr=log)
        # Not by postfix(1), so that it is a child of ours.
        self.spawn("/usr/lib/postfix/sbin/master", "-c", etc, "-d", env=dict(os.environ, MAIL_CONFIG=etc))


class PostfixSubmission(Postfix):
    """Both sides show certificates; postfix logs in at ours."""
    name = "postfix-submit"
    proof_there = '(Client CN "client.example.net", Issuer "authority.example" (verified OK))'
    proof_here = ":YES) auth=yes user=ann"

    def host(self):
        return f"relay host smtp+tls://127.0.0.1:{self.port} pki client tls no-verify"

    def back(self, ours):
        return ours.submission

    def security(self, ours):
        if not glob.glob("/usr/lib/*/sasl2/libplain.so"):
            raise Skip("libsasl2-modules is not installed")
        top = os.path.dirname(self.dir)
        return f"""smtp_tls_security_level = encrypt
smtp_tls_cert_file = {top}/client.pem
smtp_tls_key_file = {top}/client.key
smtp_sasl_auth_enable = yes
smtp_sasl_password_maps = inline:{{ [127.0.0.1]:{ours.submission}=ann:secret }}
smtp_sasl_security_options = noanonymous
smtpd_tls_security_level = may
smtpd_tls_CAfile = {top}/ca.pem
smtpd_tls_ask_ccert = yes
smtpd_tls_received_header = yes
"""


def unpacked(name, program, *packages):
    """The directory that packages are unpacked in, which may be given."""
    given = os.environ.get(f"SMTPD_INTEROP_{name.upper()}")
    folder = given or os.path.join(os.environ["SMTPD_INTEROP_PLACE"], "packages", name)
    if not os.path.exists(f"{folder}/{program}"):
        raise Skip(f"no {program} in {folder}, and apt-get download gave none: {', '.join(packages)}")
    return folder


def fetch(place, name, *packages):
    """Outside of the namespaces, where there is a network."""
    folder = f"{place}/packages/{name}"
    os.makedirs(folder)
    if os.environ.get(f"SMTPD_INTEROP_{name.upper()}") or not shutil.which("apt-get"):
        return
    subprocess.run(["apt-get", "download", *packages], cwd=folder, capture_output=True)
    for path in glob.glob(f"{folder}/*.deb"):
        subprocess.run(["dpkg", "-x", path, folder], check=True)


class Exim(Server):
    name = "exim4"
    relays_back = True
    packages = ("exim4-daemon-light", "exim4-base", "exim4-config")

    def start(self, ours, cert):
        program = unpacked(self.name, "usr/sbin/exim4", *self.packages) + "/usr/sbin/exim4"
        lacks = [line.split()[0] for line in subprocess.run(["ldd", program], capture_output=True, text=True)
                 .stdout.splitlines() if "not found" in line]
        if lacks:
            raise Skip(f"exim4 lacks {', '.join(lacks)}")
        for kind in ("pem", "key"):
            shutil.copy(f"{cert}.{kind}", f"{self.dir}/cert.{kind}")
            shutil.chown(f"{self.dir}/cert.{kind}", "Debian-exim")
        for folder in ("spool", "log"):
            os.makedirs(f"{self.dir}/{folder}")
            shutil.chown(f"{self.dir}/{folder}", "Debian-exim", "Debian-exim")
        write("/etc/exim4/exim4.conf", f"""exim_path = {program}
primary_hostname = mx.{self.domain}
spool_directory = {self.dir}/spool
log_file_path = {self.dir}/log/%slog
log_selector = +all
local_interfaces = 127.0.0.1
daemon_smtp_ports = {self.port}
message_size_limit = 40M
check_spool_space = 0
tls_advertise_hosts = *
tls_certificate = {self.dir}/cert.pem
tls_privatekey = {self.dir}/cert.key
acl_smtp_rcpt = take
acl_smtp_data = take
queue_run_max = 1
begin acl
take:
  accept
begin routers
back:
  driver = manualroute
  domains = {ours.domain}
  transport = smtp
  route_list = * 127.0.0.1::{ours.port}
  self = send
here:
  driver = accept
  domains = {self.domain}
  transport = box
begin transports
smtp:
  driver = smtp
  allow_localhost
  message_linelength_limit = 1000
box:
  driver = appendfile
  user = {MAILBOX}
  group = {MAILBOX}
  directory = {self.box}
  maildir_format
  delivery_date_add
begin retry
* * F,1m,1s
""")
        self.spawn(program, "-bdf", "-q1m")


class Opensmtpd(Server):
    name = "opensmtpd"
    relays_back = True

    def security(self, ours):
        """Options of its listener, and its action for our mail."""
        return "tls", f"relay host smtp://127.0.0.1:{ours.port}", ""

    def start(self, ours, cert):
        self.prepare(cert)
        listener, back, more = self.security(ours)
        self.serve(f"""pki host.example cert "{self.dir}/cert.pem"
pki host.example key "{self.dir}/cert.key"
{more}
smtp max-message-size 40M
listen on 127.0.0.1 port {self.port} {listener} pki host.example hostname mx.{self.domain}
action "in" maildir "{self.box}" virtual {{ "@" = "{MAILBOX}" }}
action "back" {back}
match from any for domain "{self.domain}" action "in"
match from any for domain "{ours.domain}" action "back"
""")

    def prepare(self, cert=None):
        self.folder = unpacked("opensmtpd", "usr/sbin/smtpd", "opensmtpd")
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/usr/libexec"], check=True)
        shutil.copytree(f"{self.folder}/usr/libexec", "/usr/libexec", dirs_exist_ok=True)
        os.makedirs("/var/lib/opensmtpd/empty", exist_ok=True)
        for kind in ("pem", "key") if cert else ():
            shutil.copy(f"{cert}.{kind}", f"{self.dir}/cert.{kind}")
            os.chmod(f"{self.dir}/cert.{kind}", 0o600)
        write(f"{self.dir}/mailname", f"mx.{self.domain}\n")
        shutil.copy(f"{self.dir}/mailname", "/etc/mailname")

    def alone(self, *argv):
        """A command for which the spool and the control socket, whose paths are built in, are this one's own."""
        for room in ("spool", "run"):
            os.makedirs(f"{self.dir}/{room}", exist_ok=True)
        script = 'mount --bind "$0/spool" /var/spool && mount --bind "$0/run" /run && exec "$@"'
        return ["unshare", "-m", "sh", "-c", script, self.dir, *argv]

    def serve(self, conf, *flags):
        path = write(f"{self.dir}/smtpd.conf", conf)
        self.spawn(*self.alone(f"{self.folder}/usr/sbin/smtpd", "-d", "-f", path, *flags))


class OpensmtpdSubmission(Opensmtpd):
    """It logs in. Debian's 6.8 signs nothing with the OpenSSL of the same Debian ("missing private key"), so
    that it shows no certificate, and nobody speaks TLS to it."""
    name = "opensmtpd-submit"
    takes_ours = False
    proof_here = ":NO) auth=yes user=ann"

    def security(self, ours):
        return ("tls", f"relay host smtp+tls://peer@127.0.0.1:{ours.submission + 1} auth <passwords> tls no-verify",
                'table passwords { peer = "ann:secret" }')


class Dovecot(Server):
    name = "dovecot"

    def host(self):
        return f"relay host lmtp://127.0.0.1:{self.port}"

    def start(self, ours, cert):
        if not os.path.exists("/usr/lib/dovecot/lmtp"):
            raise Skip("dovecot-lmtpd is not installed")
        write(f"{self.dir}/users", "".join(f"box{n}:{{PLAIN}}x::::::\n" for n in range(10)))
        conf = write(f"{self.dir}/dovecot.conf", f"""base_dir = {self.dir}/run
state_dir = {self.dir}/run
log_path = {self.dir}/log
protocols = lmtp
listen = 127.0.0.1
ssl = no
default_internal_user = nobody
default_internal_group = nogroup
default_login_user = nobody
mail_uid = {UID}
mail_gid = {UID}
first_valid_uid = 1
mail_location = maildir:{self.box}/%n
mail_home = {self.dir}/home
auth_username_format = %n
passdb {{
  driver = passwd-file
  args = {self.dir}/users
}}
userdb {{
  driver = passwd-file
  args = {self.dir}/users
}}
service lmtp {{
  inet_listener lmtp {{
    address = 127.0.0.1
    port = {self.port}
  }}
}}
service anvil {{
  chroot =
}}
""")
        self.spawn("dovecot", "-F", "-c", conf)

    def mails(self):
        return [read(path) for path in tree(self.box) if "/new/" in path]


class Smarthost(Server):
    """aiosmtpd, which keeps what it hears as it hears it."""
    name = "aiosmtpd"
    arguments = ()

    def start(self, ours, cert):
        pythons = [sys.executable, "/usr/bin/python3"]
        able = [p for p in pythons if subprocess.run([p, "-c", "import aiosmtpd"], capture_output=True).returncode == 0]
        if not able:
            raise Skip("python3-aiosmtpd is not installed")
        tls = ["--cert", f"{cert}.pem", "--key", f"{cert}.key"]
        self.spawn(able[0], f"{HERE}/smarthost.py", str(self.port), self.box, *tls, *self.arguments)

    def mails(self):
        found = []
        for path in tree(self.box):
            if path.endswith(".tmp"):
                continue
            _, rcpts, text = read(path).split(b"\n", 2)
            found += [text] * len(rcpts.split())
        return found

    def sessions(self):
        return {read(path).split(b"\n", 1)[0].decode() for path in tree(self.box)}


class Login(Smarthost):
    name = "aiosmtpd-login"
    arguments = ("--auth", "joe:s3cret and so on", "--require-tls")

    def tables(self):
        return f'table "{self.name}" {{ "label" = "joe:s3cret and so on" }}'

    def host(self):
        return f'relay host smtp+tls://label@127.0.0.1:{self.port} auth <{self.name}> tls no-verify'


class LoginOnly(Login):
    name = "aiosmtpd-auth-login"
    arguments = Login.arguments + ("--only-login",)


class Old(Smarthost):
    name = "old-tls"
    arguments = ("--ciphers", "AES128-SHA256:AES128-SHA:@SECLEVEL=0", "--require-tls")

    def host(self):
        return f"relay host smtp+tls://127.0.0.1:{self.port} tls no-verify"


PEERS = [Postfix, PostfixSubmission, Exim, Opensmtpd, OpensmtpdSubmission, Dovecot, Smarthost, Login, LoginOnly, Old]


# The run.

def carry(port, domain, mailbox, copies=None):
    """Sends every message there; what is wrong with what came, or None. A copy comes for each recipient, or
    so many."""
    for message in MESSAGES:
        submit(port, domain, message)
        count = lambda: len(with_subject(mailbox(), message))
        try:
            wait("the mail", lambda: count() >= (copies or message.rcpts))
        except RuntimeError:
            pass
        wrong = compare(message, with_subject(mailbox(), message), copies or message.rcpts)
        if wrong:
            return wrong
    return None


def lacking(mails, proof):
    """The head of a message that does not have what must be there, or None."""
    heads = (split(text)[0].decode(errors="replace") for text in mails)
    return next((f"no {proof!r} in {head}" for head in heads if proof not in f"{head}\n"), None)


def security(log, port):
    """How the sessions with a port were encrypted, as the log of ours has it."""
    ids = {line.split()[0] for line in log.splitlines() if f":{port} host=" in line and " mta connecting " in line}
    found = {line.split("ciphers=")[1].split(":")[0] for line in log.splitlines()
             if " mta tls ciphers=" in line and line.split()[0] in ids}
    return ", ".join(sorted(found)) or "plain"


def report(peer, direction, verdict, how=""):
    print(f"{peer:20} {direction:9} {verdict}{': ' + how if how else ''}", flush=True)
    return verdict != "FAILED"


def main():
    place = os.environ["SMTPD_INTEROP_PLACE"]
    cert = f"{place}/cert"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=peer.example",
                    "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", f"{cert}.key", "-out", f"{cert}.pem"],
                   check=True, capture_output=True)
    authority(place)
    certificate(place, "client", ["rsa:2048"], "client.example.net")
    ours = Ours(place, 3000)
    wanted = [kind for kind in PEERS if not sys.argv[1:] or kind.name in sys.argv[1:]]
    peers, fine = [], True
    try:
        for n, kind in enumerate(wanted, 1):
            peer = kind(place, 3000 + n)
            accepted, why = ours.accepts(peer)
            try:
                if not accepted:
                    raise Skip(f"smtpd does not take its configuration: {why.splitlines()[0].split(': ', 1)[-1]}")
                peers.append(peer)
                peer.start(ours, cert)
            except Skip as skip:
                peers = [p for p in peers if p is not peer]
                report(peer.name, "", "skipped", str(skip))
            except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
                peers = [p for p in peers if p is not peer]
                peer.stop()
                fine &= report(peer.name, "", "FAILED", str(error))
        ours.start(peers)
        for peer in peers:
            if peer.takes_ours:
                wrong = carry(ours.port, peer.domain, peer.mails) or lacking(peer.mails(), peer.proof_there)
                how = security(ours.log(), peer.port)
                fine &= report(peer.name, "from us", "FAILED" if wrong else "ok", wrong or how)
            if peer.relays_back:
                # All recipients have one mailbox here, and a message comes there once.
                before = set(tree(ours.box))
                arrived = lambda: [read(path) for path in set(tree(f"{ours.box}/new")) - before]
                wrong = carry(peer.port, ours.domain, arrived, 1) or lacking(arrived(), peer.proof_here)
                fine &= report(peer.name, "to us", "FAILED" if wrong else "ok", wrong or "")
    finally:
        ours.stop()
        for peer in peers:
            peer.stop()
    return 0 if fine else 1


def enter(script):
    """Runs the script again where nothing of the system's can be harmed."""
    if os.geteuid() != 0 or not sys.platform.startswith("linux"):
        print("interop: needs root and Linux")
        return 1
    if not os.path.exists(SMTPD):
        print(f"interop: there is no {SMTPD}")
        return 1
    with tempfile.TemporaryDirectory(prefix="smtpd-interop-") as place:
        os.chmod(place, 0o755)
        fetch(place, "exim4", *Exim.packages)
        fetch(place, "opensmtpd", "opensmtpd")
        shutil.copytree("/etc", f"{place}/etc", symlinks=True, ignore_dangling_symlinks=True)
        for name, numbers, line in (("passwd", USERS, "{}:x:{}:{}::/nonexistent:/bin/false\n"),
                                    ("group", GROUPS, "{}:x:{}:\n")):
            with open(f"{place}/etc/{name}", "a+") as f:
                f.seek(0)
                known = {entry.split(":")[0] for entry in f}
                for at, user in enumerate([MAILBOX] + numbers):
                    if user not in known:
                        number = UID + (at if user == MAILBOX else 1 + GROUPS.index(user))
                        f.write(line.format(user, number, number))
        inside = "ip link set lo up && mount --make-rprivate / && mount --bind \"$0/etc\" /etc && " \
                 "for dir in /var/spool /var/lib /run; do mount -t tmpfs tmpfs $dir || exit 1; done && exec \"$@\""
        env = dict(os.environ, SMTPD_INTEROP_PLACE=place, **{INSIDE: "yes"})
        argv = ["unshare", "-mn", "sh", "-c", inside, place, sys.executable, os.path.abspath(script), *sys.argv[1:]]
        code = subprocess.run(argv, env=env).returncode
        keep = os.environ.get("SMTPD_INTEROP_KEEP")
        if keep:
            shutil.copytree(place, keep, dirs_exist_ok=True, symlinks=True, ignore=shutil.ignore_patterns("s", "*.sock",
                            "packages", "etc", "public", "private", "run"))
        return code


if __name__ == "__main__":
    sys.exit(main() if os.environ.get(INSIDE) else enter(__file__))
