# aliases(5), :include: - files with more items.

config
	table aliases file:$dir/aliases
	action "l" maildir alias <aliases>
	match from any for domain "example.com" action "l"

file aliases
	staff: :include:$dir/lists/staff
	INCLUDED: INCLUDE:$dir/lists/staff
	missing: :include:$dir/lists/missing
	some: bob, :include:$dir/lists/missing
	empty: :include:$dir/lists/empty
	nested: :include:$dir/lists/nested
	odd: :include:$dir/lists/odd
	command: :include:$dir/lists/command
	strangers: :include:$dir/lists/strangers
	open: bob, :include:$dir/lists/open
	error: :include:$dir/lists/error
	private: bob, :include:$dir/lists/private

dir lists
file lists/staff
	# people
	bob, carol
	
	alice # since spring
file lists/empty
	# nobody
file lists/nested
	bob
	:include:$dir/lists/staff
file lists/odd
	bob smith
	bob
file lists/command
	"|$show listed"
	$dir/out/listed
file lists/strangers owner=alice
	"|$show stranger"
	$dir/out/stranger
	bob
file lists/open mode=0666
	carol
file lists/error
	error:550 5.7.1 closed
file lists/private mode=0600 owner=root
	carol

story a list of people
	rcpt staff@example.com
	reply 250
	maildir alice home/alice/Maildir
	maildir bob home/bob/Maildir
	maildir carol home/carol/Maildir

story the word in any case, with or without a colon in front
	rcpt included@example.com
	reply 250
	maildir alice home/alice/Maildir
	maildir bob home/bob/Maildir
	maildir carol home/carol/Maildir

story a file that is not there is as good as no entry
	rcpt missing@example.com
	reply 550 Invalid recipient: <missing@example.com>
	log failed to open include file "$dir/lists/missing"

story what is there besides counts
	rcpt some@example.com
	reply 250
	maildir bob home/bob/Maildir

story a file without items
	rcpt empty@example.com
	reply 524 5.2.4 Mailing list expansion problem: <empty@example.com>

story an included file includes no other
	rcpt nested@example.com
	reply 250
	maildir bob home/bob/Maildir

story a line that is no item is left out
	rcpt odd@example.com
	reply 250
	maildir bob home/bob/Maildir

story commands and files run as the daemon's user
	rcpt command@example.com
	reply 250
	ran _smtpd [listed]
	append _smtpd out/listed

story and only where no stranger can write them
	rcpt strangers@example.com
	reply 250
	maildir bob home/bob/Maildir

story a file that everybody may write is not read
	rcpt open@example.com
	reply 250
	maildir bob home/bob/Maildir

story nor one that the daemon may not read
	rcpt private@example.com
	reply 250
	maildir bob home/bob/Maildir
	log failed to open include file "$dir/lists/private"

story an error in it
	rcpt error@example.com
	reply 550 5.7.1 closed: <error@example.com>

story a list that grows is read anew
	write lists/empty carol
	rcpt empty@example.com
	reply 250
	maildir carol home/carol/Maildir
