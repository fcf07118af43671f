//! `name: value` lines: which names there are, and how values are written and read.

use std::str::FromStr;

use crc32fast::Hasher;

use crate::mail::MailAddr;
use crate::util::Line;

use self::Value::{Plain, Text};

/// A field, in the order in which they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Version,
    Check,
    Dispatcher,
    Tag,
    Type,
    Smtpname,
    Helo,
    Hostname,
    Username,
    Errorline,
    Remote,
    Sockaddr,
    Sender,
    Rcpt,
    Dest,
    Ctime,
    LastTry,
    LastBounce,
    Ttl,
    Retry,
    Flags,
    Suspended,
    DsnNotify,
    DsnRet,
    DsnEnvid,
    DsnOrcpt,
    EscClass,
    EscCode,
    Status,
    BounceArrival,
    BounceLastTry,
    MdaExec,
    MdaFile,
    MdaSubaddress,
    MdaUser,
    BounceTtl,
    BounceDelay,
    BounceRelayed,
    BounceType,
}

/// What a field's value may be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Value {
    /// Words and numbers.
    Plain,
    /// Text of any kind.
    Text,
}

/// The names, each at the place of its field.
pub(super) const FIELDS: [(Field, &str, Value); 39] = [
    (Field::Version, "version", Plain),
    (Field::Check, "check", Plain),
    (Field::Dispatcher, "dispatcher", Text),
    (Field::Tag, "tag", Text),
    (Field::Type, "type", Plain),
    (Field::Smtpname, "smtpname", Text),
    (Field::Helo, "helo", Text),
    (Field::Hostname, "hostname", Text),
    (Field::Username, "username", Text),
    (Field::Errorline, "errorline", Text),
    (Field::Remote, "remote", Text),
    (Field::Sockaddr, "sockaddr", Text),
    (Field::Sender, "sender", Text),
    (Field::Rcpt, "rcpt", Text),
    (Field::Dest, "dest", Text),
    (Field::Ctime, "ctime", Plain),
    (Field::LastTry, "last-try", Plain),
    (Field::LastBounce, "last-bounce", Plain),
    (Field::Ttl, "ttl", Plain),
    (Field::Retry, "retry", Plain),
    (Field::Flags, "flags", Plain),
    (Field::Suspended, "suspended", Plain),
    (Field::DsnNotify, "dsn-notify", Plain),
    (Field::DsnRet, "dsn-ret", Plain),
    (Field::DsnEnvid, "dsn-envid", Text),
    (Field::DsnOrcpt, "dsn-orcpt", Text),
    (Field::EscClass, "esc-class", Plain),
    (Field::EscCode, "esc-code", Plain),
    (Field::Status, "status", Plain),
    (Field::BounceArrival, "bounce-arrival", Plain),
    (Field::BounceLastTry, "bounce-last-try", Plain),
    (Field::MdaExec, "mda-exec", Text),
    (Field::MdaFile, "mda-file", Text),
    (Field::MdaSubaddress, "mda-subaddress", Text),
    (Field::MdaUser, "mda-user", Text),
    (Field::BounceTtl, "bounce-ttl", Plain),
    (Field::BounceDelay, "bounce-delay", Plain),
    (Field::BounceRelayed, "bounce-relayed", Plain),
    (Field::BounceType, "bounce-type", Plain),
];

const QUOTED: &str = "-quoted";

impl Field {
    pub(super) fn name(self) -> &'static str {
        FIELDS[self as usize].1
    }
}

/// Puts lines together.
#[derive(Default)]
pub(super) struct Writer(String);

impl Writer {
    /// A value of our own words.
    pub(super) fn put(&mut self, field: Field, value: &str) {
        self.line(field, "", &[value]);
    }

    pub(super) fn number(&mut self, field: Field, value: u64) {
        self.put(field, &value.to_string());
    }

    pub(super) fn text(&mut self, field: Field, value: &str) {
        if value.is_empty() || value.starts_with([' ', '\t']) {
            self.line(field, QUOTED, &["\"", value, "\""]);
        } else {
            self.put(field, value);
        }
    }

    pub(super) fn text_if(&mut self, field: Field, value: &Option<Line>) {
        if let Some(value) = value {
            self.text(field, value);
        }
    }

    pub(super) fn into_text(self) -> String {
        self.0
    }

    fn line(&mut self, field: Field, ending: &str, value: &[&str]) {
        for piece in [field.name(), ending, ": "].iter().chain(value) {
            self.0.push_str(piece);
        }
        self.0.push('\n');
    }
}

/// Values by field, the last one of each.
pub(super) struct Fields<'a>([Option<&'a [u8]>; FIELDS.len()]);

