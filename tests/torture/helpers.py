#!/usr/bin/env python3
"""make torture, second part: every filter and table program is killed once a second under load.

Clients send numbered messages by way of a filter that is asked at all phases, one that gets the
lines, and rules and users that a table program knows, while all of those programs are killed again
and again. At the end no message that was answered 250 may be missing, there may be none twice and
none that a filter has not seen, no client may still wait for an answer, and the engine may have
grown neither in descriptors nor in memory.

Needs root and python3; see run.py, whose clients these are.

    python3 tests/torture/helpers.py --seconds 300
"""

import argparse
import os
import random
import shutil
import signal
import sys
import time

import run

# The only way to a mailbox whose envelope is seen, and one that is not.
run.WAYS = ["maildir", "lmtp"]
# What the engine may grow by, with as many sessions at the end as at the beginning.
DESCRIPTORS, MEMORY_KIB = 16, 32 * 1024

# One that any user can run.
PYTHON = shutil.which("python3", path="/usr/bin:/usr/local/bin:/usr/pkg/bin") or sys.executable

PROGRAM = r"""
import sys
what = sys.argv[1]
read, write = sys.stdin.buffer, sys.stdout.buffer
for line in read:
    if line == b"config|ready\n":
        break
wanted = {"table": [b"domain", b"alias"],
          "phases": [b"filter|smtp-in|" + p for p in (b"connect", b"ehlo", b"mail-from", b"rcpt-to", b"data", b"commit")],
          "lines": [b"filter|smtp-in|data-line"]}[what]
for word in wanted + [b"ready"]:
    write.write(b"register|" + word + b"\n")
write.flush()
started = set()
for line in read:
    if what == "table":
        _, _, _, name, how, service, key = line.rstrip(b"\n").split(b"|", 6)
        key, _, text = key.partition(b"|")
        found = b"not-found"
        if service == b"domain" and b"for-" + text == name + b".example.org":
            found = b"found"
        if service == b"alias" and text.startswith(b"someone@"):
            found = b"found|torture"
        write.write(b"%s-result|%s|%s\n" % (how, key, found))
    else:
        _, _, _, _, phase, session, token, text = line.split(b"|", 7)
        if phase == b"data-line":
            if session not in started:
                started.add(session)
                write.write(b"filter-dataline|%s|%s|X-Scanned: yes\n" % (session, token))
            write.write(b"filter-dataline|%s|%s|%s" % (session, token, text))
            if text == b".\n":
                started.discard(session)
        else:
            answer = b"rewrite|<scanned@example.net>" if phase == b"mail-from" else b"proceed"
            write.write(b"filter-result|%s|%s|%s\n" % (session, token, answer))
    write.flush()
"""


class Filtered(run.Daemon):
    def configuration(self, sinks):
        script = os.path.join(self.dir, "program.py")
        with open(script, "w") as f:
            f.write(PROGRAM)
        # A table's program is one file.
        table = os.path.join(self.dir, "table")
        with open(table, "w") as f:
            f.write(f'#!/bin/sh\nexec "{PYTHON}" "{script}" table\n')
        os.chmod(table, 0o755)
        lines = ["smtp limit max-mails 1000000"]
        lines += [f'table "{name}" proc:{table}' for name in ("users", *(f"for-{way}" for way in run.WAYS))]
        lines += [f'filter "{name}" proc-exec "{PYTHON} {script} {name}"' for name in ("phases", "lines")]
        lines += [f"listen on 127.0.0.1 port {self.port} filter {{ phases, lines }}",
                  f'action "maildir" maildir "{self.out}/Maildir" virtual <users>',
                  f'action "lmtp" lmtp "127.0.0.1:{sinks["lmtp"].port}" virtual <users>']
        lines += [f'match from any for domain <for-{way}> action "{way}"' for way in run.WAYS]
        return "\n".join(lines) + "\n"

    def helpers(self):
        pids = run.children(self.child.pid)
        return [pid for pid in pids if any("program.py" in word for word in run.command_line(pid))]

    def engine(self):
        return self.family()["engine"][0]


