//! Tables as the other rooms ask them.

use std::fs;
use std::io::Cursor;
use std::path::Path;

use crate::config::{Config, Defaults, Sources, load};
use crate::mail::{MailAddr, Peer};
use crate::util::{Line, cdb};

use super::Tables;

mod programs;

fn defaults() -> Defaults {
    Defaults {
        server_name: Line::new("mx.example.org").unwrap(),
        addresses: vec![Peer::parse("127.0.0.1").unwrap()],
    }
}

fn sources(text: &str) -> Sources {
    let text = format!("{text}\naction a mbox\nmatch for any action a\n");
    Sources::from_text("t", &text, &[])
}

fn loaded(sources: &Sources) -> (Config, Tables) {
    let config = load(sources, &defaults()).unwrap().config;
    let tables = Tables::load(&config, sources).unwrap();
    (config, tables)
}

fn tables(text: &str) -> Tables {
    loaded(&sources(text)).1
}

fn addr(text: &str) -> MailAddr {
    MailAddr::from_stored(text).unwrap()
}

/// The tables of [`THRICE`], each once as written in the configuration, as a file, and as a
/// database.
fn thrice() -> (tempfile::TempDir, [Tables; 3]) {
    let dir = tempfile::tempdir().unwrap();
    let (mut inline, mut file, mut db) = (String::new(), String::new(), String::new());
    for (name, entries) in THRICE {
        let at = |end: &str| dir.path().join(format!("{name}{end}"));
        let bare = entries.iter().all(|(_, value)| value.is_empty());
        let written: Vec<String> = entries
            .iter()
            .map(|(key, value)| {
                if bare {
                    format!("'{key}'")
                } else {
                    format!("'{key}' = '{value}'")
                }
            })
            .collect();
        inline.push_str(&format!("table \"{name}\" {{ {} }}\n", written.join(", ")));
        let mut text = if bare { "# @list\n" } else { "" }.to_owned();
        let mut records = Vec::new();
        for (key, value) in *entries {
            text.push_str(&format!("{key} {value}\n"));
            let value = if bare { *key } else { *value };
            records.push((key.to_ascii_lowercase(), value));
        }
        fs::write(at(""), text).unwrap();
        let records: Vec<(&str, &str)> = records.iter().map(|(k, v)| (k.as_str(), *v)).collect();
        fs::write(at(".db"), database(&records)).unwrap();
        file.push_str(&format!("table \"{name}\" file:{}\n", at("").display()));
        db.push_str(&format!("table \"{name}\" db:{}\n", at(".db").display()));
    }
    (dir, [tables(&inline), tables(&file), tables(&db)])
}

