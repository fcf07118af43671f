//! Which rule takes what, as data.

use crate::config::{Config, Defaults, Position, Sources, load};
use crate::mail::samples::line;
use crate::mail::{Facts, MailAddr, Peer};
use crate::table::Tables;
use crate::util::Line;
use crate::util::dice::Dice;

use super::{Decision, Origin, Question, Unanswered, decide};

pub(super) const TABLES: &str = r#"table names { "*.b.org", d.org }
table nets { "10.0.0.0/8", "192.168", "2001:db8::/32" }
table shapes { "b.*g$" }
table people { bob = x, "@v.org" = y }
"#;

pub(super) fn loaded(rules: &str) -> (Config, Tables) {
    let text = format!(
        "{TABLES}action a mbox
action b mbox
{rules}
"
    );
    let sources = Sources::from_text("t", &text, &[]);
    let defaults = Defaults {
        server_name: Line::new("mx.example.org").unwrap(),
        addresses: ["127.0.0.1", "[::1]", "[fe80::1%lo0]"]
            .map(|text| Peer::parse(text).unwrap())
            .to_vec(),
    };
    let config = load(&sources, &defaults).unwrap().config;
    let tables = Tables::load(&config, &sources).unwrap();
    (config, tables)
}

/// A session in words: `src=… helo=… rdns=… user=… tag=… from=… to=… tls auth internal`;
/// `nobody-knows` the client's name.
fn session(words: &str) -> (Facts, MailAddr, Origin) {
    let mut facts = Facts {
        peer: Peer::parse("203.0.113.5").unwrap(),
        rdns: None,
        rdns_failed: false,
        helo: line("client"),
        authenticated: false,
        username: None,
        tls: false,
        tag: None,
        sender: MailAddr::new("eve", "example.net").unwrap(),
    };
    let mut dest = MailAddr::new("bob", "mx.example.org").unwrap();
    let mut origin = Origin::Client;
    for word in words.split_whitespace() {
        match word.split_once('=').unwrap_or((word, "")) {
            ("src", text) => facts.peer = Peer::parse(text).unwrap(),
            ("helo", text) => facts.helo = line(text),
            ("rdns", text) => facts.rdns = Some(line(text)),
            ("user", text) => {
                facts.authenticated = true;
                facts.username = Some(line(text));
            }
            ("tag", text) => facts.tag = Some(line(text)),
            ("from", text) => facts.sender = MailAddr::from_stored(text).unwrap(),
            ("to", text) => dest = MailAddr::from_stored(text).unwrap(),
            ("tls", _) => facts.tls = true,
            ("auth", _) => facts.authenticated = true,
            ("nobody-knows", _) => facts.rdns_failed = true,
            ("internal", _) => origin = Origin::Internal,
            other => panic!("{other:?}"),
        }
    }
    (facts, dest, origin)
}

fn verdict(rules: &str, words: &str) -> String {
    let (config, tables) = loaded(rules);
    let (facts, dest, origin) = session(words);
    let question = Question {
        tables: &tables,
        facts: &facts,
        dest: &dest,
        origin,
        watch: None,
    };
    let line = |rule: &Position| rule.line as usize - TABLES.lines().count();
    match decide(&config, &question) {
        Ok(Decision::Accept { action, rule, .. }) => format!("{} {}", action.name, line(rule)),
        Ok(Decision::Reject { rule }) => format!("reject {}", line(rule)),
        Ok(Decision::NoRule) => "none".to_owned(),
        Err(Unanswered { error, rule }) => format!("error {} {error}", line(rule)),
    }
}

