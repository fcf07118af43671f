"""Mail that comes in: how many messages a second are durable, or in a mailbox, over how many sessions, of
what size, and beside how many that lie in the queue already.
"""

import load
from machine import wait
from rows import Row
from spool import fill, known


def accept(server, args, sessions, size, kept=True):
    server.start(deliver=False)
    try:
        return load.rate(server, lambda count: load.smtp_source(server.port, count, sessions, size, kept),
                         args, sessions, size)
    finally:
        server.stop()


def maildir(server, args, sessions, size):
    server.start(deliver=True)

    def batch(count):
        until = server.delivered() + count
        load.smtp_source(server.port, count, sessions, size)
        wait("delivery", lambda: server.delivered() >= until, 120)
    try:
        return load.rate(server, batch, args, sessions, size)
    finally:
        server.stop()


def beside(server, args, queued):
    """The queue is filled while the daemon is down; it knows all of it when the first message comes."""
    server.start(deliver=False)
    server.stop()
    fill(server, queued, 0)
    server.go(["-P", "mda", "-P", "mta"])
    try:
        wait("the scan", lambda: known(server) >= queued)
        return load.rate(server, lambda count: load.smtp_source(server.port, count), args)
    finally:
        server.stop()


def size_text(size):
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size / 1024:g} KiB"


def rows(top, args):
    def floors(sessions, size, way="shared", kept=True):
        return {"disk": lambda: load.disk(top, args, way, sessions, size),
                "wire": lambda: load.wire(top, args, sessions, size, kept)}

    def kept(name, title, sessions, size):
        return Row(name, f"accept and commit, {title}", "messages/s",
                   lambda s: accept(s, args, sessions, size), floors(sessions, size))
    usual, small = args.sessions, args.size
    yield kept("accept/kept", f"kept sessions ({usual}, {size_text(small)})", usual, small)
    yield Row("accept/new", "accept and commit, a connection per message", "messages/s",
              lambda s: accept(s, args, usual, small, kept=False), floors(usual, small, kept=False))
    yield Row("maildir", "accept to delivered maildir, kept sessions", "messages/s",
              lambda s: maildir(s, args, usual, small), floors(usual, small, "maildir"))
    for sessions in (1, 10, 50, 200):
        if sessions == usual:
            continue
        yield kept(f"accept/sessions-{sessions}", f"{sessions} kept session{'s' if sessions > 1 else ''}", sessions, small)
    for size in (1 << 10, 4 << 10, 100 << 10, 1 << 20):
        if size == small:
            continue
        yield kept(f"accept/size-{size_text(size).replace(' ', '')}", f"messages of {size_text(size)}", usual, size)


def beside_rows(args):
    for queued in (0, 10000, 100000):
        yield Row(f"queued/{queued}", f"accept and commit, with {queued} messages queued", "messages/s",
                  lambda s, queued=queued: beside(s, args, queued), who=lambda s: s.name in ("smtpd-rs", "before"))


def strategies(top, args):
    """Messages of 4 KiB a second, by as many threads, for each way to make them durable."""
    ways = {"a directory for each message": "alone", "a file for each message": "file",
            "a file for those that wait": "shared", "a maildir, in batches": "maildir"}
    lines = ["messages a second of 4 KiB by 1, 4 and 16 threads"]
    for title, way in ways.items():
        rates = (load.disk(top, args, way, threads) for threads in (1, 4, 16))
        lines.append(f"{title:30}" + "".join(f"{rate:9.0f}" for rate in rates))
    return lines
