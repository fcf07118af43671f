use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::mail::MailAddr;
use crate::mail::samples::{envelope, line};
use crate::util::dice::Dice;

use super::fields::FIELDS;
use super::*;

fn id() -> EvpId {
    envelope("ann").id
}

/// Envelopes by chance.
struct Chance(Dice);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0.number() % limit
    }

    fn text(&mut self) -> String {
        const PIECES: [&str; 24] = [
            "",
            "a",
            "Z9",
            " ",
            "\t",
            ":",
            ": ",
            "\"",
            "@",
            "%",
            "|",
            "[",
            "]",
            ",",
            "-quoted: ",
            "version: 3",
            "mda-exec: /bin/sh",
            "\u{1b}[m",
            "\u{e9}",
            "\u{1f4e8}",
            "check:",
            "type: mda",
            ".",
            "/",
        ];
        let count = self.below(6);
        (0..count)
            .map(|_| PIECES[self.below(PIECES.len() as u64) as usize])
            .collect()
    }

    fn line(&mut self) -> Line {
        line(&self.text())
    }

    fn line_if(&mut self) -> Option<Line> {
        (self.below(2) == 0).then(|| self.line())
    }

    fn address(&mut self) -> MailAddr {
        let domain = self.text().replace('@', "");
        MailAddr::new(&self.text(), &domain).unwrap()
    }

    fn flag(&mut self) -> bool {
        self.below(2) == 0
    }

    fn peer(&mut self) -> Peer {
        let v6 = Ipv6Addr::from(u128::from(self.0.number()) << 64 | 1);
        match self.below(4) {
            0 => Peer::Local,
            1 => Peer::inet(IpAddr::V4(Ipv4Addr::from(self.0.number() as u32))),
            2 => Peer::inet(IpAddr::V6(v6)),
            _ => Peer::Inet {
                addr: IpAddr::V6(v6),
                scope: Some(self.text().into()),
            },
        }
    }

    fn kind(&mut self) -> Kind {
        let number = self.0.number() as u32;
        match self.below(8) {
            0 => Kind::Relay,
            1 => Kind::Bounce(BounceKind::Failed),
            2 => Kind::Bounce(BounceKind::Delayed {
                delay_s: number,
                ttl_s: !number,
            }),
            3 => Kind::Bounce(BounceKind::Delivered {
                relayed: self.flag(),
            }),
            _ => Kind::Local(Local {
                user: self.line(),
                subaddress: self.line_if(),
                command: match self.below(3) {
                    0 => None,
                    1 => Some(Command::Pipe(self.line())),
                    _ => Some(Command::File(self.line())),
                },
            }),
        }
    }

    fn past(&mut self, kind: &Kind) -> Past {
        let remote = self.line_if();
        match kind {
            Kind::Bounce(_) => Past {
                remote,
                arrived: Timestamp(self.below(1 << 33)),
                tried: Timestamp(self.below(2)),
            },
            Kind::Local(_) | Kind::Relay => Past {
                remote,
                ..Past::default()
            },
        }
    }

    fn envelope(&mut self) -> Envelope {
        let kind = self.kind();
        let status = self.0.number().to_le_bytes();
        Envelope {
            id: id(),
            action: self.line(),
            tag: self.line_if(),
            past: self.past(&kind),
            kind,
            smtpname: self.line(),
            helo: self.line(),
            hostname: self.line(),
            username: self.line_if(),
            errorline: self.line_if(),
            peer: self.peer(),
            sender: self.address(),
            rcpt: self.address(),
            dest: self.address(),
            created: Timestamp(self.0.number()),
            last_try: Timestamp(self.below(1 << 33)),
            last_bounce: Timestamp(self.below(100_000)),
            ttl_s: self.0.number() as u32,
            retry: self.0.number() as u16,
            flags: Flags {
                authenticated: self.flag(),
                bounce: self.flag(),
                internal: self.flag(),
                suspended: self.flag(),
            },
            dsn: Dsn {
                notify: Notify(self.0.number() as u8),
                ret: [None, Some(Ret::Full), Some(Ret::Hdrs)][self.below(3) as usize],
                envid: self.line_if(),
                orcpt: self.line_if(),
            },
            status: match self.below(3) {
                0 => None,
                1 => Some(Status::new(5, status[0] % 9, status[1] % 40)),
                _ => Some(Status::new(status[0], status[1], status[2])),
            },
        }
    }
}

