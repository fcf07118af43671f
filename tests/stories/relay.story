# smtpd.conf(5), relay: mail for other hosts, from clients and out of aliases.

config
	table aliases file:$dir/aliases
	table vt { "info@v.org" = bob, sales = "carol@ext.net", "@v.org" = alice }
	action "l" maildir alias <aliases>
	action "v" maildir virtual <vt> user vmail
	action "out" relay
	match for local action "l"
	match from any for domain "example.com" action "l"
	match from any for domain "v.org" action "v"
	match from any for domain "backup.org" action "out"
	match from local for rcpt-to "never@ext.net" reject
	match from local for any action "out"

file aliases
	team: bob, carol@ext.net, |$show count
	twice: carol@ext.net, two, carol@ext.net
	two: carol@ext.net
	never: bob, never@ext.net
	both: carol@ext.net, dave@ext.net
	bob: bob, bob@home.net
	out: out@example.com, x@ext.net
	via: sales@v.org

story a client of this host
	source 127.0.0.1
	rcpt Carol@Ext.net
	reply 250
	relay Carol@Ext.net

story sendmail(8)
	source socket
	rcpt carol@ext.net
	reply 250
	relay carol@ext.net auth

story a stranger
	rcpt carol@ext.net
	reply 550 Invalid recipient: <carol@ext.net>

story a stranger, for a domain that is relayed for all
	rcpt carol@backup.org
	reply 250
	relay carol@backup.org

story an alias to a user, a host elsewhere and a command
	rcpt team@example.com
	reply 250
	maildir bob home/bob/Maildir
	relay bob@home.net internal
	relay carol@ext.net internal
	ran _smtpd [count]

story an address that is reached on two ways
	rcpt twice@example.com
	reply 250
	relay carol@ext.net internal

story two addresses
	rcpt both@example.com
	reply 250
	relay carol@ext.net internal
	relay dave@ext.net internal

story a rule that rejects one of them
	rcpt never@example.com
	reply 550 Invalid recipient: <never@example.com>

story the rule is for the address that is judged
	source 127.0.0.1
	rcpt never@ext.net
	reply 550 Invalid recipient: <never@ext.net>

story a copy for the user himself
	rcpt bob@example.com
	reply 250
	maildir bob home/bob/Maildir
	relay bob@home.net internal

story an address that leads back to its own name, which is nobody
	rcpt out@example.com
	reply 550 Invalid recipient: <out@example.com>

story a virtual address
	rcpt info@v.org
	reply 250
	maildir vmail home/vmail/Maildir

story a virtual address elsewhere
	rcpt sales@v.org
	reply 250
	relay carol@ext.net internal

story the rest of a virtual domain
	rcpt zoe+x@v.org
	reply 250
	maildir vmail home/vmail/Maildir | Delivered-To: zoe+x@v.org

story an alias to a virtual address elsewhere
	rcpt via@example.com
	reply 250
	relay carol@ext.net internal

story several recipients of one message
	source 127.0.0.1
	rcpt bob@mx.example.org
	reply 250
	rcpt x@ext.net
	reply 250
	rcpt nosuch@localhost
	reply 550 Invalid recipient: <nosuch@localhost>
	maildir bob home/bob/Maildir
	relay bob@home.net internal
	relay x@ext.net
