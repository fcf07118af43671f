"""Debian's exim4, from its unpacked package. It reads /etc/exim4/exim4.conf, and the benchmark has an /etc
of its own.

Its defaults are for hosts with little mail: it would stop delivering at once after ten messages of a
connection, and refuse the thousandth and the twenty-first connection. These bounds are lifted, for
they are no promises to anybody.
"""

import os
import pwd
import re
import shutil
import subprocess

from machine import run
from servers import USER, Server, write_routes

OWNER = "Debian-exim"


class Exim(Server):
    name = "exim4"

    def __init__(self, top, port, package):
        super().__init__(top, port)
        self.program = f"{package}/usr/sbin/exim4"
        try:
            pwd.getpwnam(OWNER)
        except KeyError:
            run("useradd", "--system", "--no-create-home", "--user-group", OWNER)

    def version(self):
        said = subprocess.run([self.program, "-bV"], capture_output=True, text=True)
        found = re.search(r"Exim version (\S+)", said.stdout)
        return found[1] if found else "?"

    def start(self, deliver, routes=None, extra="", dns=None, tls=None):
        self.fresh()
        for folder in ("spool", "log"):
            os.makedirs(f"{self.dir}/{folder}")
            shutil.chown(f"{self.dir}/{folder}", OWNER, OWNER)
        write_routes(f"{self.dir}/routes", routes or {}, "{} {}::{}")
        security = "tls_advertise_hosts =\n"
        if tls:
            for kind in ("pem", "key"):
                shutil.copy(f"{tls}.{kind}", f"{self.dir}/cert.{kind}")
                shutil.chown(f"{self.dir}/cert.{kind}", OWNER)
            security = f"tls_certificate = {self.dir}/cert.pem\ntls_privatekey = {self.dir}/cert.key\n"
        os.makedirs("/etc/exim4", exist_ok=True)
        with open("/etc/exim4/exim4.conf", "w") as f:
            f.write(self.configuration(security + ("" if deliver else "queue_only\n")))
        self.spawn(self.program, "-bdf", "-q1m")

    def configuration(self, more):
        return f"""{more}exim_path = {self.program}
primary_hostname = mx.example.org
spool_directory = {self.dir}/spool
log_file_path = {self.dir}/log/%slog
local_interfaces = 127.0.0.1
daemon_smtp_ports = {self.port}
split_spool_directory
check_spool_space = 0
smtp_accept_max = 1000
smtp_accept_max_per_connection = 0
smtp_accept_queue_per_connection = 0
smtp_accept_max_nonmail = 1000
smtp_connect_backlog = 1000
queue_run_max = 20
remote_max_parallel = 50
acl_smtp_rcpt = take
acl_smtp_data = take
begin acl
take:
  accept
begin routers
here:
  driver = accept
  domains = mx.example.org
  transport = box
away:
  driver = manualroute
  transport = smtp
  route_data = ${{lookup{{$domain}}lsearch{{{self.dir}/routes}}}}
  self = send
begin transports
smtp:
  driver = smtp
  allow_localhost
box:
  driver = appendfile
  user = {USER}
  directory = {self.home}/Maildir
  maildir_format
begin retry
* * F,1h,5m
"""
