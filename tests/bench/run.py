#!/usr/bin/env python3
"""Side by side: smtpd, and whatever of Debian's postfix, opensmtpd and exim4 is at hand.

Every server receives the same messages from smtp-source(1) on loopback, keeps its spool on the same
disk, and is measured in the same run, one after the other, several rounds over. README.md here says
what is measured, how long it takes, and what is fair about it.

Needs root, Linux and smtp-source (package postfix). opensmtpd and exim4 are unpacked packages:
SMTPD_BENCH_OPENSMTPD=DIR, SMTPD_BENCH_EXIM4=DIR, or what `apt-get download` gives.
"""

import argparse
import os
import pwd
import resource
import shutil
import subprocess
import sys

import accept
import crowd
import filters
import large
import many
import packages
import queued
import relay
import tls
from exim import Exim
from machine import EXAMPLES, INSIDE, TOP, enter, run
from opensmtpd import Opensmtpd
from postfix import Postfix, Tuned
from results import Results
from rows import Story, measure
from servers import USER, Before, Ours


def options():
    parser = argparse.ArgumentParser(description="Measures mail systems side by side.")
    parser.add_argument("--only", default="", help="rows whose names begin so, or whose titles have this in them; several with commas")
    parser.add_argument("--all", action="store_true", help="also the rows that a default run leaves out")
    parser.add_argument("--list", action="store_true", help="say what there is")
    parser.add_argument("--servers", default="", help="these alone, with commas")
    parser.add_argument("--minutes", type=float, default=60, help="after these no row is begun any more")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4, help="about how long a reading takes")
    parser.add_argument("--messages", type=int, default=40000, help="most messages of a reading")
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--size", type=int, default=4096, help="bytes of a message")
    parser.add_argument("--idle", type=int, default=80, help="idle sessions")
    parser.add_argument("--crowd", type=int, default=5000, help="idle sessions for the row `crowd`")
    parser.add_argument("--entries", type=int, default=1000000, help="entries of tables")
    parser.add_argument("--envelopes", type=int, default=100000, help="deferred envelopes for the rows `restart`")
    parser.add_argument("--due", type=int, default=1000000, help="envelopes for the row `million`")
    parser.add_argument("--logins", type=int, default=1000, help="logins for the row `tls/logins`")
    parser.add_argument("--dialogues", type=int, default=200, help="messages for the row `filters/latency`")
    parser.add_argument("--out", default=f"{TOP}/target/bench", help="where results are put")
    return parser.parse_args()


def shown(*argv):
    """Lines that one of our own programs prints."""
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.splitlines()


def tables(top, args):
    place = os.path.join(top, "tables")
    try:
        return shown(f"{EXAMPLES}/tables", place, str(args.entries))
    finally:
        shutil.rmtree(place, ignore_errors=True)


def all_rows(servers, top, args):
    """In the order in which they are measured: what matters most comes first."""
    kept, new, maildir, *more = accept.rows(top, args)
    yield from (kept, new, maildir)
    yield from relay.rows(top, args)
    yield from crowd.rows(args)
    yield from more
    yield from filters.rows(servers, args)
    yield from tls.rows(top, args)
    yield from accept.beside_rows(args)
    yield from queued.rows(top, args)
    yield from large.rows(top, args)
    yield from many.rows(top)
    yield Story("floors", "what the disk can do", lambda _: accept.strategies(top, args))
    yield Story("tables", f"tables of {args.entries} entries", lambda _: tables(top, args), default=False, seconds=300)


def chosen(rows, args):
    """A word of --only is a name, or the beginning of names; else it stands somewhere in titles."""
    if not args.only:
        return [row for row in rows if row.default or args.all]
    named = {}
    for word in args.only.split(","):
        ways = (lambda row: row.name == word, lambda row: row.name.startswith(word), lambda row: word in row.title)
        found = next(filter(None, ([row for row in rows if way(row)] for way in ways)), None)
        if not found:
            sys.exit(f"bench: there is no row {word!r}; --list says what there is")
        named.update((row.name, row) for row in found)
    return [row for row in rows if row.name in named]


def find_servers(top, args):
    found = [Ours(top, 2701)]
    if Before.program:
        found.append(Before(top, 2704))
    if shutil.which("postfix"):
        found += [Postfix(top, 2702), Tuned(top, 2705)]
    for name, kind, port in (("opensmtpd", Opensmtpd, 2703), ("exim4", Exim, 2706)):
        package = packages.unpacked(top, name)
        if package:
            found.append(kind(top, port, package))
    missing = {"postfix", "opensmtpd", "exim4"} - {server.name for server in found}
    if missing:
        print(f"not here, not measured: {', '.join(sorted(missing))}")
    names = args.servers.split(",")
    return [server for server in found if not args.servers or server.name in names]


def main():
    args = options()
    if os.geteuid() != 0 or not shutil.which("smtp-source") or not sys.platform.startswith("linux"):
        sys.exit("bench: needs root, Linux and smtp-source(1), from Debian's package postfix")
    if not os.environ.get(INSIDE):
        enter(packages.fetch)
    top = os.environ[INSIDE]
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    for user in (USER, "_smtpd", "_smtpq"):
        try:
            pwd.getpwnam(user)
        except KeyError:
            run("useradd", "--system", "--no-create-home", "--user-group", "--home-dir", f"/tmp/{user}", user)
    servers = find_servers(top, args)
    if not servers:
        sys.exit("bench: no server of that name")
    rows = chosen(list(all_rows(servers, top, args)), args)
    longest = sum(row.most_s(servers, args) for row in rows) / 60
    print(f"{len(rows)} rows, {', '.join(server.name for server in servers)}: at most {min(longest, args.minutes):.0f} minutes"
          " and what the last row takes", flush=True)
    results = Results(servers, args)
    measure(rows, servers, args, results)
    if results.left:
        print(f"\nnot measured, for the time was over: {', '.join(results.left)}")
    print(f"\n{args.out}/: table.md, plot.svg, results.json")


def say_rows():
    for row in all_rows([], "", options()):
        print(f"{row.name:22} {row.title}{'' if row.default else ' (not by default)'}")


if __name__ == "__main__":
    if options().list:
        say_rows()
    else:
        main()
