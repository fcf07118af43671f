//! The language as a whole: lexer tables, what the model holds, and what must hold for any text.

use std::fs;
use std::path::Path;

use crate::mail::Peer;
use crate::util::Line;

use super::diagnostic::Diagnostics;
use super::lexer::{Lexer, Token};
use super::words::KEYWORDS;
use super::{
    Config, Criterion, Defaults, Delivery, Family, Loaded, Method, Sources, TableSource, Test, load,
};

mod corpus;
mod model;
mod random;

fn defaults() -> Defaults {
    let addr = |text: &str| Peer::parse(text).unwrap();
    Defaults {
        server_name: Line::new("mx.example.org").unwrap(),
        addresses: vec![addr("127.0.0.1"), addr("[::1]"), addr("192.0.2.1")],
    }
}

fn load_text(text: &str) -> Result<Loaded, Vec<String>> {
    let sources = Sources::from_text("t", text, &[]);
    load(&sources, &defaults()).map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

fn config(text: &str) -> Config {
    load_text(text).unwrap().config
}

/// A configuration that only needs `text` added to it.
fn with_rule(text: &str) -> Config {
    config(&format!("{text}\naction a mbox\nmatch for any action a\n"))
}

fn tokens(text: &[u8]) -> (Vec<Token>, Vec<String>) {
    let mut diagnostics = Diagnostics::default();
    diagnostics.files = vec!["t".to_owned()];
    let mut lexer = Lexer::new(text, &[]);
    let mut found = Vec::new();
    loop {
        match lexer.next(&mut diagnostics).0 {
            Token::Eof => break,
            token => found.push(token),
        }
    }
    let errors = diagnostics.finish().0;
    (found, errors.iter().map(ToString::to_string).collect())
}

fn one_line(text: &str) -> String {
    let (tokens, errors) = tokens(text.as_bytes());
    assert_eq!(errors, Vec::<String>::new(), "{text:?}");
    let words: Vec<String> = tokens
        .into_iter()
        .map(|token| match token {
            Token::Word(text) => format!("w:{text}"),
            Token::Quoted(text) => format!("q:{text}"),
            Token::Keyword(word) => format!("k:{word}"),
            Token::Number(number) => format!("n:{number}"),
            Token::Arrow => "=>".to_owned(),
            Token::Punct(byte) => char::from(byte).to_string(),
            Token::Newline => "nl".to_owned(),
            Token::Bad => "bad".to_owned(),
            Token::Eof => "eof".to_owned(),
        })
        .collect();
    words.join(" ")
}

#[test]
fn reserved_words_can_be_searched() {
    assert!(KEYWORDS.is_sorted());
}

// smtpd.conf(5): names, words that must be quoted, quotes, comments and continued lines.
#[test]
fn the_lexer_reads_what_the_manual_says() {
    for (text, expected) in [
        ("listen on lo0", "k:listen k:on w:lo0 nl"),
        ("Listen \"listen\"", "w:Listen q:listen nl"),
        ("a # comment\nb", "w:a nl w:b nl"),
        ("a# comment", "w:a nl"),
        ("# one \\\n still\nb", "nl w:b nl"),
        ("lis\\\nten on", "k:listen k:on nl"),
        ("b\\c", "w:bc nl"),
        ("a\r\nb\r\n", "w:a nl w:b nl"),
        ("a \\\r\n b", "w:a w:b nl"),
        ("25 25, 25} 25=25", "n:25 n:25 , n:25 } n:25 = n:25 nl"),
        ("-5", "n:-5 nl"),
        ("- x", "- w:x nl"),
        ("10.0.0.0/8 5a 4d", "w:10.0.0.0/8 w:5a w:4d nl"),
        ("10/8", "n:10 / n:8 nl"),
        ("::1 fe80::1 :x _y", "w:::1 w:fe80::1 w::x w:_y nl"),
        ("a=b a=>b a= >b", "w:a = w:b w:a => w:b w:a = > w:b nl"),
        ("<a>!b{c}(d)", "< w:a > ! w:b { w:c } ( w:d ) nl"),
        ("a\"b'c$d", "w:a\"b'c$d nl"),
        ("/x", "/ w:x nl"),
        ("'it\\'s' \"a\\\"b\"", "q:it's q:a\"b nl"),
        ("\"a b\\ c\\\td\"", "q:a b c\td nl"),
        (
            "\"a\\nb\" \"a\\\\.b\" \"a\\\\\" b\" \"a\\\\ b\"",
            "q:a\\nb q:a\\\\.b q:a\\\" b q:a\\ b nl",
        ),
        ("\"a\nb\" c", "q:ab w:c nl"),
        ("\"a\\\nb\"", "q:ab nl"),
        ("\"\u{e9}\"", "q:\u{e9} nl"),
        ("", ""),
        ("\n\n", "nl nl"),
        ("a\\\\b", "w:a\\b nl"),
    ] {
        assert_eq!(one_line(text), expected, "{text:?}");
    }
}

#[test]
fn lexical_errors_have_a_place_and_the_next_line_is_read() {
    let long = "x".repeat(9000);
    for (text, expected) in [
        ("a $b\nc", "t:1:3: macro 'b' not defined"),
        (
            "99999999999999999999\nc",
            "t:1:1: \"99999999999999999999\" invalid number: too large",
        ),
        (
            "-99999999999999999999\nc",
            "t:1:1: \"-99999999999999999999\" invalid number: too small",
        ),
        (&format!("a {long}\nc"), "t:1:3: string too long"),
        (&format!("\"{long}\"\nc"), "t:1:1: string too long"),
        (
            "\"a\0\"\nc",
            "t:1:1: syntax error: NUL byte in a quoted string",
        ),
    ] {
        let (found, errors) = tokens(text.as_bytes());
        assert_eq!(errors, [expected]);
        assert!(found.contains(&Token::Bad));
        assert!(found.contains(&Token::Word("c".to_owned())), "{found:?}");
    }
    let (_, errors) = tokens(b"a\n b \"c\nd");
    assert_eq!(
        errors,
        ["t:2:4: reached end of file while parsing quoted string"]
    );
    let (_, errors) = tokens(b"\"\xff\"");
    assert_eq!(
        errors,
        ["t:1:1: syntax error: quoted string is not UTF-8 text"]
    );
}

// smtpd.conf(5): macros can be defined that are later expanded in context, not inside quotes.
#[test]
fn macros_are_read_again_as_text() {
    let text = "lan = \"lo0 port 26 # x\"\nlisten on $lan\nlisten on $lan\n";
    let found = with_rule(text);
    let ports: Vec<u16> = found.listeners.iter().map(|l| l.port).collect();
    assert_eq!(ports, [26, 26]);
    let found = with_rule("n = mail\ntable t { \"$n\" }\nlisten on $n-1 hostname $n\n");
    assert_eq!(found.listeners[0].on, "mail-1");
    assert!(matches!(&found.tables["t"], TableSource::List(v) if v == &["$n"]));
    let errors = load_text("a = \"$b\"\nb = x\nlisten on $a\n").unwrap_err();
    assert!(
        errors[0].starts_with("t:3:11: syntax error: found \"$\""),
        "{errors:?}"
    );
}

// smtpd(8), -D: overrides the definition of the macro in the file; the first of two wins.
#[test]
fn macros_of_the_command_line_win() {
    let define = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let text = "p = \"26\"\nlisten on lo port $p\naction a mbox\nmatch for any action a\n";
    let macros = [define("p", "27"), define("p", "28")];
    let sources = Sources::from_text("t", text, &macros);
    let found = load(&sources, &defaults()).unwrap().config;
    assert_eq!(found.listeners[0].port, 27);
}

// smtpd.conf(5), include: replace this directive with the content of the file.
#[test]
fn included_files_are_part_of_the_text() {
    let text = "x = lo7\ninclude \"/inc/a\" action b mbox\nmatch for any action a\n\
                match from any for any action b\n";
    let mut sources = Sources::from_text("t", text, &[]);
    sources.insert(Path::new("/inc/a"), b"listen on $x\naction a mbox".to_vec());
    let found = load(&sources, &defaults()).unwrap().config;
    assert_eq!(found.listeners[0].on, "lo7");
    assert_eq!(found.listeners[0].at.to_string(), "/inc/a:1");
    assert_eq!(found.actions.len(), 2);

    sources.insert(Path::new("/inc/a"), b"bogus\ninclude \"/inc/a\"\n".to_vec());
    let errors = load(&sources, &defaults()).unwrap_err();
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert!(texts[0].starts_with("/inc/a:1:1: syntax error: unknown directive \"bogus\""));
    assert!(
        texts.iter().any(|t| t.contains("does one include itself?")),
        "{texts:?}"
    );
    let errors = load_text("include \"/no/such\"\n").unwrap_err();
    assert_eq!(
        errors,
        ["t:1:9: failed to include file /no/such: No such file or directory"]
    );
}

// smtpd.conf(5), include: a comment may follow the name at once, and takes no line of the file.
#[test]
fn a_comment_behind_the_name_of_a_file_is_none_of_that_file() {
    let text = "include a##\nmatch for any action x\n";
    let mut sources = Sources::from_text("t", text, &[]);
    sources.insert(Path::new("a"), b"action x mbox\n".to_vec());
    let found = load(&sources, &defaults()).unwrap().config;
    assert_eq!(found.actions["x"].at.to_string(), "a:1");
}

// table(5): an entry that is not UTF-8 text is left out, with a warning that names its line.
#[test]
fn an_entry_of_a_file_in_other_characters_is_warned_of() {
    let text = "table t file:/t\naction a mbox alias <t>\nmatch for any action a\n";
    let mut sources = Sources::from_text("t", text, &[]);
    sources.insert(Path::new("/t"), b"root: bob\nj\xf6rg: bob\n".to_vec());
    let warnings = load(&sources, &defaults()).unwrap().warnings;
    let warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    let left_out = "t:1:9: /t:2: this entry is left out: it is not UTF-8 text";
    assert_eq!(warnings, [left_out]);
}

// smtpd.conf(5): what each directive sets, and its default.
#[test]
fn the_model_holds_what_was_said() {
    let plain = with_rule("");
    assert_eq!(plain.smtp.max_message_size, 36_700_160);
    assert_eq!(plain.bounce_warn_s, [14400]);
    assert_eq!(plain.queue.ttl_s, 345_600);
    let found = config(
        "admd mx.example.net
         bounce warn-interval 1h, 2d
         mda limit max-session 3 task-hiwat 9
         mda wrapper w \"wrap %{mda}\"
         mta max-deferred 7
         mta limit conn-delay-host 4 inet6
         mta limit for domain example.com max-conn-per-host 2
         queue ttl 1d
         scheduler limit max-inflight 17 max-schedule 5
         smtp limit max-rcpt 11 max-mails 12 max-sessions-per-source 13
         smtp max-message-size 1M
         smtp sub-addr-delim -
         listen on em0 inet4 port submission hostname h tag t mask-src no-dsn received-auth
         listen on socket tag s mask-src no-dsn
         table al { root = bob, \"a b\" => \"c, d\" }
         action a maildir \"~/M\" junk user vmail virtual <al> wrapper w ttl 3h
         action b mda \"cat >x\" alias <al> userbase { bob = \"1:2:/\" }
         action c expand-only
         match tag t from any for domain { a.org, b.org } !helo h auth mail-from x action a
         match from auth bob for rcpt-to regex \"^x\" action b
         match action c
         match from any reject"
            .replace("sub-addr-delim -", "sub-addr-delim \"-\"")
            .as_str(),
    );
    assert_eq!(found.admd.as_deref(), Some("mx.example.net"));
    assert_eq!(found.bounce_warn_s, [3600, 172_800]);
    assert_eq!((found.mda.max_session, found.mda.task_hiwat), (3, 9));
    assert_eq!(found.mda_wrappers["w"].as_str(), "wrap %{mda}");
    assert_eq!(found.mta.max_deferred, 7);
    assert_eq!(found.mta.limits.family, Some(Family::Inet6));
    let domain = found.mta.domains["example.com"];
    assert_eq!((domain.conn_delay_host_s, domain.max_conn_per_host), (4, 2));
    assert_eq!(found.queue.ttl_s, 86400);
    assert_eq!(found.scheduler.max_inflight, 17);
    assert_eq!((found.smtp.max_rcpt, found.smtp.max_mails), (11, 12));
    assert_eq!(found.smtp.max_sessions_per_source, 13);
    assert_eq!(found.smtp.max_message_size, 1 << 20);
    assert_eq!(found.smtp.sub_addr_delim, '-');
    let listener = &found.listeners[0];
    assert_eq!((listener.port, listener.family), (587, Some(Family::Inet4)));
    assert_eq!(listener.hostname.as_str(), "h");
    assert!(listener.mask_src && listener.no_dsn && listener.received_auth);
    assert_eq!(found.socket.tag.as_deref(), Some("s"));
    let Method::Local(a) = &found.actions["a"].method else {
        panic!("local");
    };
    assert!(
        matches!(&a.delivery, Delivery::Maildir { path: Some(p), junk: true } if &**p == "~/M")
    );
    assert_eq!(a.virtuals.as_deref(), Some("al"));
    assert_eq!(found.actions["a"].ttl_s, Some(10800));
    let asked: Vec<String> = found
        .rules
        .iter()
        .map(|rule| asked(&rule.criteria))
        .collect();
    assert_eq!(
        asked,
        [
            "Tag FromAny ForDomain !Helo Auth MailFrom",
            "FromAny ForAny Auth RcptTo",
            "FromLocal ForLocal",
            "FromAny ForLocal",
        ]
    );
    assert_eq!(found.rules[3].action, None);
}

fn asked(criteria: &[Criterion]) -> String {
    let word = |criterion: &Criterion| {
        let name = match criterion.test {
            Test::Tag(_) => "Tag",
            Test::FromAny => "FromAny",
            Test::FromLocal => "FromLocal",
            Test::FromSocket => "FromSocket",
            Test::FromSrc(_) => "FromSrc",
            Test::FromRdns(_) => "FromRdns",
            Test::ForAny => "ForAny",
            Test::ForLocal => "ForLocal",
            Test::ForDomain(_) => "ForDomain",
            Test::Helo(_) => "Helo",
            Test::Auth(_) => "Auth",
            Test::Tls => "Tls",
            Test::MailFrom(_) => "MailFrom",
            Test::RcptTo(_) => "RcptTo",
        };
        format!("{}{name}", if criterion.negated { "!" } else { "" })
    };
    criteria.iter().map(word).collect::<Vec<_>>().join(" ")
}

// smtpd.conf(5), match: from local and for local are the defaults; `!from auth` is any source.
#[test]
fn only_what_is_asked_for_is_negated() {
    let found = config("action a mbox\nmatch !from auth bob !for rcpt-to x action a\n");
    assert_eq!(
        asked(&found.rules[0].criteria),
        "FromAny ForAny !Auth !RcptTo"
    );
    let found = config("action a mbox\nmatch ! from local !for any action a\n");
    assert_eq!(asked(&found.rules[0].criteria), "!FromLocal !ForAny");
}

// smtpd.conf(5): every spelling of an address of this host is a local domain.
#[test]
fn builtin_tables_know_this_host() {
    let found = with_rule("");
    let list = |name: &str| match &found.tables[name] {
        TableSource::List(values) => values.join(" "),
        other => panic!("{other:?}"),
    };
    assert_eq!(list("<anyhost>"), "local 0.0.0.0/0 ::/0");
    assert_eq!(list("<localhost>"), "local 127.0.0.1 [::1] 192.0.2.1");
    assert_eq!(
        list("<localnames>"),
        "localhost mx.example.org mx 127.0.0.1 [127.0.0.1] [::1] [IPv6:::1] 192.0.2.1 [192.0.2.1]"
    );
    assert!(matches!(found.tables["<getpwnam>"], TableSource::Passwd));
}

#[test]
fn what_has_no_effect_is_warned_of() {
    let loaded = load_text(
        "table unused { a }
         table t { a.org }
         action none mbox
         action a mbox
         match from any for domain <t> action a
         match from src 10.0.0.0/33 for domain <t> reject
         match from any for any action a
         match for local action a",
    )
    .unwrap();
    let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "t:1:7: table \"unused\" is not used",
            "t:3:17: action \"none\" is not used by any match rule",
            "t:6:10: this rule is never reached: the one at t:5 takes everything it matches",
            "t:6:25: \"10.0.0.0/33\" is not an address or network, it never matches",
            "t:8:10: this rule is never reached: the one at t:7 takes everything it matches",
        ]
    );
}

