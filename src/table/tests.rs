//! Tables as the other rooms ask them.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use crate::config::{Config, Defaults, Sources, load};
use crate::mail::{MailAddr, Peer};
use crate::util::Line;

use super::Tables;

fn defaults() -> Defaults {
    Defaults {
        server_name: Line::new("mx.example.org").unwrap(),
        addresses: vec!["127.0.0.1".parse::<IpAddr>().unwrap()],
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

// table(5): keys are lower-cased before they are compared.
#[test]
fn every_service_answers_yes_and_no() {
    let tables = tables(
        "table d { example.org, \"*.Example.com\" }
         table n { \"10.0.0.0/8\", \"local\" }
         table m { bob, \"@example.org\" }
         table s { Web, \"*\" }
         table r { \"^B[[:alpha:]]+$\", \"\\S@\" }
         table a { Root = \"bob, carol\" }
         table u { Bob = \"1000:100:/home/bob\", bad = \"x:y:z\" }
         table h { \"192.0.2.1\" = mx.example.org, \"[::1]\" = \"a b\" }
         table may { bob = \"bob@example.org, @example.com\" }",
    );
    for (name, yes) in [("EXAMPLE.org", true), ("a.example.com", true), ("a", false)] {
        assert_eq!(tables.domain("d", name), Ok(yes), "{name}");
    }
    let peer = |text: &str| Peer::parse(text).unwrap();
    assert_eq!(tables.netaddr("n", &peer("10.1.2.3")), Ok(true));
    assert_eq!(tables.netaddr("n", &Peer::Local), Ok(true));
    assert_eq!(tables.netaddr("n", &peer("192.0.2.1")), Ok(false));
    assert_eq!(tables.mailaddr("m", &addr("BOB+x@a")), Ok(true));
    assert_eq!(tables.mailaddr("m", &addr("eve@Example.ORG")), Ok(true));
    assert_eq!(tables.mailaddr("m", &MailAddr::null()), Ok(false));
    assert_eq!(tables.string("s", "WEB"), Ok(true));
    assert_eq!(tables.string("s", "x"), Ok(false));
    assert_eq!(tables.regex("r", "bOb"), Ok(true));
    assert_eq!(tables.regex("r", "x@"), Ok(true));
    assert_eq!(tables.regex("r", " @"), Ok(false));
    assert_eq!(tables.alias("a", "ROOT"), Ok(Some("bob, carol".to_owned())));
    assert_eq!(tables.alias("a", "x"), Ok(None));
    let bob = tables.userinfo("u", "BOB").unwrap().unwrap();
    assert_eq!((bob.name.as_str(), bob.uid), ("bob", 1000));
    assert_eq!(tables.userinfo("u", "eve"), Ok(None));
    assert!(tables.userinfo("u", "bad").is_err());
    assert_eq!(
        tables.userinfo("<getpwnam>", "root").unwrap().unwrap().uid,
        0
    );
    let name = tables.addrname("h", &peer("192.0.2.1")).unwrap();
    assert_eq!(name.as_deref(), Some("mx.example.org"));
    assert!(tables.addrname("h", &peer("[::1]")).is_err());
    assert_eq!(tables.addrname("h", &peer("192.0.2.2")), Ok(None));
    let may = |user: &str, sender: &str| tables.mailaddrmap("may", user, &addr(sender));
    assert_eq!(may("Bob", "x@example.com"), Ok(Some(true)));
    assert_eq!(may("bob", "eve@example.org"), Ok(Some(false)));
    assert_eq!(may("eve", "eve@example.org"), Ok(None));
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

// table(5), source tables: addresses are used in turn.
#[test]
fn sources_come_round() {
    let tables = tables("table s { \"192.0.2.2\", \"192.0.2.1\" }\ntable bad { x }");
    let next = || tables.source_fetch("s").unwrap().unwrap().to_string();
    assert_eq!(
        [next(), next(), next()],
        ["192.0.2.1", "192.0.2.2", "192.0.2.1"]
    );
    assert!(tables.source_fetch("bad").is_err());
}

// smtpd.conf(5), relay: host takes the hosts of a list in turn, domain looks a domain up.
#[test]
fn relay_hosts_come_round_or_belong_to_a_domain() {
    let tables = tables(
        "table h { \"smtps://Bob@b.example.org\", \"smtp://a.example.org:26\" }
         table d { Example.org = \"lmtp://mx:24\", bad = \"tls://mx\" }
         table wrong { \"smtp://x@y\" }",
    );
    let next = || tables.relayhost_fetch("h").unwrap().unwrap().to_string();
    assert_eq!(
        [next(), next(), next()],
        [
            "smtp://a.example.org:26",
            "smtps://bob@b.example.org:465",
            "smtp://a.example.org:26"
        ]
    );
    let lookup = |domain: &str| tables.relayhost_lookup("d", domain);
    let found = lookup("EXAMPLE.org").unwrap().unwrap();
    assert_eq!(found.to_string(), "lmtp://mx:24");
    assert_eq!(lookup("a.example.org"), Ok(None));
    assert!(lookup("bad").is_err());
    assert!(tables.relayhost_fetch("wrong").is_err());
}

// table(5), credentials tables: by label or user, in any case.
#[test]
fn credentials_are_found_by_their_label() {
    let tables = tables("table c { Mx = \"bob:s3cret\", Hash = \"$2b$08$x\", short = \"ab\" }");
    let found = |label: &str| tables.credentials("c", label);
    let mx = found("mx").unwrap().unwrap();
    assert_eq!((mx.user.as_str(), mx.secret.reveal()), ("bob", "s3cret"));
    let hash = found("HASH").unwrap().unwrap();
    assert_eq!(
        (hash.user.as_str(), hash.secret.reveal()),
        ("hash", "$2b$08$x")
    );
    assert_eq!(found("x"), Ok(None));
    let error = found("short").unwrap_err().to_string();
    assert_eq!(error, "credentials parse error for c:short");
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
    assert!(tables.update("nosuch").is_err());
}

#[test]
fn a_bad_expression_does_not_replace_good_ones() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("patterns");
    fs::write(&path, "^a\n").unwrap();
    let text = format!(
        "table p file:{}\naction b mbox\nmatch helo regex <p> action b",
        path.display()
    );
    let tables = tables(&text);
    fs::write(&path, "^b\n(\n").unwrap();
    assert!(tables.update("p").is_err());
    assert_eq!(tables.regex("p", "abc"), Ok(true));
    fs::write(&path, "^b\n").unwrap();
    assert_eq!(tables.update("p"), Ok(()));
    assert_eq!(tables.regex("p", "abc"), Ok(false));
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
