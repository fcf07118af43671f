//! Reports against golden files and a structural reader.

mod agent;
mod front_door;

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::mail::samples::line;
use crate::mail::{BounceKind, Dsn as DsnParameters, Flags, Kind, Past, Peer, Ret};

use super::excerpt::{Excerpt, Extent};
use super::*;

const T0: Timestamp = Timestamp(1_763_754_127);

/// Right in November 2025, of which T0 is the 21st, a Friday.
fn date(at: Timestamp) -> String {
    const NAMES: [&str; 7] = ["Fri", "Sat", "Sun", "Mon", "Tue", "Wed", "Thu"];
    let day = 21 + at.0 / 86_400 - T0.0 / 86_400;
    let (hour, minute, second) = (at.0 / 3600 % 24, at.0 / 60 % 60, at.0 % 60);
    let name = NAMES[day as usize % 7];
    format!("{name}, {day} Nov 2025 {hour:02}:{minute:02}:{second:02} +0000 (UTC)")
}

fn bounce(id: &str, rcpt: &str, kind: BounceKind, status: Status, error: &str) -> Envelope {
    Envelope {
        id: id.parse().unwrap(),
        action: line("local"),
        tag: None,
        kind: Kind::Bounce(kind),
        smtpname: line("mx.example.org"),
        helo: line("client.example.net"),
        hostname: line("client.example.net"),
        username: None,
        errorline: (!error.is_empty()).then(|| Line::sanitize(error.as_bytes())),
        peer: Peer::Local,
        sender: MailAddr::new("alice", "example.net").unwrap(),
        rcpt: MailAddr::new(rcpt, "example.com").unwrap(),
        dest: MailAddr::new("hidden-alias-target", "inside.example.com").unwrap(),
        created: T0,
        last_try: Timestamp(0),
        last_bounce: Timestamp(0),
        ttl_s: 0,
        retry: 0,
        flags: Flags::default(),
        dsn: DsnParameters::default(),
        status: Some(status),
        past: Past::default(),
    }
}

fn header_of_original() -> Excerpt {
    Excerpt {
        bytes: b"Received: from client.example.net (client.example.net [192.0.2.7])\n\
                 \tby mx.example.org (OpenSMTPD) with ESMTP id 1a2b3c4d\n\
                 \tfor <bob@example.com>;\n\tFri, 21 Nov 2025 19:41:59 +0000 (UTC)\n\
                 Message-ID: <first@example.net>\nSubject: hello\n"
            .to_vec(),
        extent: Extent::Header,
    }
}

/// The envelope came `age_s` seconds before the report and was decided by a reply of `remote`.
fn after(age_s: u64, remote: &str, envelope: Envelope) -> Envelope {
    Envelope {
        past: Past {
            remote: (!remote.is_empty()).then(|| line(remote)),
            arrived: Timestamp(T0.0 - age_s),
            tried: T0,
        },
        ..envelope
    }
}

/// Three recipients on three hosts; one has no name, one said nothing at all.
fn failed_elsewhere() -> Vec<Envelope> {
    let failed = |id, rcpt, status, error| bounce(id, rcpt, BounceKind::Failed, status, error);
    let full = failed(
        "1a2b3c4d00000011",
        "bob",
        Status::new(5, 2, 2),
        "552-5.2.2 The mailbox is full; 552 5.2.2 it has been for a year",
    );
    let unknown = failed("1a2b3c4d00000012", "carol", Status::new(5, 1, 1), "550 no");
    let nowhere = failed(
        "1a2b3c4d00000013",
        "dave",
        Status::new(5, 1, 2),
        "Domain does not exist",
    );
    vec![
        after(8, "mx1.example.com", full),
        after(8, "2001:db8::25", unknown),
        after(8, "", nowhere),
    ]
}

