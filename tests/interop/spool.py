#!/usr/bin/env python3
"""The queue of Debian's opensmtpd (6.8) is taken over, and given back: in full, and each envelope once.

It takes in mail with its deliveries paused: for mailboxes, some with three recipients, for another host, and
for a command and a file of an alias. Its spool is copied to ours, as smtpd-migration(7) says, which lists and
exports it; what is exported is listed and delivered by opensmtpd, and what was taken over by us. Smaller queues
come compressed, encrypted, and both. How long each took is printed.

Needs root, Linux and aiosmtpd; see run.py for how it is kept apart from the system.
"""

import argparse
import collections
import glob
import os
import re
import smtplib
import shutil
import subprocess
import sys
import time

import run
from peers import MAILBOX, read, tree, write
from run import report
from instance import SMTPD, Skip

# What goes elsewhere than to mailboxes, of each ten thousand messages. Relaying is kept small: 6.8 needs a
# second for a dozen messages to one host.
THREE, AWAY, COMMAND, FILE = 1250, 500, 100, 100
# No progress for so long is none.
STALL_S = 60
KEY = "0123456789abcdef0123456789abcdef"
CODINGS = [("compressed", "queue compression"), ("encrypted", f'queue encryption "{KEY}"'),
           ("compressed and encrypted", f'queue compression\nqueue encryption "{KEY}"')]


def expected(messages):
    """The recipients of each message, by its number."""
    found = {}
    for n in range(messages):
        share = n * 7919 % 10000
        for bound, rcpts in ((THREE, [f"box{at}@here.example" for at in range(3)]), (AWAY, ["away@away.example"]),
                             (COMMAND, ["command@alias.example"]), (FILE, ["file@alias.example"]),
                             (10000, ["box@here.example"])):
            if share < bound:
                found[n] = rcpts
                break
            share -= bound
    return found


def send(port, mail):
    with smtplib.SMTP("127.0.0.1", port, "client.example.net", 60) as client:
        client.ehlo()
        for n, rcpts in mail.items():
            text = f"From: <sender@sender.example>\r\nTo: <{rcpts[0]}>\r\nX-Number: {n}\r\n\r\n" + "0123456789\r\n" * 100
            refused = client.sendmail("sender@sender.example", rcpts, text)
            if refused:
                raise RuntimeError(f"refused: {refused}")


def output(*argv):
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip()}")
    return done.stdout


NUMBER = re.compile(rb"^X-Number: ([0-9]+)\r?$", re.M)
WHERE = re.compile(rb"^Delivered-To: (.*)$", re.M)


class Place:
    """Where one system delivers to."""

    def __init__(self, folder, sink):
        self.box, self.drop, self.sink = f"{folder}/box", f"{folder}/drop", sink
        for room in (self.box, self.drop):
            os.makedirs(room)
            os.chmod(room, 0o1777)

    def conf(self, port, options):
        return f"""{options}
smtp limit max-mails 1000000
listen on 127.0.0.1 port {port}
action "in" maildir "{self.box}" virtual {{ "@" = "{MAILBOX}" }}
action "alias" maildir "{self.box}" alias {{ "command" = "|cat >$(mktemp {self.drop}/XXXXXXXX)", "file" = "{self.drop}/mbox" }}
action "out" relay host smtp://127.0.0.1:{self.sink.port}
match from any for domain "here.example" action "in"
match from any for domain "alias.example" action "alias"
match from any for domain "away.example" action "out"
"""

    def count(self):
        """About how many have arrived: of the file it is not known."""
        return sum(len(os.listdir(room)) for room in (f"{self.box}/new", self.drop, self.sink.box) if os.path.isdir(room))

    def arrived(self):
        found = collections.Counter()
        for path in tree(f"{self.box}/new"):
            text = read(path)
            found[int(NUMBER.search(text)[1]), WHERE.search(text)[1].decode()] += 1
        for path in glob.glob(f"{self.drop}/*"):
            rcpt = "file@alias.example" if path.endswith("/mbox") else "command@alias.example"
            found.update((int(n), rcpt) for n in NUMBER.findall(read(path)))
        for path in tree(self.sink.box):
            if not path.endswith(".tmp"):
                _, rcpts, text = read(path).split(b"\n", 2)
                found.update((int(NUMBER.search(text)[1]), rcpt.decode()) for rcpt in rcpts.split())
        return found