/// Whether one rule takes a session.
const STORIES: &[(&str, &str, bool)] = &[
    // Defaults.
    ("", "src=127.0.0.1", true),
    ("", "src=local", true),
    ("", "src=[::1]", true),
    ("", "src=[fe80::1%lo0]", true),
    ("", "src=[fe80::1%em0]", false),
    ("", "", false),
    ("", "src=local to=bob@other.org", false),
    ("auth", "user=bob", false),
    ("auth for any", "src=local to=a@b auth", true),
    // for
    ("for any", "src=local to=a@b", true),
    ("!for any", "src=local to=a@b", false),
    ("for local", "src=local to=a@localhost", true),
    ("for local", "src=local to=a@MX.Example.org", true),
    ("for local", "src=local to=a@mx", true),
    ("for local", "src=local to=a@127.0.0.1", true),
    ("for local", "src=local to=a@[127.0.0.1]", true),
    ("for local", "src=local to=a@[::1]", true),
    ("for local", "src=local to=a@[IPv6:::1]", true),
    ("for local", "src=local to=a@[IPv6:fe80::1]", true),
    ("!for local", "src=local to=a@b", true),
    ("for domain b.org", "src=local to=a@B.org", true),
    ("for domain \"*.b.org\"", "src=local to=a@x.b.org", true),
    ("for domain \"*.b.org\"", "src=local to=a@b.org", false),
    ("!for domain b.org", "src=local to=a@b.org", false),
    ("for domain regex \"b.*g$\"", "src=local to=a@B.org", true),
    ("for rcpt-to \"a@b\"", "src=local to=a@b", true),
    ("for rcpt-to a", "src=local to=a+x@b", true),
    ("!for rcpt-to \"a@b\"", "src=local to=c@b", true),
    ("for rcpt-to regex \"^a@\"", "src=local to=a@b", true),
    ("rcpt-to \"@b\" for any", "src=local to=a@b", true),
    // from
    ("from any", "", true),
    ("!from any", "", false),
    ("!from local", "", true),
    ("!from local", "src=local", false),
    ("from src 203.0.113.0/24", "", true),
    ("from src 203.0.113.6", "", false),
    ("!from src 203.0.113.6", "", true),
    ("from src \"2001:db8::/32\"", "src=[2001:db8::9]", true),
    ("from src \"local\"", "src=local", true),
    ("from src regex \"^203[.]\"", "", true),
    ("from src regex \"^\\[2001:\"", "src=[2001:db8::1]", true),
    ("from socket", "src=local", true),
    ("from socket", "src=127.0.0.1", false),
    ("!from socket", "src=127.0.0.1", true),
    ("from rdns", "rdns=a.b", true),
    ("from rdns", "", false),
    ("!from rdns", "", true),
    ("from rdns \"*.example.net\"", "rdns=a.Example.net", true),
    ("from rdns \"*.example.net\"", "", false),
    ("!from rdns \"*.example.net\"", "", false),
    ("!from rdns \"*.example.net\"", "rdns=other", true),
    ("from rdns regex dsl", "rdns=dsl.example", true),
    ("from auth", "user=bob", true),
    ("from auth", "", false),
    ("!from auth", "", true),
    ("from auth bob", "user=BOB", true),
    ("from auth bob", "user=eve", false),
    ("from auth bob", "auth", false),
    ("!from auth bob", "auth", true),
    ("from auth \"@b.org\"", "user=bob@b.org", true),
    ("from auth regex \"^b\"", "user=bob", true),
    ("from mail-from \"@example.net\"", "", true),
    ("from mail-from \"@\"", "from=@", true),
    ("from mail-from regex \"^@$\"", "from=@", true),
    ("from mail-from \"@example.net\"", "from=@", false),
    ("!from mail-from \"@example.net\"", "", false),
    // the rest
    ("tag web from any", "tag=WEB", true),
    ("tag web from any", "", false),
    ("!tag web from any", "", true),
    ("tag regex \"^w\" from any", "tag=web", true),
    ("helo \"*.org\" from any", "helo=a.org", true),
    ("helo regex \"^a\" from any", "helo=b.org", false),
    ("tls from any", "tls", true),
    ("tls from any", "", false),
    ("!tls from any", "", true),
    ("mail-from { a, \"@example.net\" } from any", "", true),
    // Tables: lists by name, keys of mappings.
    ("from any for domain <names>", "to=a@x.b.org", true),
    ("from any for domain <names>", "to=a@c.org", false),
    ("from any for domain regex <shapes>", "to=a@B.org", true),
    ("from src <nets>", "src=10.9.9.9", true),
    ("from src <nets>", "src=192.168.0.7", true),
    ("from src <nets>", "src=192.168.1.7", false),
    ("from src <nets>", "src=[2001:db8:1::1]", true),
    ("!from src <nets>", "src=10.9.9.9", false),
    ("from rdns <names>", "rdns=x.b.org", true),
    ("from any helo <names>", "helo=x.b.org", true),
    ("!from rdns regex dsl", "rdns=dsl.example", false),
    ("!from rdns regex dsl", "rdns=static.example", true),
    ("!helo <names> from any", "helo=x.b.org", false),
    ("from any mail-from <people>", "from=bob@x", true),
    ("from any mail-from <people>", "from=bob+t@x", true),
    ("from any mail-from <people>", "from=a@v.org", true),
    ("from any mail-from <people>", "from=a@w.org", false),
    ("from any mail-from <people>", "from=@", false),
    ("!mail-from <people> from any", "from=bob@x", false),
    ("!mail-from <people> from any", "from=@", true),
    ("from any rcpt-to <people> for any", "to=Carol@V.org", true),
    (
        "!rcpt-to <people> from any for any",
        "to=carol@v.org",
        false,
    ),
    ("from auth <people>", "user=bob", true),
    ("from auth <people>", "user=dave", false),
    ("!from auth <people>", "user=dave", true),
    ("!auth regex \"^b\" from any", "user=bob", false),
    ("!auth regex \"^b\" from any", "", true),
    ("!tag regex \"^w\" from any", "tag=web", false),
    ("!for domain regex \"b\" from any", "to=a@c.org", true),
    ("!from src regex \"^203\"", "", false),
    ("from src regex \"^local$\"", "src=local", true),
    ("!from mail-from regex \"^@$\"", "from=@", false),
    ("!for rcpt-to regex \"^a@\" from any", "to=c@b", true),
    // what expansion has made
    ("", "internal", true),
    ("from src regex \"local\"", "internal", true),
    ("!from rdns a.b", "internal rdns=a.b", true),
    ("tls from any", "internal tls", true),
    ("helo client from any", "internal", true),
    ("from mail-from \"@example.net\"", "internal", true),
    ("from any", "internal", true),
    ("!from local", "internal", false),
    ("from src 203.0.113.0/24", "internal", false),
    ("!from src 203.0.113.0/24", "internal", true),
    (
        "from src { \"203.0.113.0/24\", \"local\" }",
        "internal",
        true,
    ),
    ("from socket", "internal src=local", false),
    ("!from socket", "internal", false),
    ("from rdns", "internal rdns=a.b", false),
    ("!from rdns", "internal", false),
    ("from rdns a.b", "internal rdns=a.b", false),
    ("auth", "internal user=bob", true),
    ("tag web", "internal tag=web", true),
];

