# forward(5): what users say in ~/.forward.

config
	table aliases { team2 = "alice, carol", forwarded = copy }
	action "l" maildir alias <aliases>
	action "as" maildir user vmail
	action "own" maildir user copy
	action "expand" expand-only
	match from any for domain "example.com" action "l"
	match from any for domain "as.org" action "as"
	match from any for domain "own.org" action "own"
	match from any for domain "expand.org" action "expand"
	match from any for domain "other.org" action "as"

user copy pipe only slash file many lines empty remarks include addr nowhere self back
user ring1 ring2 says tagged list unknown odd quote big full tail deep1 deep2

file home/copy/.forward
	copy
	"|$show -x"
file home/pipe/.forward
	|$show one two
file home/only/.forward
	carol
file home/slash/.forward
	\slash, bob
file home/file/.forward
	$dir/home/file/box
file home/many/.forward
	bob, carol, alice, bob
file home/lines/.forward
	# people
	bob, \
	carol # and somebody else
	
	alice
file home/empty/.forward
file home/remarks/.forward
	# away, says the note
	
file home/include/.forward
	:include:$dir/home/include/list
file home/include/list
	bob
file home/addr/.forward
	Carol@example.com
file home/nowhere/.forward
	x@elsewhere.net
file home/self/.forward
	self@example.com, bob
file home/ring1/.forward
	ring2
file home/ring2/.forward
	ring1
file home/says/.forward
	error:550 5.7.1 gone fishing
file home/tagged/.forward
	carol+lists
file home/list/.forward
	team2
file home/unknown/.forward
	bob, nosuch
file home/odd/.forward
	bob
	alice smith
file home/quote/.forward
	"|$show half
file home/big/.forward size=4096
	bob
file home/full/.forward size=4095
	bob
file home/tail/.forward
	bob # carol
file home/back/.forward
	forwarded
file home/deep1/.forward
	deep2
file home/deep2/.forward
	bob

dir home/carol/Maildir
dir home/carol/Maildir/.lists

story a copy and a command, which runs as the user
	rcpt copy+x@example.com
	reply 250
	maildir copy home/copy/Maildir
	ran copy [-x] | USER=copy | HOME=$dir/home/copy | pwd=$dir/home/copy | groups=copy | SENDER=s@example.net | RECIPIENT=copy+x@example.com | !EXTENSION

story a command alone
	rcpt pipe@example.com
	reply 250
	ran pipe [one] [two]

story another user
	rcpt only@example.com
	reply 250
	maildir carol home/carol/Maildir | Delivered-To: only@example.com

story a backslash in front of the own name
	rcpt slash@example.com
	reply 250
	maildir bob home/bob/Maildir
	maildir slash home/slash/Maildir

story a file, written by the user
	rcpt file@example.com
	reply 250
	append file home/file/box | Delivered-To: file@example.com

story several on a line, each once
	rcpt many@example.com
	reply 250
	maildir alice home/alice/Maildir
	maildir bob home/bob/Maildir
	maildir carol home/carol/Maildir

story several lines, continued, with comments
	rcpt lines@example.com
	reply 250
	maildir alice home/alice/Maildir
	maildir bob home/bob/Maildir
	maildir carol home/carol/Maildir

story an empty file is none
	rcpt empty@example.com
	reply 250
	maildir empty home/empty/Maildir

story nor is one with nothing but comments
	rcpt remarks@example.com
	reply 250
	maildir remarks home/remarks/Maildir

story files are not included
	rcpt include@example.com
	reply 250
	maildir include home/include/Maildir

story an address
	rcpt addr@example.com
	reply 250
	maildir carol home/carol/Maildir

story an address that no rule takes
	rcpt nowhere@example.com
	reply 550 Invalid recipient: <nowhere@example.com>

story the own address keeps a copy
	rcpt self@example.com
	reply 250
	maildir bob home/bob/Maildir
	maildir self home/self/Maildir

story two users that forward to each other
	rcpt ring1@example.com
	reply 524 5.2.4 Mailing list expansion problem: <ring1@example.com>

story an error
	rcpt says@example.com
	reply 550 5.7.1 gone fishing: <says@example.com>

story a sub-address of another user
	rcpt tagged@example.com
	reply 250
	maildir carol home/carol/Maildir/.lists

story an alias
	rcpt list@example.com
	reply 250
	maildir alice home/alice/Maildir
	maildir carol home/carol/Maildir

story an alias to somebody who forwards
	rcpt back@example.com
	reply 250
	maildir copy home/copy/Maildir
	ran copy [-x]

story one unknown name is enough
	rcpt unknown@example.com
	reply 550 Invalid recipient: <unknown@example.com>

story a line that is none
	rcpt odd@example.com
	reply 424 4.2.4 Mailing list expansion problem: <odd@example.com>

story a quote that is not closed
	rcpt quote@example.com
	reply 424 4.2.4 Mailing list expansion problem: <quote@example.com>

story a file of 4096 bytes
	rcpt big@example.com
	reply 424 4.2.4 Mailing list expansion problem: <big@example.com>

story a file of 4095 bytes
	rcpt full@example.com
	reply 250
	maildir bob home/bob/Maildir

story a comment behind a name
	rcpt tail@example.com
	reply 250
	maildir bob home/bob/Maildir

story somebody who forwards to somebody who forwards
	rcpt deep1@example.com
	reply 250
	maildir bob home/bob/Maildir

story an action with a user: nobody else's .forward counts
	rcpt copy@as.org
	reply 250
	maildir vmail home/vmail/Maildir

story that user's does
	rcpt copy@own.org
	reply 250
	maildir copy home/copy/Maildir
	ran copy [-x]

story expand-only: a command in it
	rcpt pipe@expand.org
	reply 250
	ran pipe [one] [two]

story expand-only: none
	rcpt bob@expand.org
	reply 524 5.2.4 Mailing list expansion problem: <bob@expand.org>

story expand-only: an empty one
	rcpt empty@expand.org
	reply 524 5.2.4 Mailing list expansion problem: <empty@expand.org>

story expand-only: the own name
	rcpt slash@expand.org
	reply 524 5.2.4 Mailing list expansion problem: <slash@expand.org>

story two recipients, one of whom forwards to the other
	rcpt only@example.com
	reply 250
	rcpt carol@example.com
	reply 250
	maildir carol home/carol/Maildir | Delivered-To: only@example.com
	maildir carol home/carol/Maildir | Delivered-To: carol@example.com
