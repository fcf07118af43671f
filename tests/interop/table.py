#!/usr/bin/env python3
"""A table program (smtpd-tables(7)) that answers out of SQLite, PostgreSQL, Redis or LDAP.

    table.py sqlite FILE | postgresql CONNECTION | redis HOST PORT | ldap URL BASE

SQL has rows (service, key, value) in `entries`; Redis keys `service:key`; LDAP entries cn=key below
ou=service, with the value as description.
"""

import sys

SERVICES = ["alias", "domain", "credentials", "userinfo"]


def sqlite(path):
    import sqlite3
    base = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    return lambda *entry: base.execute("SELECT value FROM entries WHERE service = ? AND key = ?", entry).fetchone()


def postgresql(connection):
    import psycopg2
    base = psycopg2.connect(connection)
    base.autocommit = True

    def find(*entry):
        with base.cursor() as cursor:
            cursor.execute("SELECT value FROM entries WHERE service = %s AND key = %s", entry)
            return cursor.fetchone()
    return find


def redis(host, port):
    import redis as module
    base = module.Redis(host, int(port), decode_responses=True)

    def find(service, key):
        value = base.get(f"{service}:{key}")
        return None if value is None else (value,)
    return find


def ldap(url, suffix):
    import ldap3
    from ldap3.utils.conv import escape_filter_chars
    base = ldap3.Connection(ldap3.Server(url), auto_bind=True)

    def find(service, key):
        base.search(f"ou={service},{suffix}", f"(cn={escape_filter_chars(key)})", attributes=["description"])
        return (str(base.entries[0].description),) if base.entries else None
    return find


def answer(find, how, service, key):
    try:
        found = find(service, key)
    except Exception as error:
        return "error|" + " ".join(str(error).split())
    if found is None:
        return "not-found"
    return "found" if how == "check" else f"found|{found[0]}"


def main():
    for line in sys.stdin:
        if line == "config|ready\n":
            break
    find = globals()[sys.argv[1]](*sys.argv[2:])
    print(*(f"register|{service}" for service in SERVICES + ["ready"]), sep="\n", flush=True)
    for line in sys.stdin:
        how, rest = line.rstrip("\n").split("|", 5)[4:]
        if how == "update":
            print(f"update-result|{rest}|ok", flush=True)
            continue
        service, number, key = (rest + "|").split("|", 2)
        print(f"{how}-result|{number}|{answer(find, how, service, key.removesuffix('|'))}", flush=True)


if __name__ == "__main__":
    main()
