"""Relaying to many hosts at once: how fast, over how many connections, and who waits for whom.

Every address of 127.0.0.0/8 is a host (`sink.rs`), good, or silent from the
banner, MAIL or the final dot on; some refuse. Messages with a recipient in each domain fan out, so
that what is measured is relaying and not how fast they came in. Postfix is given the same domains by
a transport table. What is not done in time is shown with how much of it was.
"""

import os
import socket
import subprocess
import threading
import time

from machine import EXAMPLES, wait
from rows import Reading, Row

GOOD, BANNER, MAIL, DOT, REFUSING, DNS = 2720, 2721, 2722, 2723, 2729, 2730
# Seconds after which the rest is not waited for.
PATIENCE_S = 30
BODY = b"Subject: x\r\n\r\n" + b"x" * 70 + b"\r\n"


class Sink:
    """The hosts, and what they have counted."""

    FIELDS = ("messages", "connections", "empty", "worst", "most")

    def __init__(self, top, delay_ms=0, exchangers=False):
        self.stats = os.path.join(top, "sink.stats")
        self.argv = [f"{EXAMPLES}/sink", self.stats, str(delay_ms), f"{GOOD}=good",
                     f"{BANNER}=banner", f"{MAIL}=mail", f"{DOT}=dot"]
        if exchangers:
            self.argv += ["25=good", f"{DNS}=dns"]

    def __enter__(self):
        if os.path.exists(self.stats):
            os.unlink(self.stats)
        self.child = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL)
        wait("the hosts", lambda: os.path.exists(self.stats) or self.child.poll() is not None)
        if self.child.poll() is not None:
            raise RuntimeError("the hosts cannot have their ports: does another benchmark run?")
        return self

    def __getattr__(self, name):
        with open(self.stats) as f:
            return dict(zip(self.FIELDS, map(int, f.read().split())))[name]

    def __exit__(self, *_):
        self.child.terminate()
        self.child.wait(10)


class Client:
    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), 60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.socket.makefile("rb")
        self.reply()
        self.say([b"EHLO client.example.net"])

    def reply(self):
        while True:
            line = self.file.readline()
            if line[3:4] != b"-":
                if line[:1] not in b"23" or not line:
                    raise RuntimeError(f"refused: {line}")
                return

    def say(self, lines):
        self.socket.sendall(b"\r\n".join(lines) + b"\r\n")
        for _ in lines:
            self.reply()

    def mail(self, rcpts):
        self.say([b"MAIL FROM:<sender@example.net>"])
        for start in range(0, len(rcpts), 50):
            self.say([f"RCPT TO:<{rcpt}>".encode() for rcpt in rcpts[start:start + 50]])
        self.say([b"DATA"])
        self.say([BODY + b"."])

    def close(self):
        self.socket.close()


def host(n, net=20):
    return f"127.{net + n // 60000}.{n // 250 % 240}.{n % 250 + 1}"


def domains(tag, count, port):
    """Domains, each at an address of its own."""
    return {f"{n}.{tag}.example": (host(n, 20 + ord(tag[0]) % 50), port) for n in range(count)}


def shared(count, exchangers):
    """Domains that have one exchanger, or ten, as the name server of the hosts has it."""
    tag = {1: "shared", 10: "ten"}[exchangers]
    return {f"{n}.{tag}.example": (f"127.11.0.{n % exchangers + 1}", 25) for n in range(count)}


