//! smtpd.conf(5), srs: senders of forwarded mail lead back to us, and reports to them go on.

use crate::support::tls_host::{Certificate, Manner, TlsHost};
use crate::support::{Instance, Setup, wait_for};

fn forwarder(far: &TlsHost, origin: &TlsHost) -> Instance {
    let url = |host: &TlsHost| format!("smtp://127.0.0.1:{}", host.port);
    let config = format!(
        "listen on 127.0.0.1 port $port\n\
         srs key \"secret\"\n\
         action \"in\" maildir \"$dir/mail\" virtual {{ \"list@fwd.example\" = \"bob@far.example\" }}\n\
         action \"out\" relay srs domain {{ \"far.example\" = \"{}\", \"origin.example\" = \"{}\" }}\n\
         match from any for domain \"fwd.example\" action \"in\"\n\
         match from any for any action \"out\"\n",
        url(far),
        url(origin)
    );
    Setup::new(&config).start()
}

fn host() -> TlsHost {
    TlsHost::start(Manner::with(Certificate::self_signed("127.0.0.1")))
}

/// The sender of the message with which a host was told of a recipient.
fn sender_for(host: &TlsHost, rcpt: &str) -> String {
    let rcpt = format!("tls: RCPT TO:<{rcpt}>");
    host.wait(&rcpt);
    let heard = host.heard();
    let at = heard.iter().position(|line| line.starts_with(&rcpt));
    let before = heard.get(..at.expect("the recipient")).unwrap_or_default();
    let mail = before
        .iter()
        .rfind(|line| line.starts_with("tls: MAIL FROM:<"));
    let (_, rest) = mail.expect("a sender").split_once('<').expect("a path");
    rest.split('>').next().unwrap_or_default().to_string()
}

#[test]
fn a_report_for_forwarded_mail_finds_its_way_back() {
    let (far, origin) = (host(), host());
    let daemon = forwarder(&far, &origin);
    let mut client = daemon.hello();
    client.mail(
        "alice@origin.example",
        &["list@fwd.example", "carol@far.example"],
        b"Subject: x\n\nhi\n",
    );
    let rewritten = sender_for(&far, "bob@far.example");
    assert!(
        rewritten.starts_with("SRS0=") && rewritten.ends_with("=origin.example=alice@fwd.example"),
        "{rewritten}"
    );
    daemon.wait_log(&format!(
        "from=<{rewritten}> to=<bob@far.example> rcpt=<list@fwd.example>"
    ));
    // What is not forwarded keeps its sender, in the same message too.
    assert_eq!(
        sender_for(&far, "carol@far.example"),
        "alice@origin.example"
    );
    client.mail("", &[&rewritten], b"Subject: no such user\n\nsorry\n");
    assert_eq!(sender_for(&origin, "alice@origin.example"), "");
    daemon.wait_empty();
    // What somebody made up is an address like any other, and the table has no such entry.
    let reply = client.try_mail("", &["SRS0=aaaa=AA=origin.example=eve@fwd.example"], b"x\n");
    assert!(reply.is_some_and(|reply| reply.starts_with("524 5.2.4 ")));
    daemon.wait_log("SRS failed to decode: SRS0=aaaa=AA=origin.example=eve@fwd.example");
}

#[test]
fn a_report_is_never_rewritten() {
    // RFC 5321 §4.5.5: the null sender stays null.
    let (far, origin) = (host(), host());
    let daemon = forwarder(&far, &origin);
    let mut client = daemon.hello();
    client.mail("", &["list@fwd.example"], b"Subject: x\n\nhi\n");
    assert_eq!(sender_for(&far, "bob@far.example"), "");
    wait_for("the queue to be empty", || daemon.queue().is_empty());
}
