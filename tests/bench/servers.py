"""The mail systems that are measured: how each is configured, started and stopped.

Every one is an instance of its own under a directory of the benchmark: local mail goes to one
maildir, and with `routes` all mail is relayed instead, by a table of domains and hosts.
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
USER = "benchmark"


def run(*argv, **kw):
    return subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, **kw)


def wait(what, condition, seconds=120):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.01)
    raise RuntimeError(f"waited in vain for {what}")


def serves(port):
    try:
        with socket.create_connection(("127.0.0.1", port), 2) as s:
            return s.recv(4) == b"220 "
    except OSError:
        return False


def children(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as f:
            direct = [int(p) for p in f.read().split()]
    except OSError:
        return []
    return direct + [g for c in direct for g in children(c)]


def memory_kib(pid):
    """Proportional memory of a process and all it started."""
    total = 0
    for p in [pid] + children(pid):
        try:
            with open(f"/proc/{p}/smaps_rollup") as f:
                total += sum(int(line.split()[1]) for line in f if line.startswith("Pss:"))
        except OSError:
            pass
    return total


def smtpd_conf(server, routes, extra="", exchangers=False, tls=None, auth=None):
    """The configuration of both smtpds: `routes` is the path of the table, if mail is relayed by one, `tls`
    that of certificate and key, without their endings, `auth` that of a credentials table."""
    options = ""
    if tls:
        extra += f'pki bench cert "{tls}.pem"\npki bench key "{tls}.key"\n'
        options = " tls pki bench"
    if auth:
        extra += f"table creds file:{auth}\n"
        options += " auth-optional <creds>"
    action = f'action "out" maildir "{server.home}/Maildir"\n'
    if routes:
        action = f'table routes file:{routes}\naction "out" relay domain <routes>\n'
    elif exchangers:
        action = 'action "out" relay\n'
    filters, option = server.filters or ("", "")
    return (f"{extra}{filters}smtp limit max-mails 1000000\nlisten on 127.0.0.1 port {server.port}{option}{options}\n"
            f"{action}match from any for any action \"out\"\n")


def write_routes(path, routes, form):
    with open(path, "w") as f:
        f.writelines(form.format(domain, *to) + "\n" for domain, to in routes.items())


class Server:
    """One mail system: started with deliveries on or off, and stopped by pid."""

    # What it filters with, in its own words, and programs that it runs for that.
    filters = None
    bring = ()

    def __init__(self, top, port):
        self.dir = os.path.join(top, self.name)
        self.port = port
        self.home = os.path.join(self.dir, "home")
        self.pid = None

    def fresh(self):
        shutil.rmtree(self.dir, ignore_errors=True)
        os.makedirs(self.home)
        user = pwd.getpwnam(USER)
        os.chown(self.home, user.pw_uid, user.pw_gid)

    def delivered(self):
        try:
            return len(os.listdir(os.path.join(self.home, "Maildir", "new")))
        except OSError:
            return 0

    def ready(self):
        wait(f"{self.name} to serve", lambda: serves(self.port))

    def stop(self):
        if self.pid:
            os.kill(self.pid, signal.SIGTERM)
            wait(f"{self.name} to end", lambda: not os.path.exists(f"/proc/{self.pid}"), 60)
            self.pid = None


class Ours(Server):
    name = "smtpd-rs"
    program = f"{TOP}/target/release/smtpd"

    def start(self, deliver, routes=None, extra="", dns=None, tls=None, auth=None):
        self.fresh()
        self.configure(routes, extra, dns, tls, auth)
        self.go([] if deliver else ["-P", "mda", "-P", "mta"])

    def configure(self, routes=None, extra="", dns=None, tls=None, auth=None):
        table = f"{self.dir}/routes" if routes else None
        if routes:
            write_routes(table, routes, "{} smtp://{}:{}")
        if dns:
            with open(f"{self.dir}/resolv.conf", "w") as f:
                f.write(f"nameserver [127.0.0.1]:{dns}\n")
        with open(f"{self.dir}/smtpd.conf", "w") as f:
            f.write(smtpd_conf(self, table, extra, exchangers=dns, tls=tls, auth=auth))
        with open(f"{self.dir}/mailname", "w") as f:
            f.write("mx.example.org\n")

    def go(self, flags=()):
        argv = [self.program, "-d", "-R", self.dir, *flags]
        log = open(f"{self.dir}/log", "w")
        self.child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.pid = self.child.pid
        self.ready()

    def stop(self):
        if self.pid:
            os.kill(self.pid, signal.SIGTERM)
            self.child.wait(60)
            self.pid = None


class Before(Ours):
    """The same built from an earlier state, to be compared with: SMTPD_BENCH_BEFORE=PROGRAM."""
    name = "before"
    program = os.environ.get("SMTPD_BENCH_BEFORE")


def smtpctl(server, *words):
    argv = [f"{TOP}/target/release/smtpctl", "-R", server.dir, *words]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


class Opensmtpd(Server):
    name = "opensmtpd"

    def __init__(self, top, port, package):
        super().__init__(top, port)
        self.package = package

    def start(self, deliver, routes=None, extra="", dns=None, tls=None):
        self.fresh()
        root = f"{self.dir}/root"
        for d in ("etc", "var/run", "var/spool", "var/lib/opensmtpd/empty", "var/empty", "run", "tmp",
                  "dev", "proc", "usr", "opt", "home"):
            os.makedirs(f"{root}/{d}", exist_ok=True)
        os.chmod(f"{root}/tmp", 0o1777)
        for name in ("passwd", "group", "nsswitch.conf", "hosts", "resolv.conf", "services"):
            if os.path.exists(f"/etc/{name}"):
                shutil.copy(f"/etc/{name}", f"{root}/etc/{name}")
        shutil.copytree(f"{self.package}/usr/libexec", f"{root}/libexec", dirs_exist_ok=True)
        shutil.copy(f"{self.package}/usr/sbin/smtpd", f"{root}/opt/smtpd")
        for program in self.bring:
            shutil.copy(program, f"{root}/tmp")
        with open(f"{root}/etc/passwd", "a") as f:
            f.write("opensmtpd:x:54331:54331::/var/lib/opensmtpd/empty:/bin/false\n"
                    "opensmtpq:x:54332:54332::/var/lib/opensmtpd/empty:/bin/false\n")
        with open(f"{root}/etc/group", "a") as f:
            f.write("opensmtpd:x:54331:\nopensmtpq:x:54332:\n")
        if routes:
            write_routes(f"{root}/etc/routes", routes, "{} smtp://{}:{}")
        if tls:
            for kind in ("pem", "key"):
                shutil.copy(f"{tls}.{kind}", f"{root}/etc/bench.{kind}")
        with open(f"{root}/etc/smtpd.conf", "w") as f:
            f.write(smtpd_conf(self, "/etc/routes" if routes else None, tls="/etc/bench" if tls else None))
        with open(f"{root}/etc/mailname", "w") as f:
            f.write("mx.example.org\n")
        os.makedirs(root + self.home, exist_ok=True)
        script = "; ".join([
            "set -e", f"cd {root}", "mount --bind /usr usr", "mount --bind libexec usr/libexec",
            "mount --rbind /dev dev", "mount -t proc proc proc", f"mount --bind {self.home} .{self.home}",
            "for d in bin lib lib64 sbin; do [ -L /$d ] && ln -s usr/$d $d; done",
            f"exec chroot . /opt/smtpd -F -f /etc/smtpd.conf {'' if deliver else '-P mda'}"])
        log = open(f"{self.dir}/log", "w")
        self.child = subprocess.Popen(["unshare", "-m", "sh", "-c", script], stdin=subprocess.DEVNULL,
                                      stdout=log, stderr=log)
        self.pid = self.child.pid
        self.ready()

    def stop(self):
        if self.pid:
            os.kill(self.pid, signal.SIGTERM)
            self.child.wait(60)
            self.pid = None


class Postfix(Server):
    name = "postfix"

    def start(self, deliver, routes=None, extra="", dns=None, tls=None):
        self.fresh()
        etc, spool, data = (f"{self.dir}/{d}" for d in ("etc", "spool", "data"))
        for d in (etc, spool, data):
            os.makedirs(d)
        user = pwd.getpwnam("postfix")
        os.chown(data, user.pw_uid, user.pw_gid)
        with open(f"{etc}/main.cf", "w") as f:
            f.write(f"""{self.filters or ""}compatibility_level = 3.6
