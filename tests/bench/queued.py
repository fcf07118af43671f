"""A start with a spool full of deferred mail: when the first message leaves, what an envelope costs
in memory, how long `smtpctl show queue` takes. And a million envelopes that are all due, of five
thousand domains with dead ones among them.
"""

import subprocess
import time

import many
import relay
import sink
from machine import memory_kib, serves, wait
from rows import Story
from servers import smtpctl, smtpctl_argv
from spool import fill, known

DUE = 100
DOMAINS, DEAD_EVERY, PER_MESSAGE = 5000, 5, 100


def restart(server, top, envelopes, *form):
    """The spool is in the page cache, for it has just been made."""
    server.start(deliver=True, routes=relay.LIVING)
    empty_kib = memory_kib(server.pid)
    server.stop()
    fill(server, envelopes, DUE, *form)
    with sink.Smtp(top) as taker:
        start = time.monotonic()
        server.go()
        try:
            wait("the first delivery", lambda: taker.messages() > 0)
            first_s = time.monotonic() - start
            wait("the port", lambda: serves(server.port))
            shown_s, _, shown = show_queue(server)
            wait("the scan", lambda: known(server) + taker.messages() >= envelopes)
            scanned_s = time.monotonic() - start
            wait("what is due", lambda: taker.messages() >= DUE)
            per_envelope = (memory_kib(server.pid) - empty_kib) * 1024 / envelopes
            full_s, line_s, full = show_queue(server)
            kib = memory_kib(server.pid) - empty_kib
        finally:
            server.stop()
    return [f"first delivery after {first_s:.2f} s, all known after {scanned_s:.2f} s",
            f"show queue: {full_s:.2f} s for {full} envelopes, the first line after {line_s * 1000:.0f} ms; {shown_s:.2f} s for the {shown} known right after the start",
            f"{per_envelope:.0f} bytes per envelope, {kib * 1024 / envelopes:.0f} after the listing"]


def show_queue(server):
    """Seconds to the end and to the first line, and how many lines there are."""
    start = time.monotonic()
    with subprocess.Popen(smtpctl_argv(server, "show", "queue"), stdout=subprocess.PIPE) as listing:
        lines = 1 if listing.stdout.readline() else 0
        first_s = time.monotonic() - start
        while part := listing.stdout.read(1 << 20):
            lines += part.count(b"\n")
    return time.monotonic() - start, first_s, lines


def million(server, top, envelopes, seconds):
    """A fifth of the domains is dead: half of these refuse connections, half never say a word. Every message
    has a hundred recipients, in as many domains."""
    routes = {}
    for n in range(DOMAINS):
        port = many.GOOD if n % DEAD_EVERY else (many.REFUSING, many.BANNER)[n // DEAD_EVERY % 2]
        routes[f"{n}.million.example"] = many.host(n, 30), port
    server.start(deliver=True, routes=routes)
    empty_kib = memory_kib(server.pid)
    server.stop()
    names = f"{top}/domains"
    with open(names, "w") as f:
        f.writelines(f"{name}\n" for name in routes)
    start = time.monotonic()
    fill(server, envelopes, envelopes, names, str(PER_MESSAGE))
    filled_s = time.monotonic() - start
    with many.Sink(top) as taker:
        start = time.monotonic()
        server.go(["-P", "mta"])
        try:
            served_s = time.monotonic() - start
            wait("the scan", lambda: known(server) >= envelopes, 600)
            scanned_s = time.monotonic() - start
            per_envelope = (memory_kib(server.pid) - empty_kib) * 1024 / envelopes
            before = server.cpu_ms()
            smtpctl(server, "resume", "mta")
            start = time.monotonic()
            good = envelopes - envelopes // DEAD_EVERY
            while taker.messages < good and time.monotonic() < start + seconds:
                time.sleep(0.05)
            took, done = time.monotonic() - start, taker.messages
            cpu_ms = (server.cpu_ms() - before) / max(done, 1)
            at_work = (memory_kib(server.pid) - empty_kib) * 1024 / envelopes
            connections, most = taker.connections, taker.most
        finally:
            server.stop()
    return [f"{envelopes} envelopes of {DOMAINS} domains, every {DEAD_EVERY}th dead; the spool was made in {filled_s:.0f} s",
            f"serves after {served_s:.2f} s, all known after {scanned_s:.2f} s",
            f"{per_envelope:.0f} bytes per envelope before deliveries begin, {at_work:.0f} in the midst of them",
            f"{done / took:.0f} deliveries a second over {took:.0f} s ({done} of {good}), {cpu_ms:.2f} ms CPU each, "
            f"{connections / max(done, 1):.3f} connections each, {most} at once"]


def rows(top, args):
    title = f"start with {args.envelopes} deferred envelopes"
    yield Story("restart/directories", title, lambda s: restart(s, top, args.envelopes))
    yield Story("restart/bags", f"{title} in bags", lambda s: restart(s, top, args.envelopes, "bags"))
    yield Story("million", f"{args.due} envelopes that are due", lambda s: million(s, top, args.due, 15 * args.seconds),
                default=False, seconds=1200)
