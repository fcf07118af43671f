//! Pages: what is printed for a configuration and a recipient.

use std::io::{self, Seek, Write};
use std::path::Path;

use crate::config::{Config, Defaults, Method, Sources, load};
use crate::expansion::Context;
use crate::mail::samples::line;
use crate::mail::{Peer, Supposed};
use crate::privsep::{Forward, Forwards};
use crate::table::Tables;
use crate::table::include::{Included, Includes};

use crate::util::{Line, Timestamp};

use super::explain;

const CONFIG: &str = r#"
table users { bob = "1000:1000:/home/bob", root = "0:0:/root", _smtpd = "99:99:/var/empty", cat = "1001:1001:/home/cat" }
table aliases {
    team = "bob, |/usr/bin/count -n, carol@ext.net"
    gone = "error:550 5.1.6 moved"
    loop = "bob, loop2", loop2 = "loop, bob"
    list = ":include:/nowhere, bob"
}
table blocked { "10.0.0.0/8", "2001:db8::/32" }
action in maildir "~/Mail/%{dest.user}" junk alias <aliases> userbase <users>
action cmd mda "/bin/deliver -f %{sender}" userbase <users>
action out mbox
action smart mbox
match from src <blocked> for any reject
match from any for domain { "example.com", "*.example.com" } action in
match !from mail-from "@example.net" auth for domain c.org action cmd
match from local for domain ext.net action out
match from any tag x tls helo regex "^host" for domain rdns.org action cmd
match from rdns "*.friend.org" for domain rdns.org action cmd
match from any rcpt-to "@smart.org" for domain smart.org action smart
"#;

struct NoFiles;

/// Only cat has a .forward.
struct Homes;

impl Forwards for Homes {
    fn open_forward(&self, _: &Line, user: &Line) -> io::Result<Forward> {
        if &**user != "cat" {
            return Ok(Forward::Absent(None));
        }
        let mut file = tempfile::tempfile()?;
        file.write_all(b"cat, bob, \"|/bin/filter x\"\n")?;
        file.rewind()?;
        Ok(Forward::File(file.into()))
    }
}

impl Includes for NoFiles {
    fn read(&self, _: &Path) -> io::Result<Included> {
        Err(io::ErrorKind::NotFound.into())
    }
}

fn world_of(text: &str) -> (Config, Tables) {
    let sources = Sources::from_text("t", text, &[]);
    let defaults = Defaults {
        server_name: line("mx.example.org"),
        addresses: vec![Peer::parse("127.0.0.1").unwrap()],
    };
    let config = load(&sources, &defaults).unwrap().config;
    let tables = Tables::load(&config, &sources).unwrap();
    (config, tables)
}

fn page_of(config: &Config, tables: &Tables, supposed: &Supposed) -> String {
    let context = Context {
        config,
        tables,
        includes: &NoFiles,
        forwards: &Homes,
        daemon_user: "_smtpd",
        now: Timestamp(1_763_754_192),
        recent: None,
        watch: None,
    };
    explain(&context, Path::new("/libexec"), supposed)
}

/// Words as smtpctl(8) takes them, for tests: every fact by its full name.
fn supposed(words: &str) -> Supposed {
    let mut supposed = Supposed::default();
    for word in words.split_whitespace() {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        let text = Some(line(value));
        match key {
            "from" => supposed.sender = text,
            "rcpt" => supposed.rcpt = text,
            "src" => supposed.peer = Peer::parse(value),
            "rdns" => supposed.rdns = text,
            "helo" => supposed.helo = text,
            "auth" => supposed.username = text,
            "tag" => supposed.tag = text,
            "tls" => supposed.tls = true,
            other => panic!("{other}"),
        }
    }
    supposed
}

fn page(words: &str) -> String {
    let (mut config, tables) = world_of(CONFIG);
    for name in ["out", "smart"] {
        if let Some(action) = config.actions.get_mut(name) {
            action.method = Method::Relay(Box::default());
        }
    }
    page_of(&config, &tables, &supposed(words))
}

