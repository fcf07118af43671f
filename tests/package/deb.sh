#!/bin/sh
# The Debian package in a Debian of its own: installed, mail sent, upgraded, removed, purged.
#
#   sh tests/package/deb.sh [FILE.deb]
#
# Without a file it is made first (make deb). Needs root, debootstrap and dpkg-dev, and a mirror of
# Debian (MIRROR, or the one of this machine), or a Debian that has been made before, which is copied
# (BASE); lintian is asked if it is here. Everything happens in mount, process and network namespaces,
# which end with the script, in a directory that it removes.
set -eu

say() { printf '%s\n' "deb: $*"; }
die() { say "FAILED: $*" >&2; exit 1; }

# What runs inside the chroot, a word for each step.
inside() {
	# waits SECONDS for a condition
	await() { what=$1 n=0; shift; until "$@"; do n=$((n + 1)); [ $n -lt 150 ] || die "waited in vain for $what"; sleep 0.2; done; }
	mails() { grep -c "^Subject: $1\$" /var/mail/alice 2>/dev/null; }
	has_mail() { [ "$(mails "$1")" = 1 ]; }
	is_idle() { [ -z "$(mailq)" ]; }
	up() { smtpctl show status >/dev/null 2>&1; }
	gone() { ! pgrep -x smtpd >/dev/null; }
	start() { smtpd; await "smtpd" up; }
	stop() { pkill -x -o smtpd; await "the end of smtpd" gone; }
	# as alice: SUBJECT [FLAGS]
	send() { subject=$1; shift; printf 'Subject: %s\n\nHello.\n' "$subject" | su alice -s /bin/sh -c "sendmail $* alice"; }
	mode() { stat -c '%a %U:%G' "$1"; }

	say "install"
	dpkg -i /tmp/first.deb >/tmp/log 2>&1 || { cat /tmp/log; die "dpkg -i"; }
	for user in _smtpd _smtpq; do id $user >/dev/null || die "no user $user"; done
	[ "$(mode /usr/sbin/smtpctl)" = "2755 root:_smtpq" ] || die "smtpctl is $(mode /usr/sbin/smtpctl)"
	[ "$(mode /var/spool/smtpd/offline)" = "770 root:_smtpq" ] || die "offline is $(mode /var/spool/smtpd/offline)"
	smtpd -n || die "the configuration that comes with it"
	dpkg -V smtpd-rs || die "files are not as packed"
	useradd -m alice

	say "mail"
	# No daemon yet: it is kept.
	send before
	[ "$(find /var/spool/smtpd/offline -type f | wc -l)" = 1 ] || die "mail before the start is not kept"
	start
	await "mail from before the start" has_mail before
	send now
	await "mail" has_mail now
	await "an empty queue" is_idle
	for name in sendmail mailq newaliases; do command -v $name >/dev/null || die "no $name"; done
	newaliases || die newaliases
	grep -q '^From root' /var/mail/alice && die "mail of alice comes from root"

	say "upgrade"
	echo '# ours' >>/etc/smtpd/smtpd.conf
	smtpctl pause mda >/dev/null
	send waiting
	stop
	dpkg -i /tmp/second.deb >/tmp/log 2>&1 || { cat /tmp/log; die "upgrade"; }
	[ "$(dpkg-query -W -f '${Version}' smtpd-rs)" = "$SECOND" ] || die "the version is not $SECOND"
	tail -n 1 /etc/smtpd/smtpd.conf | grep -qx '# ours' || die "the configuration was replaced"
	[ "$(mode /usr/sbin/smtpctl)" = "2755 root:_smtpq" ] || die "smtpctl is $(mode /usr/sbin/smtpctl) after the upgrade"
	start
	await "mail from before the upgrade" has_mail waiting
	send after
	await "mail after the upgrade" has_mail after

	say "remove"
	smtpctl pause mda >/dev/null
	send kept
	stop
	dpkg -r smtpd-rs >/tmp/log 2>&1 || { cat /tmp/log; die "remove"; }
	[ -e /etc/smtpd/smtpd.conf ] || die "remove took the configuration"
	[ ! -e /usr/sbin/smtpd ] && [ ! -e /usr/sbin/sendmail ] || die "remove left programs"
	dpkg -i /tmp/second.deb >/tmp/log 2>&1 || { cat /tmp/log; die "install again"; }

	say "purge"
	# A message that a crash has left in a bag is mail, too.
	mkdir /tmp/queue && mv /var/spool/smtpd/queue/?? /tmp/queue/
	echo "a bag" >/var/spool/smtpd/bags/0000000000000001
	dpkg -P smtpd-rs >/tmp/log 2>&1 || { cat /tmp/log; die "purge"; }
	[ -e /var/spool/smtpd/bags/0000000000000001 ] || die "purge took a bag"
	rm /var/spool/smtpd/bags/0000000000000001
	mv /tmp/queue/?? /var/spool/smtpd/queue/
	dpkg -i /tmp/second.deb >/tmp/log 2>&1 || { cat /tmp/log; die "install after purge"; }
	dpkg -P smtpd-rs >/tmp/log 2>&1 || { cat /tmp/log; die "purge"; }
	grep -q 'there is mail in /var/spool/smtpd, which stays' /tmp/log || die "purge says nothing of the mail"
	[ -n "$(find /var/spool/smtpd/queue -type f -name message)" ] || die "purge took mail"
	[ ! -e /etc/smtpd ] || die "purge left /etc/smtpd"
	dpkg -i /tmp/second.deb >/tmp/log 2>&1 || { cat /tmp/log; die "install after purge"; }
	start
	await "mail from before the purge" has_mail kept
	await "an empty queue" is_idle
	stop
	dpkg -P smtpd-rs >/tmp/log 2>&1 || { cat /tmp/log; die "second purge"; }
	[ ! -e /var/spool/smtpd ] || die "purge left an empty spool: $(cat /tmp/log; find /var/spool/smtpd ! -type d)"
	# Users stay, as Debian wants it; so does what other packages share.
	find / -xdev \( -path /proc -o -path /tmp -o -path /home -o -path /var/lib/dpkg -o -path /var/log \) -prune -o \
		-newer /tmp/installed -print | sort >/tmp/after
	left=$(grep -iE 'smtpd|smtpctl|mail\.(local|maildir)' /tmp/after || true)
	[ -z "$left" ] || die "purge left $left"
}