#[test]
fn a_text_of_errors_has_bounded_complaints() {
    let errors = load_text(&"bogus\n".repeat(100_000)).unwrap_err();
    assert_eq!(errors.len(), 201);
    assert!(errors[200].ends_with("too many errors"));
    assert!(load_text(&"{".repeat(1_000_000)).is_err());
    let include: String = (0..2000).map(|n| format!("a{n} = x\n")).collect();
    assert!(load_text(&include).is_err());
}

// The files we install are good, and warn of nothing.
#[test]
fn the_default_configuration_is_good() {
    let read = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        fs::read(path).unwrap()
    };
    let text = String::from_utf8(read("etc/smtpd.conf")).unwrap();
    let mut sources = Sources::from_text("smtpd.conf", &text, &[]);
    sources.insert(Path::new("/etc/mail/aliases"), read("etc/aliases"));
    let loaded = load(&sources, &defaults()).unwrap();
    assert_eq!(loaded.warnings, []);
    // Users of this machine, and the world.
    assert_eq!(loaded.config.rules.len(), 2);
    // A machine that only sends is one line more.
    let one_line = text.replacen("#match from local for any", "match from local for any", 1);
    let mut only_sends = Sources::from_text("smtpd.conf", &one_line, &[]);
    only_sends.insert(Path::new("/etc/mail/aliases"), read("etc/aliases"));
    let only_sends = load(&only_sends, &defaults()).unwrap();
    assert_eq!(only_sends.config.rules.len(), 3);
    assert_eq!(only_sends.config.rules[0].text, loaded.config.rules[1].text);
    let aliases = read("etc/aliases");
    let entries: Vec<_> = super::table_text::Entries::new(&aliases, None)
        .map(Result::unwrap)
        .collect();
    assert!(
        entries
            .iter()
            .any(|e| (e.key, e.value.as_ref()) == ("abuse", "postmaster"))
    );
}
