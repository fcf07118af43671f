"""Mail systems that are not installed, because they and postfix conflict as packages: fetched with
apt-get(8) and unpacked, or where a variable says that they are."""

import os
import shutil
import subprocess

from machine import run

PACKAGES = {"opensmtpd": ("SMTPD_BENCH_OPENSMTPD", "usr/sbin/smtpd", ["opensmtpd"]),
            "exim4": ("SMTPD_BENCH_EXIM4", "usr/sbin/exim4", ["exim4-daemon-light", "exim4-base", "exim4-config"])}


def fetch(top):
    for name, (given, _, debs) in PACKAGES.items():
        if os.environ.get(given) or not shutil.which("apt-get"):
            continue
        place = f"{top}/packages/{name}"
        os.makedirs(place)
        os.chmod(place, 0o777)
        subprocess.run(["apt-get", "download", *debs], cwd=place, capture_output=True)
        for deb in os.listdir(place):
            run("dpkg", "-x", f"{place}/{deb}", f"{place}/x")


def unpacked(top, name):
    """The directory of one, or None."""
    given, program, _ = PACKAGES[name]
    place = os.environ.get(given) or f"{top}/packages/{name}/x"
    return place if os.path.exists(f"{place}/{program}") else None
