//! Tables that a program serves.

use crate::mail::{MailAddr, Peer};
use crate::table::{Tables, program};

use super::{addr, tables};

/// A table program whose answers are `service|key|answer` lines, `*` for any key.
fn served(answers: &str) -> Tables {
    let script = format!(
        r#"while read -r line; do [ "$line" = "config|ready" ] && break; done
        for s in alias domain credentials netaddr userinfo source mailaddr addrname mailaddrmap \
            relayhost string auth regex; do echo "register|$s"; done; echo "register|ready"
        while IFS='|' read -r t v n name op svc id key; do
            said=not-found
            while IFS='|' read -r s k a; do
                [ "$s" = "$svc" ] && {{ [ "$k" = "$key" ] || [ "$k" = "*" ]; }} && said=$a
            done <<'EOF'
{answers}
EOF
            echo "$op-result|$id|$said"
        done"#
    );
    let tables = tables("table t proc:/bin/sh\n");
    let launcher: std::sync::Arc<dyn crate::proc::Launcher> = std::sync::Arc::new(
        crate::proc::tests::Scripts(vec![script], std::sync::Mutex::new(0)),
    );
    let soon = std::time::Instant::now() + std::time::Duration::from_secs(20);
    tables.start_programs(&|_| launcher.clone(), soon).unwrap();
    tables
}

// smtpd-tables(7): every service of table(5) can be a program's.
#[test]
fn a_program_serves_every_service() {
    let t = served(
        "alias|bob|found|carol, dave\ndomain|e.org|found\ncredentials|joe|found|joe:secret\n\
         netaddr|192.0.2.7|found\nuserinfo|op|found|1000:1001:/home/op\n\
         source||found|192.0.2.1\nmailaddr|a@e.org|found\nmailaddr|@|found\n\
         addrname|192.0.2.9|found|mx.e.org\n\
         mailaddrmap|joe|found|joe@e.org, @f.org\nrelayhost|g.org|found|smtp://h.org\n\
         relayhost||found|smtp://i.org\nstring|tag|found\nauth|joe:Secret|found\n\
         regex|evil.org|found",
    );
    let peer = |text: &str| Peer::parse(text).unwrap();
    assert_eq!(t.alias("t", "Bob"), Ok(Some("carol, dave".to_owned())));
    assert_eq!(t.alias("t", "nobody"), Ok(None));
    assert_eq!(t.domain("t", "E.org"), Ok(true));
    assert_eq!(t.domain("t", "f.org"), Ok(false));
    let found = t.credentials("t", "joe").unwrap().unwrap();
    assert_eq!(found.user.as_str(), "joe");
    assert_eq!(found.secret.reveal(), "secret");
    assert_eq!(t.netaddr("t", &peer("192.0.2.7")), Ok(true));
    assert_eq!(t.netaddr("t", &peer("192.0.2.8")), Ok(false));
    let user = t.userinfo("t", "Op").unwrap().unwrap();
    assert_eq!((user.name.as_str(), user.uid, user.gid), ("op", 1000, 1001));
    assert_eq!(t.userinfo("t", "root"), Ok(None));
    assert_eq!(t.source_fetch("t"), Ok(Some("192.0.2.1".parse().unwrap())));
    assert_eq!(t.mailaddr("t", &addr("A@e.org")), Ok(true));
    assert_eq!(t.mailaddr("t", &MailAddr::null()), Ok(true));
    assert_eq!(t.mailaddr("t", &addr("b@e.org")), Ok(false));
    let named = t.addrname("t", &peer("192.0.2.9")).unwrap().unwrap();
    assert_eq!(named.as_str(), "mx.e.org");
    for (sender, may) in [("joe@e.org", true), ("x@f.org", true), ("x@e.org", false)] {
        assert_eq!(t.mailaddrmap("t", "joe", &addr(sender)), Ok(Some(may)));
    }
    assert_eq!(t.mailaddrmap("t", "eve", &addr("joe@e.org")), Ok(None));
    assert!(t.relayhost_lookup("t", "g.org").unwrap().is_some());
    assert!(t.relayhost_fetch("t").unwrap().is_some());
    assert_eq!(t.string("t", "tag"), Ok(true));
    assert_eq!(t.judges_passwords("t"), Ok(true));
    assert_eq!(t.password("t", "Joe", "Secret"), Ok(true));
    assert_eq!(t.password("t", "joe", "secret"), Ok(false));
    assert_eq!(t.regex("t", "evil.org"), Ok(true));
}

// smtpd-tables(7), FAILURES: a lookup that fails is a temporary failure and never a match.
#[test]
fn what_a_program_cannot_say_or_says_wrongly_is_an_error() {
    let all = |answer: &str| {
        let services = program::SERVICES.into_iter().chain([program::REGEX]);
        let lines: Vec<String> = services.map(|s| format!("{s}|*|{answer}")).collect();
        served(&lines.join("\n"))
    };
    let t = all("error|no route");
    assert!(t.alias("t", "bob").is_err());
    assert!(t.domain("t", "e.org").is_err());
    assert!(t.credentials("t", "joe").is_err());
    assert!(t.netaddr("t", &Peer::Local).is_err());
    assert!(t.userinfo("t", "op").is_err());
    assert!(t.source_fetch("t").is_err());
    assert!(t.mailaddr("t", &addr("a@e.org")).is_err());
    assert!(t.addrname("t", &Peer::Local).is_err());
    assert!(t.mailaddrmap("t", "joe", &addr("a@e.org")).is_err());
    assert!(t.relayhost_lookup("t", "g.org").is_err());
    assert!(t.relayhost_fetch("t").is_err());
    assert!(t.string("t", "tag").is_err());
    assert!(t.password("t", "joe", "secret").is_err());
    assert!(t.regex("t", "x").is_err());
    // A value that the service cannot have.
    let t = all("found|:");
    assert!(t.credentials("t", "joe").is_err());
    assert!(t.userinfo("t", "op").is_err());
    assert!(t.source_fetch("t").is_err());
    assert!(t.relayhost_lookup("t", "g.org").is_err());
}
