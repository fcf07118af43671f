# smtpd.conf(5), userbase; forward(5): home directories and owners are the table's.

config
	table users file:$dir/users
	action "dir" maildir userbase <users>
	match from any for domain "dir.org" action "dir"

file users
	bob: 61001:61001:$dir/home/vbob
	alice: 61002:61002:$dir/home/valice
	carol: 61003:61003:$dir/home/vcarol

dir home/vbob owner=61001
dir home/valice owner=61002
file home/valice/.forward
	bob
	"|$show forwarded"
dir home/vcarol owner=61003
# The user of the system is somebody else.
file home/vcarol/.forward owner=carol
	bob
# Nobody asks for this one.
file home/bob/.forward
	alice

story a .forward below a home of the table
	rcpt alice@dir.org
	reply 250
	maildir 61001 home/vbob/Maildir
	ran 61002 [forwarded] | USER=alice | HOME=$dir/home/valice | groups=61002

story one that the user of the table does not own
	rcpt carol@dir.org
	reply 424 4.2.4 Mailing list expansion problem: <carol@dir.org>

story one below the home that the user has elsewhere
	rcpt bob@dir.org
	reply 250
	maildir 61001 home/vbob/Maildir
