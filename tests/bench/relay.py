"""Relaying: how many messages a second reach a sink, over one destination, over fifty, and over
fifty with dead ones among them.

All living destinations are addresses of one smtp-sink(1), which counts. A dead one refuses
connections or takes them and says nothing; what is sent there is not waited for.
"""

import os
import socket
import subprocess
import time

from servers import wait

SINK_PORT = 2610
REFUSING_PORT = 2611
SILENT_PORT = 2612
LIVING = {f"d{n}.example.net": (f"127.0.0.{n + 1}", SINK_PORT) for n in range(1, 51)}
DEAD = {"refuses.example.net": ("127.0.0.60", REFUSING_PORT),
        "silent.example.net": ("127.0.0.61", SILENT_PORT)}


class Sink:
    """A smtp-sink(1) on every loopback address, and what it has counted."""

    def __init__(self, top):
        self.path = os.path.join(top, "sink")

    def __enter__(self):
        self.out = open(self.path, "w")
        argv = ["smtp-sink", "-u", "nobody", "-c", "-m", "1000", f":{SINK_PORT}", "1000"]
        self.child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=self.out,
                                      stderr=subprocess.DEVNULL)
        wait("the sink", lambda: self.listens())
        return self

    def listens(self):
        try:
            socket.create_connection(("127.0.0.1", SINK_PORT), 2).close()
            return True
        except OSError:
            return False

    def count(self):
        with open(self.path, "rb") as f:
            f.seek(max(0, os.fstat(f.fileno()).st_size - 200))
            counters = f.read().split(b"mesg=")
        for last in reversed(counters[1:]):
            if b"\r" in last:
                return int(last.split(b"\r")[0])
        return 0

    def __exit__(self, *_):
        self.child.terminate()
        self.child.wait(10)
        self.out.close()


class Silent:
    """A destination that takes connections and never says a word."""

    def __enter__(self):
        self.listener = socket.create_server(DEAD["silent.example.net"], backlog=1000)

    def __exit__(self, *_):
        self.listener.close()


def send(port, messages, sessions, domains):
    """As many smtp-source(1) as domains, at the same time."""
    each, kept = messages // len(domains), max(1, sessions // len(domains))
    argv = ["smtp-source", "-s", str(kept), "-l", "4096", "-m", str(each), "-d",
            "-f", "sender@example.net"]
    return [subprocess.Popen(argv + ["-t", f"someone@{domain}", f"127.0.0.1:{port}"],
                             stdout=subprocess.DEVNULL) for domain in domains], each * len(domains)


def rate(server, top, messages, sessions, living, dead):
    """Messages a second for the living destinations, from the first one sent to the last one
    taken."""
    domains = list(LIVING)[:living]
    lost = list(DEAD) if dead else []
    routes = {name: LIVING.get(name) or DEAD[name] for name in domains + lost}
    with Sink(top) as sink, Silent():
        server.start(deliver=True, routes=routes)
        senders = []
        try:
            start = time.monotonic()
            if lost:
                senders += send(server.port, messages // 10, 2, lost)[0]
            working, expected = send(server.port, messages, sessions, domains)
            senders += working
            wait("relaying", lambda: sink.count() >= expected, 300)
            return expected / (time.monotonic() - start)
        finally:
            for sender in senders:
                sender.kill() if sender.poll() is None else None
                sender.wait(10)
            server.stop()
