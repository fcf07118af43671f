"""A queue that is full before the daemon starts, and what the daemon knows of it."""

import os
import subprocess

from machine import EXAMPLES
from servers import smtpctl


def fill(server, envelopes, due, *more):
    """As the daemon's own user, who has to own it."""
    spool = f"{server.dir}/spool"
    if envelopes:
        owner = os.stat(f"{spool}/queue")
        subprocess.run([f"{EXAMPLES}/spool", spool, str(envelopes), str(due), *more],
                       check=True, user=owner.st_uid, group=owner.st_gid, extra_groups=[], umask=0o077)


def known(server):
    """Envelopes that the scheduler has."""
    for line in smtpctl(server, "show", "stats").splitlines():
        name, _, value = line.partition("=")
        if name == "scheduler.envelope":
            return int(value)
    return 0