#[test]
fn every_field_stands_at_its_place_and_has_a_name_of_its_own() {
    for (at, (field, name, _)) in FIELDS.iter().enumerate() {
        assert_eq!(*field as usize, at);
        assert!(FIELDS[..at].iter().all(|(_, other, _)| other != name));
    }
}

#[test]
fn what_is_written_reads_back_whatever_the_fields_hold() {
    let mut chance = Chance(Dice::new(0x5eed_0001));
    for round in 0..5000 {
        let envelope = chance.envelope();
        let text = match encode(&envelope) {
            Ok(text) => text,
            // The scope of an address is the one text that is not a `Line`.
            Err(why) => panic!("round {round}: {why}: {envelope:?}"),
        };
        assert_eq!(decode(id(), text.as_bytes()), Ok(envelope), "round {round}");
    }
}

#[test]
fn no_damaged_byte_and_no_lost_end_makes_another_envelope() {
    let mut chance = Chance(Dice::new(0x5eed_0002));
    for _ in 0..20 {
        let envelope = chance.envelope();
        let text = encode(&envelope).unwrap();
        for at in 0..text.len() {
            for byte in [
                b'\n',
                b':',
                b' ',
                0,
                0xff,
                b'"',
                b'x',
                text.as_bytes()[at] ^ 1,
            ] {
                let mut damaged = text.clone().into_bytes();
                damaged[at] = byte;
                if let Ok(back) = decode(id(), &damaged) {
                    assert_eq!(back, envelope, "byte {at} = {byte}");
                }
            }
            assert!(decode(id(), &text.as_bytes()[..at]).is_err(), "cut at {at}");
        }
    }
}

#[test]
fn no_lost_repeated_or_foreign_line_makes_another_envelope() {
    let mut chance = Chance(Dice::new(0x5eed_0003));
    for _ in 0..50 {
        let envelope = chance.envelope();
        let text = encode(&envelope).unwrap();
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        for at in 0..lines.len() {
            let mut fewer = lines.clone();
            fewer.remove(at);
            let mut twice = lines.clone();
            twice.push(lines[at]);
            let mut foreign = lines.clone();
            foreign.insert(at, "mda-exec: /bin/evil\n");
            for changed in [fewer, twice, foreign] {
                if let Ok(back) = decode(id(), changed.concat().as_bytes()) {
                    assert_eq!(back, envelope, "{}", lines[at]);
                }
            }
        }
    }
}

const OPENSMTPD: &str = "version: 3\ndispatcher: outbound\ntype: mta\nsmtpname: mx.example.org\n\
helo: client.example.net\nhostname: client.example.net\n\
errorline: 451 4.7.1 Greylisted, try later\nsockaddr: 192.0.2.7\nsender: alice@example.net\n\
rcpt: bob@example.com\ndest: bob@example.com\nctime: 1700000000\nlast-try: 0\nlast-bounce: 0\n\
ttl: 0\nretry: 1\ndsn-notify: 0\nesc-class: 4\nesc-code: 0\n";

#[test]
fn a_file_of_opensmtpd_is_read() {
    // spool-layout.md, Envelope files: OpenSMTPD's files are read as they are.
    let read = decode(id(), OPENSMTPD.as_bytes()).unwrap();
    assert_eq!(read.action.as_str(), "outbound");
    assert_eq!(read.kind, Kind::Relay);
    assert_eq!(read.status, Some(Status::new(4, 0, 0)));
    assert_eq!(
        read.errorline.as_deref(),
        Some("451 4.7.1 Greylisted, try later")
    );
    assert_eq!(read.created, Timestamp(1_700_000_000));
    assert_eq!(read.retry, 1);
}

