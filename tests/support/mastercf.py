"""master.cf(5) of Debian's postfix, for an instance that a Python program under tests starts."""

import os


def master_cf(port):
    """The one that comes with it, with smtpd(8) on this port of loopback, and without chroots, which such an instance
    has not made."""
    name = "/etc/postfix/master.cf.proto"
    with open(name if os.path.exists(name) else "/usr/share/postfix/master.cf.dist") as f:
        text = f.read()
    lines = []
    for line in text.splitlines():
        if line.startswith("smtp ") and " inet " in line:
            line = line.replace("smtp ", f"127.0.0.1:{port} ", 1)
        parts = line.split()
        if len(parts) > 7 and not line.startswith((" ", "#")) and parts[4] == "y":
            parts[4] = "n"
            line = " ".join(parts)
        lines.append(line)
    if not any(line.startswith("postlog") for line in lines):
        lines.append("postlog unix-dgram n - n - 1 postlogd")
    return "\n".join(lines) + "\n"
