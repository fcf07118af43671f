#!/bin/sh
# Writes what the ports say of crates from Cargo.lock: openbsd/crates.inc, freebsd/Makefile.crates,
# and the checksums in freebsd/distinfo. Run it in this directory after each change of Cargo.lock;
# make makesum adds sizes and the release itself.
set -e
cd "$(dirname "$0")"
list() { awk '/^name = /{n=$3} /^version = /{v=$3} /^source = /{s=1}
	/^checksum = /{c=$3} /^$/{if (s) print n, v, c; s=""}
	END{if (s) print n, v, c}' ../../Cargo.lock | tr -d '"'; }
list | awk '{ printf "MODCARGO_CRATES +=\t%s\t%s\n", $1, $2 }' >openbsd/crates.inc
list | awk 'BEGIN { printf "CARGO_CRATES=" } { printf " \\\n\t\t%s-%s", $1, $2 } END { print "" }' \
	>freebsd/Makefile.crates
list | awk '{ printf "SHA256 (rust/crates/%s-%s.crate) = %s\n", $1, $2, $3 }' >freebsd/distinfo
