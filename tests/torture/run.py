#!/usr/bin/env python3
"""make torture: mail goes on coming in while processes are killed, and every message is accounted for.

Clients send numbered messages that leave by five ways: a maildir, an mbox, a command, LMTP and SMTP
relaying. Meanwhile the engine, the parent, the process that holds the keys, and deliveries are
killed, in an order that the seed decides. At the end no message that was answered 250 may be
missing, cut short or changed. Twice is allowed only where a kill hit a delivery: the table says how often.

Needs root, python3 and openssl(1). The instance runs below a temporary directory, listens on loopback only, and
is stopped by its pid. When something is wrong, the directory stays and says what happened: `log` is
the daemon's, `record` has a line for each answer, kill and arrival.

    python3 tests/torture/run.py --kills 1000 --seed 7
"""

import argparse
import collections
import os
import pwd
import random
import shutil
import signal
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

from arrivals import Arrivals, Record, Sink, body_of, digest
from waiting import comes_true, serves

USER = "torture"
WAYS = ["maildir", "mbox", "command", "lmtp", "relay"]
PARTS = ["engine", "engine", "parent", "delivery", "delivery", "delivery", "keys"]
# A message is lost when it has not arrived this long after the last kill: retries back off.
PATIENCE_S = 240


class Daemon:
    """The instance under torture."""

    def __init__(self, program, top, sinks):
        self.program = program
        self.dir = os.path.join(top, "instance")
        self.out = os.path.join(top, "out")
        self.log = os.path.join(top, "log")
        user = pwd.getpwnam(USER)
        os.makedirs(self.dir)
        for name in ("", "Maildir", "command"):
            os.makedirs(os.path.join(self.out, name), exist_ok=True)
            os.chown(os.path.join(self.out, name), user.pw_uid, user.pw_gid)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        with open(f"{self.dir}/mailname", "w") as f:
            f.write("mx.example.org\n")
        with open(f"{self.dir}/smtpd.conf", "w") as f:
            f.write(self.configuration(sinks))
        os.chmod(f"{self.dir}/smtpd.conf", 0o644)
        self.child = None

    def configuration(self, sinks):
        # The command makes its file whole or not at all, as a careful administrator's would.
        command = (f"f=$(mktemp {self.out}/command/.XXXXXXXX) || exit 75; "
                   f"cat >$f && mv $f {self.out}/command/m${{f##*.}} || exit 75")
        ways = {
            "maildir": f'maildir "{self.out}/Maildir"',
            "mbox": f'mda "{os.path.dirname(self.program)}/mail_mboxfile {self.out}/mbox"',
            "command": f'mda "{command}"',
            "lmtp": f'lmtp "127.0.0.1:{sinks["lmtp"].port}"',
            "relay": f'relay host smtp://127.0.0.1:{sinks["relay"].port}',
        }
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=mx",
                        "-keyout", f"{self.dir}/key.pem", "-out", f"{self.dir}/cert.pem"],
                       check=True, stderr=subprocess.DEVNULL)
        lines = ["smtp limit max-mails 1000000",
                 f'pki torture cert "{self.dir}/cert.pem"', f'pki torture key "{self.dir}/key.pem"',
                 f"listen on 127.0.0.1 port {self.port} tls pki torture"]
        for way, method in ways.items():
            users = "" if way == "relay" else f' virtual {{ "@" = "{USER}" }}'
            lines.append(f'action "{way}" {method}{users}')
            lines.append(f'match from any for domain "{way}.example.org" action "{way}"')
        return "\n".join(lines) + "\n"

    def start(self):
        with open(self.log, "a") as log:
            self.child = subprocess.Popen([self.program, "-d", "-R", self.dir], stdin=subprocess.DEVNULL,
                                          stdout=log, stderr=log)

    def family(self):
        """Processes of the instance by part, read from /proc while they come and go."""
        found = {"parent": [self.child.pid], "engine": [], "keys": [], "delivery": []}
        for pid in children(self.child.pid):
            words = command_line(pid)
            role = words[words.index("-x") + 1] if "-x" in words[:-1] else "delivery"
            found[role if role in found else "delivery"].append(pid)
            if role not in ("engine", "keys"):
                found["delivery"] += children(pid)
        return found

    def kill(self, part, rng):
        """Kills one process of that part; says whether there was one."""
        pids = self.family()[part]
        if not pids:
            return False
        try:
            os.kill(rng.choice(pids), signal.SIGKILL)
        except ProcessLookupError:
            return False
        if part == "parent":
            self.child.wait(60)
            self.start()
        return True

    def stop(self):
        if self.child and self.child.poll() is None:
            self.child.terminate()
            self.child.wait(60)

    def queue(self):
        """Lines of `smtpctl show queue`, or None while it cannot be asked."""
        done = subprocess.run([os.path.join(os.path.dirname(self.program), "smtpctl"), "-R", self.dir,
                               "show", "queue"], capture_output=True, text=True)
        return done.stdout.splitlines() if done.returncode == 0 else None

    def flush(self):
        subprocess.run([os.path.join(os.path.dirname(self.program), "smtpctl"), "-R", self.dir,
                        "schedule", "all"], capture_output=True)

    def collect(self, arrivals):
        """What lies in files."""
        for way, place in (("maildir", "Maildir/new"), ("command", "command")):
            folder = os.path.join(self.out, place)
            for name in os.listdir(folder) if os.path.isdir(folder) else []:
                if not name.startswith("."):
                    with open(os.path.join(folder, name), "rb") as f:
                        arrivals.take(way, f.read())
        if os.path.exists(f"{self.out}/mbox"):
            with open(f"{self.out}/mbox", "rb") as f:
                text = b"\n" + f.read()
            for message in text.split(b"\nFrom ")[1:]:
                # The postmark goes, and the empty lines between messages in an mbox.
                arrivals.take("mbox", message.partition(b"\n")[2].rstrip(b"\n") + b"\n")


