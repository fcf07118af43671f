"""Debian's postfix, as an instance of its own: as it comes, and tuned."""

import os
import pwd
import subprocess

from machine import alive, run, wait
from mastercf import master_cf
from servers import Account, Server, write_routes

# What its documentation (TUNING_README, QSHAPE_README) says for a busy host. Nothing of it weakens what
# a 250 promises. smtp(8) and local(8) may run as often as there are destinations and messages.
TUNED = """# Not a process for each limit: as many sessions as are measured.
default_process_limit = 300
# A process serves more than a hundred connections before it makes room for another.
max_use = 1000
# No pause of a second for clients that are faster than the deliveries.
in_flow_delay = 0
# The names of clients are not looked up.
smtpd_peername_lookup = no
# anvil(8) counts nothing that is not limited.
smtpd_client_event_limit_exceptions = static:all
# More messages at work, and more deliveries to one destination from the start.
qmgr_message_active_limit = 50000
qmgr_message_recipient_limit = 50000
initial_destination_concurrency = 20
default_destination_concurrency_limit = 50
local_destination_concurrency_limit = 20
# Connections that are kept carry as many messages as there are, for every destination.
smtp_connection_cache_destinations = static:all
smtp_connection_reuse_count_limit = 1000
"""


class Postfix(Server):
    name = "postfix"
    tuned = ""

    def version(self):
        return subprocess.run(["postconf", "-dh", "mail_version"], capture_output=True, text=True).stdout.strip()

    def start(self, deliver, routes=None, extra="", dns=None, tls=None):
        self.fresh()
        etc, spool, data = (f"{self.dir}/{d}" for d in ("etc", "spool", "data"))
        for d in (etc, spool, data):
            os.makedirs(d)
        user = pwd.getpwnam("postfix")
        os.chown(data, user.pw_uid, user.pw_gid)
        with open(f"{etc}/main.cf", "w") as f:
            f.write(f"""{self.filters or ""}{self.tuned}compatibility_level = 3.6
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
""" + ("" if deliver else "smtpd_sender_restrictions = static:HOLD\n")
                    + (f"transport_maps = texthash:{etc}/routes\n" if routes else "")
                    + (f"smtpd_tls_cert_file = {tls}.pem\nsmtpd_tls_key_file = {tls}.key\n"
                       "smtpd_tls_security_level = may\n" if tls else ""))
        write_routes(f"{etc}/routes", routes or {}, "{} smtp:[{}]:{}")
        with open(f"{etc}/master.cf", "w") as f:
            f.write(master_cf(self.port))
        self.account = Account(self.name)
        run(*self.account.inside(["postfix", "-c", etc, "start"]), stderr=subprocess.DEVNULL)
        with open(f"{spool}/pid/master.pid") as f:
            self.pid = int(f.read())
        self.ready()

    def end(self):
        run("postfix", "-c", f"{self.dir}/etc", "stop", stderr=subprocess.DEVNULL)
        wait("postfix to end", lambda: not alive(self.pid), 60)


class Tuned(Postfix):
    name = "postfix-tuned"
    tuned = TUNED
