# table(5): file tables that change while the daemon runs; a table that cannot answer.

config
	table people file:$dir/people
	table domains file:$dir/domains
	action "l" maildir alias <people>
	match from any for domain <domains> action "l"

file people
	info: bob
	sales: carol
file domains
	example.com
	*.example.com # one level down

story a table of people
	rcpt info@example.com
	reply 250
	maildir bob home/bob/Maildir

story a list of domains
	rcpt info@mx.example.com
	reply 250
	maildir bob home/bob/Maildir

story what is not in it
	rcpt info@example.net
	reply 550 Invalid recipient: <info@example.net>

story a file that has changed is not read
	write people info: alice
	rcpt info@example.com
	reply 250
	maildir bob home/bob/Maildir

story until it is asked for
	ctl update table people
	rcpt info@example.com
	reply 250
	maildir alice home/alice/Maildir
	log info: Table "people" successfully updated

story names that have gone
	rcpt sales@example.com
	reply 550 Invalid recipient: <sales@example.com>

story a file that is no table leaves the old one where it is
	write people nothing but words: but\nnonsense
	ctl !update table people
	rcpt info@example.com
	reply 250
	maildir alice home/alice/Maildir
	log info: Failed to update table "people"

story so does one that is gone
	remove people
	ctl !update table people
	rcpt info@example.com
	reply 250
	maildir alice home/alice/Maildir

story a list of domains that has changed
	write domains example.net
	ctl update table domains
	rcpt info@example.net
	reply 250
	maildir alice home/alice/Maildir

story and what it has lost
	rcpt info@example.com
	reply 550 Invalid recipient: <info@example.com>
