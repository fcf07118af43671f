# expansion: users, sub-addresses, aliases to several.

config
	table aliases file:$dir/aliases
	action "l" maildir alias <aliases>
	match for local action "l"
	match from any for domain "example.com" action "l"

file aliases
	root: bob

story a plain user keeps the case of the address
	rcpt Bob@Example.com
	reply 250
	maildir bob home/bob/Maildir | Delivered-To: Bob@Example.com

story an unknown user
	rcpt nobody2@example.com
	reply 550 Invalid recipient: <nobody2@example.com>
