# aliases(5): who gets the mail of a name.

config
	table aliases file:$dir/aliases
	action "l" maildir alias <aliases>
	match for local action "l"
	match from any for domain "example.com" action "l"

file aliases
	root: bob
	postmaster: root
	Team: bob, "|$show team", carol
	count: |$show a 'b c'
	archive: $dir/out/archive
	sales: alice
	sales+eu: bob
	gone: error:551 5.1.6 moved
	later: :Error:450 4.7.1 come again
	comma: error:550 no\, never
	mixed: bob, error:550 5.7.1 not all of you
	ghost: nosuchuser
	half: bob, nosuchuser
	elsewhere: bob, x@elsewhere.net
	by-address: Bob@EXAMPLE.com
	quoted: \bob
	a: b
	b: a
	c: d, bob
	d: c
	alice: alice, carol
	carol: carol@example.com, bob
	n1: n2
	n2: n3
	n3: n4
	n4: n5
	n5: n6
	n6: n7
	n7: n8
	n8: bob
	n0: n1
	twice: bob, carol, bob
	a1: bob
	a2: bob
	both: a1, a2
	direct: bob, a1
	by-two-names: bob, bob@example.com
	two-pipes: "|$show same", "|$show same"
	invalid: bob, bob@x_y.org
	bracket: bob@[192.0.2.1]
	open: "bob
	tagged: bob+lists
	# a comment; the names above it still count
	commented: bob # and not carol

# A folder of his own for bob+lists; alice has one for sales+us, where nothing of it goes.
dir home/bob/Maildir
dir home/bob/Maildir/.lists
dir home/alice/Maildir
dir home/alice/Maildir/.us

story a plain user; the address keeps its case
	rcpt Bob@Example.com
	reply 250
	maildir bob home/bob/Maildir | Return-Path: <s@example.net> | Delivered-To: Bob@Example.com

story an unknown user
	rcpt nobody2@example.com
	reply 550 Invalid recipient: <nobody2@example.com>

story one recipient is refused; the other two are one mailbox, which gets one copy
	rcpt bob@example.com
	reply 250
	rcpt nobody2@example.com
	reply 550 Invalid recipient: <nobody2@example.com>
	rcpt root@example.com
	reply 250
	maildir bob home/bob/Maildir | Delivered-To: bob@example.com

story a domain of this host is for local clients only
	rcpt bob@mx.example.org
	reply 550 Invalid recipient: <bob@mx.example.org>

story and for them it is there
	source 127.0.0.1
	rcpt bob@mx.example.org
	reply 250
	maildir bob home/bob/Maildir

story postmaster needs no domain
	source 127.0.0.1
	rcpt postmaster
	reply 250
	maildir bob home/bob/Maildir | Delivered-To: postmaster@mx.example.org

story by sendmail(8)
	source socket
	rcpt root@localhost
	reply 250
	maildir bob home/bob/Maildir

story a sub-address with a folder of its own
	rcpt bob+lists@example.com
	reply 250
	maildir bob home/bob/Maildir/.lists | Delivered-To: bob+lists@example.com

story a sub-address without
	rcpt bob+other@example.com
	reply 250
	maildir bob home/bob/Maildir

story an alias may lead to a sub-address
	rcpt tagged@example.com
	reply 250
	maildir bob home/bob/Maildir/.lists

story an alias with a sub-address comes before the one without
	rcpt sales+EU@example.com
	reply 250
	maildir bob home/bob/Maildir

story the one without takes the others, and what it leads to has no sub-address
	rcpt sales+us@example.com
	reply 250
	maildir alice home/alice/Maildir
	maildir carol home/carol/Maildir
	maildir bob home/bob/Maildir

story an alias to several
	rcpt TEAM@example.com
	reply 250
	maildir bob home/bob/Maildir
	maildir carol home/carol/Maildir
	ran _smtpd [team] | RECIPIENT=TEAM@example.com | ORIGINAL_RECIPIENT=TEAM@example.com | SENDER=s@example.net | USER=_smtpd | !EXTENSION
	log commands executed from aliases run with _smtpd privileges