fn database(records: &[(&str, &str)]) -> Vec<u8> {
    let mut writer = cdb::Writer::new(Cursor::new(Vec::new())).unwrap();
    for (key, value) in records {
        writer.add(key.as_bytes(), value.as_bytes()).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

type Entries = &'static [(&'static str, &'static str)];

const THRICE: &[(&str, Entries)] = &[
    (
        "d",
        &[
            ("Example.org", ""),
            ("*.Example.com", ""),
            ("mx*.example.net", ""),
        ],
    ),
    (
        "n",
        &[
            ("10.0.0.0/8", ""),
            ("local", ""),
            ("192.168", ""),
            ("[2001:DB8::]/32", ""),
            ("junk", ""),
        ],
    ),
    (
        "m",
        &[
            ("Bob", ""),
            ("@Example.org", ""),
            ("eve@*.example.org", ""),
            ("x+y@a", ""),
        ],
    ),
    ("s", &[("Web", ""), ("*", "")]),
    ("r", &[("^B[[:alpha:]]+$", ""), ("\\S@", "")]),
    (
        "a",
        &[
            ("Root", "bob, carol"),
            ("bob+tag@Example.org", "x"),
            ("@", "all"),
        ],
    ),
    (
        "u",
        &[
            ("Bob", "1000:1:/home/bob"),
            ("none", "1:2:"),
            ("bad", "x:y:z"),
        ],
    ),
    ("h", &[("192.0.2.1", "mx.example.org"), ("[::1]", "a b")]),
    (
        "may",
        &[
            ("Bob", "bob@example.org, @Example.com"),
            ("al", "\"a,b\"@x"),
        ],
    ),
    (
        "c",
        &[("Mx", "bob:Secret:2"), ("eve", "$2b$10$Hash"), ("ab", "ab")],
    ),
    (
        "from",
        &[("192.0.2.2", ""), ("192.0.2.10", ""), ("[2001:DB8::1]", "")],
    ),
    (
        "hosts",
        &[("smtp://B.example.org", ""), ("lmtp://a:24", "")],
    ),
    (
        "route",
        &[
            ("Example.org", "smtps://Label@MX.example.org"),
            ("bad", "tls://mx"),
        ],
    ),
];

// table(5): a table answers the same, wherever its entries are written.
#[test]
fn every_service_answers_the_same_from_the_configuration_a_file_and_a_database() {
    let (_dir, all) = thrice();
    for tables in all {
        services_of_lists(&tables);
        services_of_mappings(&tables);
        services_in_turn(&tables);
    }
}

// table(5): keys are lower-cased before they are compared.
fn services_of_lists(tables: &Tables) {
    for (name, yes) in [
        ("EXAMPLE.org", true),
        ("a.example.com", true),
        ("example.com", false),
        ("a.b.example.com", false),
        ("MX12.example.net", true),
        ("a", false),
        ("", false),
    ] {
        assert_eq!(tables.domain("d", name), Ok(yes), "{name}");
    }
    for (peer, yes) in [
        ("10.1.2.3", true),
        ("local", true),
        ("192.168.0.9", true),
        ("192.168.1.9", false),
        ("[2001:db8::1]", true),
        ("[2001:db9::1]", false),
    ] {
        let peer = Peer::parse(peer).unwrap();
        assert_eq!(tables.netaddr("n", &peer), Ok(yes), "{peer}");
    }
    for (address, yes) in [
        ("BOB+x@a", true),
        ("eve@Example.ORG", true),
        ("Eve@mx.example.org", true),
        ("al@mx.example.org", false),
        ("x+y@a", true),
        ("x@a", false),
        ("@", false),
    ] {
        assert_eq!(tables.mailaddr("m", &addr(address)), Ok(yes), "{address}");
    }
    for (text, yes) in [("WEB", true), ("*", true), ("x", false), ("", false)] {
        assert_eq!(tables.string("s", text), Ok(yes), "{text}");
    }
    for (text, yes) in [("bOb", true), ("x@", true), (" @", false), ("", false)] {
        assert_eq!(tables.regex("r", text), Ok(yes), "{text}");
    }
}

fn services_of_mappings(tables: &Tables) {
    let value = |key: &str| tables.alias("a", key).unwrap();
    assert_eq!(value("ROOT").as_deref(), Some("bob, carol"));
    assert_eq!(value("bob+TAG@example.ORG").as_deref(), Some("x"));
    assert_eq!(value("@").as_deref(), Some("all"));
    assert_eq!(value("x"), None);
    let bob = tables.userinfo("u", "BOB").unwrap().unwrap();
    assert_eq!((bob.name.as_str(), bob.uid), ("bob", 1000));
    assert_eq!(tables.userinfo("u", "none").unwrap().unwrap().gid, 2);
    assert_eq!(tables.userinfo("u", "eve"), Ok(None));
    assert!(tables.userinfo("u", "bad").is_err());
    let root = tables.userinfo("<getpwnam>", "root").unwrap().unwrap();
    assert_eq!(root.uid, 0);
    let name = |peer: &str| tables.addrname("h", &Peer::parse(peer).unwrap());
    assert_eq!(
        name("192.0.2.1").unwrap().as_deref(),
        Some("mx.example.org")
    );
    assert!(name("[::1]").is_err());
    assert_eq!(name("192.0.2.2"), Ok(None));
    let may = |user: &str, sender: &str| tables.mailaddrmap("may", user, &addr(sender));
    assert_eq!(may("BOB", "x@example.com"), Ok(Some(true)));
    assert_eq!(may("bob", "Bob+x@Example.org"), Ok(Some(true)));
    assert_eq!(may("bob", "eve@example.org"), Ok(Some(false)));
    assert_eq!(may("al", "\"a,b\"@x"), Ok(Some(true)));
    assert_eq!(may("eve", "eve@example.org"), Ok(None));
    let found = |label: &str| {
        let found = tables.credentials("c", label).unwrap().unwrap();
        (found.user.to_string(), found.secret.reveal().to_owned())
    };
    assert_eq!(found("mx"), ("bob".to_owned(), "Secret:2".to_owned()));
    assert_eq!(found("EVE"), ("eve".to_owned(), "$2b$10$Hash".to_owned()));
    assert_eq!(tables.credentials("c", "x"), Ok(None));
    let error = tables.credentials("c", "ab").unwrap_err().to_string();
    assert_eq!(error, "credentials parse error for c:ab");
    let route = |domain: &str| tables.relayhost_lookup("route", domain);
    let found = route("EXAMPLE.org").unwrap().unwrap().to_string();
    assert_eq!(found, "smtps://Label@MX.example.org:465");
    assert_eq!(route("a.example.org"), Ok(None));
    assert!(route("bad").is_err());
}

// table(5), source tables: addresses are used in turn, in byte order.
fn services_in_turn(tables: &Tables) {
    let next = || tables.source_fetch("from").unwrap().unwrap().to_string();
    let turns = [next(), next(), next(), next()];
    assert_eq!(
        turns,
        ["192.0.2.10", "192.0.2.2", "2001:db8::1", "192.0.2.10"]
    );
    let next = || {
        tables
            .relayhost_fetch("hosts")
            .unwrap()
            .unwrap()
            .to_string()
    };
    let turns = [next(), next(), next()];
    assert_eq!(
        turns,
        ["lmtp://a:24", "smtp://b.example.org:25", "lmtp://a:24"]
    );
    assert!(tables.relayhost_fetch("d").is_err());
    assert!(tables.source_fetch("d").is_err());
}

// A question that cannot be answered is an error, never "no".
#[test]
fn errors_are_not_no() {
    let tables = tables("table d { a }");
    assert!(tables.domain("nosuch", "a").is_err());
    let long = "x".repeat(1024);
    assert!(tables.domain("d", &long).is_err());
    assert!(tables.string("d", &long).is_err());
    let error = tables.alias("d", &format!("a\nb{long}")).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("table d: lookup key too long: a?b")
    );
}

// smtpctl(8), update table: the file is read again; a broken one leaves the old contents.
#[test]
fn a_file_is_read_again_and_a_broken_one_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("aliases");
    fs::write(&path, "root: bob\n").unwrap();
    let text = format!("table al file:{}\ntable inline {{ a }}", path.display());
    let tables = tables(&text);
    let root = || tables.alias("al", "root").unwrap();
    assert_eq!(root().as_deref(), Some("bob"));

    fs::write(&path, "root: carol # new\n").unwrap();
    assert_eq!(tables.update("al"), Ok(()));
    assert_eq!(root().as_deref(), Some("carol"));

    fs::write(&path, "root: eve\nbroken\n").unwrap();
    assert!(
        tables
            .update("al")
            .unwrap_err()
            .to_string()
            .contains("line 2")
    );
    assert_eq!(root().as_deref(), Some("carol"));
    fs::remove_file(&path).unwrap();
    assert!(tables.update("al").is_err());
    assert_eq!(root().as_deref(), Some("carol"));

    assert_eq!(tables.update("inline"), Ok(()));
    let error = tables.update("nosuch").unwrap_err().to_string();
    assert_eq!(error, "Lookup table not found: \"nosuch\"");
}

