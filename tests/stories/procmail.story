# smtpd.conf(5), MDA COMMANDS: procmail(1) sorts the mail of several users.

needs /usr/bin/procmail

config
	table vt { "@hosted.org" = vmail }
	action "p" mda "/usr/bin/procmail -f - -p"
	action "rc" mda "/usr/bin/procmail -f - -p -m $HOME/rc" virtual <vt> user vmail
	match from any for domain "example.com" action "p"
	match from any for domain "hosted.org" action "rc"

file home/bob/.procmailrc
	MAILDIR=$HOME
	DEFAULT=$HOME/Inbox/
	
	:0
	* EXTENSION ?? ^^lists^^
	Lists/
	
	:0
	* ^Subject: a message that is refused
	{
		EXITCODE=77
		HOST
	}
	
	:0
	* ^Subject: a message that comes too early
	{
		EXITCODE=75
		HOST
	}
	
	:0 c
	* ^Subject: a copy for a command
	| $show "$SENDER" "$RECIPIENT"
file home/alice/.procmailrc
	DEFAULT=$HOME/Inbox/
	
	:0
	* ^Subject: a message that is changed
	{
		:0 fhw
		| sed '/^Subject: /s/changed/CHANGED/'
	}
file home/vmail/rc
	# The name of the recipient chooses the maildir.
	:0
	$HOME/$LOCAL/

story the usual mailbox of a user
	rcpt bob@example.com
	reply 250
	maildir bob home/bob/Inbox | Return-Path: <s@example.net> | Delivered-To: bob@example.com

story the mail of another user
	rcpt alice@example.com
	reply 250
	maildir alice home/alice/Inbox | Delivered-To: alice@example.com

story several users at once
	rcpt alice@example.com
	reply 250
	rcpt bob@example.com
	reply 250
	maildir alice home/alice/Inbox | Delivered-To: alice@example.com
	maildir bob home/bob/Inbox | Delivered-To: bob@example.com

story a sub-address chooses the folder
	rcpt bob+lists@example.com
	reply 250
	maildir bob home/bob/Lists

story another one does not
	rcpt bob+other@example.com
	reply 250
	maildir bob home/bob/Inbox

story a message that is refused
	sender <>
	rcpt bob@example.com
	reply 250
	fails bob PermFail Error (permission denied: exited abnormally)

story a message that comes too early
	sender <>
	rcpt bob@example.com
	reply 250
	fails bob TempFail Error (temporary failure: exited abnormally)

story a copy for a command
	rcpt bob+x@example.com
	reply 250
	maildir bob home/bob/Inbox
	ran bob [s@example.net] [bob+x@example.com] | EXTENSION=x | USER=bob

story a message that is changed
	rcpt alice@example.com
	reply 250
	maildir alice home/alice/Inbox | Subject: a message that is CHANGED

story one user who sorts for all
	rcpt zoe@hosted.org
	reply 250
	maildir vmail home/vmail/zoe | Delivered-To: zoe@hosted.org

story without a file of his own it is the system's mailbox
	rcpt carol@example.com
	reply 250
	append carol mailboxes/carol | Delivered-To: carol@example.com