fn failed_two() -> Vec<Envelope> {
    let failed = BounceKind::Failed;
    let mut bob = bounce(
        "1a2b3c4d7f3e9a10",
        "bob",
        failed,
        Status::new(5, 1, 1),
        "550 5.1.1 <bob@example.com>: no such user",
    );
    bob.dsn.envid = Some(line("QQ314159+2Btwo"));
    bob.dsn.orcpt = Some(line("rfc822;Bob+40example.com"));
    let carol = bounce(
        "1a2b3c4d00000002",
        "carol",
        failed,
        Status::new(5, 3, 0),
        "\"mail.maildir: caf\u{e9} is closed\"",
    );
    vec![bob, carol]
}

/// One report per kind, by the name of its golden file.
fn reports() -> BTreeMap<&'static str, Vec<u8>> {
    let header = header_of_original();
    let whole = Excerpt {
        bytes: [
            header.bytes.as_slice(),
            b"\n.leading dot\n.\nna\xc3\xafve\n",
        ]
        .concat(),
        extent: Extent::Whole,
    };
    let delayed = BounceKind::Delayed {
        delay_s: 14_400,
        ttl_s: 345_600,
    };
    let busy = "451 4.7.1 Greylisted, try later";
    let delayed = [after(
        14_400,
        "mx1.example.com",
        bounce(
            "1a2b3c4d00000003",
            "bob",
            delayed,
            Status::new(4, 7, 1),
            busy,
        ),
    )];
    let delivered = BounceKind::Delivered { relayed: false };
    let delivered = [after(
        8,
        "",
        bounce(
            "1a2b3c4d00000004",
            "bob",
            delivered,
            Status::new(2, 0, 0),
            "",
        ),
    )];
    let relayed = BounceKind::Delivered { relayed: true };
    let relayed = [after(
        8,
        "192.0.2.25",
        bounce("1a2b3c4d00000005", "bob", relayed, Status::new(2, 0, 0), ""),
    )];
    let mut expired = [after(
        345_600,
        "mx1.example.com",
        bounce(
            "1a2b3c4d00000006",
            "bob",
            BounceKind::Failed,
            Status::new(5, 4, 7),
            "Envelope expired: 451 4.7.1 Greylisted, try later",
        ),
    )];
    // The last attempt was some hours before the end.
    expired[0].past.tried = Timestamp(T0.0 - 9200);
    let mut utf8 = header_of_original();
    utf8.bytes
        .extend_from_slice("To: J\u{f6}rg <j\u{f6}rg@example.com>\n".as_bytes());
    let compose = |envelopes: &[Envelope], original: Option<&Excerpt>| {
        report::compose(envelopes, original, T0, date)
    };
    BTreeMap::from([
        ("failed.eml", compose(&failed_two(), Some(&header))),
        ("failed_full.eml", compose(&failed_two(), Some(&whole))),
        (
            "failed_elsewhere.eml",
            compose(&failed_elsewhere(), Some(&header)),
        ),
        ("failed_utf8.eml", compose(&failed_two(), Some(&utf8))),
        ("delayed.eml", compose(&delayed, Some(&header))),
        ("delivered.eml", compose(&delivered, Some(&header))),
        ("relayed.eml", compose(&relayed, Some(&header))),
        ("expired.eml", compose(&expired, None)),
    ])
}

#[test]
fn reports_are_those_of_the_golden_files() {
    // RFC 3464, with OpenSMTPD's subject, From and sentences, which scripts match.
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/bounce/golden");
    for (name, text) in reports() {
        let path = folder.join(name);
        if std::env::var_os("SMTPD_WRITE_GOLDEN").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let golden = std::fs::read(&path).unwrap();
        assert_eq!(
            String::from_utf8_lossy(&text),
            String::from_utf8_lossy(&golden),
            "{name}: SMTPD_WRITE_GOLDEN=1 rewrites it"
        );
    }
}

