#!/bin/sh
# Runs the files of good/ and bad/ through another smtpd and compares verdicts: does it accept what
# we accept, and refuse what we refuse?
#
#	sh tests/configs/compare.sh [/path/to/smtpd]
#
# differences.txt names every file where the two differ, and why. A file that differs and is not in
# it, or is in it and does not differ, is reported, and the exit code is 1. Certificates must be
# root's for the reference, so this wants to be run by root.

set -u
here=$(cd "$(dirname "$0")" && pwd)
smtpd=${1:-/usr/sbin/smtpd}
[ -x "$smtpd" ] || { echo "compare.sh: no smtpd at $smtpd" >&2; exit 2; }
tmp=$(mktemp -d) || exit 2
trap 'rm -rf "$tmp"' EXIT

cp -R "$here/files" "$tmp/files"
openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=mx.example.org -days 30 \
	-keyout "$tmp/files/key.pem" -out "$tmp/files/cert.pem" 2>/dev/null || exit 2
chmod 600 "$tmp/files/key.pem"
chmod 644 "$tmp/files/cert.pem"
# Its makemap only works where it is installed with its group.
"$(dirname "$smtpd")/makemap" -t aliases -o "$tmp/files/aliases.db" "$tmp/files/aliases" 2>/dev/null

# The configuration without what is expected of it; files where they are, and an interface that
# every Linux has.
body() {
	awk 'body || !/^# (expect|warn): / { body = 1; print }' "$1" |
	    sed -E -e "s,/files/,$tmp/files/,g" -e "s,/etc/mail/,$tmp/files/,g" \
		-e "s,/etc/ssl/private/[a-z.]*key,$tmp/files/key.pem,g" \
		-e "s,/etc/ssl/[a-z.]*crt,$tmp/files/cert.pem,g" \
		-e 's/^([[:space:]]*)listen on (lo0|lo7|em0|egress|mail)/\1listen on lo/'
}

differ=0 files=0 wrong=0
for file in "$here"/good/*.conf "$here"/bad/*.conf; do
	name=${file#"$here"/}
	if grep -q '/files/[a-z]*\.db' "$file" && [ ! -s "$tmp/files/aliases.db" ]; then
		echo "$name	not compared: no makemap"
		continue
	fi
	files=$((files + 1))
	body "$file" >"$tmp/f"
	said=$(cd "$tmp" && "$smtpd" -n -f "$tmp/f" 2>&1) && theirs=good || theirs=bad
	known=$(grep -F "$name	" "$here/differences.txt")
	if [ "${name%%/*}" != "$theirs" ]; then
		differ=$((differ + 1))
		[ -n "$known" ] && continue
		wrong=$((wrong + 1))
		echo "$name	is $theirs there: $(echo "$said" | sed "s,$tmp/,,g" | head -n 3 | tr '\n' '|')"
	elif [ -n "$known" ]; then
		wrong=$((wrong + 1))
		echo "$name	does not differ any more"
	fi
done
echo "$files files, $differ differ, $wrong not as differences.txt says"
[ "$wrong" -eq 0 ]
