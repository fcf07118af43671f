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

import os
import shutil
import smtplib
import subprocess
import sys
import tempfile

from instance import SMTPD, Skip, authority, certificate, wait
from peers import MAILBOX, UID, Exim, Opensmtpd, OpensmtpdSubmission, Ours, Postfix, PostfixSubmission, fetch, read, \
    tree
from receivers import Dovecot, Login, LoginOnly, Old, Smarthost

INSIDE = "SMTPD_INTEROP_INSIDE"
USERS = ["_smtpd", "_smtpq", "opensmtpd", "opensmtpq", "Debian-exim"]
GROUPS = ["_smtpd", "_smtpq", "opensmtpd", "opensmtpq", "Debian-exim"]
PEERS = [Postfix, PostfixSubmission, Exim, Opensmtpd, OpensmtpdSubmission, Dovecot, Smarthost, Login, LoginOnly, Old]


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