def inject(port, rcpts, times, each=100, clients=20):
    """Each of `times` messages goes to all `rcpts`, so many of them in one transaction."""
    groups = [rcpts[start:start + each] for start in range(0, len(rcpts), each)] * times

    def work(mine):
        client = Client(port)
        for group in mine:
            client.mail([f"someone@{domain}" for domain in group])
        client.close()
    threads = [threading.Thread(target=work, args=(groups[n::clients],)) for n in range(min(clients, len(groups)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def reading(server, sink, expected, seconds, before_ms):
    """What was done of what was expected, in so many seconds."""
    done, opened = sink.messages, sink.connections
    note = "" if done >= expected else f"stopped at {done} of {expected}; "
    note += f"{sink.empty} empty connections (worst {sink.worst} per host and minute), {sink.most} at once"
    each = max(done, 1)
    return Reading(done / seconds, (server.cpu_ms() - before_ms) / each, opened / each, note)


def fan_out(server, top, good, dead, times, delay_ms, extra="", exchangers=False, each=100):
    exchangers = exchangers and not server.name.startswith("postfix")
    routes = None if exchangers else {**good, **dead}
    with Sink(top, delay_ms, 25 in {port for _, port in good.values()}) as sink:
        server.start(deliver=True, routes=routes, extra=extra, dns=DNS if exchangers else None)
        try:
            # Dead ones lie among the others.
            names = sorted(list(dead) + list(good), key=lambda name: int(name.split(".")[0]))
            expected = len(good) * times
            before_ms = server.cpu_ms()
            start = time.monotonic()
            inject(server.port, names, times, each)
            end = start + PATIENCE_S
            while sink.messages < expected and time.monotonic() < end:
                time.sleep(0.02)
            took = time.monotonic() - start
            if extra:
                # What is wrong with limits shows when nothing is left to do, too.
                time.sleep(3)
            return reading(server, sink, expected, took, before_ms)
        finally:
            server.stop()


def urgent(server, top, stalling):
    """Hosts that stall have mail for them; how long a message for another one takes then."""
    good = domains("urgent", 1, GOOD)
    with Sink(top) as sink:
        server.start(deliver=True, routes={**good, **stalling})
        try:
            inject(server.port, list(stalling), 10)
            # Until all that can be stuck is stuck.
            still, before = 0, -1
            while still < 30:
                still, before = (still + 1, before) if sink.most == before else (0, sink.most)
                time.sleep(0.05)
            start = time.monotonic()
            inject(server.port, list(good), 1)
            while sink.messages < 1 and time.monotonic() < start + PATIENCE_S:
                time.sleep(0.005)
            note = "" if sink.messages else "not in this time; "
            return Reading(time.monotonic() - start, note=f"{note}{sink.most} connections at once")
        finally:
            server.stop()


def through(server, top, count, exchangers):
    return fan_out(server, top, shared(count, exchangers), {}, 1, 0, exchangers=True, each=1)


def with_dead(server, top):
    refusing = {f"{n * 10}.dead.example": (host(n, 90), REFUSING) for n in range(100)}
    silent = {f"{n * 10 + 5}.dead.example": (host(n, 91), BANNER) for n in range(100)}
    return fan_out(server, top, domains("g", 800, GOOD), {**refusing, **silent}, 1, 0)


def rows(top):
    def row(name, title, work, default=False, dns=False):
        who = lambda s: s.name in ("smtpd-rs", "before") or (s.name.startswith("postfix") and not dns)
        return Row(f"many/{name}", title, "messages/s", work, who=who, default=default, seconds=PATIENCE_S + 5)
    for hosts in (1, 10, 100, 1000):
        for delay_ms in (0, 50, 200):
            times = max(1, {0: 2000, 50: 400, 200: 400}[delay_ms] // hosts)
            yield row(f"{hosts}-{delay_ms}ms", f"relay to {hosts} hosts, {delay_ms} ms per reply",
                      lambda s, h=hosts, d=delay_ms, t=times: fan_out(s, top, domains("g", h, GOOD), {}, t, d),
                      default=(hosts, delay_ms) in ((100, 50), (1000, 0)))
    for count, exchangers in ((60, 1), (1000, 1), (1000, 10)):
        yield row(f"shared-{count}-{exchangers}",
                  f"relay to {count} domains that share {'one exchanger' if exchangers == 1 else 'ten exchangers'}",
                  lambda s, c=count, e=exchangers: through(s, top, c, e), default=count == 1000)
    yield row("dead", "relay to 1000 domains, 20 % of them dead", lambda s: with_dead(s, top), default=True)
    for where, port in (("banner", BANNER), ("MAIL", MAIL), ("dot", DOT)):
        for count in (70, 300, 500):
            yield Row(f"many/urgent-{where}-{count}", f"an urgent message beside {count} hosts that stall at {where}", "s",
                      lambda s, c=count, p=port: urgent(s, top, domains("stall", c, p)), seconds=PATIENCE_S + 10,
                      who=lambda s: s.name != "opensmtpd" and s.name != "exim4", less_is_better=True,
                      default=(where, count) == ("banner", 300))
    limits = "mta limit conn-delay-route 0 conn-delay-relay 0\n"
    yield row("no-pauses", "relay to 100 hosts without pauses between connections (conn-delay-route 0 conn-delay-relay 0)",
              lambda s: fan_out(s, top, domains("g", 100, GOOD), {}, 50, 0, limits))
    yield row("dns", "relay to 1000 domains with three exchangers each, by the DNS",
              lambda s: fan_out(s, top, domains("g", 1000, 25), {}, 1, 0, exchangers=True), dns=True)
