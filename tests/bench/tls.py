"""Submission: messages and handshakes over TLS, what an idle session costs, and how long others wait
for their banner while passwords are checked.
"""

import base64
import os
import socket
import ssl
import subprocess
import threading
import time

from machine import EXAMPLES, memory_kib
from rows import Reading, Row, Story

SOURCE = f"{EXAMPLES}/tls_source"
# "secret" by bcrypt with 2^10 rounds, as OpenBSD makes them.
HASH = "$2b$10$abcdefghijklmnopqrstuuqflPDzB6gcMhKa1rZqKiun2YGL5sa2u"


def certificate(top, kind):
    """The path of NAME.pem and NAME.key, without their endings."""
    path = os.path.join(top, kind)
    if not os.path.exists(f"{path}.pem"):
        key = {"rsa": ["rsa:2048"], "ecdsa": ["ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]}[kind]
        subprocess.run(["openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=mx.example.org",
                        "-newkey", *key, "-keyout", f"{path}.key", "-out", f"{path}.pem"],
                       check=True, capture_output=True)
        os.chmod(f"{path}.key", 0o600)
    return path


def source(server, what, sessions, count):
    argv = [SOURCE, what, str(server.port), str(sessions), str(count)]
    return float(subprocess.run(argv, check=True, capture_output=True, text=True, timeout=300).stdout)


def driven(server, top, args, what, kind):
    """Messages or handshakes a second. What a first, small number of them takes says how many there are to be."""
    speaks(server, top)
    server.start(deliver=False, tls=certificate(top, kind))
    try:
        count = int(source(server, what, args.sessions, 2 * args.sessions) * args.seconds)
        count = min(max(count, 2 * args.sessions), args.messages)
        os.sync()
        before_ms = server.cpu_ms()
        value = source(server, what, args.sessions, count)
        return Reading(value, (server.cpu_ms() - before_ms) / count)
    finally:
        server.stop()


def session(port):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    s = socket.create_connection(("127.0.0.1", port), 10)
    s.recv(1000)
    for command in (b"EHLO idle.example.net\r\n", b"STARTTLS\r\n"):
        s.sendall(command)
        s.recv(1000)
    s = context.wrap_socket(s)
    s.sendall(b"EHLO idle.example.net\r\n")
    s.recv(1000)
    return s


def speaks(server, top, known={}):
    """Debian's opensmtpd 6.8 signs nothing with Debian's OpenSSL 3: nobody can speak TLS with it."""
    if server.name not in known:
        server.start(deliver=False, tls=certificate(top, "rsa"))
        try:
            session(server.port).close()
            known[server.name] = None
        except OSError as error:
            known[server.name] = str(error)
        finally:
            server.stop()
    if known[server.name]:
        raise RuntimeError(f"no TLS: {known[server.name]}")


def idle(server, top, args):
    """KiB per idle session."""
    speaks(server, top)
    server.start(deliver=False, tls=certificate(top, "ecdsa"))
    held = []
    try:
        # Whatever the first ones make is not theirs.
        for _ in range(4):
            session(server.port).close()
        before = memory_kib(server.pid)
        held = [session(server.port) for _ in range(args.idle)]
        return Reading((memory_kib(server.pid) - before) / len(held))
    finally:
        for s in held:
            s.close()
        server.stop()


def storm(server, top, count):
    """`count` log-ins with bcrypt, twenty at a time, and what others wait for their banner meanwhile."""
    creds = os.path.join(top, "creds")
    with open(creds, "w") as f:
        f.write(f"ann {HASH}\n")
    server.start(deliver=False, tls=certificate(top, "ecdsa"), auth=creds)
    left, lock = [count], threading.Lock()
    wrong = []
    word = base64.b64encode(b"\0ann\0secret").decode()

    def log_in():
        while True:
            with lock:
                if left[0] == 0:
                    return
                left[0] -= 1
            s = session(server.port)
            s.sendall(f"AUTH PLAIN {word}\r\n".encode())
            reply = s.recv(1000)
            if not reply.startswith(b"235 "):
                wrong.append(reply)
            s.close()
    try:
        threads = [threading.Thread(target=log_in) for _ in range(20)]
        start = time.monotonic()
        for thread in threads:
            thread.start()
        waits = []
        while any(thread.is_alive() for thread in threads):
            begun = time.monotonic()
            with socket.create_connection(("127.0.0.1", server.port), 10) as s:
                s.recv(100)
            waits.append((time.monotonic() - begun) * 1000)
            time.sleep(0.02)
        took_s, waits = time.monotonic() - start, sorted(waits)
        failed = f", {len(wrong)} failed: {wrong[0]}" if wrong else ""
        return [f"{count} log-ins with bcrypt, 20 at a time, in {took_s:.1f} s{failed}",
                f"a new session's banner comes after {waits[len(waits) // 2]:.1f} ms (99 of 100: "
                f"{waits[len(waits) * 99 // 100]:.1f} ms, worst of {len(waits)}: {waits[-1]:.1f} ms)"]
    finally:
        server.stop()


def rows(top, args):
    for name, title, unit, what, kind in (
            ("kept", "accept and commit, kept sessions", "messages/s", "messages", "rsa"),
            ("rsa", "handshakes, RSA 2048", "handshakes/s", "handshakes", "rsa"),
            ("ecdsa", "handshakes, ECDSA P-256", "handshakes/s", "handshakes", "ecdsa"),
            ("ticket", "handshakes by ticket", "handshakes/s", "resumed", "rsa")):
        yield Row(f"tls/{name}", f"TLS: {title}", unit, lambda s, w=what, k=kind: driven(s, top, args, w, k))
    yield Row("tls/memory", "TLS: memory per idle session", "KiB", lambda s: idle(s, top, args), seconds=5,
              less_is_better=True)
    yield Story("tls/logins", "TLS: a banner while passwords are checked", lambda s: storm(s, top, args.logins))
