# smtpd.conf(5), expand-only: only what aliases or .forward name a delivery for.

config
	action "dir" maildir
	action "expand" expand-only alias { list = "|$show list", nobody = bob, some = "bob, |$show some", file = "$dir/out/file", inner = "carol@dir.org", gone = "error:550 5.1.6 gone" }
	match from any for domain "expand.org" action "expand"
	match from any for domain "dir.org" action "dir"

story a command is accepted
	rcpt list@expand.org
	reply 250
	ran _smtpd [list]

story a file
	rcpt file@expand.org
	reply 250
	append _smtpd out/file

story an address of another action
	rcpt inner@expand.org
	reply 250
	maildir carol home/carol/Maildir

story a user
	rcpt nobody@expand.org
	reply 524 5.2.4 Mailing list expansion problem: <nobody@expand.org>

story a user and a command
	rcpt some@expand.org
	reply 524 5.2.4 Mailing list expansion problem: <some@expand.org>

story no entry
	rcpt bob@expand.org
	reply 524 5.2.4 Mailing list expansion problem: <bob@expand.org>

story nobody at all
	rcpt nosuch@expand.org
	reply 550 Invalid recipient: <nosuch@expand.org>

story an error
	rcpt gone@expand.org
	reply 550 5.1.6 gone: <gone@expand.org>
