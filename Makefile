# Works in BSD make and in GNU make: nothing here is special to either.
#
#   make run       build, and start an instance of its own on loopback, as any user
#   make test      every test that can run here; what cannot says why
#   make interop   mail to and from other mail systems on this machine, as root
#   make install   install under $(DESTDIR)$(PREFIX) what make has built
#   make users     make the users and groups that the installed daemon needs, as root
#
# Paths and names that the programs are built with. Give the same values to `all` and `install`.

PREFIX?=		/usr/local
SYSCONFDIR?=		/etc/mail
LOCALSTATEDIR?=		/var
LIBEXECDIR?=		${PREFIX}/libexec/smtpd
MANDIR?=		${PREFIX}/share/man
EXAMPLESDIR?=		${PREFIX}/share/examples/smtpd
# Where rc(8) scripts go: ${PREFIX}/etc/rc.d on FreeBSD, /etc/rc.d on OpenBSD.
RCDIR?=
# A mail.local(8) to use in place of ours; empty for the system's where it needs its own (OpenBSD).
MAIL_LOCAL?=
# The user of commands of aliases and of the process with the private keys; the user that the engine
# runs as and that owns the queue; the group of sendmail(8), which neither should be in.
SMTPD_USER?=		_smtpd
SMTPD_QUEUE_USER?=	_smtpq
SMTPD_QUEUE_GROUP?=	_smtpq
DESTDIR?=
BASE?=

CARGO?=		cargo
CARGOFLAGS?=	--locked
# The system's TLS library is only for old peers. Where its headers are missing we go without.
FEATURES?=	$$({ [ -n "$$OPENSSL_DIR" ] || pkg-config --exists openssl 2>/dev/null || \
		{ [ "$$(uname -s)" != Linux ] && [ -f /usr/include/openssl/ssl.h ]; }; } || { \
		echo "no headers of OpenSSL or no pkg-config: built without TLS older than 1.2" >&2; \
		echo --no-default-features; })
TARGETDIR?=	target
RUNDIR?=	$$(pwd)/run
BSDROOT?=	${HOME}/.cache/smtpd-rs/bsd
# How often `make fuzz` tries each of its targets, and which (empty for all).
FUZZ_RUNS?=	100000
FUZZ_TARGETS?=
BSDTARGETS?=	x86_64-unknown-openbsd x86_64-unknown-freebsd

SETTINGS=	SMTPD_SYSCONFDIR="${SYSCONFDIR}" SMTPD_SPOOL="${LOCALSTATEDIR}/spool/smtpd" \
		SMTPD_SOCKET="${LOCALSTATEDIR}/run/smtpd.sock" SMTPD_PID="${LOCALSTATEDIR}/run/smtpd.pid" \
		SMTPD_MAILDIR="${LOCALSTATEDIR}/mail" SMTPD_LIBEXEC="${LIBEXECDIR}" \
		SMTPD_SBIN="${PREFIX}/sbin" SMTPD_MAIL_LOCAL="${MAIL_LOCAL}" \
		SMTPD_USER="${SMTPD_USER}" SMTPD_QUEUE_USER="${SMTPD_QUEUE_USER}" \
		SMTPD_QUEUE_GROUP="${SMTPD_QUEUE_GROUP}"

# Texts name other files where they are at run time; the names of the front ends lead to smtpctl.
SUBST=		sed -e "s,/etc/mail\\([^a-z]\\),${SYSCONFDIR}\\1,g" -e "s,/etc/mail$$,${SYSCONFDIR}," -e "s,/usr/local/sbin,${PREFIX}/sbin,g" \
		-e "s,/usr/local/libexec/smtpd,${LIBEXECDIR},g" \
		-e "s,/var/spool/smtpd,${LOCALSTATEDIR}/spool/smtpd,g" \
		-e "s,/var/run/smtpd,${LOCALSTATEDIR}/run/smtpd,g"
SMTPCTL=	${PREFIX}/sbin/smtpctl

