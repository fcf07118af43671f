"""A start with a spool full of deferred mail: when the first message leaves, what an envelope costs
in memory, how long `smtpctl show queue` takes.
"""

import os
import subprocess
import time

import relay
from servers import TOP, memory_kib, serves, smtpctl, wait

DUE = 100


def measure(server, top, envelopes):
    """The spool is in the page cache, for it has just been made."""
    server.start(deliver=True, routes=relay.LIVING)
    empty_kib = memory_kib(server.pid)
    server.stop()
    fill(server, envelopes)
    with relay.Sink(top) as sink:
        start = time.monotonic()
        server.go()
        try:
            wait("the first delivery", lambda: sink.count() > 0)
            first_s = time.monotonic() - start
            wait("the port", lambda: serves(server.port))
            shown_s, shown = show_queue(server)
            wait("the scan", lambda: known(server) + sink.count() >= envelopes)
            scanned_s = time.monotonic() - start
            wait("what is due", lambda: sink.count() >= DUE)
            per_envelope = (memory_kib(server.pid) - empty_kib) * 1024 / envelopes
            full_s, full = show_queue(server)
            kib = memory_kib(server.pid) - empty_kib
        finally:
            server.stop()
    print(f"\nstart with {envelopes} deferred envelopes (load {os.getloadavg()[0]:.1f})\n"
          f"  first delivery after {first_s:.2f} s, all known after {scanned_s:.2f} s\n"
          f"  show queue: {full_s:.2f} s for {full} envelopes, {shown_s:.2f} s for the {shown} "
          f"known right after the start\n"
          f"  {per_envelope:.0f} bytes per envelope, {kib * 1024 / envelopes:.0f} after the listing",
          flush=True)


def fill(server, envelopes):
    """As the daemon's own user, who has to own it."""
    spool = f"{server.dir}/spool"
    owner = os.stat(f"{spool}/queue")
    subprocess.run([f"{TOP}/target/release/examples/spool", spool, str(envelopes), str(DUE)],
                   check=True, user=owner.st_uid, group=owner.st_gid, extra_groups=[], umask=0o077)


def known(server):
    for line in smtpctl(server, "show", "stats").splitlines():
        name, _, value = line.partition("=")
        if name == "scheduler.envelope":
            return int(value)
    return 0


def show_queue(server):
    start = time.monotonic()
    listed = smtpctl(server, "show", "queue")
    return time.monotonic() - start, listed.count("\n")
