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
user hash escaped several hundred link1 link2 link3 link4 link5 link6 link7 link8 link9

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

file home/link1/.forward
	link2
file home/link2/.forward
	link3
file home/link3/.forward
	link4
file home/link4/.forward
	link5
file home/link5/.forward
	link6
file home/link6/.forward
	link7
file home/link7/.forward
	link8
file home/link8/.forward
	link9
file home/link9/.forward
	bob
file home/hash/.forward
	"|$show a#b '#c'" # and no more
file home/escaped/.forward
	error:550 5.7.1 no \#1\, and no \#2
file home/several/.forward
	several, "|$show first, 'and second'"
	"|$show first, 'and second'"
	/dev/null
file home/hundred/.forward
	user1, user2, user3, user4, user5, user6, user7, user8, user9, user10, user11, user12, user13, user14, user15, user16, user17, user18, user19, user20, user21, user22, user23, user24, user25, user26, user27, user28, user29, user30, user31, user32, user33, user34, user35, user36, user37, user38, user39, user40, user41, user42, user43, user44, user45, user46, user47, user48, user49, user50, user51, user52, user53, user54, user55, user56, user57, user58, user59, user60, user61, user62, user63, user64, user65, user66, user67, user68, user69, user70, user71, user72, user73, user74, user75, user76, user77, user78, user79, user80, user81, user82, user83, user84, user85, user86, user87, user88, user89, user90, user91, user92, user93, user94, user95, user96, user97, user98, user99, user100, user101, user102, user103, user104, user105, user106, user107, user108, user109, user110, user111, user112, user113, user114, user115, user116, user117, user118, user119, user120
file home/root/.forward owner=root
	bob
	|$show no

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
	reply 550 Invalid recipient: <slash@expand.org>

story two recipients, one of whom forwards to the other
	rcpt only@example.com
	reply 250
	rcpt carol@example.com
	reply 250
	maildir carol home/carol/Maildir | Delivered-To: only@example.com

story commands have commas in quotes, and are run once
	rcpt several@example.com
	reply 250
	maildir several home/several/Maildir
	ran several [first,] [and second]

story more than a hundred names
	rcpt hundred@example.com
	reply 424 4.2.4 Mailing list expansion problem: <hundred@example.com>

story root runs no commands
	rcpt root@example.com
	reply 451 Temporary failure: <root@example.com>

story nine forward to one another
	rcpt link2@example.com
	reply 250
	maildir bob home/bob/Maildir

story ten are too many
	rcpt link1@example.com
	reply 524 5.2.4 Mailing list expansion problem: <link1@example.com>

story hash marks in quotes are no comments
	rcpt hash@example.com
	reply 250
	ran hash [a#b] [#c]

story hash marks and commas behind a backslash
	rcpt escaped@example.com
	reply 550 5.7.1 no #1, and no #2: <escaped@example.com>
