"""To wait for what a program of ours does, for the Python programs under tests."""

import socket
import time


def comes_true(condition, seconds):
    """Whether the condition holds before so many seconds are over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False


def wait(what, condition, seconds=120):
    if not comes_true(condition, seconds):
        raise RuntimeError(f"waited in vain for {what}")


def serves(port):
    """Whether an SMTP server greets there."""
    try:
        with socket.create_connection(("127.0.0.1", port), 2) as s:
            return s.recv(4) == b"220 "
    except OSError:
        return False