class Seen(run.Arrivals):
    """Arrivals that tell who has not been filtered."""

    def __init__(self, record):
        super().__init__(record)
        self.unfiltered = []

    def take(self, way, text):
        super().take(way, text)
        head = text.replace(b"\r\n", b"\n").partition(b"\n\n")[0] + b"\n"
        scanned = b"\nX-Scanned: yes\n" in b"\n" + head
        if way == "maildir":
            scanned &= b"Return-Path: <scanned@example.net>\n" in head
        if not scanned:
            self.unfiltered.append((way, head[:300]))


def size_of(pid):
    with open(f"/proc/{pid}/status") as f:
        kib = next(int(line.split()[1]) for line in f if line.startswith("VmRSS:"))
    return len(os.listdir(f"/proc/{pid}/fd")), kib


def torment(daemon, seconds, record):
    """Kills them all once a second."""
    killed = 0
    for _ in range(seconds):
        time.sleep(1)
        for pid in daemon.helpers():
            try:
                os.kill(pid, signal.SIGKILL)
                killed += 1
            except ProcessLookupError:
                continue
        record("KILLED helpers")
    return killed


def judge(clients, arrivals, stuck, sizes, killed):
    accepted = {name for client in clients for name in client.accepted}
    lost = [name for name in accepted if not arrivals.whole[name]]
    twice = [name for name, count in arrivals.whole.items() if count > 1]
    (fds, kib), (fds_after, kib_after) = sizes
    print(f"killed {killed}; accepted {len(accepted)}, lost {len(lost)}, twice {len(twice)}, "
          f"torn {len(arrivals.torn)}, unfiltered {len(arrivals.unfiltered)}, sessions stuck {stuck}")
    print(f"engine: {fds} descriptors and {kib} KiB before, {fds_after} and {kib_after} after")
    for name in (lost + twice)[:20]:
        print(f"WRONG: {name}")
    for way, head in arrivals.unfiltered[:5]:
        print(f"UNFILTERED: by {way}: {head!r}")
    grown = fds_after > fds + DESCRIPTORS or kib_after > kib + MEMORY_KIB
    return bool(accepted) and not (lost or twice or arrivals.torn or arrivals.unfiltered or stuck or grown)


def torture(top, args):
    record = run.Record(os.path.join(top, "record"))
    arrivals = Seen(record)
    sinks = {"lmtp": run.Sink("lmtp", arrivals)}
    daemon = Filtered(args.program, top, sinks)
    daemon.start()
    clients = [run.Client(n, daemon.port, random.Random(args.seed * 1000 + n), record, args.pace)
               for n in range(args.clients)]
    try:
        if not run.comes_true(lambda: run.serves(daemon.port), 60):
            raise RuntimeError("the daemon did not start")
        for client in clients:
            client.start()
        # Buffers and threads are there once some mail has passed.
        run.comes_true(lambda: sum(len(client.accepted) for client in clients) > 200, 60)
        before = size_of(daemon.engine())
        killed = torment(daemon, args.seconds, record)
        # In peace again, mail passes as before, when the last wait for a start is over.
        so_far = sum(len(client.accepted) for client in clients)
        if not run.comes_true(lambda: sum(len(client.accepted) for client in clients) > so_far + 100, 180):
            raise RuntimeError("no mail passes after the last kill")
        after = size_of(daemon.engine())
        for client in clients:
            client.stop.set()
        for client in clients:
            client.join(60)
        stuck = sum(client.is_alive() for client in clients)

        def is_empty():
            daemon.flush()
            time.sleep(0.5)
            return daemon.queue() == []

        if not run.comes_true(is_empty, run.PATIENCE_S):
            print("still in the queue:", *(daemon.queue() or [])[:10], sep="\n  ")
    finally:
        daemon.stop()
        for sink in sinks.values():
            sink.shutdown()
            sink.server_close()
    daemon.collect(arrivals)
    return judge(clients, arrivals, stuck, (before, after), killed)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--pace", type=float, default=0.02, help="seconds between a client's messages")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 31))
    parser.add_argument("--program", default=os.path.join(run.TOP, "target/release/smtpd"))
    args = parser.parse_args()
    sys.exit(0 if run.in_a_place_of_its_own(torture, args) else 1)


if __name__ == "__main__":
    main()
