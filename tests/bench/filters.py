"""Filters: what they cost a message, and each command.

The same program (`filter.rs`) filters for both smtpds; postfix has it as a milter that does the same.
"""

import smtplib
import statistics
import subprocess
import time

from servers import TOP, USER, Postfix

PROGRAM = f"{TOP}/target/release/examples/filter"
MILTER_PORT = 2610

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
    """The program that postfix asks, while it is needed."""

    def __init__(self, server, kind):
        self.child = None
        if isinstance(server, Postfix) and kind:
            self.child = subprocess.Popen([PROGRAM, "milter", str(MILTER_PORT), kind])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.child:
            self.child.kill()
            self.child.wait()


def start(server):
    """With the program where the other smtpd, which has a root of its own, can run it."""
    server.bring = [PROGRAM]
    server.start(deliver=False)


def rate(server, kind, messages, sessions, source):
    if not configure(server, kind):
        return None
    with Milter(server, kind):
        start(server)
        try:
            return messages / source(server.port, messages, sessions, True, f"{USER}@mx.example.org")
        finally:
            server.stop()
            server.filters = None


def latency(server, kind, rounds=200):
    """Median microseconds of each command and of the final dot."""
    if not configure(server, kind):
        return None
    steps = {"EHLO": b"EHLO client.example.net", "MAIL": b"MAIL FROM:<a@example.net>",
             "RCPT": f"RCPT TO:<{USER}@mx.example.org>".encode(), "DATA": b"DATA", "dot": b"Subject: x\r\n\r\nx\r\n."}
    times = {step: [] for step in steps}
    with Milter(server, kind):
        start(server)
        try:
            with smtplib.SMTP("127.0.0.1", server.port, timeout=60) as client:
                for _ in range(rounds):
                    for step, line in steps.items():
                        begun = time.perf_counter()
                        client.send(line + b"\r\n")
                        code, text = client.getreply()
                        times[step].append((time.perf_counter() - begun) * 1e6)
                        if code not in (250, 354):
                            raise RuntimeError(f"{server.name}: {step}: {code} {text}")
        finally:
            server.stop()
            server.filters = None
    return {step: statistics.median(found) for step, found in times.items()}


def measure(servers, args, source, report):
    for title, kind in KINDS.items():
        figures = {server.name: [] for server in servers}
        for _ in range(args.rounds):
            for server in servers:
                found = rate(server, kind, args.messages if server.name == "smtpd-rs" else args.messages // 4,
                             args.sessions, source)
                if found:
                    figures[server.name].append(found)
        report(f"filters: {title}, kept sessions", "messages/s",
               {name: statistics.median(found) for name, found in figures.items() if found})
    print("\nlatency of each command, median (microseconds)")
    for server in servers:
        for title, kind in KINDS.items():
            found = latency(server, kind)
            if found:
                print(f"  {server.name:10} {title:24}" + "".join(f" {step} {us:7.0f}" for step, us in found.items()), flush=True)
