"""Parts of submission.py in which strangers, and programs that go wrong, come to our listeners."""

import base64
import collections
import concurrent.futures
import random
import re
import socket
import ssl
import threading
import time

from instance import NAME, TOP, Client, needed, plain, read, run


def auth_corpus(daemon):
    """RFC 4954: whatever stands in user and password is taken or refused, and others go on."""
    answers = collections.Counter()

    def tried(pair):
        number, (name, password) = pair
        client = Client(daemon.smtps_ecdsa, source=f"127.0.{100 + number // 200}.{number % 200 + 1}")
        client.ask("EHLO c.example.net")
        said = client.ask(f"AUTH PLAIN {plain(name, password)}")
        good = said.startswith(("535 5.7.8 ", "501 5.5.2 "))
        if (name, password) == (b"ann", b"secret"):
            good = said.startswith("235 ")
        fine = client.ask("NOOP") == "250 2.0.0 Ok"
        client.close()
        if not good or not fine:
            raise RuntimeError(f"{name!r} {password!r}: {said}")
        return said[:3]
    byte = lambda n: bytes([n])
    pairs = [pair for n in range(256) for pair in ((b"u%d" % n + byte(n), b"secret"), (b"v%d" % n, b"secre" + byte(n) + b"t"))]
    pairs += [(b"", b""), (b"", b"x"), (b"ann", b""), (b"a" * 256, b"x"), (b"w", b"p" * 900), (b"ann", b"secret")]
    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        answers.update(pool.map(tried, enumerate(pairs)))
    client = Client(daemon.smtps_ecdsa)
    expected = [
        ("AUTH PLAIN " + plain(b"ann", b"secret"), "503 "), ("EHLO c.example.net", "250 "), ("AUTH", "501 "),
        ("AUTH PLAIN *", "501 5.5.2"), ("AUTH PLAIN ====", "501 5.5.2"), ("AUTH PLAIN not base64!", "501 5.5.2"),
        ("AUTH PLAIN =", "501 5.5.2"), ("AUTH CRAM-MD5", "504 5.7.4"), ("AUTH LOGIN", "334 "), ("*", "501 5.5.2"),
        ("AUTH PLAIN", "334"), ("*", "501 5.5.2"), ("AUTH PLAIN " + "A" * 1500, "501 5.5.2"),
        ("MAIL FROM:<ann@example.org>", "530 "), ("AUTH PLAIN " + plain(b"ann", b"Secret"), "535 5.7.8"),
        ("MAIL FROM:<ann@example.org>", "530 "), ("AUTH PLAIN " + plain(b"ann", b"secret"), "235 "),
        ("AUTH PLAIN " + plain(b"bob", b"secret"), "503 "), ("MAIL FROM:<ann@example.org>", "250 "),
        ("AUTH PLAIN", "503 "), ("QUIT", "221 ")]
    for command, code in expected:
        said = client.ask(command)
        if not said.startswith(code):
            raise RuntimeError(f"{command[:40]}: {said}")
    client.close()
    client = Client(daemon.smtps_ecdsa)
    client.ask("EHLO c.example.net")
    said = client.ask("AUTH PLAIN " + "A" * 65536)
    if not said.startswith("500 5.0.0 "):
        raise RuntimeError(f"64 KiB: {said}")
    client.close()
    log = read(daemon.log)
    for secret in (plain(b"ann", b"Secret"), "secret", plain(b"ann", b"secret")):
        if secret in log:
            raise RuntimeError(f"{secret} is in the log")
    return ", ".join(f"{count} × {code}" for code, count in sorted(answers.items())) + f", {len(expected)} in order, 64 KiB"


def guessing(daemon):
    """100 wrong passwords over one connection after the other, and over 100 at once; others log in."""
    def guess(source, name, password=b"x"):
        client = Client(daemon.smtps_ecdsa, source=source)
        client.ask("EHLO c.example.net")
        said = client.ask("AUTH PLAIN " + plain(name, password))
        client.close()
        return said
    stop, others = threading.Event(), []

    def log_in():
        while not stop.is_set():
            begun = time.monotonic()
            said = guess("127.0.90.1", b"ann", b"secret")
            others.append((time.monotonic() - begun, said))
    thread = threading.Thread(target=log_in)
    thread.start()
    try:
        at_once = collections.Counter()
        with concurrent.futures.ThreadPoolExecutor(100) as pool:
            at_once.update(said[:9] for said in pool.map(lambda n: guess("127.0.91.1", b"g%d" % n), range(100)))
        one_by_one = collections.Counter()
        client, rest = None, 100
        while rest and one_by_one["454 4.7.0"] < 3:
            if client is None:
                client = Client(daemon.smtps_ecdsa, source="127.0.92.1")
                client.ask("EHLO c.example.net")
            said = client.ask("AUTH PLAIN " + plain(b"h%d" % rest, b"x"))
            one_by_one[said[:9]] += 1
            rest -= 1
            if said.startswith("421 "):
                client = client.close()
        if client:
            client.close()
    finally:
        stop.set()
        thread.join()
    if at_once["454 4.7.0"] < 40 or one_by_one["454 4.7.0"] < 3 or one_by_one["421 4.7.0"] < 5:
        raise RuntimeError(f"no end to guessing: {at_once}, {one_by_one}")
    if not all(said.startswith("235 ") for _, said in others):
        raise RuntimeError(f"others are kept out: {set(said for _, said in others)}")
    show = lambda counts: ", ".join(f"{count} × {code}" for code, count in counts.items())
    return (f"at once: {show(at_once)}; one by one: {show(one_by_one)}; {len(others)} log-ins of others meanwhile, "
            f"the slowest in {max(others)[0] * 1000:.0f} ms")