// table(5): a file without entries can be used as either, and the use decides what the lines are
// that are written to it later.
#[test]
fn an_empty_file_becomes_what_is_wanted_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let lists = ["nets", "blocked", "proxies", "exempt"];
    let mappings = ["names", "passwords"];
    let mut text = String::new();
    for name in lists.iter().chain(&mappings).chain(&["free"]) {
        fs::write(at(name), "# nothing yet\n").unwrap();
        text.push_str(&format!("table {name} file:{}\n", at(name)));
    }
    text.push_str(
        "filter f phase connect match src <blocked> disconnect \"550 no\"\n\
         listen on lo port 25 proxy-v2 from <proxies>\n\
         smtp limit bypass <exempt>\n\
         pki p cert \"/c\" key \"/k\"\n\
         listen on lo port 587 tls pki p auth <passwords>\n\
         action b mbox alias <names>\nmatch from src <nets> for any action b",
    );
    let tables = tables(&text);
    assert_eq!(tables.alias("names", "root"), Ok(None));
    let peer = Peer::parse("[2001:db8::1]").unwrap();
    for name in lists {
        fs::write(at(name), "2001:db8::/32\n").unwrap();
        assert_eq!(tables.update(name), Ok(()));
        assert_eq!(tables.netaddr(name, &peer), Ok(true), "{name}");
    }
    for name in mappings {
        fs::write(at(name), "root\n").unwrap();
        assert!(tables.update(name).is_err(), "{name}");
    }
    fs::write(at("free"), "a b\n").unwrap();
    assert_eq!(tables.update("free"), Ok(()));
    assert_eq!(tables.string("free", "a"), Ok(true));
}