#[test]
fn ours_differs_from_opensmtpds_by_the_check_line_alone() {
    let read = decode(id(), OPENSMTPD.as_bytes()).unwrap();
    let text = encode(&read).unwrap();
    let without: String = text
        .split_inclusive('\n')
        .filter(|line| !line.starts_with("check:"))
        .collect();
    assert_eq!(without, OPENSMTPD);
}

#[test]
fn files_and_commands_of_opensmtpds_aliases_are_ours_to_deliver() {
    // smtpd-migration(7): its program for files goes with it, and so may the user it runs as.
    let text = OPENSMTPD.replace("type: mta", "type: mda");
    let read = |exec: &str, user: &str| {
        let text = format!("{text}mda-exec: {exec}\nmda-user: {user}\n");
        let read = decode_for(id(), text.as_bytes(), Some(&line("_smtpd"))).unwrap();
        let Kind::Local(local) = read.kind else {
            panic!("{:?}", read.kind)
        };
        (local.command.unwrap(), local.user.as_str().to_owned())
    };
    let to_file = "/usr/libexec/opensmtpd/mail.mboxfile -f %{mbox.from} ";
    for (exec, user, command, whose) in [
        (
            format!("{to_file}/var/log/a list"),
            "opensmtpd",
            Command::File(line("/var/log/a list")),
            "_smtpd",
        ),
        (
            format!("{to_file}/home/bob/box"),
            "bob",
            Command::File(line("/home/bob/box")),
            "bob",
        ),
        (
            "exec procmail".to_owned(),
            "smtpd",
            Command::Pipe(line("exec procmail")),
            "_smtpd",
        ),
        (
            format!("nice {to_file}/x"),
            "bob",
            Command::Pipe(line(&format!("nice {to_file}/x"))),
            "bob",
        ),
    ] {
        assert_eq!(read(&exec, user), (command, whose.to_owned()));
    }
    // What we have written means what it says.
    let own = format!("{text}mda-exec: {to_file}/x\nmda-user: opensmtpd\n");
    let mut envelope = decode(id(), own.as_bytes()).unwrap();
    let Kind::Local(local) = &mut envelope.kind else {
        panic!("{:?}", envelope.kind)
    };
    local.command = Some(Command::Pipe(line(&format!("{to_file}/x"))));
    let written = encode(&envelope).unwrap();
    let again = decode_for(id(), written.as_bytes(), Some(&line("_smtpd")));
    assert_eq!(again, Ok(envelope));
}

#[test]
fn a_bounce_of_an_older_version_is_read_without_its_past() {
    // spool-layout.md, remote, bounce-arrival, bounce-last-try: files without them are read.
    let old = OPENSMTPD.replace("type: mta", "type: bounce") + "bounce-type: failed\n";
    let read = decode(id(), old.as_bytes()).unwrap();
    assert_eq!(read.kind, Kind::Bounce(BounceKind::Failed));
    assert_eq!(read.past, Past::default());
    let new = old + "remote: mx.example.com\nbounce-arrival: 7\nbounce-last-try: 9\n";
    let read = decode(id(), new.as_bytes()).unwrap();
    let past = Past {
        remote: Some(line("mx.example.com")),
        arrived: Timestamp(7),
        tried: Timestamp(9),
    };
    assert_eq!(read.past, past);
}

fn changed(from: &str, to: &str) -> Result<Envelope, String> {
    assert!(OPENSMTPD.contains(from), "{from}");
    decode(id(), OPENSMTPD.replace(from, to).as_bytes())
}

