#!/usr/bin/env python3
"""Side by side: smtpd, and whatever of Debian's postfix and opensmtpd is at hand.

Every server receives the same 4 KiB messages from smtp-source(1) on loopback, keeps its spool on
the same disk, and is measured in the same run, one after the other, several rounds over; the
medians are printed with their ratio to ours. `floor` is a bare loop of the file operations that our
commit makes: those that wait at the same time share a file and its sync. `alone` is the same with a
directory for each message.

Needs root, smtp-source (package postfix) and, for its column, an unpacked opensmtpd package:
SMTPD_BENCH_OPENSMTPD=DIR, or `apt-get download opensmtpd` must work here. The servers run as
instances of their own under a temporary directory and are stopped by their pids.
"""

import argparse
import os
import pwd
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

import filters
import large
import many
import relay
import restart
import tls
from servers import TOP, USER, Before, Opensmtpd, Ours, Postfix, memory_kib, run, wait


def smtp_source(port, messages, sessions, kept, rcpt):
    argv = ["smtp-source", "-s", str(sessions), "-l", "4096", "-m", str(messages),
            "-f", "sender@example.net", "-t", rcpt] + (["-d"] if kept else []) + [f"127.0.0.1:{port}"]
    start = time.monotonic()
    run(*argv, timeout=300)
    return time.monotonic() - start


def rcpt_of(server):
    return f"{USER}@mx.example.org"