queue_directory = {spool}
data_directory = {data}
maillog_file = {self.dir}/log
maillog_file_prefixes = {self.dir}
myhostname = mx.example.org
mydestination = mx.example.org
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
local_recipient_maps =
alias_maps =
luser_relay =
home_mailbox = Maildir/
mailbox_command =
smtpd_client_connection_count_limit = 0
smtpd_peername_lookup = no
""" + ("" if deliver else "smtpd_sender_restrictions = static:HOLD\n")
                    + (f"transport_maps = texthash:{etc}/routes\n" if routes else "")
                    + (f"smtpd_tls_cert_file = {tls}.pem\nsmtpd_tls_key_file = {tls}.key\n"
                       "smtpd_tls_security_level = may\n" if tls else ""))
        write_routes(f"{etc}/routes", routes or {}, "{} smtp:[{}]:{}")
        master = open("/etc/postfix/master.cf.proto" if os.path.exists("/etc/postfix/master.cf.proto")
                      else "/usr/share/postfix/master.cf.dist").read()
        lines = []
        for line in master.splitlines():
            if line.startswith("smtp ") and " inet " in line:
                line = line.replace("smtp ", f"127.0.0.1:{self.port} ", 1)
            parts = line.split()
            if len(parts) > 7 and not line.startswith((" ", "#")) and parts[4] == "y":
                parts[4] = "n"
                line = " ".join(parts)
            lines.append(line)
        if not any(line.startswith("postlog") for line in lines):
            lines.append("postlog unix-dgram n - n - 1 postlogd")
        with open(f"{etc}/master.cf", "w") as f:
            f.write("\n".join(lines) + "\n")
        run("postfix", "-c", etc, "start", stderr=subprocess.DEVNULL)
        with open(f"{spool}/pid/master.pid") as f:
            self.pid = int(f.read())
        self.ready()

    def stop(self):
        if self.pid:
            subprocess.run(["postfix", "-c", f"{self.dir}/etc", "stop"], stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL)
            wait("postfix to end", lambda: not os.path.exists(f"/proc/{self.pid}"), 60)
            self.pid = None
