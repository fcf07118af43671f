# smtpd.conf(5), MDA COMMANDS: maildrop(1) sorts the mail of several users.

needs /usr/bin/maildrop

config
	action "m" mda "/usr/bin/maildrop"
	action "v" mda "/usr/bin/maildrop $HOME/filter" user vmail
	match from any for domain "example.com" action "m"
	match from any for domain "hosted.org" action "v"

file home/bob/.mailfilter mode=0600
	import EXTENSION
	if ($EXTENSION eq "lists")
	{
		to "$HOME/Lists"
	}
	if (/^Subject: a message that is refused/)
	{
		EXITCODE = 77
		exit
	}
	if (/^Subject: a message that comes too early/)
	{
		EXITCODE = 75
		exit
	}
	if (/^Subject: a copy for a command/)
	{
		cc "| $show of $LOGNAME"
	}
	to "$HOME/Inbox"
file home/alice/.mailfilter mode=0600
	if (/^X-Priority: low/)
	{
		to "$HOME/Low"
	}
	to "$HOME/Inbox"
file home/vmail/filter mode=0600
	import USER
	to "$HOME/$USER"

dir home/bob/Lists
dir home/bob/Lists/cur
dir home/bob/Lists/new
dir home/bob/Lists/tmp
dir home/bob/Inbox
dir home/bob/Inbox/cur
dir home/bob/Inbox/new
dir home/bob/Inbox/tmp
dir home/vmail/alice
dir home/vmail/alice/cur
dir home/vmail/alice/new
dir home/vmail/alice/tmp

story the usual mailbox of a user
	rcpt bob@example.com
	reply 250
	maildir bob home/bob/Inbox | Return-Path: <s@example.net> | Delivered-To: bob@example.com

story the mail of another user, into a file
	rcpt alice@example.com
	reply 250
	append alice home/alice/Inbox | Delivered-To: alice@example.com

story by a field of its header
	header X-Priority: low
	rcpt alice@example.com
	reply 250
	append alice home/alice/Low

story several users at once
	rcpt alice@example.com
	reply 250
	rcpt bob@example.com
	reply 250
	append alice home/alice/Inbox | Delivered-To: alice@example.com
	maildir bob home/bob/Inbox | Delivered-To: bob@example.com

story a sub-address chooses the folder
	rcpt bob+lists@example.com
	reply 250
	maildir bob home/bob/Lists

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
	rcpt bob@example.com
	reply 250
	maildir bob home/bob/Inbox
	ran bob [of] [bob]

story one user who sorts for all
	rcpt alice@hosted.org
	reply 250
	maildir vmail home/vmail/alice
