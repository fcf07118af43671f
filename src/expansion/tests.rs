//! Stories: a recipient, and what becomes of it.

mod at_once;
mod chance;
mod forwards;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use crate::config::{Config, Defaults, Method, Sources, load};
use crate::mail::{Command, Destination, Expanded, Facts, Kind, MailAddr, Peer, Refusal};
use crate::privsep::{Forward, Forwards, HomeState};
use crate::sys::user;
use crate::table::Tables;
use crate::table::include::{Author, Included, Includes};
use crate::util::{Line, Timestamp};

use super::{Context, Recent, expand, expand_at_once};

/// A directory that is there and does not change.
const HOME_OF_BOB: &str = "/usr";

const CONFIG: &str = r#"
table users {
    bob = "1000:1000:/usr", carol = "1001:1001:/home/carol", dave = "1002:1002:/",
    root = "0:0:/root", vmail = "2000:2000:/var/vmail", broken = "not a user",
    cat = "1003:1003:/home/cat", team-lead = "1004:1004:/"
}
table aliases {
    root = bob
    postmaster = root
    team = "bob, carol@ext.net, |/usr/bin/count"
    both = "carol, bob"
    twice = "bob, alice, bob"
    alice = bob
    lists = "a1, a2", a1 = bob, a2 = bob
    mixed = "bob, z1", z1 = bob
    self = "self, dave"
    carol = "carol, dave"
    named = "bob, bob@example.com"
    dave = "dave@example.com"
    loop1 = loop2, loop2 = loop1
    escape = "loop1, bob"
    pipe = "\"|/usr/bin/vacation, -x\""
    file = "/var/log/mail-archive"
    gone = "error:551 5.1.6 moved"
    later = ":Error:451 try again\, later"
    commented = "bob@example.com # note"
    bad = "bob, <x@y"
    empty = ""
    nowhere = "bob, nobody@nowhere.test"
    unknown = nosuchuser
    broken2 = broken
    deep0 = deep1, deep1 = deep2, deep2 = deep3, deep3 = deep4, deep4 = deep5
    deep5 = deep6, deep6 = deep7, deep7 = deep8, deep8 = bob
    members = ":include:/lists/members"
    theirs = ":include:/lists/theirs"
    nofile = ":include:/lists/none"
    nofile2 = ":include:/lists/none, bob"
    emptyfile = ":include:/lists/empty"
    bob+special = carol2, carol2 = "carol@ext.net"
    slash = "bob, bob+tag"
    mix = "BOB, Bob, bob"
}
table vt {
    "info@v.org" = bob
    "sales@v.org" = "carol@ext.net"
    "sub+tag@v.org" = carol
    "sub@v.org" = dave
    "chain@v.org" = one, one = two, "two@" = bob
    "self@v.org" = "self@v.org"
    "gone@v.org" = "error:550 gone away"
    "@v.org" = cat
    plain = bob
}
table strict { "only@w.org" = bob }
action l maildir alias <aliases> userbase <users>
action v maildir virtual <vt> userbase <users> user vmail
action w maildir virtual <strict> userbase <users>
action e expand-only alias <aliases> userbase <users>
action out mbox
match from any for local action l
match from any for domain example.com action l
match from any for domain v.org action v
match from any for domain w.org action w
match from any for domain e.org action e
match from any for domain rejected.org reject
match from local for domain ext.net action out
"#;

struct Files(BTreeMap<&'static str, &'static str>);

