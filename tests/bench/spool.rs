//! A spool full of deferred mail, for `make bench`.
//!
//! spool DIR ENVELOPES DUE [bags | DOMAINS EACH]: as many messages with one relayed envelope each, without
//! syncs. All were tried and are to be tried again in some minutes, but for DUE of them, spread evenly,
//! whose time has come. With `bags` twenty messages share a file, as if they had come by twenty sessions.
//! With DOMAINS, a file of names, envelopes go to these in turn, and so many of them belong to one message.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use smtpd::mail::{Dsn, Envelope, EvpId, Flags, Kind, MailAddr, MsgId, Past, Peer};
use smtpd::queue::envelope_file;
use smtpd::queue::fs::{Fs, Options, body_path, envelope_path};
use smtpd::queue::{BeginError, Queue, commit_all};
use smtpd::util::{Line, Timestamp};

/// Seconds since the messages came; with two failures the next attempt is 1600 after that.
const AGE_S: u64 = 900;
const FAILURES: u16 = 2;
/// Messages of one bag.
const BAG: u32 = 20;
const DOMAIN: &str = "d1.example.net";

fn main() -> io::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let [_, dir, envelopes, due, more @ ..] = args.as_slice() else {
        eprintln!("usage: spool DIR ENVELOPES DUE [bags | DOMAINS EACH]");
        std::process::exit(1);
    };
    let (root, envelopes, due) = (
        PathBuf::from(dir),
        envelopes.parse::<u32>().map_err(io::Error::other)?,
        due.parse::<u32>().map_err(io::Error::other)?,
    );
    let every = envelopes / due.clamp(1, envelopes.max(1));
    let failures = |n: u32| if n.is_multiple_of(every) { 0 } else { FAILURES };
    let (domains, each) = match more {
        [bags] if bags == "bags" => return put_bags(&root, envelopes, failures),
        [domains, each] => (
            fs::read_to_string(domains)?,
            each.parse::<u32>().map_err(io::Error::other)?.max(1),
        ),
        _ => (DOMAIN.to_owned(), 1),
    };
    let domains: Vec<&str> = domains.lines().collect();
    for n in 0..envelopes {
        // All over the buckets, never twice.
        let id = MsgId::new((n / each).wrapping_add(1).wrapping_mul(2_654_435_761));
        let id = id.ok_or_else(|| io::Error::other("not an id"))?;
        if n % each == 0 {
            put_body(&root, id)?;
        }
        let id = EvpId::new(id, 0x8000_0000 | n);
        let id = id.ok_or_else(|| io::Error::other("not an id"))?;
        let domain = domains.get(n as usize % domains.len().max(1));
        let domain = domain.ok_or_else(|| io::Error::other("no domains"))?;
        let envelope = envelope(id, n, domain, failures(n)).map_err(io::Error::other)?;
        let text = envelope_file::encode(&envelope).map_err(io::Error::other)?;
        fs::write(root.join(envelope_path(envelope.id)), text)?;
    }
    Ok(())
}

fn put_bags(root: &Path, envelopes: u32, failures: impl Fn(u32) -> u16) -> io::Result<()> {
    let options = Options {
        bags: true,
        ..Options::default()
    };
    let queue = Queue::new(Arc::new(Fs::open(root, options)?));
    for first in (0..envelopes).step_by(BAG as usize) {
        let mut messages = Vec::new();
        for n in first..envelopes.min(first + BAG) {
            let mut message = queue.begin().map_err(|error| match error {
                BeginError::Full => io::ErrorKind::StorageFull.into(),
                BeginError::Io(error) => error,
            })?;
            let id = EvpId::new(message.msgid(), 1);
            let id = id.ok_or_else(|| io::Error::other("not an id"))?;
            message.add(envelope(id, n, DOMAIN, failures(n)).map_err(io::Error::other)?)?;
            message.write(body().as_bytes())?;
            messages.push(message);
        }
        for committed in commit_all(messages) {
            committed?;
        }
    }
    Ok(())
}

fn body() -> String {
    format!("Subject: benchmark\n\n{}\n", "x".repeat(64))
}

fn put_body(root: &Path, id: MsgId) -> io::Result<()> {
    let path = root.join(body_path(id));
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::write(path, body())
}

fn envelope(id: EvpId, n: u32, domain: &str, failures: u16) -> Result<Envelope, String> {
    let line = |text: &str| Line::sanitize(text.as_bytes());
    let address = |user: &str, domain: &str| {
        MailAddr::new(user, domain).map_err(|_| format!("{user}@{domain} is no address"))
    };
    let now = Timestamp::now();
    let created = Timestamp(now.0 - AGE_S);
    let rcpt = address(&format!("recipient{n}"), domain)?;
    Ok(Envelope {
        id,
        action: line("out"),
        tag: None,
        kind: Kind::Relay,
        smtpname: line("mx.example.org"),
        helo: line("client.example.com"),
        hostname: line("client.example.com"),
        username: None,
        errorline: (failures > 0).then(|| line("451 4.3.0 Try again later")),
        peer: Peer::parse("192.0.2.1").ok_or("no peer")?,
        sender: address("sender", "example.com")?,
        dest: rcpt.clone(),
        rcpt,
        created,
        last_try: match failures {
            0 => Timestamp(0),
            _ => Timestamp(created.0 + 400),
        },
        last_bounce: Timestamp(0),
        ttl_s: 345_600,
        retry: failures,
        flags: Flags::default(),
        dsn: Dsn::default(),
        status: None,
        past: Past::default(),
    })
}
