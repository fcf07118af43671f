"""Where messages arrive that are accounted for, and a record of it."""

import collections
import hashlib
import socketserver
import threading
import time


class Record:
    """What happened, in order, in memory and in a file."""

    def __init__(self, path):
        self.file = open(path, "w")
        self.lock = threading.Lock()
        self.start = time.monotonic()

    def __call__(self, *words):
        with self.lock:
            print(f"{time.monotonic() - self.start:9.3f}", *words, file=self.file, flush=True)


def body_of(name, rng):
    """The lines of a message: some are long enough that a kill finds them half written."""
    count = rng.choice([1, 10, 100, 100, 3000])
    return "".join(f"line {n} of {name}\r\n" for n in range(count))


def digest(text):
    return hashlib.sha256(text.replace(b"\r\n", b"\n")).hexdigest()


class Arrivals:
    """Where messages arrived, and whether they were whole."""

    def __init__(self, record):
        self.record = record
        self.lock = threading.Lock()
        self.whole = collections.Counter()
        self.torn = []

    def take(self, way, text):
        """`text` is a message as it was found."""
        text = text.replace(b"\r\n", b"\n")
        head, gap, body = text.partition(b"\n\n")
        fields = dict(line.split(b": ", 1) for line in head.split(b"\n") if line.startswith(b"X-"))
        name = fields.get(b"X-Name", b"?").decode()
        good = bool(gap) and fields.get(b"X-Digest", b"").decode() == digest(body)
        with self.lock:
            if good:
                self.whole[name] += 1
            else:
                self.torn.append((way, name, len(text)))
        self.record("arrived" if good else "TORN", way, name)


class Sink(socketserver.ThreadingTCPServer):
    """A host that takes all mail, by SMTP or LMTP."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 512

    def __init__(self, way, arrivals):
        super().__init__(("127.0.0.1", 0), Talk)
        self.way = way
        self.arrivals = arrivals
        self.port = self.server_address[1]
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request, client_address):
        """The client was killed."""


class Talk(socketserver.StreamRequestHandler):
    """One conversation. A message counts from its final dot on, before the answer is given."""

    def handle(self):
        say = lambda text: self.wfile.write(text.encode() + b"\r\n")
        recipients = 0
        say("220 sink")
        while True:
            line = self.rfile.readline(4096)
            verb = line[:4].upper()
            if not line or verb == b"QUIT":
                return
            if verb in (b"EHLO", b"LHLO"):
                say("250-sink\r\n250 PIPELINING")
            elif verb == b"RCPT":
                recipients += 1
                say("250 ok")
            elif verb == b"DATA":
                say("354 go")
                lines = []
                while (line := self.rfile.readline(4096)) != b".\r\n":
                    if not line:
                        return
                    lines.append(line[1:] if line.startswith(b".") else line)
                for _ in range(recipients):
                    self.server.arrivals.take(self.server.way, b"".join(lines))
                for _ in range(recipients if self.server.way == "lmtp" else 1):
                    say("250 taken")
                recipients = 0
            else:
                recipients = 0 if verb == b"RSET" else recipients
                say("250 ok")
