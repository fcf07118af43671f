"""What a part of filters.py starts, the daemon and the servers that its helpers ask, and mail for it."""

import glob
import os
import shutil
import smtplib
import socket
import subprocess

from instance import SMTPD, Skip, read, serves, user, wait, write

# Debian's, which has the modules of Debian's packages.
PYTHON = "/usr/bin/python3"


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
