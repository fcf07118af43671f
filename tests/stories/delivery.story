# smtpd.conf(5): delivery methods and their options, MDA COMMANDS, FORMAT SPECIFIERS.

config
	table aliases { pipe = "|$show of %{sender}", file = "$dir/out/file" }
	mda wrapper "loud" "sed s/Once/TWICE/ | %{mda}"
	mda wrapper "noted" "$show wrapper %{rcpt} %{user.username}"
	action "env" mda "$show a 'b c' $HOME"
	action "address" mda "$show '%{sender}' '%{sender.user}' '%{sender.domain}' %{rcpt} %{rcpt.user} %{rcpt.domain} %{dest} %{dest.user} %{dest.domain}"
	action "names" mda "$show %{user.username} %{user.directory} %{mbox.from} 100%%"
	action "parts" mda "$show %{rcpt.domain[0]} %{rcpt.domain[1]} %{rcpt.domain[8:]} %{rcpt.domain[-3:]} %{rcpt.domain[0:6]} %{rcpt.domain[0:-4]}"
	action "modifiers" mda "$show %{rcpt:lowercase} %{rcpt:uppercase} %{rcpt:strip} %{rcpt:lowercase|strip}"
	action "sane" mda "$show %{rcpt} %{rcpt:raw}"
	action "dir" maildir
	action "named" maildir "$dir/out/%{dest.domain}/%{dest.user}"
	action "mail" maildir "~/Mail/%{rcpt.domain}"
	action "junk" maildir junk
	action "junkdir" maildir "~/Other" junk
	action "mbox" mbox alias <aliases>
	action "user" mda "$show" user vmail
	action "noone" mda "$show" user nosuchuser
	action "loud" maildir alias <aliases> wrapper "loud"
	action "noted" maildir wrapper "noted"
	action "x1" mda "cat >/dev/null; echo first; echo last; exit 1"
	action "x75" mda "cat >/dev/null; exit 75"
	action "killed" mda "cat >/dev/null; kill -9 $$"
	action "nosuch" mda "cat >/dev/null; /nowhere/program 2>/dev/null"
	match from any for domain "env.org" action "env"
	match from any for domain "address.org" action "address"
	match from any for domain "names.org" action "names"
	match from any for rcpt-to "alice@example.org" action "modifiers"
	match from any for rcpt-to "carol@example.org" action "sane"
	match from any for domain "example.org" action "parts"
	match from any for domain "dir.org" action "dir"
	match from any for domain "named.org" action "named"
	match from any for domain "mail.org" action "mail"
	match from any for domain "junk.org" action "junk"
	match from any for domain "junkdir.org" action "junkdir"
	match from any for domain "mbox.org" action "mbox"
	match from any for domain "user.org" action "user"
	match from any for domain "noone.org" action "noone"
	match from any for domain "loud.org" action "loud"
	match from any for domain "noted.org" action "noted"
	match from any for domain "x1.org" action "x1"
	match from any for domain "x75.org" action "x75"
	match from any for domain "killed.org" action "killed"
	match from any for domain "nosuch.org" action "nosuch"

story the environment of a command
	rcpt Bob+Lists@ENV.org
	reply 250
	ran bob [a] [b c] [$dir/home/bob] | pwd=$dir/home/bob | groups=bob | HOME=$dir/home/bob | SHELL=/bin/sh | USER=bob | LOGNAME=bob | EXTENSION=lists | LOCAL=Bob+Lists | DOMAIN=ENV.org | SENDER=s@example.net | RECIPIENT=Bob+Lists@ENV.org | ORIGINAL_RECIPIENT=Bob+Lists@ENV.org

story without a sub-address there is no EXTENSION
	rcpt bob@env.org
	reply 250
	ran bob [a] [b c] [$dir/home/bob] | !EXTENSION

story the null sender
	sender <>
	rcpt bob@env.org
	reply 250
	ran bob [a] [b c] [$dir/home/bob] | SENDER=

story addresses and their parts
	rcpt Bob+x@Address.org
	reply 250
	ran bob [s@example.net] [s] [example.net] [Bob+x@Address.org] [Bob+x] [Address.org] [Bob+x@Address.org] [Bob+x] [Address.org]

story addresses of the null sender
	sender <>
	rcpt bob@address.org
	reply 250
	ran bob [] [] [] [bob@address.org] [bob] [address.org] [bob@address.org] [bob] [address.org]

story names
	rcpt Bob@names.org
	reply 250
	ran bob [bob] [$dir/home/bob] [s@example.net] [100%]

