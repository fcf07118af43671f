# smtpd.conf(5), EXAMPLES, the last one: forged senders are rejected. The configuration is the
# printed one.

network

config
	table aliases file:/etc/mail/aliases
	table other-relays file:/etc/mail/other-relays
	
	listen on lo0
	listen on egress
	
	action "local_mail" mbox alias <aliases>
	action "outbound" relay
	
	match for local action "local_mail"
	match for any action "outbound"
	match !from src <other-relays> mail-from "@example.com" for any \
		reject
	match from any for domain example.com action "local_mail"

file etc/mail/aliases
	postmaster: alice
file etc/mail/other-relays
	198.51.100.25

story a stranger writes to the domain
	source 198.51.100.7
	server 192.0.2.1
	rcpt bob@example.com
	reply 250
	append bob mailboxes/bob | Delivered-To: bob@example.com

story to a name of it
	source 198.51.100.7
	server 192.0.2.1
	rcpt postmaster@example.com
	reply 250
	append alice mailboxes/alice

story a stranger claims to be of the domain
	source 198.51.100.7
	server 192.0.2.1
	sender alice@example.com
	rcpt bob@example.com
	reply 550 Invalid recipient: <bob@example.com>

story a relay that may
	source 198.51.100.25
	server 192.0.2.1
	sender alice@example.com
	rcpt bob@example.com
	reply 250
	append bob mailboxes/bob

story a stranger relays nothing
	source 198.51.100.7
	server 192.0.2.1
	rcpt someone@elsewhere.net
	reply 550 Invalid recipient: <someone@elsewhere.net>

story a client of this host does, with a sender of the domain
	source 127.0.0.1
	sender alice@example.com
	rcpt someone@elsewhere.net
	reply 250
	relay someone@elsewhere.net

story a local domain
	source 127.0.0.1
	rcpt bob@mx.example.org
	reply 250
	append bob mailboxes/bob