HELPERS=	local lmtp maildir mboxfile mda
MAN1=		smtp
MAN5=		smtpd.conf table aliases forward
NAMES=		sendmail send-mail mailq newaliases makemap
EXAMPLES=	smtpd.conf aliases mailer.conf crontab fail2ban.conf logrotate.conf newsyslog.conf grafana.json \
		check_smtpd smtpd.service smtpd-metrics.service sysusers.conf tmpfiles.conf
MAN7=		smtpd-filters smtpd-migration smtpd-tables
MAN8=		smtpd smtpctl sendmail mailq newaliases makemap mail.lmtp mail.local mail.maildir mail.mboxfile \
		mail.mda

all: build

# What root builds in the tree of another user stays that user's.
build:
	${SETTINGS} ${CARGO} build ${CARGOFLAGS} ${FEATURES} --release --bins
	@for name in ${NAMES}; do ln -sf smtpctl ${TARGETDIR}/release/$$name || exit 1; done
	@printf '%s\n' '${SETTINGS}' >${TARGETDIR}/release/settings
	@owner=$$(ls -nd . | awk '{ print $$3 }'); if [ "$$(id -u)" = 0 ] && [ "$$owner" != 0 ]; then \
		find ${TARGETDIR} -user 0 -exec chown -h "$$owner" {} +; fi

# An instance below ./run: its own configuration, spool and socket; nothing of the system's.
run: build
	${TARGETDIR}/release/smtpd -d -R "${RUNDIR}" ${RUNFLAGS}

test:
	${SETTINGS} ${CARGO} test ${CARGOFLAGS} ${FEATURES} --lib --tests --no-fail-fast

# Everything a change has to pass.
check: lint-man
	${CARGO} fmt --check
	${SETTINGS} ${CARGO} clippy ${CARGOFLAGS} ${FEATURES} --all-targets -- -D warnings
	${SETTINGS} RUSTDOCFLAGS="-D warnings" ${CARGO} doc ${CARGOFLAGS} ${FEATURES} --no-deps --document-private-items
	${MAKE} test

