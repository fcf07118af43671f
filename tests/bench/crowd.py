"""Many sessions at a time: what an idle one costs, and how soon a new one is greeted."""

import socket
import time

import load
from machine import memory_kib
from rows import Reading, Row, Story


def session(port):
    s = socket.create_connection(("127.0.0.1", port), 10)
    if s.recv(100)[:4] != b"220 ":
        raise RuntimeError("no session")
    s.sendall(b"EHLO idle.example.net\r\n")
    s.recv(1000)
    return s


def idle(server, count):
    """KiB per idle session."""
    held = []
    server.start(deliver=False)
    try:
        before = memory_kib(server.pid)
        held = [session(server.port) for _ in range(count)]
        return Reading((memory_kib(server.pid) - before) / count)
    finally:
        for s in held:
            s.close()
        server.stop()


def crowd(server, count):
    """With many idle and some trickling sessions: seconds until a new session's banner."""
    held = []
    server.start(deliver=True)
    try:
        for _ in range(count):
            s = socket.create_connection(("127.0.0.1", server.port), 10)
            s.recv(100)
            held.append(s)
        slow = held[: count // 25]
        worst = []
        for n in range(100):
            for s in slow[n % 5::5]:
                s.sendall(b"X")
            start = time.monotonic()
            s = socket.create_connection(("127.0.0.1", server.port), 10)
            s.recv(100)
            worst.append((time.monotonic() - start) * 1000)
            s.close()
            if n == 50:
                load.smtp_source(server.port, 200)
        worst.sort()
        return [f"{count} idle sessions, {len(slow)} of them sending single bytes: a new session's banner comes after "
                f"{worst[len(worst) // 2]:.1f} ms (worst of 100: {worst[-1]:.1f} ms); "
                f"{memory_kib(server.pid) / 1024:.1f} MiB in all"]
    finally:
        for s in held:
            s.close()
        server.stop()


def rows(args):
    yield Row("memory", "memory per idle session", "KiB", lambda s: idle(s, args.idle), seconds=5, less_is_better=True)
    yield Story("crowd", "a new session among idle ones", lambda s: crowd(s, args.crowd))
