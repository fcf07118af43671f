"""Relaying: how many messages a second reach a sink, over one destination, over fifty, and over
fifty with dead ones among them; and over how many connections.

All living destinations are addresses of one smtp-sink(1), which counts. A dead one refuses
connections or takes them and says nothing; what is sent there is not waited for.
"""

import socket
import subprocess

import load
import sink
from machine import wait
from rows import Row

REFUSING_PORT = 2711
SILENT_PORT = 2712
LIVING = {f"d{n}.example.net": (f"127.0.0.{n + 1}", sink.PORT) for n in range(1, 51)}
DEAD = {"refuses.example.net": ("127.0.0.60", REFUSING_PORT),
        "silent.example.net": ("127.0.0.61", SILENT_PORT)}


class Silent:
    """A destination that takes connections and never says a word."""

    def __enter__(self):
        self.listener = socket.create_server(DEAD["silent.example.net"], backlog=1000)

    def __exit__(self, *_):
        self.listener.close()


class Senders:
    """As many smtp-source(1) as domains, at the same time."""

    def __init__(self, port, args):
        self.port, self.args, self.running = port, args, []

    def send(self, messages, sessions, domains):
        """How many it will be."""
        each, kept = -(-messages // len(domains)), max(1, sessions // len(domains))
        argv = ["smtp-source", "-s", str(min(kept, each)), "-l", str(self.args.size), "-m", str(each), "-d",
                "-f", "sender@example.net"]
        self.running += [subprocess.Popen(argv + ["-t", f"someone@{domain}", f"127.0.0.1:{self.port}"],
                                          stdout=subprocess.DEVNULL) for domain in domains]
        return each * len(domains)

    def end(self):
        for sender in self.running:
            if sender.poll() is None:
                sender.kill()
            sender.wait(10)


def relay(server, top, args, living, dead):
    """Messages a second for the living destinations, from the first one sent to the last one taken."""
    domains = list(LIVING)[:living]
    lost = list(DEAD) if dead else []
    routes = {name: LIVING.get(name) or DEAD[name] for name in domains + lost}
    with sink.Smtp(top) as taker, Silent():
        server.start(deliver=True, routes=routes)
        senders = Senders(server.port, args)

        def batch(count):
            before = taker.messages()
            if lost:
                senders.send(count // 10, 2, lost)
            sent = senders.send(count, args.sessions, domains)
            wait("relaying", lambda: taker.messages() >= before + sent, 120)
            return sent
        try:
            reading = load.rate(server, batch, args, max(args.sessions, living), args.size)
        finally:
            senders.end()
            server.stop()
        # The sink counts connections when they end. One has looked whether it listens.
        reading.connections = (taker.connections() - 1) / taker.messages()
        return reading


def rows(top, args):
    floors = {"disk": lambda: load.disk(top, args, "shared", args.sessions, args.size),
              "wire": lambda: load.wire(top, args, args.sessions, args.size)}
    for name, title, living, dead in (
            ("relay/1", "relay to one destination", 1, False),
            ("relay/50", "relay to fifty destinations", 50, False),
            ("relay/50-dead", "relay to fifty destinations with two dead ones among them", 50, True)):
        yield Row(name, title, "messages/s", lambda s, n=living, d=dead: relay(s, top, args, n, d), floors)
