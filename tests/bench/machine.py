"""What a benchmark needs of the machine: namespaces of its own, processes, memory and processor time."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
sys.path.append(f"{TOP}/tests/support")

from waiting import serves, wait

# Where the programs are that are measured; another build can be tried.
BUILD = os.path.abspath(os.environ.get("SMTPD_BENCH_BUILD", f"{TOP}/target/release"))
EXAMPLES = f"{BUILD}/examples"
INSIDE = "SMTPD_BENCH_INSIDE"
# What stays free of the disk while a run goes on.
ROOM_BYTES = 16 << 30
SCRIPT = """set -e
cp -a /etc "$SMTPD_BENCH_INSIDE/etc"
mount --bind "$SMTPD_BENCH_INSIDE/etc" /etc
ip link set lo up
set +e
"$@"
exit $?"""


def enter(prepare):
    """Runs this program again with processes, a network and an /etc of its own, and ends with it. So its
    ports are free, its users are nobody else's, and nothing outlives it. What needs the real network is
    done before, in the directory of this run."""
    place = os.environ.get("SMTPD_BENCH_DIR", f"{TOP}/target")
    top = tempfile.mkdtemp(prefix="bench.", dir=place)
    os.chmod(top, 0o755)
    argv = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private",
            "sh", "-c", SCRIPT, "sh", sys.executable, "-B", os.path.abspath(sys.argv[0]), *sys.argv[1:]]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        prepare(top)
        sys.exit(subprocess.run(argv, env=dict(os.environ, **{INSIDE: top})).returncode)
    finally:
        shutil.rmtree(top, ignore_errors=True)


def put_aside(place):
    """Takes a directory away, and removes it at the end, or when the disk gets full. ext4 without a journal does not use
    an inode again in the minute after it was removed, and looks through all of these whenever it makes a
    file: whoever is measured next would pay for what was removed before."""
    if not os.path.isdir(place):
        return
    aside = os.path.join(os.environ[INSIDE], "aside")
    os.makedirs(aside, exist_ok=True)
    if shutil.disk_usage(aside).free < ROOM_BYTES:
        shutil.rmtree(aside, ignore_errors=True)
        os.makedirs(aside, exist_ok=True)
    os.rename(place, os.path.join(aside, str(time.monotonic_ns())))


def run(*argv, **kw):
    return subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, **kw)


def alive(pid):
    return os.path.exists(f"/proc/{pid}")


def tree(pid):
    """A process and all that it has started and that still run."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as f:
            direct = [int(p) for p in f.read().split()]
    except OSError:
        return [pid]
    return [pid] + [p for child in direct for p in tree(child)]


def memory_kib(pid):
    """Proportional memory of a process and all it started."""
    total = 0
    for p in tree(pid):
        try:
            with open(f"/proc/{p}/smaps_rollup") as f:
                total += sum(int(line.split()[1]) for line in f if line.startswith("Pss:"))
        except OSError:
            pass
    return total


class Account:
    """Processor time of all processes that a server has and had: those of a control group of its own,
    where there is cgroup2; else those that run and those that they have waited for."""

    def __init__(self, name):
        self.dir = None
        with open("/proc/mounts") as f:
            mounts = [line.split()[1] for line in f if line.split()[2] == "cgroup2"]
        for mount in mounts:
            path = f"{mount}/smtpd-{os.path.basename(os.environ[INSIDE])}-{name}"
            try:
                os.makedirs(path, exist_ok=True)
                self.dir = path
                return
            except OSError:
                pass

    def inside(self, argv):
        """The command, run so that its time is counted."""
        if not self.dir:
            return list(argv)
        return ["sh", "-c", 'echo $$ >"$0" && exec "$@"', f"{self.dir}/cgroup.procs", *argv]

    def ms(self, pid):
        if self.dir:
            with open(f"{self.dir}/cpu.stat") as f:
                return next(int(line.split()[1]) for line in f if line.startswith("usage_usec")) / 1000
        ticks = 0
        for p in tree(pid):
            try:
                with open(f"/proc/{p}/stat") as f:
                    ticks += sum(map(int, f.read().rsplit(")", 1)[1].split()[11:15]))
            except OSError:
                pass
        return ticks * 1000 / os.sysconf("SC_CLK_TCK")

    def close(self):
        """It can be removed when its last process is gone."""
        def removed():
            try:
                os.rmdir(self.dir)
                return True
            except FileNotFoundError:
                return True
            except OSError:
                return False
        if self.dir:
            try:
                wait("a control group to be empty", removed, 10)
            except RuntimeError:
                pass