class Theirs(run.Opensmtpd):
    def prepare(self):
        super().prepare()
        self.smtpctl = shutil.copy(f"{self.folder}/usr/sbin/smtpctl", f"{self.dir}/smtpctl")
        shutil.chown(self.smtpctl, "root", "opensmtpq")
        os.chmod(self.smtpctl, 0o2555)

    def begin(self, place, options, *flags):
        self.serve(place.conf(self.port, options), *flags)

    def control(self, *words):
        return output("nsenter", "-t", str(self.child.pid), "-m", self.smtpctl, *words)

    def queue(self):
        return f"{self.dir}/spool/smtpd/queue"

    def is_gone(self):
        return not glob.glob(f"{self.queue()}/*/*")


class Ours(run.Ours):
    def begin(self, place, options, *flags):
        write(f"{self.dir}/smtpd.conf", place.conf(self.port, options))
        write(f"{self.dir}/mailname", "smtpd.example\n")
        self.spawn(SMTPD, "-d", "-R", self.dir, *flags)

    def control(self, *words):
        return output(os.path.join(os.path.dirname(SMTPD), "smtpctl"), "-R", self.dir, *words)

    def queue(self):
        return f"{self.dir}/spool/queue"

    def is_gone(self):
        return not glob.glob(f"{self.queue()}/*/*") and not os.listdir(f"{self.dir}/spool/bags")


def settle(system, place, mail):
    """Waits for the last delivery; says what has gone wrong, and how long it took."""
    wanted = sum(map(len, mail.values()))
    start = last = time.monotonic()
    count, end = -1, start
    while not system.is_gone():
        now, seen = time.monotonic(), place.count()
        if seen != count:
            count, last, end = seen, now, now
        if now - last > STALL_S:
            break
        if system.child.poll() is not None:
            return "it has ended", 0
        time.sleep(0.1)
    took = end - start
    found = place.arrived()
    lost = [(n, rcpt) for n, rcpts in mail.items() for rcpt in rcpts if not found[n, rcpt]]
    twice = [key for key, times in found.items() if times > 1]
    if lost or twice or len(found) != wanted:
        return f"{wanted - len(lost)} of {wanted} delivered, {len(twice)} of them twice; without {lost[:5]}", took
    return None, took


def listed(system, wanted):
    """Waits until a system knows its whole queue; says how many it lists."""
    start = time.monotonic()
    while True:
        count = system.control("show", "queue").count("\n")
        if count >= wanted or time.monotonic() - start > STALL_S:
            return count, time.monotonic() - start
        time.sleep(0.2)


def show(what, wrong, how):
    return report(what, "", "FAILED" if wrong else "ok", wrong or how)