// smtpd.conf(5), table: a database that was replaced answers at once; one that is gone or broken
// is a temporary failure, never an answer.
#[test]
fn a_database_is_the_one_that_lies_there_now() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("al.db");
    let replace = |bytes: &[u8]| {
        fs::write(dir.path().join("new"), bytes).unwrap();
        fs::rename(dir.path().join("new"), &path).unwrap();
    };
    replace(&database(&[("root", "bob")]));
    let tables = tables(&format!("table al db:{}", path.display()));
    let root = || tables.alias("al", "Root");
    assert_eq!(root(), Ok(Some("bob".to_owned())));
    let fresh = database(&[("root", "carol"), ("x", "y")]);
    replace(&fresh);
    assert_eq!(root(), Ok(Some("carol".to_owned())));
    for bad in [&fresh[..fresh.len() - 1], b"", &[b'x'; 5000]] {
        replace(bad);
        assert!(root().is_err());
        assert!(tables.update("al").is_err());
    }
    fs::remove_file(&path).unwrap();
    let error = root().unwrap_err().to_string();
    let reason = "No such file or directory";
    assert_eq!(error, format!("table al: {}: {reason}", path.display()));
    replace(&fresh);
    assert_eq!(tables.alias("al", "x"), Ok(Some("y".to_owned())));
    assert_eq!(tables.update("al"), Ok(()));
}

// The file is never mapped: one that is cut off while it is open is an error, not a signal.
#[test]
fn a_database_that_shrinks_under_us_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("al.db");
    let keys: Vec<String> = (0..2000).map(|n| format!("key{n}")).collect();
    let records: Vec<(&str, &str)> = keys.iter().map(|key| (key.as_str(), "value")).collect();
    fs::write(&path, database(&records)).unwrap();
    let tables = tables(&format!("table al db:{}", path.display()));
    assert_eq!(tables.alias("al", "key7"), Ok(Some("value".to_owned())));
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_len(4096).unwrap();
    for key in &keys {
        assert!(tables.alias("al", key).is_err(), "{key}");
    }
}

#[test]
fn a_database_that_is_broken_at_the_start_may_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d.db");
    fs::write(&path, database(&[("a.org", "<set>")])).unwrap();
    let text = format!(
        "table d db:{}\naction b mbox\nmatch for domain <d> action b",
        path.display()
    );
    let sources = sources(&text);
    let config = load(&sources, &defaults()).unwrap().config;
    fs::remove_file(&path).unwrap();
    let tables = Tables::load(&config, &sources).unwrap();
    assert!(tables.domain("d", "a.org").is_err());
    fs::write(&path, database(&[("a.org", "<set>")])).unwrap();
    assert_eq!(tables.domain("d", "a.org"), Ok(true));
}

// table(5), Regular expressions: one that is wrong never matches.
#[test]
fn a_bad_expression_never_matches_and_spoils_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("patterns");
    fs::write(&path, "^a\n").unwrap();
    let text = format!(
        "table p file:{}\naction b mbox\nmatch helo regex <p> action b",
        path.display()
    );
    let tables = tables(&text);
    fs::write(&path, "^b\n(\n").unwrap();
    assert_eq!(tables.update("p"), Ok(()));
    assert_eq!(tables.regex("p", "abc"), Ok(false));
    assert_eq!(tables.regex("p", "bc("), Ok(true));
    assert_eq!(tables.regex("p", "(c"), Ok(false));
}