// smtpctl(8), explain: the tree, each lookup, the rule and why not the others, the destinations.
#[test]
fn a_page_tells_the_whole_story() {
    let expected = "\
session src=203.0.113.5 rdns=none helo=[203.0.113.5] auth=none tag=none tls=no
sender <eve@example.net>
recipient <team@example.com>
address team@example.com
  rule skipped: t:14: match from src <\"blocked\"> for any reject
    from src <blocked>: no
      lookup netaddr <blocked> \"203.0.113.5\": not found
  rule holds: t:15: match from any for domain { \"example.com\", \"*.example.com\" } action \"in\"
    from any: yes
    for domain { \"example.com\", \"*.example.com\" }: yes
      lookup domain <dynamic:0> \"example.com\": found, entry \"example.com\"
  action \"in\", t:10
  user team
    lookup alias <aliases> \"team\": found \"bob, |/usr/bin/count -n, carol@ext.net\"
    user bob
      lookup alias <aliases> \"bob\": not found
      lookup userinfo <users> \"bob\": found
      user bob: uid 1000, gid 1000, home /home/bob
      no .forward
      destination 1
    pipe /usr/bin/count -n
      destination 2
    address carol@ext.net
      rule skipped: t:14: match from src <\"blocked\"> for any reject
        from src <blocked>: no
          lookup netaddr <blocked> \"local\": not found
      rule skipped: t:15: match from any for domain { \"example.com\", \"*.example.com\" } action \"in\"
        for domain { \"example.com\", \"*.example.com\" }: no
          lookup domain <dynamic:0> \"ext.net\": not found
      rule skipped: t:16: match ! from mail-from \"@example.net\" auth for domain \"c.org\" action \"cmd\"
        for domain \"c.org\": no
          lookup domain <dynamic:2> \"ext.net\": not found
      rule holds: t:17: match from local for domain \"ext.net\" action \"out\"
        from local: yes
          lookup netaddr <localhost> \"local\": found, entry \"local\"
        for domain \"ext.net\": yes
          lookup domain <dynamic:3> \"ext.net\": found, entry \"ext.net\"
      action \"out\", t:12
      destination 3
accepted: 3 destinations
destination 1: <team@example.com> action \"in\" user bob: maildir /home/bob/Mail/team, junk to its \
folder .Junk; as bob (uid 1000)
destination 2: <team@example.com> action \"in\" user _smtpd: pipe, command /bin/sh -c \
'/usr/bin/count -n' /bin/sh; as _smtpd (uid 99)
destination 3: <carol@ext.net> action \"out\": relay to the mail exchangers of ext.net
reply 250 2.1.5 Destination address valid: Recipient ok
";
    let words = "src=203.0.113.5 from=eve@example.net rcpt=team@example.com";
    assert_eq!(page(words), expected);
}

/// A session, and lines that its page has.
const STORIES: &[(&str, &[&str])] = &[
    (
        "src=10.1.2.3 rcpt=a@b.org",
        &[
            "      lookup netaddr <blocked> \"10.1.2.3\": found, entry \"10.0.0.0/8\"",
            "  rejected",
            "refused: rejected by the rule; rule t:14",
            "reply 550 Invalid recipient: <a@b.org>",
        ],
    ),
    (
        "src=203.0.113.5 rcpt=zoe@x.example.com",
        &[
            "      lookup domain <dynamic:0> \"x.example.com\": found, entry \"*.example.com\"",
            "    lookup userinfo <users> \"zoe\": not found",
            "refused: no such user: zoe; rule t:15",
        ],
    ),
    (
        "src=203.0.113.5 auth=joe from=joe@example.net rcpt=bob@c.org",
        &[
            "session src=203.0.113.5 rdns=none helo=[203.0.113.5] auth=joe tag=none tls=no",
            "    !mail-from \"@example.net\": no",
            "      lookup mailaddr <dynamic:1> \"joe@example.net\": found, entry \"@example.net\"",
            "  no rule matches",
            "refused: no rule matches <bob@c.org>; rule none",
        ],
    ),
    (
        "src=203.0.113.5 auth=joe from=joe@here rcpt=bob@c.org",
        &[
            "    auth: yes",
            "    !mail-from \"@example.net\": yes",
            "destination 1: <bob@c.org> action \"cmd\" user bob: command /bin/sh -c \
             'smtpd_1=${1};shift 1;/bin/deliver -f \"${smtpd_1}\"' /bin/sh joe@here; \
             as bob (uid 1000)",
        ],
    ),
    (
        "src=[2001:db9::1] tag=x tls helo=host1 rcpt=bob@rdns.org",
        &[
            "    tag \"x\": yes",
            "    tls: yes",
            "    helo regex \"^host\": yes",
            "accepted: 1 destination",
        ],
    ),
    (
        "src=203.0.113.5 rdns=a.friend.org rcpt=bob@rdns.org",
        &[
            "  rule skipped: t:18: match from any tag \"x\" tls helo regex \"^host\" for domain \
             \"rdns.org\" action \"cmd\"",
            "    tag \"x\": no",
            "    from rdns \"*.friend.org\": yes",
            "reply 250 2.1.5 Destination address valid: Recipient ok",
        ],
    ),
    (
        "rcpt=gone@example.com",
        &[
            "session src=local rdns=mx.example.org helo=localhost auth=local tag=none tls=no",
            "sender <>",
            "    error 550 5.1.6 moved",
            "refused: an error entry; rule t:15",
            "reply 550 5.1.6 moved: <gone@example.com>",
        ],
    ),
    (
        "rcpt=loop@example.com",
        &[
            "    user loop2",
            "      user loop: known already",
            "accepted: 1 destination",
        ],
    ),
    (
        "rcpt=cat@example.com",
        &[
            "    user cat: uid 1001, gid 1001, home /home/cat",
            "    .forward takes the user's place",
            "    user cat",
            "      destination 1",
            "    pipe /bin/filter x",
            "accepted: 3 destinations",
            "destination 3: <cat@example.com> action \"in\" user cat: pipe, command /bin/sh -c \
             '/bin/filter x' /bin/sh; as cat (uid 1001)",
        ],
    ),
    (
        "rcpt=root@example.com",
        &[
            "accepted: 1 destination",
            "destination 1: <root@example.com> action \"in\" user root: \
             fails: MDA not allowed to deliver to: root",
        ],
    ),
    (
        "rcpt=list@example.com",
        &[
            "    warning: failed to open include file \"/nowhere\": entity not found",
            "accepted: 1 destination",
        ],
    ),
    (
        "",
        &[
            "recipient <postmaster@mx.example.org>",
            "reply 550 Invalid recipient: <postmaster@mx.example.org>",
        ],
    ),
    (
        "rcpt=a@b@c",
        &["reply 501 5.1.3 Recipient address syntax error"],
    ),
    (
        "rcpt=<a@b>x",
        &["reply 501 5.1.3 Recipient address syntax error"],
    ),
    (
        "from=a@@b rcpt=a",
        &["reply 553 5.1.0 Sender address syntax error"],
    ),
];

#[test]
fn every_session_gets_its_answer() {
    for (words, lines) in STORIES {
        let page = page(words);
        for expected in *lines {
            assert!(
                page.lines().any(|line| line == *expected),
                "{words}: no {expected:?} in\n{page}"
            );
        }
    }
}

#[test]
fn a_page_is_bounded_and_shows_the_rule_that_holds() {
    let mut text = String::from("action a mbox\n");
    for number in 0..3000 {
        text.push_str(&format!(
            "match from any for domain \"d{number}.example.org\" action a\n"
        ));
    }
    text.push_str("match from any for any reject\n");
    let (config, tables) = world_of(&text);
    let page = page_of(&config, &tables, &supposed("rcpt=a@b.org"));
    assert!(page.len() < 256 * 1024 - 2048, "{}", page.len());
    assert!(page.contains("  rule holds: t:3002: match from any for any reject\n"));
    assert!(page.contains(" more rules that do not hold)\n"));
    assert!(page.ends_with("reply 550 Invalid recipient: <a@b.org>\n"));
}
