//! Stories with .forward files, rewritten senders, and the examples of the manuals.

use crate::config::Srs;
use crate::util::Secret;

use super::*;

/// Three ways to a user: `here` delivers, `only` and `expand` want a .forward, `vmail` has a user
/// of its own; `copy` delivers as `here` does, under another name.
const ACTIONS: &str = r#"
table users {
    bob = "1000:1000:/home/bob", alice = "1001:1001:/home/alice", root = "0:0:/root",
    carol = "1002:1002:/home/carol", vmail = "2000:2000:/var/vmail"
}
table aliases { team = "bob, alice", first = bob, bob = "bob, carol@ext.net" }
table vt { "bob@v.org" = bob, "@w.org" = vmail, "alice@v.org" = alice }
action here maildir userbase <users>
action copy mbox userbase <users>
action listed maildir alias <aliases> userbase <users>
action hosted maildir virtual <vt> userbase <users>
action vmail maildir virtual <vt> userbase <users> user vmail
action only forward-only alias <aliases> userbase <users>
action expand expand-only userbase <users>
action out mbox
match from any for domain example.com action here
match from any for domain copy.example.com action copy
match from any for domain l.org action listed
match from any for domain v.org action hosted
match from any for domain w.org action vmail
match from any for domain o.org action only
match from any for domain x.org action expand
match from local for domain "ext.net" action out
"#;

/// .forward of bob, recipient, and what becomes of it. `-` is a user without a file.
const STORIES: &[(&str, &str, &str)] = &[
    ("-", "bob@example.com", "here bob <bob@example.com>"),
    ("", "bob@example.com", "here bob <bob@example.com>"),
    (
        "# nothing\n\n",
        "bob@example.com",
        "here bob <bob@example.com>",
    ),
    (
        ":include:/etc/passwd\n",
        "bob@example.com",
        "here bob <bob@example.com>",
    ),
    // Elsewhere, and with a copy.
    (
        "bob@ext.net",
        "bob@example.com",
        "out relay <bob@ext.net> internal",
    ),
    (
        "bob, \"|/usr/bin/notify -x\"\nbob@ext.net",
        "bob@example.com",
        "here bob <bob@example.com>; here bob |/usr/bin/notify -x <bob@example.com>; \
         out relay <bob@ext.net> internal",
    ),
    ("\\bob", "bob@example.com", "here bob <bob@example.com>"),
    ("Bob, BOB", "bob@example.com", "here bob <bob@example.com>"),
    ("alice", "bob@example.com", "here alice <bob@example.com>"),
    (
        "/home/bob/mbox",
        "bob@example.com",
        "here bob >/home/bob/mbox <bob@example.com>",
    ),
    (
        "bob+x",
        "bob+y@example.com",
        "here bob+x <bob+y@example.com>",
    ),
    (
        "alice",
        "bob+y@example.com",
        "here alice <bob+y@example.com>",
    ),
    // His own address keeps a copy, under whichever action it is his.
    (
        "bob@example.com",
        "bob@example.com",
        "here bob <bob@example.com> internal",
    ),
    (
        "BOB@Example.com",
        "bob@example.com",
        "here bob <BOB@Example.com> internal",
    ),
    (
        "bob+z@example.com",
        "bob@example.com",
        "here bob+z <bob+z@example.com> internal",
    ),
    (
        "bob@example.com, |cmd",
        "bob@example.com",
        "here bob |cmd <bob@example.com>; here bob <bob@example.com> internal",
    ),
    (
        "bob@copy.example.com",
        "bob@example.com",
        "copy bob <bob@copy.example.com> internal",
    ),
    (
        "bob@copy.example.com, |cmd",
        "bob@example.com",
        "here bob |cmd <bob@example.com>; copy bob <bob@copy.example.com> internal",
    ),
    ("bob@v.org", "bob@v.org", "hosted bob <bob@v.org> internal"),
    (
        "alice@v.org",
        "bob@v.org",
        "hosted alice <alice@v.org> internal",
    ),
    // Aliases are asked for names in it, but not for his own.
    ("first, carol", "bob@example.com", INVALID),
    (
        "-",
        "first@l.org",
        "listed bob <first@l.org>; out relay <carol@ext.net> internal",
    ),
    (
        "bob, |cmd",
        "bob@l.org",
        "out relay <carol@ext.net> internal; listed bob <bob@l.org>; listed bob |cmd <bob@l.org>",
    ),
    ("|cmd", "team@l.org", TEAM),
    // One that fails, and all fail.
    ("bob, nobody", "bob@example.com", INVALID),
    ("bob, x@nowhere.test", "bob@example.com", INVALID),
    (
        "error:550 5.1.6 moved",
        "bob@example.com",
        "550 5.1.6 moved",
    ),
    ("bob, error:421 later", "bob@example.com", "421 later"),
    ("bob\n<bob@ext.net\n", "bob@example.com", LIST_TEMPORARY),
    ("\"|never closed\n", "bob@example.com", LIST_TEMPORARY),
    // Somebody else's mail is not followed.
    ("|cmd", "bob@w.org", "vmail vmail <bob@w.org>"),
    // forward-only.
    ("-", "bob@o.org", INVALID),
    ("", "alice@o.org", INVALID),
    (
        "bob@ext.net",
        "first@o.org",
        "out relay <carol@ext.net> internal; out relay <bob@ext.net> internal",
    ),
    ("|cmd", "first@o.org", TEMPORARY),
    ("/f", "first@o.org", TEMPORARY),
    ("error:550 no", "first@o.org", "550 no"),
    ("bob", "first@o.org", INVALID),
    // expand-only.
    ("-", "bob@x.org", LIST_PERMANENT),
    ("# nothing", "bob@x.org", LIST_PERMANENT),
    ("|cmd", "bob@x.org", "expand bob |cmd <bob@x.org>"),
    (
        "/f, bob@ext.net",
        "bob@x.org",
        "expand bob >/f <bob@x.org>; out relay <bob@ext.net> internal",
    ),
    ("bob", "bob@x.org", INVALID),
    ("alice", "bob@x.org", LIST_PERMANENT),
    ("error:551 no", "bob@x.org", "551 no"),
];