def accept(server, args, kept):
    server.start(deliver=False)
    try:
        count = args.messages if kept else max(args.messages // 2, 50)
        if server.name == "opensmtpd" and not kept:
            count = min(count, 200)
        return count / smtp_source(server.port, count, args.sessions, kept, rcpt_of(server))
    finally:
        server.stop()


def maildir(server, args):
    server.start(deliver=True)
    try:
        start = time.monotonic()
        smtp_source(server.port, args.messages, args.sessions, True, rcpt_of(server))
        wait("delivery", lambda: server.delivered() >= args.messages, 300)
        return args.messages / (time.monotonic() - start)
    finally:
        server.stop()


def relayed(server, top, args, living, dead=False):
    messages = args.messages
    if server.name == "opensmtpd":
        messages = min(messages, 200)
    return relay.rate(server, top, messages, args.sessions, living, dead)


def idle(server, args):
    """KiB per idle session."""
    server.start(deliver=False)
    try:
        before = memory_kib(server.pid)
        held = []
        for _ in range(args.idle):
            s = socket.create_connection(("127.0.0.1", server.port), 10)
            if s.recv(100)[:4] != b"220 ":
                break
            s.sendall(b"EHLO idle.example.net\r\n")
            s.recv(1000)
            held.append(s)
        after = memory_kib(server.pid)
        return (after - before) / max(len(held), 1)
    finally:
        for s in held:
            s.close()
        server.stop()


def crowd(server, args):
    """With many idle and some trickling sessions: seconds until a new session's banner."""
    server.start(deliver=True)
    held = []
    try:
        for _ in range(args.crowd):
            s = socket.create_connection(("127.0.0.1", server.port), 10)
            s.recv(100)
            held.append(s)
        slow = held[: args.crowd // 25]
        worst = []
        for n in range(100):
            for s in slow[n % 5::5]:
                s.sendall(b"X")
            start = time.monotonic()
            s = socket.create_connection(("127.0.0.1", server.port), 10)
            s.recv(100)
            worst.append(time.monotonic() - start)
            s.close()
            if n == 50:
                smtp_source(server.port, 200, 20, True, rcpt_of(server))
        worst.sort()
        return worst[len(worst) // 2] * 1000, worst[-1] * 1000, memory_kib(server.pid)
    finally:
        for s in held:
            s.close()
        server.stop()


def floor(top, args, threads, way):
    spool = os.path.join(top, "floor")
    output = subprocess.run([f"{TOP}/target/release/examples/floor", spool, str(args.messages), str(threads), way],
                            check=True, capture_output=True, text=True).stdout
    shutil.rmtree(spool, ignore_errors=True)
    return float(output)


def tables(top, args):
    place = os.path.join(top, "tables")
    print(f"\ntables of {args.entries} entries", flush=True)
    run_and_show(f"{TOP}/target/release/examples/tables", place, str(args.entries))
    shutil.rmtree(place, ignore_errors=True)


def run_and_show(*argv):
    subprocess.run(argv, check=True)


def opensmtpd_package(top):
    given = os.environ.get("SMTPD_BENCH_OPENSMTPD")
    if given:
        return given
    place = os.path.join(top, "package")
    os.makedirs(place)
    os.chmod(place, 0o777)
    if subprocess.run(["apt-get", "download", "opensmtpd"], cwd=place, stdout=subprocess.DEVNULL,
                      stderr=subprocess.DEVNULL).returncode:
        return None
    debs = [f for f in os.listdir(place) if f.endswith(".deb")]
    run("dpkg", "-x", f"{place}/{debs[0]}", f"{place}/x")
    return f"{place}/x"


def report(title, unit, rows):
    ours = rows.get(Ours.name)
    print(f"\n{title} ({unit}; load {os.getloadavg()[0]:.1f})")
    for name, value in rows.items():
        ratio = f"   ours / it = {ours / value:5.2f}" if ours and value and name != Ours.name else ""
        print(f"  {name:10} {value:10.1f}{ratio}", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--messages", type=int, default=2000)
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--idle", type=int, default=80)
    parser.add_argument("--crowd", type=int, default=5000)
    parser.add_argument("--entries", type=int, default=1000000)
    parser.add_argument("--envelopes", type=int, default=100000)
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    if os.geteuid() != 0 or not shutil.which("smtp-source"):
        sys.exit("bench: needs root and smtp-source(1), from Debian's package postfix")
    import resource
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    added = []
    for user in (USER, "_smtpd", "_smtpq"):
        try:
            pwd.getpwnam(user)
        except KeyError:
            run("useradd", "--system", "--no-create-home", "--user-group", "--home-dir",
                f"/tmp/{user}", user)
            added.append(user)
    top = tempfile.mkdtemp(prefix="bench.", dir=os.environ.get("SMTPD_BENCH_DIR", TOP + "/target"))
    os.chmod(top, 0o755)
    try:
        for user in (USER,):
            run("usermod", "--home", f"{top}/home-{user}", user)
        servers = [Ours(top, 2601)]
        if Before.program:
            servers.append(Before(top, 2604))
        if shutil.which("postfix"):
            servers.append(Postfix(top, 2602))
        package = opensmtpd_package(top)
        if package:
            servers.append(Opensmtpd(top, 2603, package))
        missing = {"postfix", "opensmtpd"} - {s.name for s in servers}
        if missing:
            print(f"not here, not measured: {', '.join(sorted(missing))}")
        measure(servers, top, args)
    finally:
        shutil.rmtree(top, ignore_errors=True)
        for user in added:
            subprocess.run(["userdel", user], stderr=subprocess.DEVNULL)


def point_home(server):
    run("usermod", "--home", server.home, USER)


def measure(servers, top, args):
    works = [
        ("accept and commit, kept sessions", "messages/s", lambda s: accept(s, args, True)),
        ("accept and commit, a connection per message", "messages/s", lambda s: accept(s, args, False)),
        ("accept to delivered maildir, kept sessions", "messages/s", lambda s: maildir(s, args)),
        ("relay to one destination", "messages/s", lambda s: relayed(s, top, args, 1)),
        ("relay to fifty destinations", "messages/s", lambda s: relayed(s, top, args, 50)),
        ("relay to fifty destinations with two dead ones among them", "messages/s",
         lambda s: relayed(s, top, args, 50, dead=True)),
        ("memory per idle session", "KiB", lambda s: idle(s, args)),
    ]
    for title, unit, work in works:
        if args.only and args.only not in title:
            continue
        figures = {s.name: [] for s in servers}
        for _ in range(args.rounds):
            for server in servers:
                point_home(server)
                figures[server.name].append(work(server))
        rows = {name: statistics.median(values) for name, values in figures.items()}
        if title.startswith("accept and commit, kept"):
            for name, threads, way in (("floor", args.sessions, "shared"), ("alone", 4, "alone")):
                rows[name] = statistics.median(floor(top, args, threads, way) for _ in range(args.rounds))
        report(title, unit, rows)
    if not args.only or args.only in "crowd":
        point_home(servers[0])
        middle, worst, kib = crowd(servers[0], args)
        print(f"\n{args.crowd} idle sessions, {args.crowd // 25} of them sending single bytes: a new session's "
              f"banner comes after {middle:.1f} ms (worst of 100: {worst:.1f} ms); {kib / 1024:.1f} MiB in all")
    tls.measure(servers, top, args, report)
    if not args.only or args.only in "filters":
        filters.measure([s for s in servers if s.name != "before"], args, smtp_source, report)
    many.measure([s for s in servers if s.name != "opensmtpd"], top, args.only)
    if not args.only or args.only in "restart":
        restart.measure(servers[0], top, args.envelopes)
    if not args.only or args.only in "large":
        large.measure(servers[0], top, args.rounds)
    if not args.only or args.only in "tables":
        tables(top, args)


main()