// smtpd.conf(5), match: every criterion, negated and not.
#[test]
fn each_criterion_holds_when_the_manual_says_so() {
    for (criteria, words, yes) in STORIES {
        let found = verdict(&format!("match {criteria} action a"), words);
        let expected = if *yes { "a 3" } else { "none" };
        assert_eq!(found, expected, "match {criteria} / {words}");
    }
}

// smtpd.conf(5), match: rules are tried in order, the first match wins.
#[test]
fn the_first_rule_that_holds_decides() {
    let rules = "match from src 203.0.113.5 for any reject\n\
                 match from any for domain b.org action b\n\
                 match from any for any action a";
    assert_eq!(verdict(rules, ""), "reject 3");
    assert_eq!(verdict(rules, "src=192.0.2.1 to=x@b.org"), "b 4");
    assert_eq!(verdict(rules, "src=192.0.2.1 to=x@c.org"), "a 5");
    assert_eq!(verdict("match for any action a", ""), "none");
}

// smtpd.conf(5): only an answer that there is no name is a reason for good.
#[test]
fn nobody_is_refused_for_good_only_because_no_name_server_answers() {
    let open = "error 3 the client's name cannot be looked up now";
    for (rules, words, expected) in [
        ("match from rdns a.b for any action a", "", "none"),
        ("match from rdns a.b for any action a", "nobody-knows", open),
        (
            "match from rdns regex x for any action a\nmatch from any for any reject",
            "nobody-knows",
            open,
        ),
        (
            "match !from rdns for any reject\nmatch from any for any action a",
            "nobody-knows",
            open,
        ),
        ("match !from rdns for any reject", "", "reject 3"),
        // Others take it, or it would be refused anyway.
        (
            "match from rdns a.b for any action a\nmatch from any for any action b",
            "nobody-knows",
            "b 4",
        ),
        ("match from rdns a.b for any reject", "nobody-knows", "none"),
        (
            "match from rdns a.b for domain x.y action a",
            "nobody-knows",
            "none",
        ),
        (
            "match tag x from rdns a.b for any action a",
            "nobody-knows",
            "none",
        ),
        (
            "match from rdns a.b for any action a",
            "nobody-knows internal",
            "none",
        ),
    ] {
        assert_eq!(verdict(rules, words), expected, "{rules} {words}");
    }
}