story a command with arguments
	rcpt count@example.com
	reply 250
	ran _smtpd [a] [b c] | LOCAL=count | DOMAIN=example.com

story the sub-address of a name is nothing to its commands
	rcpt count+x@example.com
	reply 250
	ran _smtpd [a] [b c] | LOCAL=count+x | !EXTENSION

story a file
	rcpt archive@example.com
	reply 250
	append _smtpd out/archive | Delivered-To: archive@example.com

story an error is what the client hears
	rcpt gone@example.com
	reply 551 5.1.6 moved: <gone@example.com>

story an error that passes
	rcpt later@example.com
	reply 450 4.7.1 come again: <later@example.com>

story commas in the text of an error
	rcpt comma@example.com
	reply 550 no, never: <comma@example.com>

story one error is enough
	rcpt mixed@example.com
	reply 550 5.7.1 not all of you: <mixed@example.com>

story an alias to nobody
	rcpt ghost@example.com
	reply 550 Invalid recipient: <ghost@example.com>

story one unknown name is enough
	rcpt half@example.com
	reply 550 Invalid recipient: <half@example.com>

story an address that no rule takes is enough
	rcpt elsewhere@example.com
	reply 550 Invalid recipient: <elsewhere@example.com>

story an address is judged by the rules
	rcpt by-address@example.com
	reply 250
	maildir bob home/bob/Maildir | Delivered-To: by-address@example.com

story a backslash takes nothing away from a name
	rcpt quoted@example.com
	reply 250
	maildir bob home/bob/Maildir

story two names that mean each other
	rcpt a@example.com
	reply 524 5.2.4 Mailing list expansion problem: <a@example.com>

story the same, with somebody else
	rcpt c@example.com
	reply 250
	maildir bob home/bob/Maildir

story a name that is its own alias keeps a copy
	rcpt alice@example.com
	reply 250
	maildir alice home/alice/Maildir
	maildir carol home/carol/Maildir
	maildir bob home/bob/Maildir

story the same with a sub-address, which is lost
	rcpt alice+us@example.com
	reply 250
	maildir alice home/alice/Maildir
	maildir carol home/carol/Maildir
	maildir bob home/bob/Maildir

story an alias to the own address
	rcpt carol@example.com
	reply 250
	maildir carol home/carol/Maildir
	maildir bob home/bob/Maildir

story a chain of eight links
	rcpt n1@example.com
	reply 250
	maildir bob home/bob/Maildir

story a chain of nine links
	rcpt n0@example.com
	reply 524 5.2.4 Mailing list expansion problem: <n0@example.com>

story a name that is there twice
	rcpt twice@example.com
	reply 250
	maildir bob home/bob/Maildir
	maildir carol home/carol/Maildir

story two aliases to one user
	rcpt both@example.com
	reply 250
	maildir bob home/bob/Maildir

story a user and an alias to him
	rcpt direct@example.com
	reply 250
	maildir bob home/bob/Maildir

story a user and his address
	rcpt by-two-names@example.com
	reply 250
	maildir bob home/bob/Maildir

story a command that is there twice
	rcpt two-pipes@example.com
	reply 250
	ran _smtpd [same]

story a value with an item that is none
	rcpt invalid@example.com
	reply 424 4.2.4 Mailing list expansion problem: <invalid@example.com>

story nothing is guessed out of a bad address
	rcpt bracket@example.com
	reply 424 4.2.4 Mailing list expansion problem: <bracket@example.com>

story a value with half a quote
	rcpt open@example.com
	reply 424 4.2.4 Mailing list expansion problem: <open@example.com>

story a comment behind an entry
	rcpt commented@example.com
	reply 250
	maildir bob home/bob/Maildir
