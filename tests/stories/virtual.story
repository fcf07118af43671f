# table(5), alias tables: the keys of a virtual table and their order; smtpd.conf(5), `virtual`
# and `user`.

config
	table names file:$dir/names
	table catchall file:$dir/catchall
	table all { "info@v.org" = alice, "@w.org" = bob, "@" = carol }
	action "local" maildir
	action "none" maildir virtual <names>
	action "domain" mda "$show" virtual <catchall>
	action "all" maildir virtual <all>
	action "hosted" maildir "$dir/home/vmail/%{user.username}" virtual <names> user vmail
	action "one" maildir virtual <names> user vmail
	action "command" mda "$show %{user.username} %{dest}" virtual <names> user vmail
	match from any for domain "v.org" action "none"
	match from any for domain "w.org" action "domain"
	match from any for domain "all.org" action "all"
	match from any for domain "hosted.org" action "hosted"
	match from any for domain "one.org" action "one"
	match from any for domain "command.org" action "command"
	match from any for domain "example.com" action "local"

file names
	info@v.org: bob
	info+x@v.org: alice
	sales+eu: carol
	sales: alice
	boss@v.org: chief
	chief: alice
	deputy@v.org: second
	second@: carol
	lost@v.org: nosuch
	friend@v.org: bob@example.com
	away@v.org: bob@elsewhere.net
	gone@v.org: error:550 5.1.6 has left
	pipe: "|$show virtual"
	file: $dir/out/virtual
	bad@v.org: bob, <alice@v.org
	ring@v.org: ring1
	ring1: ring2
	ring2: ring1
	tag@v.org: bob+lists
	bob: bob, carol
	vmail: vmail

file catchall
	info@w.org: alice
	@w.org: bob

dir home/bob/Maildir
dir home/bob/Maildir/.lists

story 1: the address with its sub-address
	rcpt Info+X@V.org
	reply 250
	maildir alice home/alice/Maildir

story 2: the address without it
	rcpt info+y@v.org
	reply 250
	maildir bob home/bob/Maildir
	maildir carol home/carol/Maildir

story 2: without any
	rcpt info@v.org
	reply 250
	maildir bob home/bob/Maildir
	maildir carol home/carol/Maildir

story 3: the user with its sub-address, of every domain
	rcpt sales+eu@v.org
	reply 250
	maildir carol home/carol/Maildir

story 4: the user
	rcpt sales+us@v.org
	reply 250
	maildir alice home/alice/Maildir

story 5: everybody else of the domain; there is no sub-address
	rcpt zoe+x@w.org
	reply 250
	ran bob | RECIPIENT=zoe+x@w.org | LOCAL=zoe+x | USER=bob | !EXTENSION

story 5: but not those with an entry
	rcpt info@w.org
	reply 250
	ran alice | RECIPIENT=info@w.org

story 6: everything else
	rcpt zoe@all.org
	reply 250
	maildir carol home/carol/Maildir

story nothing of these
	rcpt zoe@v.org
	reply 524 5.2.4 Mailing list expansion problem: <zoe@v.org>

story a user of the system is nobody in a virtual domain
	rcpt alice@v.org
	reply 524 5.2.4 Mailing list expansion problem: <alice@v.org>

story a name is looked up once more
	rcpt boss@v.org
	reply 250
	maildir alice home/alice/Maildir

story a name with an empty domain
	rcpt deputy@v.org
	reply 250
	maildir carol home/carol/Maildir

story a name that nobody has
	rcpt lost@v.org
	reply 550 Invalid recipient: <lost@v.org>

story an address goes through the rules again
	rcpt friend@v.org
	reply 250
	maildir bob home/bob/Maildir | Delivered-To: friend@v.org

story and needs one that takes it
	rcpt away@v.org
	reply 550 Invalid recipient: <away@v.org>

story an error
	rcpt gone@v.org
	reply 550 5.1.6 has left: <gone@v.org>

story a command
	rcpt pipe@v.org
	reply 250
	ran _smtpd [virtual] | RECIPIENT=pipe@v.org | USER=_smtpd

story a command of an alias runs as the daemon's user, whatever the action says
	rcpt pipe@hosted.org
	reply 250
	ran _smtpd [virtual] | RECIPIENT=pipe@hosted.org | USER=_smtpd

story a file
	rcpt file@v.org
	reply 250
	append _smtpd out/virtual

story a bad value
	rcpt bad@v.org
	reply 424 4.2.4 Mailing list expansion problem: <bad@v.org>

story names that mean each other
	rcpt ring@v.org
	reply 524 5.2.4 Mailing list expansion problem: <ring@v.org>

story a name with a sub-address as value
	rcpt tag@v.org
	reply 250
	maildir bob home/bob/Maildir
	maildir carol home/carol/Maildir

story one user handles the mail of all
	rcpt sales@hosted.org
	reply 250
	maildir vmail home/vmail/alice

story in one maildir, his own
	rcpt sales@one.org
	reply 250
	maildir vmail home/vmail/Maildir

story a command of that user knows whose mail it is
	rcpt sales+x@command.org
	reply 250
	ran vmail [alice] [sales+x@command.org] | USER=alice | LOGNAME=alice | HOME=$dir/home/vmail | pwd=$dir/home/vmail | groups=vmail | !EXTENSION

story the user of the action itself
	rcpt vmail@hosted.org
	reply 250
	maildir vmail home/vmail/vmail
