"""Mail systems that take mail from ours and give it back: postfix, exim4, opensmtpd, and ours."""

import glob
import os
import shutil
import signal
import subprocess

from instance import SMTPD, Skip, serves, wait
from mastercf import master_cf

# Who owns mailboxes, here and at the peers.
MAILBOX, UID = "interop", 61001


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
        write(f"{etc}/master.cf", master_cf(self.port))
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
