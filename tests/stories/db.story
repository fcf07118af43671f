# table(5): tables of the type db, replaced and lost while the daemon runs; makemap(8).

config
	table aliases db:$dir/aliases.db
	table vt db:$dir/vt.db
	table domains db:$dir/domains.db
	table friends db:$dir/friends.db
	table users db:$dir/users.db
	table lost db:$dir/lost.db
	action "l" maildir alias <aliases>
	action "v" maildir virtual <vt>
	action "u" mda "$show %{user.directory}" userbase <users>
	action "lost" maildir userbase <lost>
	match from any for domain <domains> action "l"
	match from any for domain "v.org" action "v"
	match from any for domain "users.org" action "u"
	match from any for domain "lost.org" action "lost"
	match from any mail-from <friends> for domain "friends.org" action "l"

file aliases
	Info: bob
	team: bob, carol
	gone: error:550 5.1.6 gone
map aliases aliases
file vt
	info@v.org: alice
	@v.org: bob
map vt aliases
file domains
	example.com
	*.example.com
map domains set
file users
	vbob: 61001:61002:$dir/home/vbob
map users mapping
file lost
	vbob: 61001:61002:$dir/home/vbob
map lost mapping
dir home/vbob owner=61001
file home/vfwd/.forward owner=61003
	vbob
dir home/vfwd owner=61003
file friends
	@example.net
map friends set

story a user of a database
	rcpt vbob+x@users.org
	reply 250
	ran 61001 [$dir/home/vbob] | USER=vbob | HOME=$dir/home/vbob | groups=61002 | EXTENSION=x

story a user that it does not have
	rcpt bob@users.org
	reply 550 Invalid recipient: <bob@users.org>

story a user who came later, with a .forward
	write users vfwd: 61003:61003:$dir/home/vfwd\nvbob: 61001:61002:$dir/home/vbob
	map users mapping
	rcpt vfwd@users.org
	reply 250
	ran 61001 [$dir/home/vbob] | USER=vbob

story a database of users that is lost
	remove lost.db
	rcpt vbob@lost.org
	reply 451 Temporary failure: <vbob@lost.org>

story an alias
	rcpt INFO@example.com
	reply 250
	maildir bob home/bob/Maildir

story an alias to several
	rcpt team@mx.example.com
	reply 250
	maildir bob home/bob/Maildir
	maildir carol home/carol/Maildir

story an error
	rcpt gone@example.com
	reply 550 5.1.6 gone: <gone@example.com>

story no entry
	rcpt alice@example.com
	reply 250
	maildir alice home/alice/Maildir

story another domain
	rcpt info@example.net
	reply 550 Invalid recipient: <info@example.net>

story a virtual address
	rcpt info@v.org
	reply 250
	maildir alice home/alice/Maildir

story a catch-all
	rcpt zoe@v.org
	reply 250
	maildir bob home/bob/Maildir

story a friend
	rcpt bob@friends.org
	reply 250
	maildir bob home/bob/Maildir

story somebody else
	sender x@example.com
	rcpt bob@friends.org
	reply 550 Invalid recipient: <bob@friends.org>

story a new map is seen at once
	write aliases info: carol
	map aliases aliases
	rcpt info@example.com
	reply 250
	maildir carol home/carol/Maildir

story without its map an alias has no answer
	remove aliases.db
	rcpt info@example.com
	reply 424 4.2.4 Mailing list expansion problem: <info@example.com>

story nor has a rule
	remove friends.db
	rcpt bob@friends.org
	reply 451 Temporary failure: <bob@friends.org>

story other domains are judged before
	rcpt zoe@v.org
	reply 250
	maildir bob home/bob/Maildir

story back again
	map aliases aliases
	rcpt info@example.com
	reply 250
	maildir carol home/carol/Maildir

story a list that is lost stops every rule behind it
	remove domains.db
	rcpt zoe@v.org
	reply 451 Temporary failure: <zoe@v.org>