story names, with the null sender
	sender <>
	rcpt bob@names.org
	reply 250
	ran bob [bob] [$dir/home/bob] [MAILER-DAEMON] [100%]

story parts of a value
	rcpt bob@example.org
	reply 250
	ran bob [e] [x] [org] [org] [example] [example]

story modifiers
	rcpt Alice+Tag@Example.org
	reply 250
	ran alice [alice+tag@example.org] [ALICE+TAG@EXAMPLE.ORG] [Alice@Example.org] [alice@example.org]

story dangerous characters
	rcpt carol+t?g@example.org
	reply 250
	ran carol [carol+t:g@example.org] [carol+t?g@example.org]

story the usual maildir
	rcpt bob@dir.org
	reply 250
	maildir bob home/bob/Maildir | Once upon a time.

story a maildir whose name is made for the message
	rcpt bob@named.org
	reply 250
	maildir bob out/named.org/bob

story a name with characters that mean something to a shell
	rcpt bob+$x'y@named.org
	reply 250
	maildir bob out/named.org/bob+:x:y

story a maildir below the home
	rcpt bob@mail.org
	reply 250
	maildir bob home/bob/Mail/mail.org

story mail that is marked as junk
	header X-Spam: Yes
	rcpt bob@junk.org
	reply 250
	maildir bob home/bob/Maildir/.Junk

story by another field, in another case
	header x-spam-flag: YES
	rcpt bob@junk.org
	reply 250
	maildir bob home/bob/Maildir/.Junk

story mail that is not
	header X-Spam: No
	rcpt bob@junk.org
	reply 250
	maildir bob home/bob/Maildir

story junk goes to its folder before a sub-address does
	header X-Spam: Yes
	rcpt carol+lists@junk.org
	reply 250
	maildir carol home/carol/Maildir/.Junk

story junk under a path
	header X-Spam: Yes
	rcpt bob@junkdir.org
	reply 250
	maildir bob home/bob/Other/.Junk

story marks count only where the action says so
	header X-Spam: Yes
	rcpt bob@dir.org
	reply 250
	maildir bob home/bob/Maildir

story the system's mailbox
	rcpt bob@mbox.org
	reply 250
	append bob mailboxes/bob | Delivered-To: bob@mbox.org

story root's mailbox
	rcpt root@mbox.org
	reply 250
	append root mailboxes/root

story root has no other delivery
	sender <>
	rcpt root@dir.org
	reply 250
	fails root PermFail Error (permission denied: MDA not allowed to deliver to: root)

story an alias' command under mbox
	rcpt pipe@mbox.org
	reply 250
	ran _smtpd [of] [s@example.net]

story an alias' file under mbox
	rcpt file@mbox.org
	reply 250
	append _smtpd out/file

story a user for all deliveries
	rcpt bob@user.org
	reply 250
	ran vmail | USER=bob | LOGNAME=bob | HOME=$dir/home/vmail | pwd=$dir/home/vmail | groups=vmail

story who has to be one
	sender <>
	rcpt bob@noone.org
	reply 250
	fails bob PermFail Error (user unknown: delivery user 'nosuchuser' does not exist)

story a wrapper around a maildir
	rcpt bob@loud.org
	reply 250
	maildir bob home/bob/Maildir | TWICE upon a time.

story a wrapper around an alias' command
	rcpt pipe@loud.org
	reply 250
	ran _smtpd [of] [s@example.net]

story a wrapper around an alias' file
	rcpt file@loud.org
	reply 250
	append _smtpd out/file | TWICE upon a time.

story a wrapper that forgets what it wraps
	rcpt bob@noted.org
	reply 250
	ran bob [wrapper] [bob@noted.org] [bob]

story a command that fails: the last line is its reason
	sender <>
	rcpt bob@x1.org
	reply 250
	fails bob PermFail Error ("last")

story a command that fails for now
	sender <>
	rcpt bob@x75.org
	reply 250
	fails bob TempFail Error (temporary failure: exited abnormally)

story a command that is killed
	sender <>
	rcpt bob@killed.org
	reply 250
	fails bob TempFail Error (terminated; signal 9)

story a command that is not there
	sender <>
	rcpt bob@nosuch.org
	reply 250
	fails bob PermFail Error (exited abnormally)

story a message that was here before
	sender <>
	header Delivered-To: Bob@dir.org
	rcpt bob@dir.org
	reply 250
	fails bob PermFail Loop detected
