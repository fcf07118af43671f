#!/usr/bin/env python3
"""make torture, third part: what one party does without end, and how long the others wait.

Attacks that stopped an earlier smtpd for seconds or minutes, with what other people notice of them:

  recipients  60 clients pipeline EHLO, MAIL and 9,990 times RCPT; others connect, EHLO and QUIT
  hosts       500 hosts are silent after MAIL; there is mail for each, and then for one that answers
  commands    20 users' deliveries sleep; then mail comes for another user
  burst       400 sendmail(8) at once by one user while the daemon is down, one of them to a wrong name

A figure that misses its goal is marked; mail that is lost, or that does not arrive within a minute,
makes it fail. An earlier program is measured in the same way with --program FILE.

Needs root and python3; see run.py.

    python3 tests/torture/attacks.py --only hosts commands
"""

import argparse
import multiprocessing
import os
import pwd
import re
import socket
import subprocess
import sys
import threading
import time

import run

CLIENTS, RECIPIENTS = 60, 9990
HOSTS, PER_HOST = 500, 2
SLEEPERS, PER_SLEEPER = 20, 10
BURST = 400
# What is not there by then does not come.
LONG_S = 60


class Instance(run.Daemon):
    """An instance whose configuration an attack brings."""

    def __init__(self, program, top, lines):
        self.lines = lines
        super().__init__(program, top, {})
        self.start()
        if not run.comes_true(lambda: run.serves(self.port), 3 * LONG_S):
            raise RuntimeError("the daemon did not start")

    def configuration(self, sinks):
        return "\n".join(["smtp limit max-mails 1000000", f"listen on 127.0.0.1 port {self.port}", *self.lines(self)]) + "\n"

    def send(self, *recipients):
        """One message to each of them, over one connection."""
        with socket.create_connection(("127.0.0.1", self.port), LONG_S) as s:
            talk = s.makefile("rwb")
            ask(talk, None)
            ask(talk, "EHLO torture.example.net")
            for rcpt in recipients:
                for line in ("MAIL FROM:<>", f"RCPT TO:<{rcpt}>", "DATA"):
                    ask(talk, line)
                ask(talk, f"From: a@example.net\r\nX-To: {rcpt}\r\n\r\nhello\r\n.")


def ask(talk, text):
    if text is not None:
        talk.write(text.encode() + b"\r\n")
        talk.flush()
    while (line := talk.readline(4096))[3:4] == b"-":
        pass
    if line[:1] not in (b"2", b"3"):
        raise RuntimeError(f"{text!r}: {line!r}")
    return line


def percentile(figures, part):
    return sorted(figures)[min(len(figures) - 1, int(len(figures) * part))]


def seconds_until(condition):
    """How long it takes, or None."""
    start = time.monotonic()
    return time.monotonic() - start if run.comes_true(condition, LONG_S) else None


def flood(port):
    """A client, in a process of its own, that pipelines recipients again and again until it is killed."""
    lines = b"EHLO flood.example.net\r\nMAIL FROM:<a@example.net>\r\n"
    lines += b"".join(b"RCPT TO:<root@mx.example.org>\r\nRCPT TO:<user%d@elsewhere.example>\r\n" % n
                      for n in range(RECIPIENTS // 2))
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), LONG_S) as s:
                reader = threading.Thread(target=drain, args=(s,), daemon=True)
                reader.start()
                s.sendall(lines)
                s.shutdown(socket.SHUT_WR)
                reader.join(LONG_S)
        except OSError:
            time.sleep(0.05)


def drain(s):
    try:
        while s.recv(65536):
            pass
    except OSError:
        pass


def recipients(top, args):
    daemon = Instance(args.program, top, lambda d: ['action "local" maildir', 'match from any for local action "local"'])
    floods = [multiprocessing.Process(target=flood, args=(daemon.port,), daemon=True) for _ in range(CLIENTS)]
    try:
        for process in floods:
            process.start()
        time.sleep(3)
        size, start, waits = os.path.getsize(daemon.log), time.monotonic(), []
        while len(waits) < 100 and time.monotonic() < start + LONG_S:
            began = time.monotonic()
            try:
                with socket.create_connection(("127.0.0.1", daemon.port), LONG_S) as s:
                    talk = s.makefile("rwb")
                    for line in (None, "EHLO other.example.net", "QUIT"):
                        ask(talk, line)
            except (OSError, RuntimeError) as error:
                print(f"  somebody else was turned away: {error}")
            waits.append(time.monotonic() - began)
        logged = (os.path.getsize(daemon.log) - size) / (time.monotonic() - start) / 1e6
    finally:
        for process in floods:
            process.kill()
        daemon.stop()
    if not waits:
        return False
    report("banner, EHLO and QUIT of others, median", percentile(waits, 0.5) * 1000, "ms")
    report("the same, 95 of 100", percentile(waits, 0.95) * 1000, "ms", 50)
    report("log", logged, "MB/s", 1)
    return True


class Silent(threading.Thread):
    """All of 127.0.0.0/8 at one port: hosts that greet and then say nothing after MAIL."""

    def __init__(self):
        super().__init__(daemon=True)
        self.server = socket.create_server(("0.0.0.0", 0), backlog=1024)
        self.port = self.server.getsockname()[1]

    def run(self):
        while True:
            try:
                s, _ = self.server.accept()
            except OSError:
                return
            threading.Thread(target=self.talk, args=(s,), daemon=True).start()

    def talk(self, s):
        try:
            s.sendall(b"220 silent\r\n")
            while data := s.recv(4096):
                if data[:4].upper() == b"EHLO":
                    s.sendall(b"250 silent\r\n")
        except OSError:
            pass


