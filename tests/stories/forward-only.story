# smtpd.conf(5), forward-only: only what ends at another host.

user away home keeps pipes local

file home/away/.forward
	away@elsewhere.net
file home/home/.forward
	bob@dir.org
file home/keeps/.forward
	\keeps, keeps@elsewhere.net
file home/pipes/.forward
	|$show no
file home/local/.forward
	bob

config
	action "fo" forward-only alias { r = "carol@ext.net", two = "carol@ext.net, dave@ext.net", u = bob, both = "bob, carol@ext.net", p = "|$show p", f = "$dir/out/file", e = "error:550 5.1.6 gone", inner = "bob@dir.org", loop = loop2, loop2 = loop }
	action "dir" maildir
	action "out" relay
	match from any for domain "fo.org" action "fo"
	match from any for domain "dir.org" action "dir"
	match from local for any action "out"

story an address elsewhere
	rcpt r@fo.org
	reply 250
	relay carol@ext.net internal

story two of them
	rcpt two@fo.org
	reply 250
	relay carol@ext.net internal
	relay dave@ext.net internal

story a user without .forward
	rcpt bob@fo.org
	reply 550 Invalid recipient: <bob@fo.org>

story an alias to one
	rcpt u@fo.org
	reply 550 Invalid recipient: <u@fo.org>

story a user is one too many
	rcpt both@fo.org
	reply 550 Invalid recipient: <both@fo.org>

story a command
	rcpt p@fo.org
	reply 451 Temporary failure: <p@fo.org>

story a file
	rcpt f@fo.org
	reply 451 Temporary failure: <f@fo.org>

story an error
	rcpt e@fo.org
	reply 550 5.1.6 gone: <e@fo.org>

story an address of another action
	rcpt inner@fo.org
	reply 250
	maildir bob home/bob/Maildir

story nobody
	rcpt nosuch@fo.org
	reply 550 Invalid recipient: <nosuch@fo.org>

story names that mean each other
	rcpt loop@fo.org
	reply 524 5.2.4 Mailing list expansion problem: <loop@fo.org>

story a .forward to elsewhere
	rcpt away@fo.org
	reply 250
	relay away@elsewhere.net internal

story a .forward to an address of another action
	rcpt home@fo.org
	reply 250
	maildir bob home/bob/Maildir

story a .forward that keeps a copy
	rcpt keeps@fo.org
	reply 550 Invalid recipient: <keeps@fo.org>

story a .forward to a command
	rcpt pipes@fo.org
	reply 451 Temporary failure: <pipes@fo.org>

story a .forward to another user
	rcpt local@fo.org
	reply 550 Invalid recipient: <local@fo.org>