// What takes the mail may stand behind a rule that does not hold without the client's name, also
// when the rest of that rule cannot be answered.
#[test]
fn what_cannot_be_answered_of_a_rule_that_is_open_ends_nothing() {
    let words = format!("nobody-knows helo={}", "h".repeat(1024));
    let rule = "match from rdns a.b helo x for any action a";
    assert!(verdict(rule, &words).ends_with("the client's name cannot be looked up now"));
    let rules = format!("{rule}\nmatch from any for any action b");
    assert_eq!(verdict(&rules, &words), "b 4");
    let words = words.replace("nobody-knows", "rdns=a.b");
    assert!(verdict(&rules, &words).contains("lookup key too long"));
}

// A criterion that cannot be answered ends the evaluation, whatever comes later.
#[test]
fn an_unanswered_question_is_an_error() {
    let rules = "match helo x from any action a\nmatch from any for any action b";
    let helo = format!("helo={}", "h".repeat(1024));
    assert!(verdict(rules, &helo).starts_with("error 3 table <dynamic:0>: lookup key too long"));
    // Negation turns answers round, and no answer stays none.
    let rules = rules.replace("helo x", "!helo x");
    assert!(verdict(&rules, &helo).starts_with("error 3 "));
    // A rule that fails before it is asked does not ask.
    let rules = "match tag y helo x action a\nmatch from any for any action b";
    assert_eq!(verdict(rules, &helo), "b 4");
}

// OpenSMTPD#968: whatever the rules and the session, there is an answer.
#[test]
fn any_rules_and_any_session_give_an_answer() {
    let criteria: Vec<&str> = STORIES.iter().map(|(criteria, ..)| *criteria).collect();
    let sessions: Vec<&str> = STORIES.iter().map(|(_, words, _)| *words).collect();
    let mut dice = Dice::new(1);
    let mut roll = |sides: usize| dice.roll(sides);
    for _ in 0..60 {
        let rules: String = (0..5)
            .map(|_| {
                let end = ["action a", "action b", "reject"][roll(3)];
                format!("match {} {end}\n", criteria[roll(criteria.len())])
            })
            .collect();
        let (config, tables) = loaded(&rules);
        for _ in 0..20 {
            let words = format!(
                "{} {}",
                sessions[roll(sessions.len())],
                sessions[roll(sessions.len())]
            );
            let (facts, dest, origin) = session(&words);
            let question = Question {
                tables: &tables,
                facts: &facts,
                dest: &dest,
                origin,
                watch: None,
            };
            assert!(decide(&config, &question).is_ok());
        }
    }
}
