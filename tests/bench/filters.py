"""Filters: what they cost a message, and each command.

The same program (`filter.rs`) filters for both smtpds; postfix has it as a milter that does the same.
"""

import socket
import statistics
import subprocess
import time

import load
from machine import EXAMPLES, Account, wait
from postfix import Postfix
from rows import Row, Story
from servers import RCPT

PROGRAM = f"{EXAMPLES}/filter"
MILTER_PORT = 2740

# Ten that look and decide nothing.
CONDITIONS = ["connect match src { 192.0.2.1 }", "connect match rdns { 'x.example' }", "helo match helo { 'x.example' }",
              "ehlo match helo { 'x.example' }", "ehlo match helo regex { '^x[.]' }",
              "mail-from match mail-from { '@x.example' }", "mail-from match mail-from regex { '^x' }",
              "rcpt-to match rcpt-to { '@x.example' }", "data match src { 192.0.2.1 }",
              "commit match mail-from { '@x.example' }"]
KINDS = {"no filter": None, "a chain of ten": "chain", "a program at all phases": "phases", "a program for the lines": "lines"}


def configure(server, kind):
    """Says to the next start of a server how it filters; whether it can."""
    if isinstance(server, Postfix):
        server.filters = "" if kind is None else (f"smtpd_milters = inet:127.0.0.1:{MILTER_PORT}\n"
                                                  "milter_default_action = tempfail\nmilter_protocol = 6\n")
        return kind != "chain"
    text, option = "", ""
    if kind == "chain":
        text = "".join(f'filter "f{n}" phase {condition} reject "550 no"\n'.replace("'", '"')
                       for n, condition in enumerate(CONDITIONS))
        option = " filter { " + ", ".join(f'"f{n}"' for n in range(len(CONDITIONS))) + " }"
    elif kind:
        program = "/tmp/filter" if server.name == "opensmtpd" else PROGRAM
        text, option = f'filter "f" proc-exec "{program} {kind}"\n', ' filter "f"'
    server.filters = text, option
    return True


class Milter:
    """The program that postfix asks, while it is needed. What it costs is postfix's."""

    def __init__(self, server, kind):
        self.server, self.child = server, None
        if isinstance(server, Postfix) and kind:
            self.account = Account("milter")
            argv = [PROGRAM, "milter", str(MILTER_PORT), kind]
            self.child = subprocess.Popen(self.account.inside(argv))
            wait("the milter", listens)
            server.beside = [(self.account, self.child.pid)]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.child:
            self.server.beside = ()
            self.child.kill()
            self.child.wait()
            self.account.close()


def listens():
    try:
        socket.create_connection(("127.0.0.1", MILTER_PORT), 2).close()
        return True
    except OSError:
        return False


def start(server):
    """With the program where the other smtpd, which has a root of its own, can run it."""
    server.bring = [PROGRAM]
    server.start(deliver=False)


def rate(server, kind, args):
    if not configure(server, kind):
        return None
    with Milter(server, kind):
        start(server)
        try:
            return load.rate(server, lambda count: load.smtp_source(server.port, count, args.sessions, args.size),
                             args, args.sessions, args.size)
        finally:
            server.stop()
            server.filters = None


STEPS = {"EHLO": b"EHLO client.example.net", "MAIL": b"MAIL FROM:<a@example.net>", "RCPT": f"RCPT TO:<{RCPT}>".encode(),
         "DATA": b"DATA", "dot": b"Subject: x\r\n\r\nx\r\n.", "QUIT": b"QUIT"}


def dialogue(port):
    """Microseconds until the reply to each command, the banner among them, of a new session."""
    begun = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port), 60) as s, s.makefile("rb") as replies:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def reply(step):
            line = replies.readline()
            while line[3:4] == b"-":
                line = replies.readline()
            if line[:1] not in (b"2", b"3"):
                raise RuntimeError(f"{step}: {line!r}")
            return (time.perf_counter() - begun) * 1e6
        times = {"banner": reply("banner")}
        for step, line in STEPS.items():
            begun = time.perf_counter()
            s.sendall(line + b"\r\n")
            times[step] = reply(step)
    return times


def latency(server, kind, rounds):
    """Medians of each step; None where there is no such filter."""
    if not configure(server, kind):
        return None
    with Milter(server, kind):
        start(server)
        try:
            # The first one may start processes.
            dialogue(server.port)
            times = [dialogue(server.port) for _ in range(rounds)]
        finally:
            server.stop()
            server.filters = None
    return {step: statistics.median(found[step] for found in times) for step in times[0]}


def latencies(servers, rounds):
    """What each phase takes without filters, and how much more with them."""
    lines = []
    for server in servers:
        without = None
        for title, kind in KINDS.items():
            found = latency(server, kind, rounds)
            if not found:
                continue
            without = without or found
            shown = (f"{step} {us:6.0f}" if kind is None else f"{step} {us - without[step]:+6.0f}" for step, us in found.items())
            lines.append(f"{server.name:10} {title:24} " + "  ".join(shown))
    return lines


def rows(servers, args):
    some = [server for server in servers if server.name in ("smtpd-rs", "postfix", "opensmtpd")]
    for title, kind in KINDS.items():
        yield Row(f"filters/{kind or 'none'}", f"filters: {title}, kept sessions", "messages/s",
                  lambda s, k=kind: rate(s, k, args), who=lambda s: s in some)
    yield Story("filters/latency", "latency added per phase by filters (median, microseconds)",
                lambda _: latencies(some, args.dialogues), seconds=120)