/// The parts of a report, as a reader that knows only RFC 2046 finds them.
fn parts(text: &[u8]) -> (String, Vec<(String, String)>) {
    let text = String::from_utf8_lossy(text).into_owned();
    let (header, body) = text.split_once("\n\n").unwrap();
    let (_, rest) = header.split_once("boundary=\"").unwrap();
    let (boundary, _) = rest.split_once('"').unwrap();
    let (body, after) = body.rsplit_once(&format!("\n--{boundary}--\n")).unwrap();
    assert_eq!(after, "", "something behind the last boundary");
    let delimiter = format!("\n--{boundary}\n");
    let mut pieces = body.split(&delimiter);
    pieces.next().unwrap();
    let parts = pieces
        .map(|piece| {
            let (head, content) = piece.split_once("\n\n").unwrap();
            (head.to_owned(), content.to_owned())
        })
        .collect();
    (header.to_owned(), parts)
}

/// What every report must be, whatever it tells.
fn assert_well_formed(text: &[u8], recipients: usize) {
    let (header, parts) = parts(text);
    for needed in [
        "Subject: Delivery status notification: ",
        "From: Mailer Daemon <MAILER-DAEMON@",
        "To: ",
        "Date: ",
        "Message-ID: <",
        "Auto-Submitted: ",
        "MIME-Version: 1.0",
        "Content-Type: multipart/report; report-type=delivery-status;",
    ] {
        let found = header
            .lines()
            .filter(|line| line.starts_with(needed))
            .count();
        assert_eq!(found, 1, "{needed}");
    }
    assert!(parts.len() == 2 || parts.len() == 3);
    assert!(parts[0].0.contains("text/plain"));
    assert!(parts[1].0.contains("message/delivery-status"));
    let mut groups = parts[1].1.trim_end().split("\n\n");
    let per_message = groups.next().unwrap();
    assert!(per_message.starts_with("Reporting-MTA: dns; "));
    let groups: Vec<&str> = groups.collect();
    assert_eq!(groups.len(), recipients);
    for group in groups {
        for needed in ["Final-Recipient: rfc822; ", "Action: ", "Status: "] {
            let found = group
                .lines()
                .filter(|line| line.starts_with(needed))
                .count();
            assert_eq!(found, 1, "{needed} in {group}");
        }
    }
    for line in text.split(|byte| *byte == b'\n') {
        assert!(line.len() <= 998 && !line.contains(&b'\r') && !line.contains(&0));
    }
}

#[test]
fn every_report_is_a_multipart_report() {
    // RFC 3464 §2, RFC 6522 §3: two or three parts, the fields that must be there.
    for (name, text) in reports() {
        assert_well_formed(&text, recipients(name));
    }
}

fn recipients(name: &str) -> usize {
    match name {
        "failed_elsewhere.eml" => 3,
        name if name.starts_with("failed") => 2,
        _ => 1,
    }
}

/// Says of each report what it is and what its second part holds, one field per line.
const READER: &str = r#"
import email, email.policy, sys
for path in sys.argv[1:]:
    with open(path, "rb") as file:
        report = email.message_from_binary_file(file, policy=email.policy.default)
    assert report.get_content_type() == "multipart/report", path
    assert report.get_param("report-type") == "delivery-status", path
    for part in report.walk():
        assert not part.defects, (path, part.defects)
    parts = report.get_payload()
    assert parts[0].get_content_type() == "text/plain", path
    assert "MAILER-DAEMON" in parts[0].get_content(), path
    assert parts[1].get_content_type() == "message/delivery-status", path
    assert report["Auto-Submitted"] == "auto-replied", path
    print("report", len(parts), parts[2].get_content_type() if len(parts) > 2 else "")
    for block in parts[1].get_payload():
        print("block")
        for name, value in block.items():
            print(name + ": " + " ".join(str(value).split()))
"#;

/// The same, read by our own reader of fields.
fn as_we_read_it(text: &[u8]) -> String {
    let (_, parts) = parts(text);
    let third = parts.get(2).map_or("", |(head, _)| {
        let (_, kind) = head.split_once("Content-Type: ").unwrap();
        kind.lines().next().unwrap()
    });
    let mut out = format!("report {} {third}\n", parts.len());
    for block in parts[1].1.trim_end().split("\n\n") {
        out.push_str("block\n");
        for field in crate::rfc5322::fields(format!("{block}\n").as_bytes()) {
            let name = String::from_utf8_lossy(field.name).into_owned();
            out.push_str(&format!("{name}: {}\n", field.unfolded()));
        }
    }
    out
}

