# smtpd.conf(5), srs: reports that come back to an address that was rewritten.

config
	srs key "secret"
	srs key backup "old"
	srs ttl 1022d
	action "l" maildir
	action "out" relay srs
	match from any for domain "fwd.net" action "l"
	match from local for any action "out"

story the address of the sender comes back
	sender <>
	rcpt SRS0=bflR=JK=Origin.org=bob@fwd.net
	reply 250
	relay bob@Origin.org internal

story with the key that was before
	sender <>
	rcpt SRS0=HC9P=JK=Origin.org=bob@fwd.net
	reply 250
	relay bob@Origin.org internal

story rewritten twice: back to the first host that did
	sender <>
	rcpt SRS1=V61H=other.net==bflR=JK=Origin.org=bob@fwd.net
	reply 250
	relay SRS0=bflR=JK=Origin.org=bob@other.net internal

story a sender with a sub-address
	sender <>
	rcpt SRS0=bX5-=JK=Origin.org=carol+x@fwd.net
	reply 250
	relay carol+x@Origin.org internal

story a hash that somebody made up
	sender <>
	rcpt SRS0=aaaa=JK=Origin.org=bob@fwd.net
	reply 550 Invalid recipient: <SRS0=aaaa=JK=Origin.org=bob@fwd.net>
	log SRS failed to decode: SRS0=aaaa=JK=Origin.org=bob@fwd.net

story somebody else's address
	sender <>
	rcpt SRS0=bflR=JK=Origin.org=eve@fwd.net
	reply 550 Invalid recipient: <SRS0=bflR=JK=Origin.org=eve@fwd.net>

story only reports come back
	rcpt SRS0=bflR=JK=Origin.org=bob@fwd.net
	reply 550 Invalid recipient: <SRS0=bflR=JK=Origin.org=bob@fwd.net>

story something that only looks like it
	sender <>
	rcpt SRS0=bob@fwd.net
	reply 550 Invalid recipient: <SRS0=bob@fwd.net>
