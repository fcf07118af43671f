# smtpd.conf(5), match: the first rule whose criteria all hold decides.

config
	listen on 127.0.0.1 port $port
	listen on 127.0.0.9 port $port tag web
	table strangers { 127.0.0.3, "127.0.0.4" }
	table vips { "vip@rcpt.org", "boss" }
	table known { "@example.net", "bob@example.com" }
	action "one" mda "$show one" virtual { "fwd" = "bob@inner.org", "list" = "bob@from-list.org", "@" = bob }
	action "two" mda "$show two" virtual { "@" = bob }
	match from any mail-from "@spam.org" for any reject
	match from src 127.0.0.3 for domain "src.org" action "one"
	match from src 127.0.0.0/29 for domain "net.org" action "one"
	match !from src <strangers> for domain "notsrc.org" action "one"
	match from src regex "^127[.]0[.]0[.][56]$" for domain "srcre.org" action "one"
	match from local for domain "near.org" action "one"
	match !from local for domain "far.org" action "one"
	match from socket for domain "socket.org" action "one"
	match from auth for domain "auth.org" action "one"
	match !from auth for domain "auth.org" action "two"
	match from rdns for domain "named.org" action "one"
	match !from rdns for domain "named.org" action "two"
	match from rdns "*.example.net" for domain "rdns.org" action "one"
	match !from rdns "*.example.net" for domain "rdns.org" action "two"
	match from rdns regex "^dsl-" for domain "dsl.org" action "one"
	match from any helo "*.example.net" for domain "helo.org" action "one"
	match from any !helo "*.example.net" for domain "helo.org" action "two"
	match from any helo regex "^[0-9.]+$" for domain "heloip.org" action "one"
	match from any mail-from <known> for domain "sender.org" action "one"
	match from any !mail-from <known> for domain "sender.org" action "two"
	match from mail-from regex "^[^@]+@example[.]net$" for domain "senderre.org" action "one"
	match from mail-from regex "^@$" for domain "null.org" action "one"
	match tag web from any for domain "tag.org" action "one"
	match !tag web from any for domain "tag.org" action "two"
	match from any for domain regex "^re[0-9]+\.org$" action "one"
	match from any for domain "*.sub.org" action "one"
	match from any for rcpt-to <vips> action "one"
	match from any rcpt-to regex "^x.*@" for domain "rcptre.org" action "one"
	match from any for domain "order.org" rcpt-to "bob@order.org" action "two"
	match from any for domain "order.org" action "one"
	match from any !rcpt-to "root@not.org" for domain "not.org" action "one"
	match from any for domain "fwd.org" action "one"
	match from local for domain "inner.org" action "two"
	match from any tls for domain "tls.org" action "one"
	match from any !tls for domain "tls.org" action "two"
	match for local action "two"

story from src, an address
	source 127.0.0.3
	rcpt bob@src.org
	reply 250
	ran bob [one]

story from src, another one
	rcpt bob@src.org
	reply 550 Invalid recipient: <bob@src.org>

story from src, a network
	source 127.0.0.7
	rcpt bob@net.org
	reply 250
	ran bob [one]

story from src, out of the network
	source 127.0.0.8
	rcpt bob@net.org
	reply 550 Invalid recipient: <bob@net.org>

story not from src, out of the list
	rcpt bob@notsrc.org
	reply 250
	ran bob [one]

story not from src, in the list
	source 127.0.0.4
	rcpt bob@notsrc.org
	reply 550 Invalid recipient: <bob@notsrc.org>

story from src regex
	source 127.0.0.5
	rcpt bob@srcre.org
	reply 250
	ran bob [one]

story from src regex, another address
	rcpt bob@srcre.org
	reply 550 Invalid recipient: <bob@srcre.org>

story from local, an address of this host
	source 127.0.0.1
	rcpt bob@near.org
	reply 250
	ran bob [one]

story from local, a stranger
	rcpt bob@near.org
	reply 550 Invalid recipient: <bob@near.org>

story from local, sendmail(8)
	source socket
	rcpt bob@near.org
	reply 250
	ran bob [one]

story not from local, a stranger
	rcpt bob@far.org
	reply 250
	ran bob [one]

story not from local, this host
	source 127.0.0.1
	rcpt bob@far.org
	reply 550 Invalid recipient: <bob@far.org>

story from socket
	source socket
	rcpt bob@socket.org
	reply 250
	ran bob [one]

story from socket, but over TCP
	source 127.0.0.1
	rcpt bob@socket.org
	reply 550 Invalid recipient: <bob@socket.org>

story from auth, nobody has authenticated
	rcpt bob@auth.org
	reply 250
	ran bob [two]

story from auth, the local socket counts
	source socket
	rcpt bob@auth.org
	reply 250
	ran bob [one]

story from rdns, an address with a name
	source 127.0.0.3
	rcpt bob@named.org
	reply 250
	ran bob [one]

story from rdns, one without
	rcpt bob@named.org
	reply 250
	ran bob [two]