const TEAM: &str = "listed alice <team@l.org>; out relay <carol@ext.net> internal; \
                    listed bob |cmd <team@l.org>";

fn bench() -> Bench {
    Bench::new(ACTIONS)
}

// forward(5), smtpd.conf(5): what a .forward leads to, and what clients hear.
#[test]
fn every_forward_leads_where_it_says() {
    let mut wrong = Vec::new();
    for (text, rcpt, expected) in STORIES {
        let bench = match *text {
            "-" => bench(),
            text => bench().forward("bob", text),
        };
        let found = bench.run(rcpt);
        if found != *expected {
            wrong.push((text, rcpt, found));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

// forward(5), smtpd.conf(5): what .forward files and aliases lead to is judged anew, as mail from here.
#[test]
fn a_copy_to_oneself_arrives_although_another_rule_takes_it() {
    let both = "out relay <carol@ext.net> internal; copy bob <bob@example.com> internal";
    let cmd = "listed _smtpd |cmd <cmd@example.com>";
    for (action, copied, forward, rcpt, expected) in [
        (
            "here",
            "copy",
            "bob@example.com, carol@ext.net",
            "bob@example.com",
            both.to_owned(),
        ),
        (
            "here",
            "copy",
            "bob@example.com",
            "bob@example.com",
            both.split("; ").skip(1).collect(),
        ),
        ("listed", "copy", "bob", "bob@example.com", both.to_owned()),
        (
            "listed",
            "relisted",
            "bob",
            "bob@example.com",
            both.replace("copy", "relisted"),
        ),
        (
            "listed",
            "copy",
            "bob",
            "cmd@example.com",
            format!("{cmd}; copy bob <bob@example.com> internal"),
        ),
    ] {
        let (actions, rules) = ACTIONS.split_once("match").unwrap();
        let actions = actions.replace(
            "bob = \"bob, carol@ext.net\"",
            "bob = \"bob@example.com, carol@ext.net\", cmd = \"bob@example.com, |cmd\"",
        );
        let text = format!(
            "{actions}action relisted mbox alias <aliases> userbase <users>\n\
             match from local for domain example.com action {copied}\n\
             match from any for domain example.com action {action}\nmatch{rules}"
        );
        let found = Bench::new(&text).forward("bob", forward).run(rcpt);
        assert_eq!(found, expected, "{action} {copied} {forward}");
    }
}

// forward(5): what cannot be used, read or understood is never taken for no file.
#[test]
fn a_file_that_cannot_be_used_makes_mail_wait() {
    let mut bench = bench();
    let homes = &mut bench.homes.0;
    homes.insert("bob".into(), Found::Unusable);
    homes.insert("alice".into(), Found::NoAnswer);
    homes.insert("root".into(), Found::Text(b"|id".to_vec()));
    homes.insert("carol".into(), Found::Text(vec![b'#'; 4096]));
    assert_eq!(bench.run("bob@example.com"), LIST_TEMPORARY);
    assert_eq!(bench.run("alice@example.com"), TEMPORARY);
    // Root runs no commands.
    assert_eq!(bench.run("root@example.com"), TEMPORARY);
    assert_eq!(bench.run("carol@example.com"), LIST_TEMPORARY);
    let comment = vec![b'#'; 4095];
    bench.homes.0.insert("carol".into(), Found::Text(comment));
    assert_eq!(
        bench.run("carol@example.com"),
        "here carol <carol@example.com>"
    );
}

// forward(5): at most 100 items.
#[test]
fn a_file_names_at_most_100_items() {
    let items = |count: usize| (0..count).map(|n| format!("bob+{n}\n")).collect::<String>();
    let found = bench().forward("bob", &items(100)).run("bob@example.com");
    assert_eq!(found.split("; ").count(), 100);
    let found = bench().forward("bob", &items(101)).run("bob@example.com");
    assert_eq!(found, LIST_TEMPORARY);
}

// forward(5): files that lead to each other end, and what else is in them counts.
#[test]
fn loops_between_users_end() {
    let both = |bob: &str, alice: &str| {
        let bench = bench().forward("bob", bob).forward("alice", alice);
        bench.run("bob@example.com")
    };
    assert_eq!(both("alice", "bob"), LIST_PERMANENT);
    assert_eq!(both("alice@example.com", "bob@example.com"), LIST_PERMANENT);
    assert_eq!(
        both("alice", "bob, alice@ext.net"),
        "out relay <alice@ext.net> internal"
    );
    assert_eq!(
        both("bob, alice", "alice, bob"),
        "here bob <bob@example.com>; here alice <bob@example.com>"
    );
}

// smtpd.conf(5), srs: reports to a rewritten sender go on to the sender it had, others do not.
#[test]
fn reports_lead_back_to_rewritten_senders() {
    let mut bench = bench();
    let secret = |text: &str| Secret::new(Line::new(text).unwrap());
    // The day JK.
    bench.now = Timestamp(298 * 86_400);
    let sent = "SRS0=bflR=JK=Origin.org=bob@example.com";
    assert_eq!(bench.run(sent), INVALID);
    let mut srs = Srs {
        key: secret("secret"),
        backup: None,
        ttl_days: 4,
    };
    bench.config.srs = Some(srs.clone());
    let back = MailAddr::new("bob", "ext.net").unwrap();
    let sent = srs.keys().encode(&back, "example.com", bench.now).unwrap();
    let relayed = "out relay <bob@ext.net> internal";
    assert_eq!(bench.run(&sent.to_string()), relayed);
    assert_eq!(bench.run(&sent.to_string().to_ascii_lowercase()), relayed);
    let forged = sent.to_string().replace("=bob", "=eve");
    assert_eq!(bench.run(&forged), INVALID);
    bench.sender = MailAddr::new("eve", "ext.net").unwrap();
    assert_eq!(bench.run(&sent.to_string()), INVALID);
    bench.sender = MailAddr::null();
    srs.key = secret("new");
    bench.config.srs = Some(srs.clone());
    assert_eq!(bench.run(&sent.to_string()), INVALID);
    srs.backup = Some(secret("secret"));
    bench.config.srs = Some(srs);
    assert_eq!(bench.run(&sent.to_string()), relayed);
    bench.now = bench.now.plus(5 * 86_400);
    assert_eq!(bench.run(&sent.to_string()), INVALID);
}

const EXAMPLES: &str = r#"
table users {
    bob = "1000:1000:/home/bob", cat = "1003:1003:/home/cat", root = "0:0:/root",
    vmail = "2000:2000:/var/vmail"
}
table virtual_users { vbob = "5000:5000:/srv/vbob" }
table aliases {
    team = "bob, carol@ext.net, |/usr/bin/count", gone = "error:551 5.1.6 moved"
}
table vt { "info@v.org" = bob, sales = "carol@ext.net", "@v.org" = cat }
table strict { "info@s.org" = bob }
action l maildir alias <aliases> userbase <users>
action v maildir virtual <vt> user vmail userbase <users>
action s maildir virtual <strict> user vmail userbase <users>
action u maildir userbase <virtual_users>
action out mbox
match for local action l
match from any for domain "example.com" action l
match from any for domain "v.org" action v
match from any for domain "s.org" action s
match from any for domain "u.org" action u
"#;

// aliases(5), forward(5), smtpd.conf(5): what the manuals promise, example by example.
#[test]
fn every_worked_example_works() {
    let relaying = format!("{EXAMPLES}match from local for any action out\n");
    let bench = || Bench::new(&relaying);
    let plain = |rcpt: &str| bench().run(rcpt);
    // A plain user keeps the case of the address.
    assert_eq!(plain("Bob@Example.com"), "l bob <Bob@Example.com>");
    assert_eq!(
        plain("bob+lists@example.com"),
        "l bob+lists <bob+lists@example.com>"
    );
    // An alias to several, and to one that nobody accepts.
    assert_eq!(
        plain("team@example.com"),
        "l bob <team@example.com>; l _smtpd |/usr/bin/count <team@example.com>; \
         out relay <carol@ext.net> internal"
    );
    assert_eq!(Bench::new(EXAMPLES).run("team@example.com"), INVALID);
    // Virtual domains, with and without a catch-all.
    assert_eq!(plain("info@v.org"), "v bob <info@v.org>");
    assert_eq!(plain("sales@v.org"), "out relay <carol@ext.net> internal");
    assert_eq!(plain("zoe+x@v.org"), "v cat <zoe+x@v.org>");
    assert_eq!(plain("zoe@s.org"), LIST_PERMANENT);
    let elsewhere = bench().forward("bob", "|cmd").run("info@v.org");
    assert_eq!(elsewhere, "v bob <info@v.org>");
    // A .forward with a copy, and one that cannot be used.
    let text = "bob\n\"|/usr/bin/notify -x\"\nbob@home.net\n";
    assert_eq!(
        bench().forward("bob", text).run("bob@example.com"),
        "l bob <bob@example.com>; l bob |/usr/bin/notify -x <bob@example.com>; \
         out relay <bob@home.net> internal"
    );
    let mut insecure = bench();
    insecure.homes.0.insert("bob".into(), Found::Unusable);
    assert_eq!(insecure.run("bob@example.com"), LIST_TEMPORARY);
    assert_eq!(plain("gone@example.com"), "551 5.1.6 moved");
    // Users of a table.
    assert_eq!(plain("vbob@u.org"), "u vbob <vbob@u.org>");
    assert_eq!(plain("bob@u.org"), INVALID);
    let forwarded = bench().forward("vbob", "|cmd").run("vbob@u.org");
    assert_eq!(forwarded, "u vbob |cmd <vbob@u.org>");
    assert_eq!(plain("nobody2@example.com"), INVALID);
    // Root is accepted; whether it is delivered is for the delivery to say.
    assert_eq!(plain("root@example.com"), "l root <root@example.com>");
}
