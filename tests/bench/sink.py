"""Where relayed mail goes: smtp-sink(1), which counts messages and connections."""

import os
import re
import socket
import subprocess

from machine import wait

PORT = 2710


class Smtp:
    """One on every loopback address, so that each is a host."""

    port = PORT

    def __init__(self, top):
        self.path = os.path.join(top, "sink")

    def __enter__(self):
        self.out = open(self.path, "w")
        argv = ["smtp-sink", "-u", "nobody", "-c", "-m", "1000", f":{PORT}", "1000"]
        self.child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=self.out,
                                      stderr=subprocess.DEVNULL)
        wait("the sink", self.listens)
        return self

    def listens(self):
        try:
            socket.create_connection(("127.0.0.1", PORT), 2).close()
            return True
        except OSError:
            return False

    def last(self, name):
        """It writes all its counters anew each time, on one line."""
        with open(self.path, "rb") as f:
            f.seek(max(0, os.fstat(f.fileno()).st_size - 200))
            found = re.findall(name + rb"=(\d+)\b[^\r]*\r", f.read())
        return int(found[-1]) if found else 0

    def messages(self):
        return self.last(b"mesg")

    def connections(self):
        """Those that have ended."""
        return self.last(b"sess")

    def __exit__(self, *_):
        self.child.terminate()
        self.child.wait(10)
        self.out.close()