class Trial:
    """One queue that goes to ours and back."""

    def __init__(self, top, name, options, theirs, ours, messages):
        self.name, self.options, self.theirs, self.ours = name, options, theirs, ours
        self.mail = expected(messages)
        self.envelopes = sum(map(len, self.mail.values()))
        self.top = f"{top}/{name.replace(' ', '-')}"

    def place(self, name, sink):
        return Place(f"{self.top}/{name}", sink)

    def take_over(self, sink):
        """From opensmtpd to ours."""
        place = self.place("ours", sink)
        self.theirs.begin(place, self.options, "-P", "mda", "-P", "mta")
        start = time.monotonic()
        send(self.theirs.port, self.mail)
        took = time.monotonic() - start
        self.theirs.stop()
        buckets = len(os.listdir(self.theirs.queue()))
        yield show(f"{self.name}: written", None, f"{self.envelopes} envelopes, {len(self.mail)} messages in {buckets} "
                   f"buckets by opensmtpd in {took:.1f} s")
        os.makedirs(f"{self.ours.dir}/spool", exist_ok=True)
        subprocess.run(["cp", "-Rp", self.theirs.queue(), f"{self.ours.dir}/spool/"], check=True)
        self.ours.begin(place, self.options, "-P", "mda", "-P", "mta")
        count, took = listed(self.ours, self.envelopes)
        messages, envelopes = (f"{n} of {n}" for n in (len(self.mail), self.envelopes))
        said = f"{messages} messages with {envelopes} envelopes of uid"
        wrong = None if count == self.envelopes else f"{count} of {self.envelopes} listed"
        wrong = wrong or (None if said in self.ours.log() else f"the log does not say: {said}")
        yield show(f"{self.name}: taken over", wrong, f"{count} listed {took:.1f} s after the port was open")
        self.ours.stop()

    def give_back(self, sink):
        """Exported, and delivered by opensmtpd."""
        start = time.monotonic()
        said = self.ours.control("export", f"{self.top}/export").strip()
        took = time.monotonic() - start
        wanted = f"{self.envelopes} envelopes exported in {len(self.mail)} messages"
        yield show(f"{self.name}: exported", None if said == wanted else said, f"in {took:.1f} s")
        shutil.rmtree(self.theirs.queue())
        shutil.move(f"{self.top}/export/queue", self.theirs.queue())
        subprocess.run(["chown", "-R", "opensmtpq:0", self.theirs.queue()], check=True)
        place = self.place("back", sink)
        # The file and the command of the aliases are in the envelopes.
        place.drop = f"{self.top}/ours/drop"
        self.theirs.begin(place, "", "-P", "mda", "-P", "mta")
        count, took = listed(self.theirs, self.envelopes)
        yield show(f"{self.name}: given back", None if count == self.envelopes else f"{count} of {self.envelopes} listed",
                   f"{count} listed by opensmtpd after {took:.1f} s")
        for what in ("mda", "mta"):
            self.theirs.control("resume", what)
        wrong, took = settle(self.theirs, place, self.mail)
        yield show(f"{self.name}: delivered", wrong, f"{self.envelopes} by opensmtpd in {took:.1f} s")
        self.theirs.stop()
        for path in glob.glob(f"{place.drop}/*"):
            os.remove(path)

    def deliver(self, sink):
        """What was taken over is delivered by ours."""
        place = self.place("delivered", sink)
        place.drop = f"{self.top}/ours/drop"
        self.ours.begin(place, self.options)
        wrong, took = settle(self.ours, place, self.mail)
        corrupt = os.listdir(f"{self.ours.dir}/spool/corrupt")
        yield show(f"{self.name}: delivered", wrong or (f"in corrupt: {corrupt[:5]}" if corrupt else None),
                   f"{self.envelopes} by ours in {took:.1f} s")
        self.ours.stop()
        shutil.rmtree(f"{self.ours.dir}/spool")


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--messages", type=int, default=4000)
    options.add_argument("--coded", type=int, default=200)
    options = options.parse_args()
    top = os.environ["SMTPD_INTEROP_PLACE"]
    fine, ports = True, iter(range(3001, 4000))
    ours, theirs = Ours(top, 3000), Theirs(top, next(ports))
    sinks = []

    def sink():
        port = next(ports)
        os.makedirs(f"{top}/sink{port}")
        sinks.append(run.Smarthost(f"{top}/sink{port}", port))
        sinks[-1].start(ours, f"{top}/cert")
        return sinks[-1]

    try:
        theirs.prepare()
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=peer.example",
                        "-keyout", f"{top}/cert.key", "-out", f"{top}/cert.pem"], check=True, capture_output=True)
        trials = [Trial(top, "plain", "", theirs, ours, options.messages)]
        trials += [Trial(top, name, words, theirs, ours, options.coded) for name, words in CODINGS]
        for trial in trials:
            for step in (trial.take_over, trial.give_back, trial.deliver):
                for verdict in step(sink()):
                    fine &= verdict
            shutil.rmtree(theirs.queue())
    except Skip as skip:
        report("opensmtpd", "", "skipped", str(skip))
    except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
        fine = report("opensmtpd", "", "FAILED", str(error))
    finally:
        for server in (ours, theirs, *sinks):
            server.stop()
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main() if os.environ.get(run.INSIDE) else run.enter(__file__))
