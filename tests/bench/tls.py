"""Submission: messages and handshakes over TLS, what an idle session costs, and how long others wait
for their banner while passwords are checked.
"""

import base64
import os
import socket
import ssl
import statistics
import subprocess
import threading
import time

from servers import TOP, memory_kib

SOURCE = f"{TOP}/target/release/examples/tls_source"
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
    output = subprocess.run([SOURCE, what, str(server.port), str(sessions), str(count)], check=True,
                            capture_output=True, text=True, timeout=300).stdout
    return float(output)


def messages(server, top, args):
    server.start(deliver=False, tls=certificate(top, "rsa"))
    try:
        return source(server, "messages", args.sessions, args.messages)
    finally:
        server.stop()


def handshakes(server, top, args, what, kind):
    server.start(deliver=False, tls=certificate(top, kind))
    try:
        # The others take some time for each connection.
        count = {"smtpd-rs": 4, "before": 4}.get(server.name, 1) * args.messages // 4
        return source(server, what, args.sessions, count)
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


def failure(server, top):
    """Why nobody can speak TLS with a server: Debian's opensmtpd 6.8 signs nothing with Debian's OpenSSL 3."""
    server.start(deliver=False, tls=certificate(top, "rsa"))
    try:
        session(server.port).close()
        return None
    except OSError as error:
        return str(error)
    finally:
        server.stop()


def idle(server, top, args):
    """KiB per idle session."""
    server.start(deliver=False, tls=certificate(top, "ecdsa"))
    held = []
    try:
        # Whatever the first ones make is not theirs.
        for _ in range(4):
            session(server.port).close()
        before = memory_kib(server.pid)
        held = [session(server.port) for _ in range(args.idle)]
        return (memory_kib(server.pid) - before) / len(held)
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
        return time.monotonic() - start, sorted(waits), wrong
    finally:
        server.stop()


def measure(servers, top, args, report):
    """`report` prints a title, a unit and a figure for each server."""
    rows = [
        ("tls: accept and commit, kept sessions", "messages/s", lambda s: messages(s, top, args)),
        ("tls: handshakes, RSA 2048", "handshakes/s", lambda s: handshakes(s, top, args, "handshakes", "rsa")),
        ("tls: handshakes, ECDSA P-256", "handshakes/s", lambda s: handshakes(s, top, args, "handshakes", "ecdsa")),
        ("tls: handshakes by ticket", "handshakes/s", lambda s: handshakes(s, top, args, "resumed", "rsa")),
        ("tls: memory per idle session", "KiB", lambda s: idle(s, top, args)),
    ]
    rows = [row for row in rows if not args.only or args.only in row[0]]
    failures = {s: failure(s, top) for s in servers} if rows else {}
    for server in filter(failures.get, failures):
        print(f"\nno TLS with {server.name}, not measured: {failures[server]}", flush=True)
    servers = [s for s in servers if not failures.get(s)]
    for title, unit, work in rows:
        figures = {s.name: [] for s in servers}
        for _ in range(args.rounds):
            for server in servers:
                figures[server.name].append(work(server))
        report(title, unit, {name: statistics.median(values) for name, values in figures.items()})
    title = "tls: a banner while passwords are checked"
    if not args.only or args.only in title:
        seconds, waits, wrong = storm(servers[0], top, 1000)
        print(f"\n{title} (load {os.getloadavg()[0]:.1f})\n  1000 log-ins with bcrypt, 20 at a time, in {seconds:.1f} s"
              f"{f', {len(wrong)} failed: {wrong[0]}' if wrong else ''}; a new session's banner comes after "
              f"{waits[len(waits) // 2]:.1f} ms (99 of 100: {waits[len(waits) * 99 // 100]:.1f} ms, worst of "
              f"{len(waits)}: {waits[-1]:.1f} ms)", flush=True)
