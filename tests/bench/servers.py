"""A mail system that is measured: how it is configured, started and stopped. Ours is here; the others
are in `opensmtpd.py`, `postfix.py` and `exim.py`.

Every one is an instance of its own under a directory of the benchmark: local mail goes to one
maildir, and with `routes` all mail is relayed instead, by a table of domains and hosts.
"""

import os
import pwd
import signal
import subprocess

from machine import BUILD, Account, put_aside, run, serves, wait

USER = "benchmark"
RCPT = f"{USER}@mx.example.org"


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
    # What runs beside it for it: accounts, with the pids of their first processes.
    beside = ()

    def __init__(self, top, port):
        self.dir = os.path.join(top, self.name)
        self.port = port
        self.home = os.path.join(self.dir, "home")
        self.pid = self.child = self.account = None

    def version(self):
        return "?"

    def fresh(self):
        put_aside(self.dir)
        os.makedirs(self.home)
        user = pwd.getpwnam(USER)
        os.chown(self.home, user.pw_uid, user.pw_gid)
        # Where its deliveries go.
        if user.pw_dir != self.home:
            run("usermod", "--home", self.home, USER)

    def spawn(self, *argv):
        """Starts what stays in the foreground."""
        self.account = Account(self.name)
        with open(f"{self.dir}/out", "w") as log:
            self.child = subprocess.Popen(self.account.inside(argv), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.pid = self.child.pid
        self.ready()

    def ready(self):
        def serving():
            if self.child and self.child.poll() is not None:
                with open(f"{self.dir}/out") as f:
                    raise RuntimeError(f"{self.name} has ended: {f.read()[-300:]}")
            return serves(self.port)
        try:
            wait(f"{self.name} to serve", serving)
        except RuntimeError:
            self.stop()
            raise

    def cpu_ms(self):
        return sum(account.ms(pid) for account, pid in [(self.account, self.pid), *self.beside])

    def delivered(self):
        try:
            return len(os.listdir(os.path.join(self.home, "Maildir", "new")))
        except OSError:
            return 0

    def stop(self):
        if self.pid:
            self.end()
            self.account.close()
            self.pid = self.child = None

    def end(self):
        if self.child.poll() is None:
            os.kill(self.pid, signal.SIGTERM)
        try:
            self.child.wait(60)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()


class Ours(Server):
    name = "smtpd-rs"
    program = f"{BUILD}/smtpd"

    def version(self):
        said = subprocess.run([self.program, "-h"], capture_output=True, text=True)
        return (said.stdout + said.stderr).split("\n")[0].removeprefix("version: smtpd-rs ")

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
        self.spawn(self.program, "-d", "-R", self.dir, *flags)


class Before(Ours):
    """The same built from an earlier state, to be compared with: SMTPD_BENCH_BEFORE=PROGRAM."""
    name = "before"
    program = os.environ.get("SMTPD_BENCH_BEFORE")


def smtpctl_argv(server, *words):
    return [f"{BUILD}/smtpctl", "-R", server.dir, *words]


def smtpctl(server, *words):
    return subprocess.run(smtpctl_argv(server, *words), check=True, capture_output=True, text=True).stdout
