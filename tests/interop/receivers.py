"""Hosts that only take mail: Dovecot's lmtpd, and some made of aiosmtpd that want a login or speak old TLS only."""

import os
import subprocess
import sys

from instance import HERE, Skip
from peers import UID, Server, read, tree, write


class Dovecot(Server):
    name = "dovecot"

    def host(self):
        return f"relay host lmtp://127.0.0.1:{self.port}"

    def start(self, ours, cert):
        if not os.path.exists("/usr/lib/dovecot/lmtp"):
            raise Skip("dovecot-lmtpd is not installed")
        write(f"{self.dir}/users", "".join(f"box{n}:{{PLAIN}}x::::::\n" for n in range(10)))
        conf = write(f"{self.dir}/dovecot.conf", f"""base_dir = {self.dir}/run
state_dir = {self.dir}/run
log_path = {self.dir}/log
protocols = lmtp
listen = 127.0.0.1
ssl = no
default_internal_user = nobody
default_internal_group = nogroup
default_login_user = nobody
mail_uid = {UID}
mail_gid = {UID}
first_valid_uid = 1
mail_location = maildir:{self.box}/%n
mail_home = {self.dir}/home
auth_username_format = %n
passdb {{
  driver = passwd-file
  args = {self.dir}/users
}}
userdb {{
  driver = passwd-file
  args = {self.dir}/users
}}
service lmtp {{
  inet_listener lmtp {{
    address = 127.0.0.1
    port = {self.port}
  }}
}}
service anvil {{
  chroot =
}}
""")
        self.spawn("dovecot", "-F", "-c", conf)

    def mails(self):
        return [read(path) for path in tree(self.box) if "/new/" in path]


class Smarthost(Server):
    """aiosmtpd, which keeps what it hears as it hears it."""
    name = "aiosmtpd"
    arguments = ()

    def start(self, ours, cert):
        pythons = [sys.executable, "/usr/bin/python3"]
        able = [p for p in pythons if subprocess.run([p, "-c", "import aiosmtpd"], capture_output=True).returncode == 0]
        if not able:
            raise Skip("python3-aiosmtpd is not installed")
        tls = ["--cert", f"{cert}.pem", "--key", f"{cert}.key"]
        self.spawn(able[0], f"{HERE}/smarthost.py", str(self.port), self.box, *tls, *self.arguments)

    def mails(self):
        found = []
        for path in tree(self.box):
            if path.endswith(".tmp"):
                continue
            _, rcpts, text = read(path).split(b"\n", 2)
            found += [text] * len(rcpts.split())
        return found

    def sessions(self):
        return {read(path).split(b"\n", 1)[0].decode() for path in tree(self.box)}


class Login(Smarthost):
    name = "aiosmtpd-login"
    arguments = ("--auth", "joe:s3cret and so on", "--require-tls")

    def tables(self):
        return f'table "{self.name}" {{ "label" = "joe:s3cret and so on" }}'

    def host(self):
        return f'relay host smtp+tls://label@127.0.0.1:{self.port} auth <{self.name}> tls no-verify'


class LoginOnly(Login):
    name = "aiosmtpd-auth-login"
    arguments = Login.arguments + ("--only-login",)


class Old(Smarthost):
    name = "old-tls"
    arguments = ("--ciphers", "AES128-SHA256:AES128-SHA:@SECLEVEL=0", "--require-tls")

    def host(self):
        return f"relay host smtp+tls://127.0.0.1:{self.port} tls no-verify"