def fail2ban(daemon):
    needed("fail2ban-regex")
    said = run("fail2ban-regex", "-v", daemon.log, f"{TOP}/etc/fail2ban.conf")
    matched = int(re.search(r"(\d+) matched", said).group(1))
    log = read(daemon.log)
    failures = len(re.findall(r"result=permfail address=127\.0\.", log)) + \
        len(re.findall(r'result="454 4\.7\.0 Too many failed attempts to log in, try again later"', log))
    if not failures or matched != failures:
        raise RuntimeError(f"{matched} lines matched of {failures}: {said[-600:]}")
    return f"{matched} lines of {failures}"


def settled(daemon, work, times=2):
    """Does a thing so many times, and says what the engine has kept of the last."""
    work()
    before = daemon.quiet()
    for _ in range(times - 1):
        work()
    after = daemon.quiet()
    if after[0] > before[0] + 4 or after[1] > before[1] or after[2] > before[2] + 8192:
        raise RuntimeError(f"descriptors, threads, KiB: {before} before, {after} after")
    return f"descriptors, threads, KiB: {before} before, {after} after"


def handshakes(daemon):
    """10,000 handshakes with names by chance, of which many are broken off at any step."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    done = collections.Counter()

    def some(seed):
        dice = random.Random(seed)
        counted = collections.Counter()
        for _ in range(500):
            labels = ("".join(dice.choices("abcxyz0", k=dice.randrange(1, 20))) for _ in range(dice.randrange(1, 6)))
            name = dice.choice([NAME, "a." + NAME, ".".join(labels) + ".example", None])
            with socket.create_connection(("127.0.0.1", dice.choice([daemon.smtps, daemon.smtps_ecdsa])), 30) as s:
                kind = dice.randrange(4)
                if kind == 0:
                    # Step by step, up to any byte.
                    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
                    tls = context.wrap_bio(incoming, outgoing, server_hostname=name)
                    try:
                        tls.do_handshake()
                    except ssl.SSLWantReadError:
                        pass
                    hello = outgoing.read()
                    cut = dice.randrange(len(hello) + 1)
                    s.sendall(hello[:cut])
                    if dice.randrange(2):
                        s.settimeout(0.01)
                        try:
                            s.recv(100)
                        except OSError:
                            pass
                    if dice.randrange(2):
                        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    counted["broken off"] += 1
                elif kind == 1:
                    s.sendall(dice.randbytes(dice.randrange(1, 400)))
                    counted["garbage"] += 1
                else:
                    with context.wrap_socket(s, server_hostname=name) as tls:
                        if kind == 2 and tls.recv(4) != b"220 ":
                            raise RuntimeError("no banner")
                    counted["whole"] += 1
        return counted

    def all_of_them():
        with concurrent.futures.ThreadPoolExecutor(10) as pool:
            for counted in pool.map(some, range(10)):
                done.update(counted)
    kept = settled(daemon, all_of_them, 2)
    return ", ".join(f"{count} {kind}" for kind, count in done.items()) + f"; {kept}"


def injection(daemon):
    """CVE-2011-0411, from either side: what stands behind STARTTLS in clear text counts for nothing."""
    for pause in (0, 0.05):
        with socket.create_connection(("127.0.0.1", daemon.ecdsa), 30) as s:
            s.recv(1000)
            s.sendall(b"EHLO c.example.net\r\n")
            s.recv(1000)
            evil = b"EHLO evil\r\nMAIL FROM:<evil@example.org>\r\n"
            s.sendall(b"STARTTLS\r\n" + (b"" if pause else evil))
            if s.recv(1000) != b"220 2.0.0 Ready to start TLS\r\n":
                raise RuntimeError("no TLS")
            if pause:
                s.sendall(evil)
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            try:
                with context.wrap_socket(s, server_hostname=NAME) as tls:
                    tls.sendall(b"RCPT TO:<x@example.org>\r\n")
                    if not tls.recv(1000).startswith(b"503 "):
                        raise RuntimeError("the injected command counts")
            except (ssl.SSLError, OSError):
                if not pause:
                    raise
    if "evil" in read(daemon.log):
        raise RuntimeError("the log knows the injected command")
    return "forgotten"


def hang_ups(daemon):
    """A client that goes after any byte of a submission, while something is outstanding or not."""
    dialogue = ("EHLO c.example.net\r\nAUTH PLAIN {}\r\nAUTH LOGIN\r\n{}\r\n{}\r\nMAIL FROM:<ann@example.org>\r\n"
                "RCPT TO:<x@example.org>\r\nDATA\r\nSubject: hung up\r\n\r\nhi\r\n.\r\nQUIT\r\n").format(
        plain(b"ann", b"wrong"), base64.b64encode(b"ann").decode(), base64.b64encode(b"secret").decode()).encode()

    def cut(at):
        dice = random.Random(at)
        client = Client(daemon.smtps_ecdsa, source=f"127.0.{110 + at % 100}.{at // 100 + 1}")
        client.send(dialogue[:at])
        if dice.randrange(2):
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        if dice.randrange(2):
            time.sleep(dice.random() / 5)
        client.close()

    def all_of_them():
        with concurrent.futures.ThreadPoolExecutor(32) as pool:
            list(pool.map(cut, range(len(dialogue) + 1)))
    return f"{len(dialogue) + 1} places, three times; " + settled(daemon, all_of_them, 3)
