//! What the model holds of listeners' TLS and authentication, of programs and of filters.

use crate::config::{
    AuthNeed, ClientCertificate, Condition, Config, Decision, Filter, Method, Phase, Sources,
    TlsMode, load,
};

use super::defaults;

fn config(text: &str) -> Config {
    let text = format!("{text}\naction a mbox\nmatch for any action a\n");
    let sources = Sources::from_text("t", &text, &[]);
    load(&sources, &defaults()).unwrap().config
}

// smtpd.conf(5), listen on: tls, tls-require [verify], smtps, pki, ca, ciphers, protocols.
#[test]
fn a_listener_knows_its_tls() {
    let found = config(
        "pki a.example cert \"/a.crt\" key \"/a.key\"
         pki b.example cert \"/b.crt\"
         pki B.example key \"/b.key\"
         ca friends cert \"/ca.crt\"
         listen on lo0
         listen on lo0 tls pki b.example pki A.example
         listen on lo0 tls-require verify pki a.example ca Friends ciphers HIGH protocols \"TLSv1.3\"
         listen on lo0 smtps pki a.example
         listen on lo0 port 587 smtps verify pki a.example",
    );
    assert!(found.listeners[0].tls.is_none());
    let tls = |index: usize| found.listeners[index].tls.as_ref().unwrap();
    assert_eq!(tls(1).mode, TlsMode::Offered);
    assert_eq!(tls(1).client, ClientCertificate::NotAsked);
    assert_eq!(tls(1).pki, ["b.example", "a.example"]);
    assert_eq!(tls(2).mode, TlsMode::Required);
    assert_eq!(tls(2).client, ClientCertificate::Required);
    assert_eq!(tls(2).ca.as_deref(), Some("friends"));
    assert_eq!(tls(2).ciphers.as_ref().unwrap().0.as_str(), "HIGH");
    assert_eq!(tls(2).protocols.as_ref().unwrap().0.as_str(), "TLSv1.3");
    assert_eq!(tls(3).mode, TlsMode::Immediate);
    assert_eq!(found.listeners[3].port, 465);
    assert_eq!(found.listeners[4].port, 587);
    assert_eq!(tls(4).client, ClientCertificate::Required);
    let pki = &found.pki["b.example"];
    assert!(pki.cert.is_some() && pki.key.is_some());
}

// smtpd.conf(5), listen on: auth and auth-optional, against passwords of the system or a table;
// proxy-v2; hostnames; senders with masquerade.
#[test]
fn a_listener_knows_who_must_authenticate() {
    let found = config(
        "pki a cert \"/a.crt\" key \"/a.key\"
         table users { bob = \"x:y\" }
         listen on lo0 tls pki a auth
         listen on lo0 tls pki a auth-optional <users> senders { bob = \"b@example.org\" } masquerade
         listen on lo0 proxy-v2 hostnames { \"127.0.0.1\" = mail.example.org }",
    );
    let auth = |index: usize| found.listeners[index].auth.as_ref().unwrap();
    assert_eq!(auth(0).need, AuthNeed::Required);
    assert_eq!(auth(0).table, None);
    assert_eq!(auth(1).need, AuthNeed::Optional);
    assert_eq!(auth(1).table.as_deref(), Some("users"));
    assert!(found.listeners[1].senders.as_ref().unwrap().masquerade);
    let last = &found.listeners[2];
    assert!(last.proxy_v2.as_ref().unwrap().from.is_none() && last.auth.is_none());
    let names = last.hostnames.as_ref().unwrap();
    assert!(found.tables.contains_key(names));
}

// smtpd.conf(5), filter and proc: programs with user, group and chroot; chains; phases.
#[test]
fn filters_and_their_programs_are_known_by_name() {
    let found = config(
        "proc one \"filter-one -x\" user _one group _one chroot \"/var/empty\"
         filter a proc one
         filter b proc-exec \"/bin/b\" user _b
         filter c phase connect match !fcrdns reject \"550 no name\"
         filter d phase rcpt-to match rcpt-to regex \"^x\" junk
         filter all chain { a, b
            c }
         filter e phase commit match auth bob report \"sent\"
         filter f phase mail-from match mail-from \"@example.net\" rewrite \"<x@example.org>\"
         listen on lo0 filter all
         listen on lo0 filter { d e }
         listen on socket filter f
         action r relay filter \"b\"
         match tag x for any action r",
    );
    let one = &found.procs["one"];
    assert_eq!(one.command.as_str(), "filter-one -x");
    assert_eq!(one.user.as_deref(), Some("_one"));
    assert_eq!(one.group.as_deref(), Some("_one"));
    assert_eq!(one.chroot.as_deref().unwrap().to_str(), Some("/var/empty"));
    assert_eq!(one.at.to_string(), "t:1");
    assert!(matches!(&found.filters["a"], Filter::Proc(name) if name == "one"));
    assert!(matches!(&found.filters["b"], Filter::Proc(name) if name == "b"));
    assert_eq!(found.procs["b"].user.as_deref(), Some("_b"));
    assert!(matches!(&found.filters["all"], Filter::Chain(names) if names == &["a", "b", "c"]));
    let built_in = |name: &str| match &found.filters[name] {
        Filter::BuiltIn(filter) => filter,
        other => panic!("{other:?}"),
    };
    let c = built_in("c");
    assert!(c.negated && c.phase == Phase::Connect && matches!(c.condition, Condition::Fcrdns));
    assert!(matches!(&c.decision, Decision::Reject(text) if text.as_str() == "550 no name"));
    let d = built_in("d");
    assert!(matches!(&d.condition, Condition::RcptTo(pattern) if pattern.regex));
    assert_eq!(d.decision, Decision::Junk);
    let e = &built_in("e").condition;
    assert!(matches!(e, Condition::Auth(Some(p)) if found.tables.contains_key(&p.table)));
    assert!(
        matches!(&built_in("f").decision, Decision::Rewrite(text) if text.as_str() == "<x@example.org>")
    );
    assert_eq!(found.listeners[0].filter.as_deref(), Some("all"));
    let anonymous = found.listeners[1].filter.as_deref();
    assert_eq!(anonymous, Some("<dynchain:d,e>"));
    assert!(
        matches!(&found.filters["<dynchain:d,e>"], Filter::Chain(names) if names == &["d", "e"])
    );
    assert_eq!(found.socket.filter.as_deref(), Some("f"));
    let Method::Relay(relay) = &found.actions["r"].method else {
        panic!("relay");
    };
    assert_eq!(relay.filter.as_deref(), Some("b"));
}
