#!/usr/bin/env python3
"""The container recipe without a container: etc/Containerfile's last stage, step by step in a chroot.

What its first stage builds is what lies in target/release (make), installed by make install. FROM is a
debootstrap'ed Debian, or a copy of the directory BASE. Then the entry point is run as the recipe's user, mail is
sent to the exposed port from outside, and the health check has to be content. Needs root, Linux, debootstrap, and a
mirror of Debian (MIRROR, or the one of this machine).
"""

import glob
import os
import shlex
import shutil
import signal
import smtplib
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
TARGET = os.environ.get("TARGETDIR", f"{TOP}/target")


def run(*argv, **kw):
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900, **kw)
    if done.returncode:
        sys.exit(f"container: FAILED: {shlex.join(argv)}\n{done.stdout[-3000:]}")
    return done.stdout


def wait(what, condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            sys.exit(f"container: FAILED: waited in vain for {what}")
        time.sleep(0.1)


def instructions():
    """Those of the last stage, with their arguments."""
    with open(f"{TOP}/etc/Containerfile") as f:
        lines = [line for line in f.read().replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    found = [line.split(None, 1) for line in lines]
    return found[max(n for n, (word, _) in enumerate(found) if word == "FROM"):]


class Image:
    def __init__(self, place):
        self.place, self.root, self.stage = place, f"{place}/root", f"{place}/stage"
        self.user, self.env, self.port, self.health, self.entry = "root", {}, None, None, None
        self.mounts = []

    def argv(self, *argv):
        env = [f"{name}={value}" for name, value in self.env.items()]
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return ["env", "-i", path, "DEBIAN_FRONTEND=noninteractive", *env, "chroot", f"--userspec={self.user}", self.root,
                *argv]

    def start_from(self, base):
        if os.environ.get("BASE"):
            run("cp", "-a", os.environ["BASE"], self.root)
        else:
            release = base.split(":")[-1].split("-")[0]
            known = run("apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)", "Created-By: Packages")
            mirrors = [line.split()[1] for line in known.splitlines() if line.split()[0] == release]
            given = os.environ.get("MIRROR")
            run("debootstrap", "--variant=minbase", release, self.root, *([given] if given else mirrors[:1]))
        shutil.copy("/etc/resolv.conf", f"{self.root}/etc/resolv.conf")
        for node in ("null", "urandom"):
            open(f"{self.root}/dev/{node}", "a").close()
            run("mount", "--bind", f"/dev/{node}", f"{self.root}/dev/{node}")
            self.mounts.append(f"{self.root}/dev/{node}")
        run("mount", "-t", "proc", "proc", f"{self.root}/proc")
        self.mounts.append(f"{self.root}/proc")

    def step(self, word, text):
        if word == "FROM":
            self.start_from(text)
        elif word == "RUN":
            run(*self.argv("sh", "-ec", text))
        elif word == "USER":
            self.user = text
        elif word == "ENV":
            name, _, value = text.partition("=")
            self.env[name] = value
        elif word == "COPY" and text.startswith("--from=build "):
            source, to = text.split()[1:]
            run("cp", "-R", f"{self.stage}{source.removeprefix('/stage')}/.", f"{self.root}{to}")
        elif word == "EXPOSE":
            self.port = int(text)
        elif word == "HEALTHCHECK":
            self.health = shlex.split(text.removeprefix("CMD "))
        elif word == "ENTRYPOINT":
            self.entry = [part.strip(' "') for part in text.strip("[]").split(",")]
        elif word != "VOLUME":
            sys.exit(f"container: FAILED: {word} is not known here")

    def serves(self):
        try:
            with smtplib.SMTP("127.0.0.1", self.port, timeout=5):
                return True
        except OSError:
            return False

    def mails(self):
        return glob.glob(f"{self.root}/srv/smtpd/Maildir/new/*")

    def healthy(self):
        return subprocess.run(self.argv(*self.health), capture_output=True).returncode == 0

    def end(self):
        for path in self.mounts:
            subprocess.run(["umount", path])


def trial(image):
    run("make", "-C", TOP, "install", f"TARGETDIR={TARGET}", f"DESTDIR={image.stage}", "CARGO=/nonexistent")
    for word, text in instructions():
        print(f"container: {word} {text[:90]}", flush=True)
        image.step(word, text)
    daemon = subprocess.Popen(image.argv(*image.entry), stdin=subprocess.DEVNULL, start_new_session=True,
                              stdout=open(f"{image.place}/log", "wb"), stderr=subprocess.STDOUT)
    try:
        wait("the port", lambda: daemon.poll() is not None or image.serves())
        if daemon.poll() is not None:
            with open(f"{image.place}/log") as f:
                sys.exit(f"container: FAILED: {f.read()[-2000:]}")
        with open(f"/proc/{daemon.pid}/status") as f:
            owner = next(line for line in f if line.startswith("Uid:")).split()[1]
        if owner == "0":
            sys.exit("container: FAILED: it runs as root")
        host = os.uname().nodename
        with smtplib.SMTP("127.0.0.1", image.port, timeout=30) as client:
            client.sendmail("a@example.net", [f"anybody@{host}"], "Subject: contained\r\n\r\nHello.\r\n")
        wait("the mail", image.mails)
        if not image.healthy():
            sys.exit("container: FAILED: the health check of a healthy one")
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(60)
        if image.healthy():
            sys.exit("container: FAILED: the health check of one that has ended")
    finally:
        if daemon.poll() is None:
            daemon.kill()
            daemon.wait()
    print(f"container: built, run as uid {owner}, mail taken in and delivered, health checked")


def main():
    if os.geteuid() != 0:
        sys.exit("container: needs root")
    if not os.path.exists(f"{TARGET}/release/settings"):
        sys.exit(f"container: nothing is built in {TARGET}: make first")
    with tempfile.TemporaryDirectory(prefix="smtpd-container-") as place:
        os.chmod(place, 0o755)
        image = Image(place)
        try:
            trial(image)
        finally:
            image.end()


if __name__ == "__main__":
    if os.environ.get("SMTPD_CONTAINER_INSIDE"):
        main()
    else:
        # No mount of these is seen outside, and none stays. The network is the machine's, for apt-get(8).
        argv = ["unshare", "--mount", "--propagation", "private", sys.executable, "-B", os.path.abspath(__file__)]
        sys.exit(subprocess.run(argv, env=dict(os.environ, SMTPD_CONTAINER_INSIDE="yes")).returncode)