def hosts(top, args):
    silent = Silent()
    silent.start()
    arrivals = run.Arrivals(lambda *words: None)
    good = run.Sink("relay", arrivals)

    def lines(_):
        every = [("good", f"127.0.0.1:{good.port}")]
        every += [(f"d{n}", f"127.0.{1 + n // 250}.{1 + n % 250}:{silent.port}") for n in range(HOSTS)]
        for name, host in every:
            yield f'action "{name}" relay host smtp://{host}'
            yield f'match from any for domain "{name}.example.org" action "{name}"'

    daemon = Instance(args.program, top, lines)
    try:
        daemon.send(*(f"a@d{n}.example.org" for n in range(HOSTS) for _ in range(PER_HOST)))
        time.sleep(5)
        return others_mail(daemon, "a@good.example.org", lambda: len(arrivals.torn), 2)
    finally:
        daemon.stop()
        silent.server.close()
        good.shutdown()
        good.server_close()


def commands(top, args):
    def lines(d):
        users = os.path.join(d.dir, "users")
        owner = pwd.getpwnam(run.USER)
        with open(users, "w") as f:
            for n in range(SLEEPERS):
                f.write(f"sleeper{n}\t{owner.pw_uid + 5000 + n}:{owner.pw_gid}:/var/empty\n")
            f.write(f"other\t{owner.pw_uid}:{owner.pw_gid}:{d.out}\n")
        os.chmod(users, 0o644)
        return [f'table "users" file:{users}',
                'action "sleep" mda "sleep 120" userbase <users>',
                f'action "file" maildir "{d.out}/Maildir" userbase <users>',
                'match from any for domain "sleep.example.org" action "sleep"',
                'match from any for domain "file.example.org" action "file"']

    daemon = Instance(args.program, top, lines)
    new = os.path.join(daemon.out, "Maildir", "new")
    try:
        daemon.send(*(f"sleeper{n}@sleep.example.org" for n in range(SLEEPERS) for _ in range(PER_SLEEPER)))
        time.sleep(3)
        return others_mail(daemon, "other@file.example.org",
                           lambda: len(os.listdir(new)) if os.path.isdir(new) else 0, 1)
    finally:
        daemon.stop()


def burst(top, args):
    daemon = Instance(args.program, top, lambda d: [
        f'action "file" maildir "{d.out}/Maildir" virtual {{ "good@mx.example.org" = "{run.USER}" }}',
        'match from any for domain "mx.example.org" action "file"'])
    daemon.stop()
    user = pwd.getpwnam(run.USER)
    # With the group that smtpctl(8) is set-gid to where it is installed: a set-gid one takes no root.
    sendmail = [os.path.join(os.path.dirname(args.program), "sendmail"), "good@mx.example.org"]
    group = os.stat(os.path.join(daemon.dir, "spool", "offline")).st_gid
    running = []
    for n in range(BURST):
        argv = sendmail + (["nobody@mx.example.org"] if n == 0 else [])
        child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                                 user=user.pw_uid, group=group, cwd="/",
                                 env={**os.environ, "SMTPD_ROOT": daemon.dir, "HOME": "/var/empty"})
        child.stdin.write(b"Subject: %d\n\nhello\n" % n)
        child.stdin.close()
        running.append(child)
    codes = [child.wait(120) for child in running]
    taken = codes.count(0)
    daemon.start()
    new = os.path.join(daemon.out, "Maildir", "new")

    def subjects():
        found = set()
        for name in os.listdir(new) if os.path.isdir(new) else []:
            with open(os.path.join(new, name), errors="replace") as f:
                found.update(re.findall(r"(?m)^Subject: (\d+)$", f.read()))
        return found

    try:
        expected = {str(n) for n, code in enumerate(codes) if code == 0}
        seconds_until(lambda: expected <= subjects())
        arrived = subjects()
    finally:
        daemon.stop()
    others = sorted(set(code for code in codes if code not in (0, 75)))
    print(f"  {BURST} written at once: {taken} taken with exit 0, {codes.count(75)} with 75, "
          f"{BURST - taken - codes.count(75)} with another {others or ''}; {len(arrived)} arrived")
    lost = expected - arrived
    if lost:
        print(f"  LOST: {len(lost)}, the first {sorted(lost, key=int)[:10]}")
    return not lost and not others


def others_mail(daemon, rcpt, arrived, goal_s):
    """How long five messages for somebody else take, one after the other; `arrived` counts them."""
    took = []
    for n in range(5):
        daemon.send(rcpt)
        took.append(seconds_until(lambda: arrived() > n))
    if None in took:
        print(f"  mail for {rcpt} did not arrive within {LONG_S} s")
        return False
    report(f"mail for {rcpt}, worst of 5", max(took), "s", goal_s)
    return True


def report(what, figure, unit, goal=None):
    mark = "" if goal is None else f"   goal {goal} {unit}" + ("" if figure <= goal else "   MISSED")
    print(f"  {what}: {figure:.2f} {unit}{mark}")


ATTACKS = {f.__name__: f for f in (recipients, hosts, commands, burst)}


def torture(top, args):
    good = True
    for name in args.only:
        print(name, flush=True)
        place = os.path.join(top, name)
        os.mkdir(place)
        good &= ATTACKS[name](place, args)
    return good


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="+", choices=ATTACKS, default=list(ATTACKS))
    parser.add_argument("--program", default=os.path.join(run.TOP, "target/release/smtpd"))
    args = parser.parse_args()
    sys.exit(0 if run.in_a_place_of_its_own(torture, args) else 1)


if __name__ == "__main__":
    main()