impl<'a> Fields<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Fields<'a>, String> {
        let mut fields = Fields([None; FIELDS.len()]);
        let mut check = None;
        let whole = bytes
            .strip_suffix(b"\n")
            .ok_or("the last line has no end")?;
        let (mut at, mut next) = (0, 0);
        for line in whole.split(|&byte| byte == b'\n') {
            let end = at + line.len() + 1;
            let (name, value) = split(line)?;
            let (field, value) = known(name, value, next)?;
            if field == Field::Check && check.replace((at, end)).is_some() {
                return Err("more than one check".to_owned());
            }
            if let Some(slot) = fields.0.get_mut(field as usize) {
                *slot = Some(value);
            }
            (at, next) = (end, field as usize + 1);
        }
        match (check, fields.raw(Field::Check)) {
            (Some(line), Some(value)) if !is_check(value, bytes, line) => {
                Err("check does not match".to_owned())
            }
            _ => Ok(fields),
        }
    }

    fn raw(&self, field: Field) -> Option<&'a [u8]> {
        self.0[field as usize]
    }

    pub(super) fn text_if(&self, field: Field) -> Result<Option<&'a str>, String> {
        self.raw(field)
            .map(|value| std::str::from_utf8(value).map_err(|_| invalid(field)))
            .transpose()
    }

    pub(super) fn text(&self, field: Field) -> Result<&'a str, String> {
        self.text_if(field)?.ok_or_else(|| missing(field))
    }

    pub(super) fn line_if(&self, field: Field) -> Result<Option<Line>, String> {
        self.raw(field)
            .map(|value| Line::from_bytes(value).map_err(|_| invalid(field)))
            .transpose()
    }

    pub(super) fn line(&self, field: Field) -> Result<Line, String> {
        self.line_if(field)?.ok_or_else(|| missing(field))
    }

    /// A name that is only shown: OpenSMTPD kept a client's bytes as they came, and mail is not to
    /// be held up over that.
    pub(super) fn cosmetic(&self, field: Field) -> Result<Line, String> {
        self.cosmetic_if(field).ok_or_else(|| missing(field))
    }

    pub(super) fn cosmetic_if(&self, field: Field) -> Option<Line> {
        self.raw(field).map(lossy)
    }

    pub(super) fn address(&self, field: Field) -> Result<MailAddr, String> {
        MailAddr::from_stored(self.text(field)?).ok_or_else(|| invalid(field))
    }

    pub(super) fn number_if<T: FromStr>(&self, field: Field) -> Result<Option<T>, String> {
        self.text_if(field)?
            .map(|text| digits(text).ok_or_else(|| invalid(field)))
            .transpose()
    }

    pub(super) fn number<T: FromStr>(&self, field: Field) -> Result<T, String> {
        self.number_if(field)?.ok_or_else(|| missing(field))
    }

    pub(super) fn mark(&self, field: Field) -> Result<bool, String> {
        match self.text_if(field)? {
            None => Ok(false),
            Some("1") => Ok(true),
            Some(_) => Err(invalid(field)),
        }
    }

    pub(super) fn only_if(&self, allowed: bool, only: &[Field]) -> Result<(), String> {
        match only.iter().find(|field| self.raw(**field).is_some()) {
            Some(field) if !allowed => {
                let name = field.name();
                Err(format!("\"{name}\" in another type's envelope"))
            }
            _ => Ok(()),
        }
    }
}

/// Whether the value of the line from one place to another is the checksum of all the others.
fn is_check(value: &[u8], bytes: &[u8], (from, to): (usize, usize)) -> bool {
    let mut crc = Hasher::new();
    crc.update(bytes.get(..from).unwrap_or_default());
    crc.update(bytes.get(to..).unwrap_or_default());
    value == format!("{:08x}", crc.finalize()).as_bytes()
}

/// The field of this name, in any case, and its value without quotes. The one that is `next` in the
/// order in which we write is looked for first.
fn known<'a>(name: &'a [u8], value: &'a [u8], next: usize) -> Result<(Field, &'a [u8]), String> {
    if let Some((field, _)) = find(name, next) {
        return Ok((field, value));
    }
    let unknown = || {
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        format!("invalid field \"{name}\"")
    };
    let (bare, ending) = name.split_at(name.len().saturating_sub(QUOTED.len()));
    match find(bare, next) {
        Some((field, Text)) if ending.eq_ignore_ascii_case(QUOTED.as_bytes()) => {
            Ok((field, unquote(value).ok_or_else(|| invalid(field))?))
        }
        _ => Err(unknown()),
    }
}

fn find(name: &[u8], next: usize) -> Option<(Field, Value)> {
    let (before, behind) = FIELDS.split_at_checked(next)?;
    let mut all = behind.iter().chain(before);
    let found = all.find(|(_, known, _)| known.as_bytes().eq_ignore_ascii_case(name));
    found.map(|(field, _, value)| (*field, *value))
}

/// `name`, optional blanks, `:`, optional blanks, value.
fn split(line: &[u8]) -> Result<(&[u8], &[u8]), String> {
    let not_a_field = || "a line is not a field".to_owned();
    let colon = line
        .iter()
        .position(|&b| b == b':')
        .ok_or_else(not_a_field)?;
    let (name, value) = line.split_at(colon);
    let name = name.trim_ascii_end();
    let named = |b: &u8| b.is_ascii_alphanumeric() || *b == b'-';
    if name.is_empty() || name.len() > 64 || !name.iter().all(named) {
        return Err(not_a_field());
    }
    let value = value.strip_prefix(b":").unwrap_or(value);
    let blanks = value
        .iter()
        .take_while(|b| matches!(b, b' ' | b'\t'))
        .count();
    Ok((name, value.get(blanks..).unwrap_or_default()))
}

fn unquote(value: &[u8]) -> Option<&[u8]> {
    value.strip_prefix(b"\"")?.strip_suffix(b"\"")
}

/// A decimal number, nothing else: no sign, no blanks.
pub(super) fn digits<T: FromStr>(text: &str) -> Option<T> {
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

fn lossy(value: &[u8]) -> Line {
    Line::from_bytes(value).unwrap_or_else(|_| Line::sanitize(value))
}

pub(super) fn invalid(field: Field) -> String {
    format!("invalid value of \"{}\"", field.name())
}

fn missing(field: Field) -> String {
    format!("no field \"{}\"", field.name())
}