#[test]
fn another_reader_finds_in_every_report_what_ours_does() {
    // RFC 3464 §2.1: a report is there for programs. Python's email package is a strict one.
    let version = std::process::Command::new("python3")
        .arg("--version")
        .output();
    if !version.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: another_reader_finds_in_every_report_what_ours_does needs python3");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let reports = reports();
    for (name, text) in &reports {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let output = std::process::Command::new("python3")
        .args(["-c", READER])
        .args(reports.keys().map(|name| folder.path().join(name)))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let ours: String = reports.values().map(|text| as_we_read_it(text)).collect();
    assert_eq!(String::from_utf8_lossy(&output.stdout), ours);
}

#[test]
fn a_report_of_an_older_version_says_what_it_knows() {
    // spool-layout.md: files without remote, bounce-arrival and bounce-last-try are read.
    let envelope = bounce(
        "1a2b3c4d7f3e9a10",
        "bob",
        BounceKind::Failed,
        Status::new(5, 1, 1),
        "550 5.1.1 no",
    );
    let header = header_of_original();
    let text = report::compose(&[envelope], Some(&header), T0, date);
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("Arrival-Date: Fri, 21 Nov 2025 19:41:59 +0000 (UTC)\n"));
    assert!(text.contains("Last-Attempt-Date: Fri, 21 Nov 2025 19:42:07 +0000 (UTC)\n"));
    assert!(!text.contains("Remote-MTA"));
}

#[test]
fn nothing_from_outside_adds_a_line_or_a_part() {
    // RFC 2046 §5.1: what a peer or a sender wrote must not become a part of the report.
    let mut envelope = bounce(
        "1a2b3c4d7f3e9a10",
        "bob",
        BounceKind::Failed,
        Status::new(5, 0, 0),
        &"550 \u{2028}\u{85} \x0b\x0c x".repeat(300),
    );
    envelope.dsn.envid = Some(line("a+0D+0AStatus: 2.0.0+00+C3+A9"));
    envelope.dsn.orcpt = Some(line("rfc822;b+0A+0AFinal-Recipient: x"));
    let number = u64::from_str_radix("1a2b3c4d7f3e9a10", 16).unwrap();
    let evil = format!(
        "Subject: x\nReceived: by y; \x1b[31m\n\n--{number}/mx.example.org--\n--{}/mx.example.org\n",
        number + 1
    );
    for extent in [Extent::Header, Extent::Whole] {
        let original = Excerpt {
            bytes: evil.clone().into_bytes(),
            extent,
        };
        let text = report::compose(std::slice::from_ref(&envelope), Some(&original), T0, date);
        assert_well_formed(&text, 1);
        assert_eq!(parts(&text).1.len(), 3);
    }
}

#[test]
fn failures_of_one_message_share_a_report() {
    // RFC 3464 §2: one report may tell of several recipients of one message. As in OpenSMTPD, those
    // with the same smtpname, kind and RET, up to one second after the last of them.
    let failed = failed_two();
    let mut other = failed[0].clone();
    other.dsn.ret = Some(Ret::Full);
    let mut collector = Collector::default();
    collector.add(failed[0].clone(), 0);
    collector.add(failed[1].clone(), 900);
    collector.add(other, 900);
    assert_eq!(collector.groups(), 2);
    assert_eq!(collector.next_event(), Some(1900));
    assert!(collector.ready(1899).is_none());
    let mut sizes = [
        collector.ready(1900).unwrap().envelopes.len(),
        collector.ready(1900).unwrap().envelopes.len(),
    ];
    sizes.sort_unstable();
    assert_eq!(sizes, [1, 2]);
    assert!(collector.ready(u64::MAX).is_none());
    for at in (0..10_000).step_by(500) {
        collector.add(failed[0].clone(), at);
    }
    assert_eq!(
        collector.next_event(),
        Some(5000),
        "no group waits for ever"
    );
}