def children(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as f:
            return [int(p) for p in f.read().split()]
    except OSError:
        return []


def command_line(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            return f.read().decode(errors="replace").split("\0")
    except OSError:
        return []


class Client(threading.Thread):
    """Sends numbered messages as fast as they are taken, and remembers what was answered."""

    def __init__(self, number, port, rng, record, pace_s, tls=False):
        super().__init__(daemon=True)
        self.tls = tls
        self.number = number
        self.port = port
        self.rng = rng
        self.record = record
        self.pace_s = pace_s
        self.accepted = {}
        self.unanswered = 0
        self.stop = threading.Event()

    def run(self):
        sent = 0
        while not self.stop.is_set():
            try:
                with socket.create_connection(("127.0.0.1", self.port), 60) as s:
                    talk = s.makefile("rwb")
                    self.expect(talk, b"220")
                    self.ask(talk, "EHLO torture.example.net")
                    if self.tls and self.rng.randrange(4) == 0:
                        talk = self.start_tls(s, talk)
                    for _ in range(10):
                        sent += 1
                        self.send(talk, f"{self.number}-{sent}")
                        if self.stop.wait(self.pace_s):
                            break
            except (OSError, EOFError, ValueError):
                self.stop.wait(0.01)

    def start_tls(self, s, talk):
        """What the process with the keys is asked for. No certificate of the instance is known to anybody."""
        self.ask(talk, "STARTTLS", b"220")
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        talk = context.wrap_socket(s).makefile("rwb")
        self.ask(talk, "EHLO torture.example.net")
        return talk

    def send(self, talk, name):
        way = self.rng.choice(WAYS)
        body = body_of(name, self.rng)
        self.ask(talk, "MAIL FROM:<>")
        self.ask(talk, f"RCPT TO:<someone@{way}.example.org>")
        self.ask(talk, "DATA", b"354")
        self.unanswered += 1
        head = (f"X-Name: {name}\r\nX-Digest: {digest(body.encode())}\r\nFrom: a@example.net\r\n"
                f"Date: Thu, 1 Jan 2026 00:00:00 +0000\r\nMessage-ID: <{name}@example.net>\r\n\r\n")
        reply = self.ask(talk, head + body + ".", b"250")
        self.unanswered -= 1
        self.accepted[name] = way
        self.record("accepted", way, name, reply.split()[2].decode())

    def ask(self, talk, text, code=b"250"):
        talk.write(text.encode() + b"\r\n")
        talk.flush()
        return self.expect(talk, code)

    def expect(self, talk, code):
        while (line := talk.readline(4096))[3:4] == b"-":
            pass
        if not line:
            raise EOFError
        if not line.startswith(code):
            raise ValueError(line)
        return line


def torment(daemon, args, rng, record):
    """Kills, each after some time of quiet, and each only when mail is taken again."""
    done = collections.Counter()
    end = time.monotonic() + args.minutes * 60
    while sum(done.values()) < args.kills and time.monotonic() < end:
        # The parent waits longer for each death of an engine; a new parent does not.
        if not comes_true(lambda: serves(daemon.port), 3):
            daemon.kill("parent", rng)
            done["parent"] += 1
            record("KILLED parent, which waits")
            if not comes_true(lambda: serves(daemon.port), 60):
                raise RuntimeError("the daemon did not come back")
        time.sleep(rng.uniform(0.02, 0.4))
        part = rng.choice(args.parts)
        if daemon.kill(part, rng):
            done[part] += 1
            record("KILLED", part)
    return done


def judge(clients, arrivals, kills):
    """The table, and whether nothing is wrong. A delivery that is killed while it appends to an mbox
    leaves a part there, and a command whose guard is killed sees an end of its input; in both cases
    the whole message follows. `--parts engine parent` shows that no other death has such an effect.
    """
    accepted = {name: way for client in clients for name, way in client.accepted.items()}
    unanswered = sum(client.unanswered for client in clients)
    lost = [(way, name) for name, way in accepted.items() if not arrivals.whole[name]]
    print(f"{'way':10}{'accepted':>10}{'arrived':>10}{'twice':>8}{'lost':>8}{'torn':>8}")
    for way in WAYS:
        names = [name for name, its in accepted.items() if its == way]
        arrived = sum(1 for name in names if arrivals.whole[name])
        twice = sum(arrivals.whole[name] - 1 for name in names if arrivals.whole[name])
        gone = sum(1 for its, _ in lost if its == way)
        torn = sum(1 for its, _, _ in arrivals.torn if its == way)
        print(f"{way:10}{len(names):10}{arrived:10}{twice:8}{gone:8}{torn:8}")
    print(f"{unanswered} messages were cut off before their answer; they may have arrived or not")
    for way, name in lost[:20]:
        print(f"LOST: {name}, by {way}")
    for way, name, size in arrivals.torn[:20]:
        print(f"TORN: {name}, by {way}, {size} bytes")
    bad = [1 for way, name, _ in arrivals.torn
           if way not in ("mbox", "command") or not kills["delivery"]
           or name != "?" and not arrivals.whole[name]]
    return not lost and not bad


def torture(top, args):
    record = Record(os.path.join(top, "record"))
    rng = random.Random(args.seed)
    arrivals = Arrivals(record)
    sinks = {way: Sink(way, arrivals) for way in ("lmtp", "relay")}
    daemon = Daemon(args.program, top, sinks)
    daemon.start()
    clients = [Client(n, daemon.port, random.Random(args.seed * 1000 + n), record, args.pace, tls=True)
               for n in range(args.clients)]
    try:
        if not comes_true(lambda: serves(daemon.port), 60):
            raise RuntimeError("the daemon did not start")
        for client in clients:
            client.start()
        kills = torment(daemon, args, rng, record)
        for client in clients:
            client.stop.set()
        for client in clients:
            client.join(60)

        def is_empty():
            daemon.flush()
            time.sleep(0.5)
            return daemon.queue() == []

        if not comes_true(is_empty, PATIENCE_S):
            print(f"still in the queue after {PATIENCE_S} s:", *(daemon.queue() or [])[:10], sep="\n  ")
    finally:
        daemon.stop()
        for sink in sinks.values():
            sink.shutdown()
            sink.server_close()
    daemon.collect(arrivals)
    print(f"seed {args.seed}; killed: "
          + ", ".join(f"{part} {count}" for part, count in sorted(kills.items())))
    return judge(clients, arrivals, kills)


def in_a_place_of_its_own(torture, args):
    """Runs `torture` with a directory that goes if all is good, and with users that go in any case."""
    if os.geteuid() != 0:
        sys.exit("torture: needs root, to deliver as another user")
    added = []
    for user in (USER, "_smtpd", "_smtpq"):
        try:
            pwd.getpwnam(user)
        except KeyError:
            subprocess.run(["useradd", "--system", "--no-create-home", "--user-group", "--home-dir",
                            "/var/empty", user], check=True, stderr=subprocess.DEVNULL)
            added.append(user)
    top = tempfile.mkdtemp(prefix="torture.", dir=os.environ.get("TMPDIR", "/tmp"))
    os.chmod(top, 0o755)
    good = False
    try:
        good = torture(top, args)
    finally:
        if good:
            shutil.rmtree(top, ignore_errors=True)
        else:
            print(f"the evidence is in {top}")
        for user in added:
            subprocess.run(["userdel", user], stderr=subprocess.DEVNULL)
    return good


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=15, help="stop killing after this long")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--pace", type=float, default=0.02, help="seconds between a client's messages")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 31))
    parser.add_argument("--parts", nargs="+", choices=sorted(set(PARTS)), default=PARTS)
    parser.add_argument("--program", default=os.path.join(TOP, "target/release/smtpd"))
    args = parser.parse_args()
    sys.exit(0 if in_a_place_of_its_own(torture, args) else 1)


if __name__ == "__main__":
    main()
