"""Parts of filters.py: tables of databases, that programs in Python serve."""

import glob
import os
import shutil
import smtplib
import ssl
import subprocess

from instance import HASH, HERE, Skip, authority, certificate, needed, run, user, wait, write
from started import PYTHON, expect, listens, mails, smtpd


def tables_of(kind, children, arguments=""):
    """Mail for virtual users and aliases, a login, and users with homes, all out of one table."""
    top = children.top
    authority(top)
    certificate(top, "rsa", ["rsa:2048"], "mx.example.org")
    write(f"{top}/table", f'#!/bin/sh\nexec {PYTHON} {HERE}/table.py {kind} {arguments}\n')
    os.chmod(f"{top}/table", 0o755)
    os.makedirs(f"{top}/home", exist_ok=True)
    smtpd(children, f"""pki rsa cert "{top}/rsa.pem" key "{top}/rsa.key"
table t proc:{top}/table
listen on 127.0.0.1 port 2525 tls pki rsa auth-optional <t>
action "virtual" maildir virtual <t> userbase <t>
action "local" maildir alias <t> userbase <t>
match from any for domain <t> action "virtual"
match from any auth for any action "local"
""")

    def rcpt(address, login=None):
        with smtplib.SMTP("127.0.0.1", 2525, "client.example.net", 60) as client:
            if login:
                client.starttls(context=ssl._create_unverified_context())
                client.login(*login)
            client.ehlo_or_helo_if_needed()
            client.mail("ann@example.net")
            code = client.rcpt(address)[0]
            return client.data(f"Subject: {address}\r\n\r\nhi\r\n")[0] if code == 250 else code
    expect("a virtual user", rcpt("info@virtual.example"), 250)
    expect("no virtual user", rcpt("nobody@virtual.example") in (524, 550), True)
    expect("another domain", rcpt("info@other.example"), 550)
    expect("an alias, after a login", rcpt("postmaster@other.example", ("ann", "secret")), 250)
    expect("no user, after a login", rcpt("root@other.example", ("ann", "secret")), 550)
    try:
        rcpt("postmaster@other.example", ("ann", "wrong"))
        raise RuntimeError("a wrong password was taken")
    except smtplib.SMTPAuthenticationError:
        pass
    wait("both messages in vera's home", lambda: len(mails(f"{top}/home/Maildir")) == 2)
    return "domain, virtual user, alias, credentials, userinfo"


def rows(top):
    """What the tables hold: service, key, value."""
    who = user()
    return [("domain", "virtual.example", ""), ("alias", "info@virtual.example", "vera"),
            ("alias", "postmaster", "vera"), ("credentials", "ann", "ann:" + HASH),
            ("userinfo", "vera", f"{who.pw_uid}:{who.pw_gid}:{top}/home")]


def sql(top):
    quoted = ["(" + ", ".join("'" + field.replace("'", "''") + "'" for field in row) + ")" for row in rows(top)]
    return ("CREATE TABLE entries (service text, key text, value text, PRIMARY KEY (service, key));\n"
            f"INSERT INTO entries VALUES {', '.join(quoted)};\n")


def has_module(name):
    if subprocess.run([PYTHON, "-c", f"import {name}"], capture_output=True).returncode:
        raise Skip(f"{PYTHON} has no module {name}")


def sqlite(children):
    import sqlite3
    path = f"{children.top}/entries.sqlite"
    with sqlite3.connect(path) as base:
        base.executescript(sql(children.top))
    return tables_of("sqlite", children, path)


def postgresql(children):
    has_module("psycopg2")
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"))
    if not found:
        raise Skip("postgresql is not installed")
    at, top, who = os.path.dirname(found[-1]), children.top, user()
    as_user = {"user": who.pw_uid, "group": who.pw_gid, "extra_groups": [], "cwd": top}
    run(f"{at}/initdb", "-A", "trust", "-U", "smtpd", "-D", f"{top}/base", **as_user)
    children.start("postgres", [f"{at}/postgres", "-D", f"{top}/base", "-p", "5432", "-h", "127.0.0.1", "-k", top],
                   lambda: subprocess.run([f"{at}/pg_isready", "-h", "127.0.0.1", "-q"]).returncode == 0)
    run(f"{at}/psql", "-h", "127.0.0.1", "-U", "smtpd", "-d", "postgres", "-q", text=sql(top))
    return tables_of("postgresql", children, "'host=127.0.0.1 user=smtpd dbname=postgres'")


def redis(children):
    has_module("redis")
    needed("redis-server", "redis-cli")
    children.start("redis", ["redis-server", "--port", "6379", "--bind", "127.0.0.1", "--save", "", "--dir", children.top],
                   listens(6379))
    for service, key, value in rows(children.top):
        run("redis-cli", "-p", "6379", "set", f"{service}:{key}", value)
    return tables_of("redis", children, "127.0.0.1 6379")


def ldap(children):
    has_module("ldap3")
    slapd = shutil.which("slapd", path="/usr/sbin:/usr/libexec:/usr/lib/openldap")
    if not slapd or not os.path.exists("/etc/ldap/schema/core.schema"):
        raise Skip("slapd is not installed")
    top, who = children.top, user()
    os.makedirs(f"{top}/base")
    shutil.chown(f"{top}/base", who.pw_uid, who.pw_gid)
    write(f"{top}/slapd.conf", f"""include /etc/ldap/schema/core.schema
modulepath /usr/lib/ldap
moduleload back_mdb
pidfile {top}/slapd.pid
database mdb
suffix "dc=tables"
directory {top}/base
rootdn "cn=root,dc=tables"
access to * by * read
""")
    entries = ["dn: dc=tables\nobjectClass: dcObject\nobjectClass: organization\no: tables\ndc: tables\n"]
    services = dict.fromkeys(service for service, _, _ in rows(top))
    entries += [f"dn: ou={service},dc=tables\nobjectClass: organizationalUnit\nou: {service}\n" for service in services]
    entries += [f"dn: cn={key},ou={service},dc=tables\nobjectClass: device\ncn: {key}\ndescription: {value or 'yes'}\n"
                for service, key, value in rows(top)]
    write(f"{top}/entries.ldif", "\n".join(entries))
    for name in ("slapd.conf", "entries.ldif"):
        shutil.chown(f"{top}/{name}", who.pw_uid, who.pw_gid)
    as_user = {"user": who.pw_uid, "group": who.pw_gid, "extra_groups": []}
    run(slapd, "-T", "add", "-f", f"{top}/slapd.conf", "-l", f"{top}/entries.ldif", **as_user)
    children.start("slapd", [slapd, "-d", "0", "-f", f"{top}/slapd.conf", "-h", "ldap://127.0.0.1:3890"], listens(3890))
    return tables_of("ldap", children, "ldap://127.0.0.1:3890 dc=tables")