lint-man:
	@if command -v mandoc >/dev/null 2>&1; then \
		mandoc -Tlint -W warning man/*.[1578] && echo "manuals are clean"; \
	else echo "mandoc is not installed: manuals are not checked"; fi

# The tests once more over mio's poll(2) selector, in place of epoll(7) or kqueue(2).
test-poll:
	${SETTINGS} RUSTFLAGS="--cfg mio_unsupported_force_poll_poll --cfg mio_unsupported_force_waker_pipe" \
		${CARGO} test ${CARGOFLAGS} ${FEATURES} --lib --tests --no-fail-fast --target-dir ${TARGETDIR}/poll

# Lint and link programs and tests for OpenBSD and FreeBSD with a cross toolchain; nothing is run.
# BSDROOT holds what the script BSDSYSROOT makes there. A cross-built std unwinds, which Cargo does
# not link with the profile's panic = "abort": the environment says otherwise, here only. The system's
# TLS library of those systems is not there to link with.
check-bsd:
	@if [ ! -f "${BSDROOT}/env.sh" ] && [ -n "${BSDSYSROOT}" ]; then \
		mkdir -p "${BSDROOT}" && sh "${BSDSYSROOT}" "$$(cd "${BSDROOT}" && pwd)" ${BSDTARGETS}; fi
	@if [ ! -f "${BSDROOT}/env.sh" ]; then \
		echo "check-bsd: there is no cross toolchain in ${BSDROOT} (no env.sh)." >&2; \
		echo "Say BSDROOT=DIR if you have one, or BSDSYSROOT=SCRIPT to have it made there:" >&2; \
		echo "SCRIPT is run as: sh SCRIPT DIR ${BSDTARGETS}" >&2; \
		exit 1; fi
	@. "${BSDROOT}/env.sh" && export CARGO_PROFILE_DEV_PANIC=unwind CARGO_PROFILE_DEV_DEBUG=0 && \
	for target in ${BSDTARGETS}; do \
		for step in "clippy --all-targets" "build --bins" "test --no-run"; do \
			deny= && case "$$step" in clippy*) deny="-- -D warnings";; esac && \
			echo "== $$target: cargo $$step" && \
			${SETTINGS} ${CARGO} $$step ${CARGOFLAGS} --no-default-features --target $$target \
				--target-dir "${TARGETDIR}/bsd-check" $$deny || exit 1; done; done
	@echo "${BSDTARGETS}: clean"

# Tries what reads strangers' bytes on FUZZ_RUNS inputs a target, from tests/fuzz/seeds on; needs a
# C++ compiler. What is found lies in ${TARGETDIR}/fuzz, and what is interesting in corpus/ there.
FUZZ_COVERAGE=	-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
		-Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
		-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares
fuzz:
	@target=$$(rustc -vV | sed -n 's/^host: //p') && mkdir -p "${TARGETDIR}/fuzz" && \
	dir=$$(cd "${TARGETDIR}/fuzz" && pwd) && \
	RUSTFLAGS="${FUZZ_COVERAGE}" ${CARGO} build ${CARGOFLAGS} --release --target "$$target" \
		--target-dir "$$dir" --manifest-path tests/fuzz/Cargo.toml && \
	program=$$dir/$$target/release/smtpd-fuzz && names="${FUZZ_TARGETS}" && \
	for name in $${names:-$$(FUZZ_TARGET=list "$$program")}; do \
		echo "== $$name" && mkdir -p "$$dir/corpus/$$name" && \
		FUZZ_TARGET=$$name "$$program" -runs=${FUZZ_RUNS} -max_len=4096 -timeout=20 -rss_limit_mb=1024 \
			-print_final_stats=1 -verbosity=0 -artifact_prefix="$$dir/$$name-" \
			"$$dir/corpus/$$name" "tests/fuzz/seeds/$$name" || exit 1; done

# Side by side with whatever of postfix, opensmtpd and exim4 is at hand: tests/bench/README.md. A part of
# it alone: make bench BENCHFLAGS='--only relay'
bench: build
	sh tests/bench/run.sh ${BENCHFLAGS}

# Processes are killed while mail comes in, and every message is accounted for; then attacks on the time
# of others, in figures. Needs root, python3.
# More of it: make torture TORTUREFLAGS='--kills 1000 --minutes 60' HELPERFLAGS='--seconds 300'
torture: build
	python3 -B tests/torture/run.py ${TORTUREFLAGS}
	python3 -B tests/torture/helpers.py ${HELPERFLAGS}
	python3 -B tests/torture/attacks.py ${ATTACKFLAGS}

# Mail to and from other mail systems, and programs that people submit mail with; those that are not here
# are skipped by name. Needs root. A part of it alone: make interop PEERS=postfix, make interop PARTS=curl,
# make interop FILTERS=rspamd, make interop SPOOL='--messages 100'
interop: build
	[ -n "${PARTS}${FILTERS}${SPOOL}" ] || SMTPD_INTEROP_SMTPD="$$(pwd)/${TARGETDIR}/release/smtpd" \
		python3 -B tests/interop/run.py ${PEERS}
	[ -n "${PEERS}${FILTERS}${SPOOL}" ] || SMTPD_INTEROP_SMTPD="$$(pwd)/${TARGETDIR}/release/smtpd" \
		python3 -B tests/interop/submission.py ${PARTS}
	[ -n "${PEERS}${PARTS}${SPOOL}" ] || SMTPD_INTEROP_SMTPD="$$(pwd)/${TARGETDIR}/release/smtpd" \
		python3 -B tests/interop/filters.py ${FILTERS}
	[ -n "${PEERS}${PARTS}${FILTERS}" ] || SMTPD_INTEROP_SMTPD="$$(pwd)/${TARGETDIR}/release/smtpd" \
		python3 -B tests/interop/spool.py ${SPOOL}

# Whoever installs needs no Rust toolchain, but what is installed must know the paths it lies at.
install:
	@[ -f ${TARGETDIR}/release/settings ] || ${MAKE} build
	@printf '%s\n' '${SETTINGS}' | cmp -s - ${TARGETDIR}/release/settings || { \
		echo "install: this is built with other values of the variables; run make with these first:" >&2; \
		printf '%s\n' '${SETTINGS}' >&2; exit 1; }
	${MAKE} install-files
	@if [ "$$(id -u)" != 0 ] || [ -n "${DESTDIR}" ]; then exit 0; fi; \
	for user in ${SMTPD_USER} ${SMTPD_QUEUE_USER}; do id "$$user" >/dev/null 2>&1 || \
		echo "there is no user $$user yet: make users makes what is missing, then make install again"; done; \
	chgrp "${SMTPD_QUEUE_GROUP}" "${PREFIX}/sbin/smtpctl" 2>/dev/null && \
		chmod 2555 "${PREFIX}/sbin/smtpctl" && spool="${LOCALSTATEDIR}/spool/smtpd" && \
		mkdir -p "$$spool/offline" && chown 0 "$$spool" "$$spool/offline" && chmod 711 "$$spool" && \
		chgrp "${SMTPD_QUEUE_GROUP}" "$$spool/offline" && chmod 770 "$$spool/offline" || \
		echo "smtpctl is not set-group-id: the group ${SMTPD_QUEUE_GROUP} does not exist yet"

# The same under the name that others have for it.
adduser: users

# The manuals as pages for a browser, in ${TARGETDIR}/html.
html:
	@command -v mandoc >/dev/null 2>&1 || { echo "html: mandoc is not installed" >&2; exit 1; }
	@mkdir -p ${TARGETDIR}/html; for page in man/*.[1578]; do name=$$(basename "$$page"); \
		mandoc -Thtml -Oman=%N.%S.html,style=mandoc.css "$$page" >"${TARGETDIR}/html/$$name.html" || exit 1; done
	@printf '%s\n' 'body { max-width: 48em; margin: 1em auto; font-family: serif; }' \
		'table.head, table.foot { width: 100%; }' '.Bl-tag > dd, .Bd-indent { margin-left: 2em; }' \
		>${TARGETDIR}/html/mandoc.css
	@{ echo '<!DOCTYPE html><title>smtpd</title><h1>Manuals of smtpd</h1><ul>'; \
		for page in man/*.[1578]; do name=$$(basename "$$page"); \
		printf '<li><a href="%s.html">%s</a> %s\n' "$$name" "$$name" "$$(sed -n 's/^\.Nd //p' "$$page")"; done; \
		echo '</ul>'; } >${TARGETDIR}/html/index.html
	@echo "manuals are in ${TARGETDIR}/html"

# A package for Debian beside this directory, with what dpkg-dev and debhelper make of debian/.
deb:
	dpkg-buildpackage -b -us -uc -d

# The Debian package and the container recipe tried in chroots that are made for it. Needs root and
# debootstrap; BASE is a Debian that has been made before, which saves time.
packages:
	BASE="${BASE}" sh tests/package/deb.sh
	${MAKE} build
	BASE="${BASE}" TARGETDIR="$$(pwd)/${TARGETDIR}" python3 -B tests/package/container.py

# System users without password, shell and home, each with a group of its name; and the group of
# sendmail(8). What exists is left as it is.
users:
	@set -e; add_group() { case "$$(uname -s)" in \
		FreeBSD) pw groupshow "$$1" >/dev/null 2>&1 || pw groupadd "$$1";; \
		*) grep -q "^$$1:" /etc/group || groupadd $$(system) "$$1";; esac; }; \
	system() { case "$$(uname -s)" in Linux) echo -r;; esac; }; \
	add_user() { id "$$1" >/dev/null 2>&1 && return; add_group "$$1"; case "$$(uname -s)" in \
		FreeBSD) pw useradd "$$1" -g "$$1" -d /var/empty -s /usr/sbin/nologin -c "smtpd(8)";; \
		Linux) useradd -r -M -g "$$1" -d /nonexistent -s /usr/sbin/nologin -c "smtpd(8)" "$$1";; \
		*) useradd -g "$$1" -d /var/empty -s /sbin/nologin -L daemon -c "smtpd(8)" "$$1";; esac; }; \
	add_group "${SMTPD_QUEUE_GROUP}"; add_user "${SMTPD_USER}"; add_user "${SMTPD_QUEUE_USER}"; \
	id "${SMTPD_USER}"; id "${SMTPD_QUEUE_USER}"

install-files:
	@rm -f ${TARGETDIR}/text
	mkdir -p "${DESTDIR}${PREFIX}/bin" "${DESTDIR}${PREFIX}/sbin" "${DESTDIR}${LIBEXECDIR}" \
		"${DESTDIR}${SYSCONFDIR}" "${DESTDIR}${MANDIR}/man1" "${DESTDIR}${MANDIR}/man5" \
		"${DESTDIR}${MANDIR}/man7" "${DESTDIR}${MANDIR}/man8" "${DESTDIR}${EXAMPLESDIR}"
	@for dir in spool run mail; do [ -e "${DESTDIR}${LOCALSTATEDIR}/$$dir" ] || \
		mkdir -p "${DESTDIR}${LOCALSTATEDIR}/$$dir" || exit 1; done
	install -m 555 ${TARGETDIR}/release/smtp "${DESTDIR}${PREFIX}/bin/smtp"
	install -m 555 ${TARGETDIR}/release/smtpd "${DESTDIR}${PREFIX}/sbin/smtpd"
	install -m 555 ${TARGETDIR}/release/smtpctl "${DESTDIR}${PREFIX}/sbin/smtpctl"
	@[ -z "${DESTDIR}" ] || echo "smtpctl wants group ${SMTPD_QUEUE_GROUP} and mode 2555 when it is packaged"
	for helper in ${HELPERS}; do \
		install -m 555 ${TARGETDIR}/release/mail_$$helper "${DESTDIR}${LIBEXECDIR}/mail.$$helper" || exit 1; done
	for name in ${NAMES}; do ln -sf "${SMTPCTL}" "${DESTDIR}${LIBEXECDIR}/$$name" || exit 1; done
	for page in ${MAN1}; do ${SUBST} man/$$page.1 >${TARGETDIR}/text && \
		install -m 444 ${TARGETDIR}/text "${DESTDIR}${MANDIR}/man1/$$page.1" || exit 1; done
	for page in ${MAN5}; do ${SUBST} man/$$page.5 >${TARGETDIR}/text && \
		install -m 444 ${TARGETDIR}/text "${DESTDIR}${MANDIR}/man5/$$page.5" || exit 1; done
	for page in ${MAN7}; do ${SUBST} man/$$page.7 >${TARGETDIR}/text && \
		install -m 444 ${TARGETDIR}/text "${DESTDIR}${MANDIR}/man7/$$page.7" || exit 1; done
	for page in ${MAN8}; do ${SUBST} man/$$page.8 >${TARGETDIR}/text && \
		install -m 444 ${TARGETDIR}/text "${DESTDIR}${MANDIR}/man8/$$page.8" || exit 1; done
	for file in ${EXAMPLES}; do ${SUBST} etc/$$file >${TARGETDIR}/text && \
		install -m 444 ${TARGETDIR}/text "${DESTDIR}${EXAMPLESDIR}/$$file" || exit 1; done
	chmod 555 "${DESTDIR}${EXAMPLESDIR}/check_smtpd"
	@for file in smtpd.conf aliases mailer.conf; do new="${DESTDIR}${EXAMPLESDIR}/$$file"; \
		old="${DESTDIR}${SYSCONFDIR}/$$file"; if [ ! -e "$$old" ]; then \
		install -m 644 "$$new" "$$old" || exit 1; elif ! cmp -s "$$new" "$$old"; then \
		echo "kept: $$old; ours is $$new"; \
		case "$$file" in mailer.conf) grep -q "${PREFIX}/sbin/smtpctl" "$$old" || \
		echo "mailwrapper(8) goes on running another mail system until the lines of $$new stand there";; esac; \
		fi; done
	@case "$$(uname -s)" in \
	OpenBSD) script=smtpd.openbsd dir="${RCDIR}" name=smtpd_rs; : $${dir:=/etc/rc.d};; \
	FreeBSD) script=smtpd.freebsd dir="${RCDIR}" name=smtpd; : $${dir:=${PREFIX}/etc/rc.d};; \
	*) rm -f ${TARGETDIR}/text; exit 0;; esac; mkdir -p "${DESTDIR}$$dir" && ${SUBST} rc.d/$$script >${TARGETDIR}/text && \
		install -m 555 ${TARGETDIR}/text "${DESTDIR}$$dir/$$name"
	@rm -f ${TARGETDIR}/text

# What install has put there; configuration, spool and users stay.
uninstall:
	rm -f "${DESTDIR}${PREFIX}/bin/smtp" "${DESTDIR}${PREFIX}/sbin/smtpd" "${DESTDIR}${PREFIX}/sbin/smtpctl"
	for helper in ${HELPERS}; do rm -f "${DESTDIR}${LIBEXECDIR}/mail.$$helper"; done
	for name in ${NAMES}; do rm -f "${DESTDIR}${LIBEXECDIR}/$$name"; done
	for page in ${MAN1}; do rm -f "${DESTDIR}${MANDIR}/man1/$$page.1"; done
	for page in ${MAN5}; do rm -f "${DESTDIR}${MANDIR}/man5/$$page.5"; done
	for page in ${MAN7}; do rm -f "${DESTDIR}${MANDIR}/man7/$$page.7"; done
	for page in ${MAN8}; do rm -f "${DESTDIR}${MANDIR}/man8/$$page.8"; done
	for file in ${EXAMPLES}; do rm -f "${DESTDIR}${EXAMPLESDIR}/$$file"; done
	rmdir "${DESTDIR}${LIBEXECDIR}" "${DESTDIR}${EXAMPLESDIR}" 2>/dev/null || true
	@case "$$(uname -s)" in \
	OpenBSD) dir="${RCDIR}"; rm -f "${DESTDIR}$${dir:-/etc/rc.d}/smtpd_rs";; \
	FreeBSD) dir="${RCDIR}"; rm -f "${DESTDIR}$${dir:-${PREFIX}/etc/rc.d}/smtpd";; \
	esac

# A tree under target/stage that runs in place and touches nothing of the system's.
stage: build
	${MAKE} install-files DESTDIR="$$(pwd)/${TARGETDIR}/stage" PREFIX= LIBEXECDIR=/libexec/smtpd \
		SYSCONFDIR=/etc/mail MANDIR=/share/man EXAMPLESDIR=/share/examples/smtpd RCDIR=/etc/rc.d SMTPCTL=../../sbin/smtpctl \
		SUBST="sed -e 's,/etc/mail,$$(pwd)/${TARGETDIR}/stage/etc/mail,g' \
		-e 's,/usr/local,$$(pwd)/${TARGETDIR}/stage,g'"
	@echo "staged in ${TARGETDIR}/stage; while make run runs, try"
	@echo "SMTPD_ROOT=${RUNDIR} ${TARGETDIR}/stage/libexec/smtpd/sendmail anybody"

clean:
	${CARGO} clean
	rm -rf run

.PHONY: adduser deb packages html all build run test check lint-man test-poll check-bsd fuzz bench torture interop install install-files users uninstall stage clean
