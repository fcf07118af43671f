# smtpd.conf(5): lmtp destination [rcpt-to], with aliases, users and .forward.

lmtp lmtp.sock

config
	table aliases { staff = "alice, bob" }
	table vt { "info@v.org" = "bob, full@full.org", "bob@v.org" = bob }
	action "user" lmtp "$dir/lmtp.sock" alias <aliases>
	action "rcpt" lmtp "$dir/lmtp.sock" rcpt-to alias <aliases>
	action "virtual" lmtp "$dir/lmtp.sock" rcpt-to virtual <vt> user vmail
	action "nobody" lmtp "$dir/none.sock"
	match from any for domain "user.org" action "user"
	match from any for domain "rcpt.org" action "rcpt"
	match from any for domain "v.org" action "virtual"
	match from any for domain "nobody.org" action "nobody"
	match for domain "rcpt.org" action "rcpt"

file home/carol/.forward
	alice@rcpt.org, "|$show forwarded"

story a server is told of the user
	rcpt Bob+Lists@USER.org
	reply 250
	lmtp lmtp.sock bob | Return-Path: <s@example.net> | Delivered-To: Bob+Lists@USER.org | Once upon a time.

story or of the recipient
	rcpt Bob+Lists@rcpt.org
	reply 250
	lmtp lmtp.sock Bob+Lists@rcpt.org

story the null sender
	sender <>
	rcpt bob@user.org
	reply 250
	lmtp lmtp.sock bob | Delivered-To: bob@user.org

story names of an alias are users of their own
	rcpt staff@user.org
	reply 250
	lmtp lmtp.sock alice
	lmtp lmtp.sock bob

story a .forward comes before the server
	rcpt carol@user.org
	reply 250
	lmtp lmtp.sock alice@rcpt.org
	ran carol [forwarded]

story a user that is none
	rcpt zoe@user.org
	reply 550 Invalid recipient: <zoe@user.org>

story an address that virtual users share
	rcpt bob@v.org
	reply 250
	lmtp lmtp.sock bob@v.org

story a server that is not there
	rcpt bob@nobody.org
	reply 250
	fails bob TempFail Error (temporary failure: "mail.lmtp: connect: $dir/none.sock: No such file or directory")
