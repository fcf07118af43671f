# smtpd.conf(5), userbase; table(5), user tables.

config
	table users file:$dir/users
	table vt { "v@v.org" = vbob, "_p@v.org" = "|$show virtual" }
	action "base" mda "$show %{user.username} %{user.directory}" userbase <users> alias { both = "vbob, valice", "pipe" = "|$show pipe" }
	action "dir" maildir userbase <users>
	action "virtual" maildir userbase <users> virtual <vt>
	action "as" mda "$show" userbase <users> user vmail
	match from any for domain "base.org" action "base"
	match from any for domain "dir.org" action "dir"
	match from any for domain "v.org" action "virtual"
	match from any for domain "as.org" action "as"

file users
	vbob: 61001:61002:$dir/home/vbob
	valice: 61003:61003:$dir/home/valice
	carol: 61004:61004:$dir/home/vcarol
	words: one:two:$dir/home/words
	short: 61005
	big: 99999999999:1:$dir/home/big
	zero: 0:0:$dir/home/zero

dir home/vbob owner=61001
dir home/valice owner=61003
dir home/vcarol owner=61004

story a user of the table
	rcpt VBob+x@dir.org
	reply 250
	maildir 61001 home/vbob/Maildir

story what a command sees of him
	rcpt vbob+x@base.org
	reply 250
	ran 61001 [vbob] [$dir/home/vbob] | USER=vbob | HOME=$dir/home/vbob | pwd=$dir/home/vbob | groups=61002 | EXTENSION=x

story a user of the system is none of the table
	rcpt bob@dir.org
	reply 550 Invalid recipient: <bob@dir.org>

story a user of both is the table's
	rcpt carol@dir.org
	reply 250
	maildir 61004 home/vcarol/Maildir

story aliases come first
	rcpt both@base.org
	reply 250
	ran 61001 [vbob] [$dir/home/vbob]
	ran 61003 [valice] [$dir/home/valice]

story virtual addresses
	rcpt v@v.org
	reply 250
	maildir 61001 home/vbob/Maildir

story an entry that is no user
	rcpt words@dir.org
	reply 451 Temporary failure: <words@dir.org>

story an entry that is too short
	rcpt short@dir.org
	reply 451 Temporary failure: <short@dir.org>

story an uid that is none
	rcpt big@dir.org
	reply 451 Temporary failure: <big@dir.org>

story root under another name
	sender <>
	rcpt zero@dir.org
	reply 250
	fails zero PermFail Error (permission denied: MDA not allowed to deliver to: zero)

story the user of an action is one of the system
	rcpt vbob@as.org
	reply 250
	ran vmail | USER=vbob | HOME=$dir/home/vmail

story commands of aliases need the daemon's user in the table
	sender <>
	rcpt pipe@base.org
	reply 250
	fails _smtpd PermFail Permanent failure in user lookup
