"""Relaying to many hosts at once: how fast, over how many connections, and who waits for whom.

Every address of 127.0.0.0/8 is a host (target/release/examples/sink), good, or silent from the
banner, MAIL or the final dot on; some refuse. Messages with a recipient in each domain fan out, so
that what is measured is relaying and not how fast they came in. Postfix is given the same domains by
a transport table. What is not done in time is shown with how much of it was.
"""

import os
import socket
import subprocess
import threading
import time

from servers import TOP, wait

GOOD, BANNER, MAIL, DOT, REFUSING, DNS = 2620, 2621, 2622, 2623, 2629, 2630
BODY = b"Subject: x\r\n\r\n" + b"x" * 70 + b"\r\n"


class Sink:
    """The hosts, and what they have counted."""

    FIELDS = ("messages", "connections", "empty", "worst", "most")

    def __init__(self, top, delay_ms=0, exchangers=False):
        self.stats = os.path.join(top, "sink.stats")
        self.argv = [f"{TOP}/target/release/examples/sink", self.stats, str(delay_ms), f"{GOOD}=good",
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


def shared(count):
    """Domains that have one exchanger, as the name server of the hosts has it."""
    return {f"{n}.shared.example": ("127.11.0.1", 25) for n in range(count)}


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


class Row:
    """One line of the result: `done` of `expected` messages, in so many seconds."""

    def __init__(self, sink, expected, seconds):
        self.done, self.expected, self.seconds = sink.messages, expected, seconds
        self.connections, self.empty, self.worst, self.most = sink.connections, sink.empty, sink.worst, sink.most

    def text(self):
        rate = f"{self.done / self.seconds:8.0f} msg/s" if self.done >= self.expected else "  stopped at"
        return (f"{self.done:6}/{self.expected:<6} in {self.seconds:6.2f} s {rate}  "
                f"{self.connections / max(self.done, 1):6.3f} connections/message, {self.empty} empty "
                f"(worst {self.worst} per host and minute), {self.most} at once")


def fan_out(server, top, good, dead, times, delay_ms, seconds, extra="", exchangers=False, each=100):
    exchangers = exchangers and server.name != "postfix"
    routes = None if exchangers else {**good, **dead}
    with Sink(top, delay_ms, 25 in {port for _, port in good.values()}) as sink:
        server.start(deliver=True, routes=routes, extra=extra, dns=DNS if exchangers else None)
        try:
            names = list(dead) + list(good)
            # Dead ones lie among the others.
            names = sorted(names, key=lambda name: int(name.split(".")[0]))
            expected = len(good) * times
            start = time.monotonic()
            inject(server.port, names, times, each)
            end = start + seconds
            while sink.messages < expected and time.monotonic() < end:
                time.sleep(0.02)
            row = Row(sink, expected, time.monotonic() - start)
            if extra:
                # What is wrong with limits shows when nothing is left to do, too.
                time.sleep(3)
                row = Row(sink, expected, row.seconds)
            return row.text()
        finally:
            server.stop()


def urgent(server, top, stalling, seconds):
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
            while sink.messages < 1 and time.monotonic() < start + seconds:
                time.sleep(0.005)
            taken = time.monotonic() - start
            shown = f"{taken:6.2f} s" if sink.messages else f"not in {seconds} s"
            return f"{shown}  ({sink.most} connections at once)"
        finally:
            server.stop()


def parts():
    """Title, and what is done with a server."""
    for hosts in (1, 10, 100, 1000):
        for delay_ms in (0, 50, 200):
            each = max(1, {0: 2000, 50: 400, 200: 100}[delay_ms] // hosts)
            yield (f"{hosts} hosts, {delay_ms} ms per reply",
                   lambda s, top, h=hosts, d=delay_ms, e=each: fan_out(s, top, domains("g", h, GOOD), {}, e, d, 60))
    for count in (60, 1000):
        yield (f"{count} domains that share one exchanger",
               lambda s, top, c=count: fan_out(s, top, shared(c), {}, 1, 0, 60, exchangers=True, each=1))

    def dead(s, top):
        refusing = {f"{n * 10}.dead.example": (host(n, 90), REFUSING) for n in range(100)}
        silent = {f"{n * 10 + 5}.dead.example": (host(n, 91), BANNER) for n in range(100)}
        return fan_out(s, top, domains("g", 800, GOOD), {**refusing, **silent}, 1, 0, 60)
    yield "1000 domains, 20 % of them dead", dead
    for where, port in (("at the banner", BANNER), ("at MAIL", MAIL), ("after the dot", DOT)):
        for count in (70, 300, 500):
            yield (f"an urgent message beside {count} hosts that stall {where}",
                   lambda s, top, c=count, p=port: urgent(s, top, domains("stall", c, p), 30))
    limits = "mta limit conn-delay-route 0 conn-delay-relay 0\n"
    yield ("100 hosts without pauses between connections (conn-delay-route 0 conn-delay-relay 0)",
           lambda s, top: fan_out(s, top, domains("g", 100, GOOD), {}, 50, 0, 60, limits))
    yield ("1000 domains with three exchangers each, by the DNS",
           lambda s, top: None if s.name == "postfix" else
           fan_out(s, top, domains("g", 1000, 25), {}, 1, 0, 60, exchangers=True))


def measure(servers, top, only):
    for title, work in parts():
        if only and only not in title and only != "many":
            continue
        print(f"\n{title} (load {os.getloadavg()[0]:.1f})")
        for server in servers:
            text = work(server, top)
            if text:
                print(f"  {server.name:10} {text}", flush=True)
