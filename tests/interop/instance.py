"""An instance of smtpd(8) with listeners that want TLS and AUTH, what it needs, and a client of our own."""

import base64
import os
import pwd
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys

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
