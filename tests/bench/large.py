"""One large message in, and out again, beside a copy of the same bytes to the same disk and over
loopback; and what it costs in memory.
"""

import os
import socket
import statistics
import threading
import time

from machine import tree
from rows import Story

SIZE_BYTES = 30 << 20
SINK = ("127.0.0.2", 2713)
LINE = b"x" * 76 + b"\r\n"
TEXT = b"Subject: large\r\n\r\n" + LINE * (SIZE_BYTES // len(LINE)) + b".\r\n"


class Sink(threading.Thread):
    """Takes one message and says when it had come."""

    def __init__(self):
        super().__init__(daemon=True)
        self.listener = socket.create_server(SINK)
        self.done = threading.Event()
        self.begun = self.ended = 0

    def run(self):
        peer, _ = self.listener.accept()
        with self.listener, peer, peer.makefile("rb") as lines:
            peer.sendall(b"220 sink ESMTP\r\n")
            for line in iter(lines.readline, b""):
                verb = line[:4].upper()
                if verb == b"DATA":
                    peer.sendall(b"354 go on\r\n")
                    self.begun = time.monotonic()
                    swallow(lines.read1)
                    self.ended = time.monotonic()
                    self.done.set()
                peer.sendall(b"250 ok\r\n" if verb != b"QUIT" else b"221 bye\r\n")
                if verb == b"QUIT":
                    return


def swallow(read):
    tail = b""
    while tail != b"\r\n.\r\n":
        got = read(1 << 18)
        if not got:
            raise RuntimeError("the connection ended early")
        tail = (tail + got[-5:])[-5:]


def submit(port):
    with socket.create_connection(("127.0.0.1", port)) as s, s.makefile("rb") as replies:
        def reply():
            line = replies.readline()
            while line[3:4] == b"-":
                line = replies.readline()
            if line[:1] not in (b"2", b"3"):
                raise RuntimeError(f"refused: {line!r}")
        reply()
        for command in (b"EHLO client.example.net", b"MAIL FROM:<a@example.net>",
                        b"RCPT TO:<b@d1.example.net>", b"DATA"):
            s.sendall(command + b"\r\n")
            reply()
        start = time.monotonic()
        s.sendall(TEXT)
        reply()
        return time.monotonic() - start


def copy(top):
    """Seconds for the same bytes over loopback, out of memory; to the disk, synced; and out of that file over loopback."""
    memory_s = sent(lambda ours: ours.sendall(TEXT))
    start = time.monotonic()
    path = os.path.join(top, "copy")
    with open(path, "wb") as f:
        f.write(TEXT)
        f.flush()
        os.fsync(f.fileno())
    disk_s = time.monotonic() - start
    file_s = sent(lambda ours: send_file(path, ours))
    os.unlink(path)
    return memory_s, disk_s, file_s


def sent(send):
    ours, theirs = loopback()
    with ours, theirs:
        start = time.monotonic()
        reader = threading.Thread(target=swallow, args=(theirs.recv,))
        reader.start()
        send(ours)
        reader.join()
        return time.monotonic() - start


def send_file(path, to):
    block = memoryview(bytearray(1 << 18))
    with open(path, "rb", buffering=0) as f:
        while count := f.readinto(block):
            to.sendall(block[:count])


def loopback():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        return ours, listener.accept()[0]


def peak_kib(pid):
    """The most memory of its own that any process of the daemon ever had."""
    most = 0
    for p in tree(pid):
        with open(f"/proc/{p}/status") as f:
            most = max([most] + [int(line.split()[1]) for line in f if line.startswith("VmHWM:")])
    return most


def large(server, top, rounds):
    into, out, copies, grown = [], [], [], []
    for _ in range(rounds):
        copies.append(copy(top))
        server.start(deliver=True, routes={"d1.example.net": SINK})
        try:
            before = peak_kib(server.pid)
            sink = Sink()
            sink.start()
            into.append(submit(server.port))
            sink.done.wait(60)
            out.append(sink.ended - sink.begun)
            grown.append(peak_kib(server.pid) - before)
        finally:
            server.stop()
    memory_s, disk_s, file_s, into_s, out_s = map(statistics.median, (*zip(*copies), into, out))
    return [f"in  {into_s:6.3f} s; loopback {memory_s:.3f} s and disk {disk_s:.3f} s: "
            f"{(memory_s + disk_s) / into_s * 100:.0f} % of their speed",
            f"out {out_s:6.3f} s; a file over loopback {file_s:.3f} s: {file_s / out_s * 100:.0f} % of its speed",
            f"the engine's peak memory grew by {max(grown)} KiB"]


def rows(top, args):
    yield Story("large", f"one message of {SIZE_BYTES >> 20} MiB", lambda s: large(s, top, args.rounds))
