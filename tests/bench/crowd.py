"""Many sessions at a time: what an idle one costs, and how soon a new one is greeted."""

import contextlib
import multiprocessing
import os
import socket
import time

import load
from machine import memory_kib, tree
from rows import Reading, Row, Story

# New sessions whose banner is waited for, and how far apart they come.
SAMPLES = 1000
APART_S = 0.01
# One of so many idle sessions sends a byte whenever this has passed.
TRICKLING = 25
BYTE_EVERY_S = 0.1
# After these no further sample is taken.
PATIENCE_S = 60


def connected(port):
    """A connection that has been greeted."""
    s = socket.create_connection(("127.0.0.1", port), 10)
    if s.recv(100)[:4] != b"220 ":
        raise RuntimeError("no session")
    return s


def session(port):
    s = connected(port)
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


@contextlib.contextmanager
def beside(work, *args):
    """Runs `work` in a process of its own until the block ends, which it must not do before."""
    process = multiprocessing.get_context("fork").Process(target=work, args=args, daemon=True)
    process.start()
    try:
        yield
        if not process.is_alive():
            raise RuntimeError(f"{work.__name__} has ended early")
    finally:
        process.kill()
        process.join()


def trickle(sessions):
    """Each sends single bytes, in turns."""
    turns = 10
    while True:
        for turn in range(turns):
            for s in sessions[turn::turns]:
                s.sendall(b"X")
            time.sleep(BYTE_EVERY_S / turns)


def greet(listener):
    """The least that can be done for a new connection: accept it, greet it, keep it."""
    kept = []
    while True:
        s, _ = listener.accept()
        s.sendall(b"220 floor\r\n")
        kept.append(s)


def mail(port):
    while True:
        load.smtp_source(port, 200)


def banner_ms(port):
    start = time.monotonic()
    s = connected(port)
    took_ms = (time.monotonic() - start) * 1000
    s.close()
    return took_ms


def banners(ports, samples):
    """Milliseconds until the banner, for each of the ports; they take turns, so what disturbs the machine
    disturbs all of them."""
    end = time.monotonic() + PATIENCE_S
    taken = []
    while len(taken) < samples and time.monotonic() < end:
        taken.append([banner_ms(port) for port in ports])
        time.sleep(APART_S)
    return [sorted(of_port) for of_port in zip(*taken)]


@contextlib.contextmanager
def ahead_of_all(*pids):
    """Whatever else this machine does comes after these processes and all that they have started."""
    def schedule(policy, priority):
        for pid in (pid for first in pids for pid in tree(first)):
            for thread in os.listdir(f"/proc/{pid}/task"):
                with contextlib.suppress(ProcessLookupError):
                    os.sched_setscheduler(int(thread), policy, os.sched_param(priority))
    schedule(os.SCHED_RR, 1)
    try:
        yield
    finally:
        schedule(os.SCHED_OTHER, 0)


def told(what, taken_ms, floor_ms):
    return f"{what}: {spread(taken_ms)}; floor: {spread(floor_ms)}"


def spread(taken_ms):
    return (f"{taken_ms[len(taken_ms) // 2]:.2f} ms, 99 of 100 within {taken_ms[len(taken_ms) * 99 // 100]:.2f}, "
            f"worst of {len(taken_ms)} {taken_ms[-1]:.2f}")


def crowd(server, count):
    """With many idle and some trickling sessions: how long until a new session's banner. The floor is the same client
    and a server that accepts and greets and does nothing else."""
    held = []
    server.start(deliver=True)
    try:
        held = [connected(server.port) for _ in range(count)]
        slow = held[::TRICKLING]
        with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
            ports = [server.port, listener.getsockname()[1]]
            with beside(greet, listener), beside(trickle, slow):
                lines = [told("until a new session's banner", *banners(ports, SAMPLES))]
                with ahead_of_all(os.getpid(), server.pid):
                    lines.append(told("with real-time priority, so that nothing else delays client or server",
                                      *banners(ports, SAMPLES)))
                with beside(mail, server.port):
                    lines.append(told("while 20 sessions send mail", *banners(ports, SAMPLES // 5)))
        return [f"{count} idle sessions, {len(slow)} of them sending a byte every {BYTE_EVERY_S * 1000:.0f} ms; "
                f"{memory_kib(server.pid) / 1024:.1f} MiB in all", *lines]
    finally:
        for s in held:
            s.close()
        server.stop()


def rows(args):
    yield Row("memory", "memory per idle session", "KiB", lambda s: idle(s, args.idle), seconds=5, less_is_better=True)
    yield Story("crowd", "a new session among idle ones", lambda s: crowd(s, args.crowd), seconds=3 * PATIENCE_S)
