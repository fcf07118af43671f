"""Debian's opensmtpd, from its unpacked package: it has a root of its own, for it knows its paths."""

import os
import re
import shutil

from servers import Server, smtpd_conf, write_routes


class Opensmtpd(Server):
    name = "opensmtpd"

    def __init__(self, top, port, package):
        super().__init__(top, port)
        self.package = package

    def version(self):
        with open(f"{self.package}/usr/sbin/smtpd", "rb") as f:
            found = re.search(rb"(\d+\.\d+\.\d+p\d+)", f.read())
        return found[1].decode() if found else "?"

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
        self.spawn("unshare", "-m", "sh", "-c", script)