if [ "${1-}" = --inside ]; then
	inside
	exit
fi

[ "$(id -u)" = 0 ] || die "needs root"
for program in debootstrap dpkg-deb unshare; do
	command -v $program >/dev/null || die "needs $program"
done
deb=${1:+$(realpath "$1")}
cd "$(dirname "$0")/../.."
top=$(pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/smtpd-deb.XXXXXX")
# --one-file-system: should a mount be left, what lies behind it is not ours to remove.
trap 'rm -rf --one-file-system "$work"' EXIT
trap 'exit 1' HUP INT TERM

if [ -z "$deb" ]; then
	make deb >"$work/build" 2>&1 || { tail -n 40 "$work/build"; die "make deb"; }
	deb=$(ls -t ../smtpd-rs_*.deb | head -n 1)
fi
[ -f "$deb" ] || die "there is no $deb"
say "$(basename "$deb"), $(stat -c %s "$deb") bytes"
if command -v lintian >/dev/null; then
	lintian --fail-on error --suppress-tags bad-distribution-in-changes-file "$deb" || die "lintian"
	say "lintian has found no error"
fi

# The same as a higher version.
cp "$deb" "$work/first.deb"
second=$(dpkg-deb -f "$deb" Version)+upgrade1
dpkg-deb -R "$deb" "$work/tree"
sed -i "s/^Version: .*/Version: $second/" "$work/tree/DEBIAN/control"
dpkg-deb -b "$work/tree" "$work/second.deb" >/dev/null

. /etc/os-release
mirror=${MIRROR-$(apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Created-By: Packages' |
	sed -n "s/^$VERSION_CODENAME //p" | head -n 1)}
needs=$(dpkg-deb -f "$deb" Pre-Depends Depends | sed 's/^[A-Za-z-]*: //' | tr ',\n' '  ' | sed 's/([^)]*)//g; s/ |[^ ]* [^ ]*//g')
root=$work/root
say "a $VERSION_CODENAME with" $needs
if [ -n "${BASE-}" ]; then
	cp -a "$BASE" "$root"
else
	timeout 900 debootstrap --variant=minbase --include="$(echo $needs procps | tr ' ' ',')" \
		"$VERSION_CODENAME" "$root" $mirror >"$work/bootstrap" 2>&1 || { tail "$work/bootstrap"; die "debootstrap"; }
fi
mv "$work/first.deb" "$work/second.deb" "$root/tmp/"
touch "$root/tmp/installed"
cp "$top/tests/package/deb.sh" "$root/tmp/deb.sh"
echo deb.example.org >"$root/etc/mailname"
echo 127.0.0.1 localhost >"$root/etc/hosts"
# No service is started by itself: there is no init.
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"

# Everything that it starts ends with the first process in there, and no mount is seen outside.
export DEBIAN_FRONTEND=noninteractive SECOND="$second"
timeout 300 unshare --mount --pid --net --uts --fork --kill-child --propagation private sh -ec '
	hostname deb.example.org
	mount -t proc proc "$0/proc"
	mount -t tmpfs -o mode=755 tmpfs "$0/dev"
	for node in null zero random urandom; do touch "$0/dev/$node"; mount --bind "/dev/$node" "$0/dev/$node"; done
	ip link set lo up 2>/dev/null || :
	exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin SECOND="$SECOND" DEBIAN_FRONTEND=noninteractive \
		chroot "$0" sh /tmp/deb.sh --inside' "$root" || die "in the chroot"
say "installed, mail sent, upgraded, removed and purged"