#[test]
fn order_and_case_are_free_and_the_last_of_a_field_wins() {
    // spool-layout.md, Envelope files, Reading.
    let mut lines: Vec<&str> = OPENSMTPD.split_inclusive('\n').collect();
    lines.reverse();
    let plain = decode(id(), OPENSMTPD.as_bytes());
    assert_eq!(decode(id(), lines.concat().as_bytes()), plain);
    assert_eq!(changed("retry: 1", "ReTRY \t:\t 1"), plain);
    assert_eq!(changed("retry: 1", "retry: 7\nretry: 1"), plain);
    let flagged = changed("dsn-notify", "flags: internal,enqueued|bounce\ndsn-notify").unwrap();
    assert!(flagged.flags.internal && flagged.flags.bounce && !flagged.flags.authenticated);
}

#[test]
fn what_is_not_understood_makes_the_file_unreadable() {
    // spool-layout.md, Envelope files, Reading: an unknown field, another version or a value that
    // does not parse make the file unreadable.
    let long = format!("helo: {}", "x".repeat(MAX_FILE_BYTES));
    for (from, to, why) in [
        ("retry", "retries", "invalid field \"retries\""),
        ("retry: 1", "retry: +1", "invalid value of \"retry\""),
        ("retry: 1", "retry: 65536", "invalid value of \"retry\""),
        ("retry: 1", "retry:", "invalid value of \"retry\""),
        // Only a text may be quoted.
        (
            "retry: 1",
            "retry-quoted: \"1\"",
            "invalid field \"retry-quoted\"",
        ),
        ("retry", "check: 1\ncheck: 1\nretry", "more than one check"),
        ("version: 3", "version: 4", "version mismatch"),
        ("version: 3\n", "", "no field \"version\""),
        ("type: mta", "type: lmtp", "invalid value of \"type\""),
        ("type: mta", "type: mda", "no field \"mda-user\""),
        (
            "type: mta",
            "type: mta\nmda-exec: x",
            "\"mda-exec\" in another type's envelope",
        ),
        ("dispatcher: outbound\n", "", "no field \"dispatcher\""),
        (
            "type: mta",
            "type: mta\nbounce-arrival: 1",
            "\"bounce-arrival\" in another type's envelope",
        ),
        (
            "sender: alice@example.net",
            "sender: alice",
            "invalid value of \"sender\"",
        ),
        ("helo: client.example.net", &long, "file too large"),
        ("rcpt", "\nrcpt", "a line is not a field"),
        ("esc-code: 0\n", "esc-code: 0", "the last line has no end"),
        (
            "esc-class: 4",
            "esc-class: 3",
            "invalid value of \"esc-class\"",
        ),
    ] {
        assert_eq!(changed(from, to), Err(why.to_owned()), "{to}");
    }
    assert_eq!(decode(id(), b""), Err("empty file".to_owned()));
    assert!(decode(id(), &[0; 512]).is_err());
}

#[test]
fn nothing_is_written_that_would_not_read_back() {
    let two_lines = Envelope {
        peer: Peer::Inet {
            addr: IpAddr::V6(Ipv6Addr::LOCALHOST),
            scope: Some("lo\nmda-exec: /bin/evil".into()),
        },
        ..envelope("ann")
    };
    assert!(encode(&two_lines).is_err());
    let two_ats = Envelope {
        dest: MailAddr::new("a", "b@c").unwrap(),
        ..envelope("ann")
    };
    assert!(encode(&two_ats).is_err());
    let large = Envelope {
        helo: line(&"x".repeat(MAX_FILE_BYTES)),
        ..envelope("ann")
    };
    assert_eq!(encode(&large), Err("file too large".to_owned()));
}

#[test]
fn an_over_long_error_line_ends_in_dots() {
    // spool-layout.md, errorline: at most 2047 bytes; longer text ends in `...`.
    let long = Envelope {
        errorline: Some(line(&"\u{e9}".repeat(2000))),
        ..envelope("ann")
    };
    let back = decode(id(), encode(&long).unwrap().as_bytes()).unwrap();
    let text = back.errorline.unwrap();
    assert!(text.len() <= MAX_ERRORLINE_BYTES && text.len() > 2040);
    assert!(text.ends_with("\u{e9}..."));
}