// regex(7), POSIX extended regular expressions: what a pattern means here.
#[test]
fn extended_regular_expressions_keep_their_meaning() {
    for (pattern, text, yes) in [
        ("a.c", "xabcx", true),
        ("^a.c$", "xabc", false),
        ("a+?b", "b", true),
        ("(ab)*c", "ababc", true),
        ("a{2}", "aa", true),
        ("^a{2,3}$", "aaaa", false),
        ("^a{,2}$", "aa", true),
        ("a{x", "a{x", true),
        ("[]a]", "]", true),
        ("[^]a]", "a", false),
        ("[a\\d]", "\\", true),
        ("^[a&&b]$", "&", true),
        ("^[a-]$", "-", true),
        ("^[--/]$", ".", true),
        ("[[:digit:]_]", "_", true),
        ("\\.example\\.org$", "mxxexample.org", false),
        ("\\<mx\\>", "the mx is", true),
        ("\\<mx\\>", "mxx", false),
        ("^\\w+$", "a_1", true),
        ("\\W", "a-b", true),
        ("x\\s", "x y", true),
        ("a|b", "b", true),
        ("^(|x)$", "", true),
        ("a\\|b", "a|b", true),
        ("(?i)ABC", "abc", true),
        ("~<>%", "~<>%", true),
        ("\u{e9}", "caf\u{e9}", true),
        ("^.$", "\u{e9}", true),
        ("\\Bb", "ab", true),
    ] {
        let text_of = format!("table p {{ '{pattern}' }}");
        let tables = tables(&text_of);
        assert_eq!(tables.regex("p", text), Ok(yes), "{pattern} {text}");
    }
}

#[test]
fn what_cannot_be_compiled_is_an_error_at_the_start() {
    let huge = format!("({})", "(a{200}|b{200}){200}".repeat(20));
    let text = format!("action b mbox\nmatch helo regex '{huge}' action b");
    let sources = sources(&text);
    let config = load(&sources, &defaults()).unwrap().config;
    let errors = match Tables::load(&config, &sources) {
        Ok(_) => panic!("compiled"),
        Err(errors) => errors,
    };
    assert!(errors[0].to_string().starts_with("t:2: table <dynamic:0>"));
}

// A table of a million lines is a table like any other.
#[test]
fn large_tables_are_found_by_key() {
    let mut text = String::new();
    for number in 0..200_000u32 {
        text.push_str(&format!(
            "user{}@example.org: box{number}\n",
            number.reverse_bits()
        ));
    }
    let mut sources = sources("table big file:/big");
    sources.insert(Path::new("/big"), text.into_bytes());
    let tables = loaded(&sources).1;
    let key = format!("USER{}@example.org", 77_777u32.reverse_bits());
    assert_eq!(tables.alias("big", &key), Ok(Some("box77777".to_owned())));
    assert_eq!(tables.alias("big", "user@example.org"), Ok(None));
}

#[test]
fn tables_go_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Tables>();
}

// smtpctl(8), update table: the next engine starts with the file only if it can.
#[test]
fn a_file_is_checked_alone_as_it_is_with_all_others() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t");
    let uses = [
        "action b maildir userbase <t>\nmatch for any action b\n",
        "action b maildir\nmatch from src <t> for any action b\n",
        "action b maildir\nmatch for any rcpt-to regex <t> action b\n",
        "action b maildir\nmatch for any rcpt-to <t> action b\n",
        "action b relay host <t>\nmatch for any action b\n",
    ];
    let texts = [
        "",
        "a\n",
        "a: 1:1:/\n",
        "a\n[: b\n",
        "x{1000}{1000}{1000}\n",
    ];
    for (how, text) in uses.iter().flat_map(|how| texts.map(|text| (how, text))) {
        let config = format!("table t file:{}\n{how}", path.display());
        std::fs::write(&path, "").unwrap();
        let empty = load(&sources(&config), &defaults()).unwrap().config;
        let alone = Tables::check_file(&empty, "t", text.as_bytes());
        std::fs::write(&path, text).unwrap();
        let sources = sources(&config);
        let all = load(&sources, &defaults());
        let taken = all.is_ok_and(|all| Tables::load(&all.config, &sources).is_ok());
        assert_eq!(alone.is_ok(), taken, "{how}{text}{alone:?}");
    }
}
