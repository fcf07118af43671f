//! Files: what administrators, users and the disk hand us.

use std::net::Ipv4Addr;
use std::path::Path;

use crate::cli::sendmail::offline as stored;
use crate::config::specifier::{self, Values};
use crate::config::table_text::{Entries, Shape};
use crate::config::{self, Defaults, Sources};
use crate::mail::{EvpId, MailAddr, Peer};
use crate::queue::coding::{Coding, Key, Name};
use crate::queue::envelope_file;
use crate::rfc5322::{address_list, fields};
use crate::table::Tables;
use crate::util::Line;

use super::{halves, text_of};

/// What a machine gives to a configuration.
pub(super) fn defaults() -> Defaults {
    Defaults {
        server_name: Line::sanitize(b"mx.example.org"),
        addresses: vec![Peer::inet(Ipv4Addr::LOCALHOST.into())],
    }
}

/// smtpd.conf: an answer; what parses prints, and reads back the same; what is accepted makes
/// tables.
pub(super) fn config(bytes: &[u8]) {
    config::reads_back(bytes);
    let sources = Sources::alone(bytes);
    if let Ok(loaded) = config::load(&sources, &defaults()) {
        let _ = Tables::load(&loaded.config, &sources);
    }
}

/// The text of a table: every entry lies in it, lines rise, and its lookups answer.
pub(super) fn table(bytes: &[u8]) {
    let (key, text) = halves(bytes);
    for shape in [None, Some(Shape::List), Some(Shape::Map)] {
        let mut last = 0;
        for entry in Entries::new(text, shape) {
            let line = match entry {
                Ok(entry) => {
                    assert!(!entry.key.is_empty() && !entry.key.contains('\n'));
                    entry.line
                }
                Err(bad) => bad.line,
            };
            assert!(line >= last, "lines rise");
            last = line;
        }
    }
    let key = text_of(key);
    let (user, domain) = key.split_once('@').unwrap_or((&key, "example.org"));
    let mut sources = Sources::alone(TABLE_CONF);
    sources.insert(Path::new("/t"), text.to_vec());
    let Ok(loaded) = config::load(&sources, &defaults()) else {
        return;
    };
    let Ok(tables) = Tables::load(&loaded.config, &sources) else {
        return;
    };
    let _ = tables.string("t", &key);
    let _ = tables.domain("t", domain);
    let _ = tables.alias("t", user);
    if let Ok(addr) = MailAddr::new(user, domain) {
        let _ = tables.mailaddr("t", &addr);
    }
    if let Some(peer) = crate::mail::Peer::parse(&key) {
        let _ = tables.netaddr("t", &peer);
    }
}

const TABLE_CONF: &[u8] = b"table t file:/t\naction a maildir\n\
    match from src <t> mail-from <t> for domain <t> action a\nmatch helo <t> for any action a\n";

/// `%{...}` in a template: no value brings a control character, and no path leaves its root.
pub(super) fn specifier(bytes: &[u8]) {
    let (template, rest) = halves(bytes);
    let (sender, rest) = halves(rest);
    let (rcpt, directory) = halves(rest);
    let addr = |bytes: &[u8]| {
        let text = text_of(bytes);
        let (user, domain) = text.split_once('@').unwrap_or((&text, ""));
        MailAddr::new(user, domain).unwrap_or_else(|_| MailAddr::null())
    };
    let (sender, rcpt) = (addr(sender), addr(rcpt));
    let directory = text_of(directory);
    let values = Values {
        sender: &sender,
        rcpt: &rcpt,
        dest: &rcpt,
        username: rcpt.user(),
        directory: &directory,
        delimiter: '+',
    };
    let template = text_of(template);
    let _ = specifier::expand(&template, &values);
    let _ = specifier::expand_path(&template, &values);
    assert!(!specifier::mbox_from(&sender).contains('\n'));
}

/// An envelope's file: what is understood is written and understood again, as the same.
pub(super) fn envelope(bytes: &[u8]) {
    let Some(id) = EvpId::from_u64(0x1a2b_3c4d_0000_0001) else {
        return;
    };
    let Ok(envelope) = envelope_file::decode(id, bytes) else {
        return;
    };
    // A file by hand may hold more than we would write.
    if let Ok(text) = envelope_file::encode(&envelope) {
        let again = envelope_file::decode(id, text.as_bytes());
        let clipped = envelope
            .errorline
            .as_ref()
            .is_some_and(|line| line.len() > envelope_file::MAX_ERRORLINE_BYTES);
        assert!(clipped || again.as_ref() == Ok(&envelope));
    }
}

/// A coded file: an answer within its bound; and what is written reads back.
pub(super) fn coding(bytes: &[u8]) {
    let key = Key::new("0123456789abcdef0123456789abcdef");
    let Some(id) = EvpId::from_u64(0x1a2b_3c4d_0000_0001) else {
        return;
    };
    let name = Name::envelope(id);
    let max = envelope_file::MAX_FILE_BYTES;
    let reader = Coding {
        compress: false,
        key: key.clone(),
    };
    if let Ok(text) = reader.decode(name, bytes, max) {
        assert!(text.len() <= max.max(bytes.len()));
    }
    // What begins like a coded file would not be taken for text again.
    let text = [b"version: 3\n", bytes].concat();
    for key in [None, key] {
        for compress in [false, true] {
            let writer = Coding {
                compress,
                key: key.clone(),
            };
            let Ok(written) = writer.encode(name, &text) else {
                panic!("cannot be written");
            };
            let back = reader.decode(name, &written, text.len());
            assert!(back.is_ok_and(|back| back == text));
        }
    }
}

/// A message's header: fields lie in the text, in order; an address list is only added to.
pub(super) fn header(bytes: &[u8]) {
    let mut end = 0;
    for field in fields(bytes) {
        assert!(field.place.start >= end && field.place.end <= bytes.len());
        end = field.place.end;
        let _ = field.unfolded();
    }
    let completed = address_list::complete(bytes, "example.org");
    assert!(completed.len() >= bytes.len());
}

/// What sendmail(8) has stored.
pub(super) fn offline(bytes: &[u8]) {
    let mut rest = bytes;
    let _ = stored::read(&mut rest);
}
