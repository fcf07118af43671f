//! `name: value` lines: which names there are, and how values are written and read.

use std::str::FromStr;

use crc32fast::Hasher;

use crate::mail::MailAddr;
use crate::util::Line;

/// Puts lines together.
#[derive(Default)]
pub(super) struct Writer(String);

impl Writer {
    /// A value of our own words.
    pub(super) fn put(&mut self, name: &str, value: &str) {
        self.0.push_str(name);
        self.0.push_str(": ");
        self.0.push_str(value);
        self.0.push('\n');
    }

    pub(super) fn number(&mut self, name: &str, value: u64) {
        self.put(name, &value.to_string());
    }

    pub(super) fn text(&mut self, name: &str, value: &str) {
        if value.is_empty() || value.starts_with([' ', '\t']) {
            self.put(&format!("{name}{QUOTED}"), &format!("\"{value}\""));
        } else {
            self.put(name, value);
        }
    }

    pub(super) fn into_text(self) -> String {
        self.0
    }

    pub(super) fn text_if(&mut self, name: &str, value: &Option<Line>) {
        if let Some(value) = value {
            self.text(name, value);
        }
    }
}

const QUOTED: &str = "-quoted";

/// Fields whose values are words and numbers.
const PLAIN: [&str; 21] = [
    "version",
    "type",
    "ctime",
    "last-try",
    "last-bounce",
    "ttl",
    "retry",
    "flags",
    "suspended",
    "dsn-notify",
    "dsn-ret",
    "esc-class",
    "esc-code",
    "status",
    "bounce-ttl",
    "bounce-delay",
    "bounce-relayed",
    "bounce-arrival",
    "bounce-last-try",
    "bounce-type",
    "check",
];

/// Fields whose values are text of any kind.
const TEXT: [&str; 18] = [
    "dispatcher",
    "tag",
    "smtpname",
    "helo",
    "hostname",
    "username",
    "errorline",
    "remote",
    "sockaddr",
    "sender",
    "rcpt",
    "dest",
    "dsn-envid",
    "dsn-orcpt",
    "mda-exec",
    "mda-file",
    "mda-subaddress",
    "mda-user",
];

