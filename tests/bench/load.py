"""Where messages come from: smtp-source(1), as many as take the time that a reading has; and the floors,
which are what the disk and the wire can do when no mail system stands between them.
"""

import os
import subprocess
import time

import sink
from machine import EXAMPLES, put_aside, run
from rows import Reading
from servers import RCPT

# What a reading writes at most.
BYTES_MAX = 256 << 20


def smtp_source(port, messages, sessions=20, size=4096, kept=True, rcpt=RCPT):
    argv = ["smtp-source", "-s", str(min(sessions, messages)), "-l", str(size), "-m", str(messages),
            "-f", "sender@example.net", "-t", rcpt] + (["-d"] if kept else []) + [f"127.0.0.1:{port}"]
    run(*argv, timeout=300)


def timed(batch, count):
    """Seconds, and how many messages it was: `batch` may say that there were more."""
    start = time.monotonic()
    done = batch(count) or count
    return time.monotonic() - start, done


def steady(batch, args, sessions, size):
    """Batches that grow until one takes long enough, four times as long as the first one at least: that one, as
    its seconds and messages. So the first ones warm up whoever starts processes when they are needed, and
    that sessions have to be opened counts for little."""
    count = max(sessions, 20)
    most = max(count, min(args.messages, BYTES_MAX // size))
    # What others have written is nobody's burden now.
    os.sync()
    first_s, _ = timed(batch, count)
    enough_s = max(first_s + args.seconds / 2, 4 * first_s)
    count *= 4
    while True:
        count = min(count, most)
        took_s, done = timed(batch, count)
        if took_s >= enough_s or count == most:
            return took_s, done
        more = enough_s * 1.3 / max(took_s - first_s / 2, 0.001)
        count = int(count * min(max(more, 2), 10))


def rate(server, batch, args, sessions=20, size=4096):
    """Messages a second; `batch` sends so many and comes back when all is done that belongs to the row."""
    spent_ms = []

    def counted(count):
        before_ms = server.cpu_ms()
        done = batch(count)
        spent_ms.append(server.cpu_ms() - before_ms)
        return done
    took_s, done = steady(counted, args, sessions, size)
    return Reading(done / took_s, spent_ms[-1] / done)


def disk(top, args, way, threads, size=4096):
    """The file operations alone."""
    place = os.path.join(top, "floor")
    argv = [f"{EXAMPLES}/floor", place, str(args.seconds / 2), str(threads), str(size), way]
    try:
        return float(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)
    finally:
        put_aside(place)


def wire(top, args, sessions=20, size=4096, kept=True):
    """The same messages from smtp-source(1) straight into smtp-sink(1), over loopback."""
    with sink.Smtp(top) as taker:
        def batch(count):
            smtp_source(taker.port, count, sessions, size, kept)
        took_s, done = steady(batch, args, sessions, size)
        return done / took_s