impl Includes for Files {
    fn read(&self, path: &Path) -> io::Result<Included> {
        let text = path.to_str().and_then(|path| self.0.get(path));
        let author = if path.starts_with("/lists/theirs") {
            Author::Anybody
        } else {
            Author::Trusted
        };
        text.map(|text| Included {
            bytes: text.as_bytes().to_vec(),
            author,
        })
        .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// What the parent finds in the homes of users; of those who are not here, nothing.
#[derive(Default)]
struct Homes(BTreeMap<String, Found>);

enum Found {
    Text(Vec<u8>),
    Unusable,
    NoAnswer,
}

impl Forwards for Homes {
    fn open_forward(&self, _action: &Line, user: &Line) -> io::Result<Forward> {
        match self.0.get(user.as_str()) {
            None => {
                let home = match user::by_name(user) {
                    Ok(Some(known)) => known.home,
                    _ => HOME_OF_BOB.into(),
                };
                Ok(Forward::Absent(HomeState::of(&home)))
            }
            Some(Found::Text(text)) => {
                let (read, mut write) = io::pipe()?;
                write.write_all(text)?;
                Ok(Forward::File(read.into()))
            }
            Some(Found::Unusable) => Ok(Forward::Unusable(Line::new("insecure file").unwrap())),
            Some(Found::NoAnswer) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

struct Bench {
    config: Config,
    tables: Tables,
    files: Files,
    homes: Homes,
    recent: Recent,
    sender: MailAddr,
    now: Timestamp,
}

impl Bench {
    fn new(text: &str) -> Bench {
        let sources = Sources::from_text("t", text, &[]);
        let defaults = Defaults {
            server_name: Line::new("mx.example.org").unwrap(),
            addresses: vec![Peer::parse("127.0.0.1").unwrap()],
        };
        let mut config = load(&sources, &defaults).unwrap().config;
        // The language of this version has no relay.
        for action in config.actions.values_mut() {
            if action.name.as_str() == "out" {
                action.method = Method::Relay(Box::default());
            }
        }
        let tables = Tables::load(&config, &sources).unwrap();
        let files = BTreeMap::from([
            (
                "/lists/members",
                "# members\nbob\ncarol@ext.net # away\n\n<bad\n\"|cmd # x\", dave\n:include:/lists/members\n",
            ),
            ("/lists/empty", "# nobody\n"),
            ("/lists/theirs", "bob\n|cmd\n/etc/passwd\n"),
        ]);
        Bench {
            config,
            tables,
            files: Files(files),
            homes: Homes::default(),
            recent: Recent::default(),
            sender: MailAddr::null(),
            // Long after any home was changed.
            now: Timestamp::now().plus(60),
        }
    }

    /// The same with a .forward.
    fn forward(mut self, user: &str, text: &str) -> Bench {
        let text = Found::Text(text.as_bytes().to_vec());
        self.homes.0.insert(user.to_owned(), text);
        self
    }

    /// What whoever may wait finds, and before that whoever may not.
    fn expand(&self, rcpt: &str) -> Result<Vec<Destination>, Refusal> {
        let at_once = self.expand_by(rcpt, expand_at_once);
        let found = self.expand_by(rcpt, expand);
        if let Some(at_once) = at_once {
            let told = |result: &Result<Expanded, Refusal>| match result {
                Ok(found) => Ok(found.destinations.clone()),
                Err(refusal) => Err(refusal.clone()),
            };
            assert_eq!(told(&at_once), told(&found), "{rcpt}");
        }
        Ok(found?.destinations)
    }

    fn expand_by<R>(
        &self,
        rcpt: &str,
        how: impl FnOnce(&Context<'_>, &Facts, &MailAddr) -> R,
    ) -> R {
        let context = Context {
            config: &self.config,
            tables: &self.tables,
            includes: &self.files,
            forwards: &self.homes,
            daemon_user: "_smtpd",
            now: self.now,
            recent: Some(&self.recent),
            watch: None,
        };
        let facts = Facts {
            peer: Peer::parse("203.0.113.5").unwrap(),
            rdns: None,
            rdns_failed: false,
            helo: Line::default(),
            authenticated: false,
            username: None,
            tls: false,
            tag: None,
            sender: self.sender.clone(),
        };
        how(&context, &facts, &MailAddr::from_stored(rcpt).unwrap())
    }

    /// Whether this is answered without waiting for anybody.
    fn is_at_once(&self, rcpt: &str) -> bool {
        self.expand_by(rcpt, expand_at_once).is_some()
    }

    /// The destinations in words, or code and text of the refusal.
    fn run(&self, rcpt: &str) -> String {
        match self.expand(rcpt) {
            Err(refusal) => format!("{} {}", refusal.code, refusal.text),
            Ok(found) => {
                let words: Vec<String> = found
                    .iter()
                    .map(|found| {
                        let kind = match &found.kind {
                            Kind::Local(local) => {
                                let tag = local.subaddress.as_deref();
                                let tag = tag.map_or(String::new(), |tag| format!("+{tag}"));
                                let command = match &local.command {
                                    None => String::new(),
                                    Some(Command::Pipe(text)) => format!(" |{text}"),
                                    Some(Command::File(path)) => format!(" >{path}"),
                                };
                                format!("{}{tag}{command}", local.user)
                            }
                            _ => "relay".to_owned(),
                        };
                        let mark = if found.internal { " internal" } else { "" };
                        format!("{} {kind} <{}>{mark}", found.action, found.dest)
                    })
                    .collect();
                words.join("; ")
            }
        }
    }
}

const INVALID: &str = "550 Invalid recipient";
const TEMPORARY: &str = "451 Temporary failure";
const LIST_TEMPORARY: &str = "424 4.2.4 Mailing list expansion problem";
const LIST_PERMANENT: &str = "524 5.2.4 Mailing list expansion problem";

const STORIES: &[(&str, &str)] = &[
    // Users and sub-addresses.
    ("Bob@Example.com", "l bob <Bob@Example.com>"),
    (
        "bob+lists@example.com",
        "l bob+lists <bob+lists@example.com>",
    ),
    ("bob+@example.com", "l bob <bob+@example.com>"),
    ("bob+a+b@example.com", "l bob+a+b <bob+a+b@example.com>"),
    ("bob@", "l bob <bob@mx.example.org>"),
    ("bob@localhost", "l bob <bob@localhost>"),
    ("nosuchuser@example.com", INVALID),
    ("+bob@example.com", INVALID),
    ("@example.com", INVALID),
    ("broken@example.com", TEMPORARY),
    ("bob@elsewhere.test", INVALID),
    ("bob@rejected.org", INVALID),
    ("carol@ext.net", INVALID),
    // Aliases.
    ("root@example.com", "l bob <root@example.com>"),
    ("ROOT@example.com", "l bob <ROOT@example.com>"),
    ("postmaster@", "l bob <postmaster@mx.example.org>"),
    ("root+x@example.com", "l bob <root+x@example.com>"),
    (
        "team@example.com",
        "l bob <team@example.com>; l _smtpd |/usr/bin/count <team@example.com>; \
         out relay <carol@ext.net> internal",
    ),
    ("twice@example.com", "l bob <twice@example.com>"),
    ("lists@example.com", "l bob <lists@example.com>"),
    ("mixed@example.com", "l bob <mixed@example.com>"),
    ("mix@example.com", "l bob <mix@example.com>"),
    ("named@example.com", "l bob <named@example.com>"),
    (
        "slash@example.com",
        "l bob <slash@example.com>; l bob+tag <slash@example.com>",
    ),
    (
        "bob+special@example.com",
        "out relay <carol@ext.net> internal",
    ),
    (
        "carol@example.com",
        "l carol <carol@example.com>; l dave <dave@example.com> internal",
    ),
    ("dave@example.com", "l dave <dave@example.com> internal"),
    ("self@example.com", INVALID),
    ("loop1@example.com", LIST_PERMANENT),
    ("escape@example.com", "l bob <escape@example.com>"),
    ("deep1@example.com", "l bob <deep1@example.com>"),
    ("deep0@example.com", LIST_PERMANENT),
    (
        "pipe@example.com",
        "l _smtpd |/usr/bin/vacation, -x <pipe@example.com>",
    ),
    (
        "file@example.com",
        "l _smtpd >/var/log/mail-archive <file@example.com>",
    ),
    ("gone@example.com", "551 5.1.6 moved"),
    ("later@example.com", "451 try again, later"),
    ("commented@example.com", LIST_TEMPORARY),
    ("bad@example.com", LIST_TEMPORARY),
    ("empty@example.com", LIST_PERMANENT),
    ("nowhere@example.com", INVALID),
    ("unknown@example.com", INVALID),
    ("broken2@example.com", TEMPORARY),
    // Included files.
    (
        "members@example.com",
        "l bob <members@example.com>; out relay <carol@ext.net> internal; \
         l _smtpd |cmd # x <members@example.com>; l dave <dave@example.com> internal",
    ),
    // What others may write names no command and no file.
    ("theirs@example.com", "l bob <theirs@example.com>"),
    ("nofile@example.com", INVALID),
    ("nofile2@example.com", "l bob <nofile2@example.com>"),
    ("emptyfile@example.com", LIST_PERMANENT),
    // Virtual domains.
    ("info@v.org", "v bob <info@v.org>"),
    ("INFO@V.org", "v bob <INFO@V.org>"),
    ("sales@v.org", "out relay <carol@ext.net> internal"),
    ("sub+tag@v.org", "v carol <sub+tag@v.org>"),
    ("sub+other@v.org", "v dave <sub+other@v.org>"),
    ("plain@v.org", "v bob <plain@v.org>"),
    ("zoe+x@v.org", "v cat <zoe+x@v.org>"),
    ("chain@v.org", "v bob <chain@v.org>"),
    ("gone@v.org", "550 gone away"),
    ("self@v.org", LIST_PERMANENT),
    ("only@w.org", "w bob <only@w.org>"),
    ("zoe@w.org", LIST_PERMANENT),
    // expand-only.
    ("bob@e.org", LIST_PERMANENT),
    ("file@e.org", "e _smtpd >/var/log/mail-archive <file@e.org>"),
    ("team@e.org", LIST_PERMANENT),
];

// aliases(5), smtpd.conf(5): aliases, virtual domains, sub-addresses, and what clients hear.
#[test]
fn every_story_ends_as_told() {
    let bench = Bench::new(CONFIG);
    let wrong: Vec<(&str, String)> = STORIES
        .iter()
        .map(|(rcpt, expected)| (*rcpt, *expected, bench.run(rcpt)))
        .filter(|(_, expected, found)| expected != found)
        .map(|(rcpt, _, found)| (rcpt, found))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

const STORES: &str = r#"
table users { vmail = "2000:2000:/srv", bob = "1000:1000:/home/bob", _smtpd = "3:3:/" }
table v {
    team = "alice@$D, bob@$D", pipes = "sup@$D, sales@$D", files = "one@$D, two@$D"
    sup = "\"|/bin/ticket\"", sales = "\"|/bin/ticket\"", one = "/var/log/m", two = "/var/log/m"
    twice = "vmail, vmail", "@" = vmail
}
mda wrapper w "/bin/w %{mda}"
action x $M virtual <v> userbase <users>
match from any for any action x
"#;

// smtpd.conf(5), COPIES: two destinations are one only if nothing that the delivery sees tells
// them apart.
#[test]
fn a_delivery_that_sees_the_address_is_made_for_each() {
    let destinations = |method: &str, rcpt: &str| {
        let text = STORES.replace("$D", "a.example").replace("$M", method);
        let found = Bench::new(&text).expand(&format!("{rcpt}@a.example"));
        found.unwrap().len()
    };
    for (method, team) in [
        ("mbox", 1),
        ("maildir", 1),
        ("maildir \"/v/%{user.username}/%{dest.domain}\"", 1),
        ("maildir \"/v/%{rcpt.user}\"", 1),
        ("maildir \"/v/%{dest.user}\"", 2),
        ("maildir \"/v/%{dest.user[0:1]}\"", 2),
        ("maildir \"/v/%{dest.user[99]}\"", 2),
        ("maildir wrapper w", 2),
        ("mda \"/bin/cat\"", 2),
        ("lmtp \"localhost:24\"", 1),
        ("lmtp \"localhost:24\" rcpt-to", 2),
        ("lmtp \"/run/%{dest.user}\"", 2),
    ] {
        assert_eq!(destinations(method, "team"), team, "{method}");
        assert_eq!(destinations(method, "twice"), 1, "{method}");
        // A command finds the address in its environment, a file does not.
        assert_eq!(destinations(method, "pipes"), 2, "{method}");
        let wrapped = method.contains("wrapper");
        assert_eq!(
            destinations(method, "files"),
            1 + usize::from(wrapped),
            "{method}"
        );
    }
}

// smtpd.conf(5), COPIES: recipients of one message whose mail goes to one mailbox are told by
// their destinations.
#[test]
fn recipients_of_one_mailbox_are_one_where_the_delivery_sees_no_difference() {
    let sameness = |method: &str, rcpt: &str| {
        let text = format!(
            "table users {{ bob = \"1000:1000:/home/bob\", eve = \"1001:1001:/\" }}\n\
             action x {method} alias {{ tk = bob }} userbase <users>\n\
             action y {method} userbase <users>\n\
             match from any for domain a.example action x\n\
             match from any for any action y\n"
        );
        Bench::new(&text).expand(rcpt).unwrap().remove(0).sameness
    };
    let names = [
        "Bob@A.Example",
        "tk@a.example",
        "bob@other.example",
        "bob+tag@a.example",
    ];
    for (method, same) in [
        ("mbox", [true, true, true, true]),
        ("maildir", [true, true, true, false]),
        (
            "maildir \"/v/%{dest.domain:lowercase}\"",
            [true, true, false, false],
        ),
        (
            "maildir \"/v/%{rcpt.user:lowercase|strip}\"",
            [true, false, true, false],
        ),
        ("lmtp \"localhost:24\"", [true, true, true, true]),
        (
            "lmtp \"localhost:24\" rcpt-to",
            [false, false, false, false],
        ),
        ("mda \"/bin/cat\"", [false, false, false, false]),
    ] {
        let bob = sameness(method, "bob@a.example");
        assert_eq!(bob, sameness(method, "bob@a.example"), "{method}");
        assert_ne!(bob, sameness(method, "eve@a.example"), "{method}");
        let found = names.map(|name| sameness(method, name) == bob);
        assert_eq!(found, same, "{method}");
    }
}

// smtpd(8): a refusal says which rule has led to it, and why.
#[test]
fn a_refusal_knows_its_rule_and_its_reason() {
    let bench = Bench::new(CONFIG);
    let line = |start: &str| {
        let found = CONFIG.lines().position(|line| line.starts_with(start));
        format!("t:{}", found.unwrap() + 1)
    };
    let local = line("match from any for domain example.com");
    let rejecting = line("match from any for domain rejected.org");
    for (rcpt, rule, reason) in [
        ("bob@rejected.org", Some(&rejecting), "rejected by the rule"),
        (
            "nosuchuser@example.com",
            Some(&local),
            "no such user: nosuchuser",
        ),
        (
            "broken@example.com",
            Some(&local),
            "table users: bad userinfo for broken",
        ),
        (
            "nowhere@example.com",
            Some(&local),
            "no rule matches <nobody@nowhere.test>",
        ),
        (
            "bob@elsewhere.test",
            None,
            "no rule matches <bob@elsewhere.test>",
        ),
        ("gone@example.com", Some(&local), "an error entry"),
        ("deep0@example.com", Some(&local), "it is nested too deeply"),
        ("empty@example.com", Some(&local), "it expands to nothing"),
    ] {
        let refusal = bench.expand(rcpt).unwrap_err();
        assert_eq!(refusal.reason.as_deref(), Some(reason), "{rcpt}");
        assert_eq!(refusal.rule.as_deref(), rule.map(String::as_str), "{rcpt}");
    }
}

// smtpd.conf(5), sub-addr-delim: another character.
#[test]
fn the_delimiter_is_configured() {
    let text = format!("smtp sub-addr-delim \"-\"\n{CONFIG}");
    let bench = Bench::new(&text);
    assert_eq!(
        bench.run("bob-x@example.com"),
        "l bob+x <bob-x@example.com>"
    );
    assert_eq!(bench.run("bob+x@example.com"), INVALID);
    assert_eq!(bench.run("team-lead@example.com"), TEAM_LEAD);
}

/// With `-` as the delimiter `team-lead` is `team`, and there is an alias of that name.
const TEAM_LEAD: &str = "l bob <team-lead@example.com>; \
     l _smtpd |/usr/bin/count <team-lead@example.com>; out relay <carol@ext.net> internal";

#[test]
fn a_list_without_end_is_refused_in_bounded_time() {
    let mut text = String::from("table u { x = \"1:1:/\" }\ntable big {\n");
    for number in 0..200 {
        let all: Vec<String> = (0..100)
            .map(|n| format!("n{}", (number * 100 + n) % 20_000))
            .collect();
        text.push_str(&format!("n{number} = \"{}\"\n", all.join(", ")));
    }
    text.push_str("}\naction a maildir alias <big> userbase <u>\nmatch from any action a\n");
    let bench = Bench::new(&text);
    let answer = bench.run("n0@mx.example.org");
    assert!(answer == LIST_TEMPORARY || answer == INVALID, "{answer}");
}
