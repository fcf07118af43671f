"""What Debian's opensmtpd tells a filter in the dialogues of tests/transcripts, beside what ours is told.

Differences that all of them have are evened out: extensions that it has not, and where the head of a
message stands. `DIFFERENT` differ in more, as the comments at their heads say. Dialogues with TLS and the
time-out are left out: Debian's opensmtpd 6.8 signs nothing with OpenSSL 3, and five minutes are long.
"""

import glob
import os
import re
import shutil
import socket
import subprocess

from instance import Skip, read, serves, wait, write

HERE = os.path.dirname(os.path.abspath(__file__))
DIFFERENT = {"accept-two-recipients", "report", "syntax-errors"}
PORT = 2526
PHASES = "connect helo ehlo starttls auth mail-from rcpt-to data data-line commit rset quit noop".split()
RECORDER = r"""
import sys
heard = open("/tmp/heard", "ab", 0)
started = False
for line in sys.stdin.buffer:
    heard.write(line)
    if line == b"config|ready\n":
        for what in ["report|smtp-in|*"] + ["filter|smtp-in|" + phase for phase in sys.argv[1:]] + ["ready"]:
            sys.stdout.write("register|" + what + "\n")
    elif line.startswith(b"filter|"):
        phase, session, token, text = line.rstrip(b"\n").split(b"|", 7)[4:]
        if phase == b"data-line":
            answer = [b"filter-dataline|%s|%s|%s" % (session, token, text)]
        else:
            answer = [b"filter-result|%s|%s|proceed" % (session, token)]
            for known in open("/tmp/answers", "rb").read().splitlines():
                of, key, decision = known.split(b"|", 2)
                if of == phase and key in (b"*", text):
                    answer = [b"filter-result|%s|%s|%s" % (session, token, decision)]
        sys.stdout.buffer.write(b"\n".join(answer) + b"\n")
    sys.stdout.flush()
"""


class Opensmtpd:
    """In a root of its own, for it knows its paths."""

    def __init__(self, root, packages):
        self.root, self.child = root, None
        for folder in ("etc", "var/run", "var/spool", "var/lib/opensmtpd/empty", "var/empty", "run", "tmp", "dev", "proc",
                       "usr", "opt"):
            os.makedirs(f"{root}/{folder}")
        os.chmod(f"{root}/tmp", 0o1777)
        for name in ("passwd", "group", "nsswitch.conf", "hosts", "resolv.conf", "services"):
            if os.path.exists(f"/etc/{name}"):
                shutil.copy(f"/etc/{name}", f"{root}/etc/{name}")
        shutil.copytree(f"{packages}/usr/libexec", f"{root}/libexec")
        shutil.copy(f"{packages}/usr/sbin/smtpd", f"{root}/opt/smtpd")
        for name, rest in (("passwd", ":/var/lib/opensmtpd/empty:/bin/false"), ("group", "")):
            with open(f"{root}/etc/{name}", "a") as f:
                for user, number in (("opensmtpd", 54331), ("opensmtpq", 54332)):
                    f.write(f"{user}:x:{number}:" + (f"{number}:{rest}\n" if rest else "\n"))
        write(f"{root}/etc/mailname", "mx.example.org\n")
        write(f"{root}/opt/recorder", RECORDER)
        write(f"{root}/etc/smtpd.conf", f"""table everybody {{ "@" = nobody }}
filter "f" proc-exec "/usr/bin/python3 /opt/recorder {' '.join(PHASES)}"
listen on 127.0.0.1 port {PORT} filter "f"
action "in" maildir "/tmp/mail" virtual <everybody>
match from any for domain example.com action "in"
""")

    def start(self):
        for name in ("answers", "heard"):
            write(f"{self.root}/tmp/{name}", "")
            os.chmod(f"{self.root}/tmp/{name}", 0o666)
        script = (f"set -e; cd {self.root}; mount --bind /usr usr; mount --bind libexec usr/libexec; mount --rbind /dev dev; "
                  "mount -t proc proc proc; for d in bin lib lib64 sbin; do [ -L $d ] || ln -s usr/$d $d; done; "
                  "exec chroot . /opt/smtpd -F -f /etc/smtpd.conf -P mda")
        with open(f"{self.root}/log", "ab") as log:
            self.child = subprocess.Popen(["unshare", "-m", "sh", "-c", script], stdin=subprocess.DEVNULL, stdout=log,
                                          stderr=log)
        wait("opensmtpd to serve", lambda: serves(PORT))
        wait("who looked to have gone", lambda: ended(self.heard()))

    def heard(self):
        return read(f"{self.root}/tmp/heard")

    def stop(self):
        if self.child and self.child.poll() is None:
            self.child.terminate()
            self.child.wait(20)


