# forward(5): whose ~/.forward counts, and what is wrong with the others.

config
	action "l" maildir
	action "m" mbox
	match from any for domain "example.com" action "l"
	match from any for domain "mbox.org" action "m"

user fine private nohome sticky linked folder foreign roots group world
user homegroup homeworld homeforeign homeroot homelink dangling unreadable closed

file home/fine/.forward
	bob
file home/private/.forward mode=0600
	bob
remove home/nohome
file home/sticky/.forward
	bob
dir home/sticky mode=1755 owner=sticky
file home/linked/elsewhere
	bob
link home/linked/.forward to=elsewhere
link home/dangling/.forward to=nowhere
dir home/folder/.forward
file home/foreign/.forward owner=alice
	bob
file home/roots/.forward owner=root
	bob
file home/group/.forward mode=0664
	bob
file home/world/.forward mode=0646
	bob
file home/homegroup/.forward
	bob
dir home/homegroup mode=0775 owner=homegroup
file home/homeworld/.forward
	bob
dir home/homeworld mode=0757 owner=homeworld
file home/homeforeign/.forward owner=homeforeign
	bob
dir home/homeforeign owner=alice
file home/homeroot/.forward owner=homeroot
	bob
dir home/homeroot owner=root
file home/unreadable/.forward mode=0200
	bob
file home/closed/.forward owner=closed
	bob
dir home/closed mode=0700 owner=root
dir real/homelink owner=homelink
file real/homelink/.forward
	bob
remove home/homelink
link home/homelink to=../real/homelink

story one that everybody may read
	rcpt fine@example.com
	reply 250
	maildir bob home/bob/Maildir

story one that only its owner may read
	rcpt private@example.com
	reply 250
	maildir bob home/bob/Maildir

story no home
	rcpt nohome@mbox.org
	reply 250
	append nohome mailboxes/nohome

story a home with the sticky bit: wait
	rcpt sticky@example.com
	reply 424 4.2.4 Mailing list expansion problem: <sticky@example.com>
	log is sticky

story a symbolic link
	rcpt linked@example.com
	reply 424 4.2.4 Mailing list expansion problem: <linked@example.com>

story a symbolic link to nothing
	rcpt dangling@example.com
	reply 424 4.2.4 Mailing list expansion problem: <dangling@example.com>

story a directory
	rcpt folder@example.com
	reply 424 4.2.4 Mailing list expansion problem: <folder@example.com>

story somebody else's file
	rcpt foreign@example.com
	reply 424 4.2.4 Mailing list expansion problem: <foreign@example.com>
	log insecure file

story root's file
	rcpt roots@example.com
	reply 424 4.2.4 Mailing list expansion problem: <roots@example.com>

story a file that the group may write
	rcpt group@example.com
	reply 424 4.2.4 Mailing list expansion problem: <group@example.com>

story a file that everybody may write
	rcpt world@example.com
	reply 424 4.2.4 Mailing list expansion problem: <world@example.com>

story a home that the group may write
	rcpt homegroup@example.com
	reply 424 4.2.4 Mailing list expansion problem: <homegroup@example.com>

story a home that everybody may write
	rcpt homeworld@example.com
	reply 424 4.2.4 Mailing list expansion problem: <homeworld@example.com>

story a home of somebody else
	rcpt homeforeign@example.com
	reply 424 4.2.4 Mailing list expansion problem: <homeforeign@example.com>

story a home of root's
	rcpt homeroot@example.com
	reply 250
	maildir bob home/bob/Maildir

story a home that is a symbolic link
	rcpt homelink@example.com
	reply 250
	maildir bob home/bob/Maildir

story a file that its owner may not read
	rcpt unreadable@example.com
	reply 424 4.2.4 Mailing list expansion problem: <unreadable@example.com>

story a home that its user may not enter
	rcpt closed@example.com
	reply 424 4.2.4 Mailing list expansion problem: <closed@example.com>
