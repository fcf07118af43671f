# smtpd.conf(5), EXAMPLES, the first one: local mail, and everything else to a smarthost. The
# configuration is the printed one.

network

config
	table aliases file:/etc/mail/aliases
	table secrets file:/etc/mail/secrets
	
	listen on lo0
	
	action "local_mail" mbox alias <aliases>
	action "outbound" relay host smtp+tls://bob@smtp.example.com \
		auth <secrets>
	
	match from local for local action "local_mail"
	match from local for any action "outbound"

file etc/mail/aliases
	root: alice
	team: alice, carol@elsewhere.net
file etc/mail/secrets mode=0640
	bob username:password

story a user of this host writes to another one
	source 127.0.0.1
	rcpt bob@localhost
	reply 250
	append bob mailboxes/bob | Delivered-To: bob@localhost

story by sendmail(8), to an alias
	source socket
	rcpt root@mx.example.org
	reply 250
	append alice mailboxes/alice | Delivered-To: root@mx.example.org

story mail for other hosts
	source 127.0.0.1
	rcpt someone@elsewhere.net
	reply 250
	relay someone@elsewhere.net

story an alias to here and elsewhere
	source 127.0.0.1
	rcpt team@mx.example.org
	reply 250
	append alice mailboxes/alice
	relay carol@elsewhere.net internal

story nobody of this name
	source 127.0.0.1
	rcpt nosuch@localhost
	reply 550 Invalid recipient: <nosuch@localhost>