story from rdns, the name
	source 127.0.0.3
	rcpt bob@rdns.org
	reply 250
	ran bob [one]

story from rdns, another name
	source 127.0.0.4
	rcpt bob@rdns.org
	reply 250
	ran bob [two]

story from rdns, no name server answers: not refused for good
	rcpt bob@rdns.org
	reply 451 Temporary failure: <bob@rdns.org>

story from rdns regex
	source 127.0.0.4
	rcpt bob@dsl.org
	reply 250
	ran bob [one]

story from rdns regex, another name
	source 127.0.0.3
	rcpt bob@dsl.org
	reply 550 Invalid recipient: <bob@dsl.org>

story helo
	helo MX.example.net
	rcpt bob@helo.org
	reply 250
	ran bob [one]

story helo, another one
	helo mx.other.net
	rcpt bob@helo.org
	reply 250
	ran bob [two]

story helo regex
	helo 192.0.2.1
	rcpt bob@heloip.org
	reply 250
	ran bob [one]

story mail-from, a domain
	sender Anybody@Example.net
	rcpt bob@sender.org
	reply 250
	ran bob [one]

story mail-from, an address with any sub-address
	sender bob+x@example.com
	rcpt bob@sender.org
	reply 250
	ran bob [one]

story mail-from, somebody else
	sender carol@example.com
	rcpt bob@sender.org
	reply 250
	ran bob [two]

story mail-from, the null sender is nobody of a domain
	sender <>
	rcpt bob@sender.org
	reply 250
	ran bob [two] | SENDER=

story from mail-from regex
	rcpt bob@senderre.org
	reply 250
	ran bob [one]

story from mail-from regex, another one
	sender s@example.net.org
	rcpt bob@senderre.org
	reply 550 Invalid recipient: <bob@senderre.org>

story from mail-from regex, the null sender
	sender <>
	rcpt bob@null.org
	reply 250
	ran bob [one]

story from mail-from regex, not the null sender
	rcpt bob@null.org
	reply 550 Invalid recipient: <bob@null.org>

story a reject rule that comes first
	sender x@spam.org
	rcpt bob@far.org
	reply 550 Invalid recipient: <bob@far.org>

story tag
	server 127.0.0.9
	rcpt bob@tag.org
	reply 250
	ran bob [one]

story tag, the other listener
	rcpt bob@tag.org
	reply 250
	ran bob [two]

story for domain regex
	rcpt bob@RE12.org
	reply 250
	ran bob [one]

story for domain regex, another domain
	rcpt bob@re12xorg
	reply 550 Invalid recipient: <bob@re12xorg>

story for domain, one label for the asterisk
	rcpt bob@a.sub.org
	reply 250
	ran bob [one]

story for domain, no label
	rcpt bob@sub.org
	reply 550 Invalid recipient: <bob@sub.org>

story for domain, two labels
	rcpt bob@a.b.sub.org
	reply 550 Invalid recipient: <bob@a.b.sub.org>

story for rcpt-to, an address
	rcpt vip+x@rcpt.org
	reply 250
	ran bob [one]

story for rcpt-to, a user of any domain
	rcpt Boss@wherever.org
	reply 250
	ran bob [one]

story for rcpt-to, somebody else
	rcpt bob@rcpt.org
	reply 550 Invalid recipient: <bob@rcpt.org>

story rcpt-to regex
	rcpt xavier@rcptre.org
	reply 250
	ran bob [one]

story rcpt-to regex, somebody else
	rcpt bob@rcptre.org
	reply 550 Invalid recipient: <bob@rcptre.org>

story the first rule that holds, not the best
	rcpt bob@order.org
	reply 250
	ran bob [two]

story and the next one for the others
	rcpt carol@order.org
	reply 250
	ran bob [one]

story not rcpt-to
	rcpt root@not.org
	reply 550 Invalid recipient: <root@not.org>

story not rcpt-to, somebody else
	rcpt bob@not.org
	reply 250
	ran bob [one]

story an address out of a table comes from this host
	rcpt fwd@fwd.org
	reply 250
	ran bob [two] | RECIPIENT=bob@inner.org | ORIGINAL_RECIPIENT=fwd@fwd.org

story which the client does not
	rcpt bob@inner.org
	reply 550 Invalid recipient: <bob@inner.org>

story an address out of a table that no rule takes
	rcpt list@fwd.org
	reply 550 Invalid recipient: <list@fwd.org>

story not tls
	rcpt bob@tls.org
	reply 250
	ran bob [two]

story without from and for: local clients, local domains
	source 127.0.0.1
	rcpt bob@mx.example.org
	reply 250
	ran bob [two]

story the same for an address as domain
	source 127.0.0.1
	rcpt bob@[127.0.0.1]
	reply 250
	ran bob [two]

story other domains are not local
	source 127.0.0.1
	rcpt bob@example.org
	reply 550 Invalid recipient: <bob@example.org>
