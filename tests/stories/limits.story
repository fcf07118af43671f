# aliases(5), smtpd.conf(5): how long, how deep, how many.

config
	smtp limit max-rcpt 3
	smtp sub-addr-delim "-"
	table aliases file:$dir/aliases
	action "l" maildir alias <aliases>
	match from any for domain "example.com" action "l"

file aliases
	value2048: bob, "|: $x(1015)", "|: $x(1015)", carol
	item1024: bob, /$x(1023)
	list-eu: carol
	list: bob

dir home/bob/Maildir
dir home/bob/Maildir/.lists

story a value that is longer than a line of mail
	rcpt value2048@example.com
	reply 250
	maildir bob home/bob/Maildir
	maildir carol home/carol/Maildir

story an item that is too long
	rcpt item1024@example.com
	reply 424 4.2.4 Mailing list expansion problem: <item1024@example.com>

story another delimiter cuts the sub-address
	rcpt bob-lists@example.com
	reply 250
	maildir bob home/bob/Maildir/.lists

story and the usual one does not
	rcpt bob+lists@example.com
	reply 550 Invalid recipient: <bob+lists@example.com>

story an alias with that delimiter
	rcpt list-eu@example.com
	reply 250
	maildir carol home/carol/Maildir

story an alias without the sub-address
	rcpt list-us@example.com
	reply 250
	maildir bob home/bob/Maildir

story more recipients than a message may have
	rcpt bob@example.com
	reply 250
	rcpt carol@example.com
	reply 250
	rcpt alice@example.com
	reply 250
	rcpt list@example.com
	reply 451 4.5.3 Too many recipients: Too many recipients
	maildir alice home/alice/Maildir
	maildir bob home/bob/Maildir
	maildir carol home/carol/Maildir