def ended(text):
    return text.endswith("\n") and text.count("|link-connect|") == text.count("|link-disconnect|") > 0


class Client:
    def __init__(self):
        self.socket = socket.create_connection(("127.0.0.1", PORT), 20)
        self.lines = self.socket.makefile("rb")

    def reply(self):
        line = self.lines.readline()
        while line[3:4] == b"-":
            line = self.lines.readline()
        return line.decode(errors="replace")

    def close(self):
        self.lines.close()
        self.socket.close()


def talk(script):
    """What the clients of a transcript do. Replies are compared as events."""
    clients = {}
    for line in filter(None, script.splitlines()):
        number, what, text = line[0], line[1], line[3:]
        if what == "!":
            clients.pop(number).close()
        elif what == ">":
            clients[number].socket.sendall(f"{text}\r\n".encode())
        else:
            clients.setdefault(number, None)
            clients[number] = clients[number] or Client()
            if not clients[number].reply():
                break
    for client in clients.values():
        client.close()


def index(known, what):
    if what not in known:
        known.append(what)
    return known.index(what)


def shown(text):
    """Session after session, with names in the place of what is different each time."""
    lines = [line for line in text.splitlines() if line.startswith(("report|", "filter|"))]
    sessions, messages, tokens, told = [], [], [], []
    for line in lines:
        index(sessions, line.split("|")[5])
    for line in sorted(lines, key=lambda line: sessions.index(line.split("|")[5])):
        fields = line.split("|")
        fields[1], fields[2], fields[5] = "0.7", "T", f"S{sessions.index(fields[5]) + 1}"
        if fields[0] == "filter":
            fields[6] = "ABCDEFGHIJKLM"[index(tokens, fields[6])]
        if fields[4] == "tx-begin":
            index(messages, fields[6])
        elif fields[4] == "link-connect":
            fields[8:10] = [field.split(":")[0] + ":P" for field in fields[8:10]]
        elif fields[4] in ("tx-envelope", "tx-commit"):
            fields[7] = {"tx-envelope": "E", "tx-commit": "N"}[fields[4]]
        elif fields[4] == "data-line" and re.match(r"\t..., ", fields[7]):
            fields[7] = "\tDATE"
        line = "|".join(fields)
        for n, message in enumerate(messages):
            line = line.replace(message, f"M{n + 1}")
        told.append(line)
    return told


def evened(lines):
    """Without extensions, and with the head of a message behind tx-data."""
    out = []
    for line in lines:
        if re.search(r"\|protocol-server\|S\d\|250[- ](STARTTLS|PIPELINING|DSN|SIZE|8BITMIME|ENHANCED|HELP)", line):
            continue
        at = len(out)
        if re.search(r"\|protocol-server\|S\d\|354 |\|tx-data\|S\d\|M\d\|ok$", line):
            while at and "|data-line|" in out[at - 1]:
                at -= 1
        out.insert(at, line)
    return out


def transcripts(children):
    """Told the same, but for what the files say."""
    packages = os.environ.get("SMTPD_INTEROP_FILTERS") or os.path.join(os.environ["SMTPD_INTEROP_PLACE"], "packages")
    if not os.path.exists(f"{packages}/usr/sbin/smtpd"):
        raise Skip("no opensmtpd, and apt-get download gave none")
    peer = Opensmtpd(f"{children.top}/root", packages)
    same, left, wrong = 0, 0, []
    try:
        for path in sorted(glob.glob(f"{HERE}/../transcripts/*.transcript")):
            name = os.path.basename(path).removesuffix(".transcript")
            answers, rest = read(path).split("[answers]\n", 1)[1].split("[client]\n", 1)
            script, told = rest.split("[told]\n", 1)
            if "STARTTLS" in script or "! timeout" in script:
                left += 1
                continue
            if not peer.child or peer.child.poll() is not None:
                peer.start()
            write(f"{peer.root}/tmp/answers", answers)
            before = len(peer.heard())
            talk(script)
            if name != "report":
                wait(f"sessions of {name} to end", lambda: ended(peer.heard()[before:]))
            else:
                # It does not live through this one.
                wait("opensmtpd to end", lambda: peer.child.poll() is not None)
            is_same = evened(shown(peer.heard()[before:])) == evened(told.splitlines())
            same += is_same
            if is_same == (name in DIFFERENT):
                wrong.append(name)
    finally:
        peer.stop()
    if wrong:
        raise RuntimeError(f"not as their comments say: {', '.join(wrong)}; {peer.root}/tmp/heard")
    return f"{same} told the same, {len(DIFFERENT)} differ as they say, {left} need TLS or time"