/// Values by name, the last one of each.
pub(super) struct Fields<'a> {
    plain: [Option<&'a [u8]>; PLAIN.len()],
    text: [Option<&'a [u8]>; TEXT.len()],
}

impl<'a> Fields<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Fields<'a>, String> {
        let mut fields = Fields {
            plain: [None; PLAIN.len()],
            text: [None; TEXT.len()],
        };
        let mut crc = Hasher::new();
        let mut check = None;
        let whole = bytes
            .strip_suffix(b"\n")
            .ok_or("the last line has no end")?;
        for line in whole.split(|&byte| byte == b'\n') {
            let (name, value) = split(line)?;
            if name == "check" {
                if check.replace(value).is_some() {
                    return Err("more than one check".to_owned());
                }
            } else {
                crc.update(line);
                crc.update(b"\n");
            }
            fields.set(&name, value)?;
        }
        match check {
            Some(value) if value != format!("{:08x}", crc.finalize()).as_bytes() => {
                Err("check does not match".to_owned())
            }
            _ => Ok(fields),
        }
    }

    fn set(&mut self, name: &str, value: &'a [u8]) -> Result<(), String> {
        let unknown = || format!("invalid field \"{name}\"");
        if let Some(slot) = slot(&PLAIN, &mut self.plain, name) {
            *slot = Some(value);
            return Ok(());
        }
        let (name, value) = match name.strip_suffix(QUOTED) {
            Some(name) => (name, unquote(value).ok_or_else(|| invalid(name))?),
            None => (name, value),
        };
        *slot(&TEXT, &mut self.text, name).ok_or_else(unknown)? = Some(value);
        Ok(())
    }

    fn raw(&self, name: &str) -> Option<&'a [u8]> {
        let find = |names: &[&str], values: &[Option<&'a [u8]>]| {
            let at = names.iter().position(|known| *known == name)?;
            *values.get(at)?
        };
        find(&TEXT, &self.text).or_else(|| find(&PLAIN, &self.plain))
    }

    pub(super) fn text_if(&self, name: &str) -> Result<Option<&'a str>, String> {
        self.raw(name)
            .map(|value| std::str::from_utf8(value).map_err(|_| invalid(name)))
            .transpose()
    }

    pub(super) fn text(&self, name: &str) -> Result<&'a str, String> {
        self.text_if(name)?.ok_or_else(|| missing(name))
    }

    pub(super) fn line_if(&self, name: &str) -> Result<Option<Line>, String> {
        self.raw(name)
            .map(|value| Line::from_bytes(value).map_err(|_| invalid(name)))
            .transpose()
    }

    pub(super) fn line(&self, name: &str) -> Result<Line, String> {
        self.line_if(name)?.ok_or_else(|| missing(name))
    }

    /// A name that is only shown: OpenSMTPD kept a client's bytes as they came, and mail is not to
    /// be held up over that.
    pub(super) fn cosmetic(&self, name: &str) -> Result<Line, String> {
        self.cosmetic_if(name).ok_or_else(|| missing(name))
    }

    pub(super) fn cosmetic_if(&self, name: &str) -> Option<Line> {
        self.raw(name).map(lossy)
    }

    pub(super) fn address(&self, name: &str) -> Result<MailAddr, String> {
        MailAddr::from_stored(self.text(name)?).ok_or_else(|| invalid(name))
    }

    pub(super) fn number_if<T: FromStr>(&self, name: &str) -> Result<Option<T>, String> {
        self.text_if(name)?
            .map(|text| digits(text).ok_or_else(|| invalid(name)))
            .transpose()
    }

    pub(super) fn number<T: FromStr>(&self, name: &str) -> Result<T, String> {
        self.number_if(name)?.ok_or_else(|| missing(name))
    }

    pub(super) fn mark(&self, name: &str) -> Result<bool, String> {
        match self.text_if(name)? {
            None => Ok(false),
            Some("1") => Ok(true),
            Some(_) => Err(invalid(name)),
        }
    }

    pub(super) fn only_if(&self, allowed: bool, names: &[&str]) -> Result<(), String> {
        match names.iter().find(|name| self.raw(name).is_some()) {
            Some(name) if !allowed => Err(format!("\"{name}\" in another type's envelope")),
            _ => Ok(()),
        }
    }
}

fn slot<'s, 'a>(
    names: &[&str],
    values: &'s mut [Option<&'a [u8]>],
    name: &str,
) -> Option<&'s mut Option<&'a [u8]>> {
    let at = names.iter().position(|known| *known == name)?;
    values.get_mut(at)
}

/// `name`, optional blanks, `:`, optional blanks, value. The name comes back in lower case.
fn split(line: &[u8]) -> Result<(String, &[u8]), String> {
    let not_a_field = || "a line is not a field".to_owned();
    let colon = line
        .iter()
        .position(|&b| b == b':')
        .ok_or_else(not_a_field)?;
    let (name, value) = line.split_at(colon);
    let name = name.trim_ascii_end().to_ascii_lowercase();
    let named = |b: &u8| b.is_ascii_alphanumeric() || *b == b'-';
    if name.is_empty() || name.len() > 64 || !name.iter().all(named) {
        return Err(not_a_field());
    }
    let value = value.strip_prefix(b":").unwrap_or(value);
    let blanks = value
        .iter()
        .take_while(|b| matches!(b, b' ' | b'\t'))
        .count();
    let value = value.get(blanks..).unwrap_or_default();
    String::from_utf8(name)
        .map(|name| (name, value))
        .map_err(|_| not_a_field())
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

pub(super) fn invalid(name: &str) -> String {
    format!("invalid value of \"{name}\"")
}

fn missing(name: &str) -> String {
    format!("no field \"{name}\"")
}
