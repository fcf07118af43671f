//! An envelope as text: `name: value` lines, format version 3.
//!
//! Every field that OpenSMTPD writes is here under its name and in its order, so its files are
//! read as they are. Ours have more: `check`, a CRC-32 of all other lines, which makes a damaged
//! file unreadable instead of another envelope; `suspended`, `status`, `mda-file`,
//! `bounce-relayed`; and `NAME-quoted: "text"` for a text that is empty or begins with a blank,
//! which a plain line cannot hold. A file without `check` is taken at its word: it comes from
//! OpenSMTPD, or an administrator has edited it and deleted that line.
//!
//! Reading: order is free, names are compared without regard to case, the last of a repeated
//! field wins. An unknown field, a value that does not parse, another version, a missing field
//! or too much text make the whole file unreadable; nothing is guessed.

use std::str::FromStr;

use crate::mail::{
    BounceKind, Command, Dsn, Envelope, EvpId, Flags, Kind, Local, MailAddr, Notify, Peer, Ret,
    Status,
};
use crate::util::{Line, Timestamp};

#[cfg(test)]
mod tests;

/// Longest file, in bytes.
pub const MAX_FILE_BYTES: usize = 16 * 1024;
/// Longest error line, in bytes; a longer one ends in `...`.
pub const MAX_ERRORLINE_BYTES: usize = 2047;

const VERSION: &str = "3";

/// The file of `envelope`. Fails, with the reason, when it would be too large or would not read
/// back as the same envelope; nothing unreadable is ever written.
pub fn encode(envelope: &Envelope) -> Result<String, String> {
    let clipped;
    let envelope = match &envelope.errorline {
        Some(text) if text.len() > MAX_ERRORLINE_BYTES => {
            clipped = Envelope {
                errorline: Some(clip(text)),
                ..envelope.clone()
            };
            &clipped
        }
        _ => envelope,
    };
    let text = with_check(&render(envelope));
    match decode(envelope.id, text.as_bytes()) {
        Ok(back) if back == *envelope => Ok(text),
        Ok(_) => Err("a field cannot be written".to_owned()),
        Err(why) => Err(why),
    }
}

/// Reads a file; `id` comes from its name. Fails with the reason.
pub fn decode(id: EvpId, bytes: &[u8]) -> Result<Envelope, String> {
    if bytes.is_empty() {
        return Err("empty file".to_owned());
    }
    if bytes.len() > MAX_FILE_BYTES {
        return Err("file too large".to_owned());
    }
    let fields = Fields::parse(bytes)?;
    if fields.text("version")? != VERSION {
        return Err("version mismatch".to_owned());
    }
    Ok(Envelope {
        id,
        action: fields.line("dispatcher")?,
        tag: fields.line_if("tag")?,
        kind: kind(&fields)?,
        smtpname: fields.cosmetic("smtpname")?,
        helo: fields.cosmetic("helo")?,
        hostname: fields.cosmetic("hostname")?,
        username: fields.line_if("username")?,
        errorline: fields.raw("errorline").map(lossy),
        peer: Peer::parse(fields.text("sockaddr")?).ok_or_else(|| invalid("sockaddr"))?,
        sender: fields.address("sender")?,
        rcpt: fields.address("rcpt")?,
        dest: fields.address("dest")?,
        created: Timestamp(fields.number("ctime")?),
        last_try: Timestamp(fields.number("last-try")?),
        last_bounce: Timestamp(fields.number("last-bounce")?),
        ttl_s: fields.number("ttl")?,
        retry: fields.number("retry")?,
        flags: flags(&fields)?,
        dsn: dsn(&fields)?,
        status: status(&fields)?,
    })
}

fn render(envelope: &Envelope) -> String {
    let mut out = Writer(String::with_capacity(1024));
    out.text("dispatcher", &envelope.action);
    out.text_if("tag", &envelope.tag);
    out.put("type", kind_word(&envelope.kind));
    out.text("smtpname", &envelope.smtpname);
    out.text("helo", &envelope.helo);
    out.text("hostname", &envelope.hostname);
    out.text_if("username", &envelope.username);
    out.text_if("errorline", &envelope.errorline);
    out.text("sockaddr", &envelope.peer.to_string());
    out.text("sender", &envelope.sender.stored());
    out.text("rcpt", &envelope.rcpt.stored());
    out.text("dest", &envelope.dest.stored());
    out.number("ctime", envelope.created.0);
    out.number("last-try", envelope.last_try.0);
    out.number("last-bounce", envelope.last_bounce.0);
    out.number("ttl", envelope.ttl_s.into());
    out.number("retry", envelope.retry.into());
    put_flags(&mut out, envelope.flags);
    put_dsn(&mut out, &envelope.dsn);
    put_status(&mut out, envelope.status);
    put_kind(&mut out, &envelope.kind);
    out.0
}

/// The check stands second, between two lines that hold no free text: a damaged line end can then
/// never hide it inside a value.
fn with_check(body: &str) -> String {
    let version = format!("version: {VERSION}\n");
    let mut crc = Crc::new();
    crc.add(version.as_bytes());
    crc.add(body.as_bytes());
    format!("{version}check: {:08x}\n{body}", crc.value())
}

fn put_flags(out: &mut Writer, flags: Flags) {
    let words: Vec<&str> = [
        (flags.authenticated, "authenticated"),
        (flags.bounce, "bounce"),
        (flags.internal, "internal"),
    ]
    .into_iter()
    .filter_map(|(set, word)| set.then_some(word))
    .collect();
    if !words.is_empty() {
        out.put("flags", &words.join(" "));
    }
    if flags.suspended {
        out.put("suspended", "1");
    }
}

fn put_dsn(out: &mut Writer, dsn: &Dsn) {
    out.number("dsn-notify", dsn.notify.0.into());
    match dsn.ret {
        Some(Ret::Full) => out.put("dsn-ret", "FULL"),
        Some(Ret::Hdrs) => out.put("dsn-ret", "HDRS"),
        None => {}
    }
    out.text_if("dsn-envid", &dsn.envid);
    out.text_if("dsn-orcpt", &dsn.orcpt);
}

/// `esc-code` is subject * 10 + detail and cannot say 5.7.25; `status` can say anything.
fn put_status(out: &mut Writer, status: Option<Status>) {
    let Some(status) = status else { return };
    if matches!(status.class, 2 | 4 | 5) && status.subject < 25 && status.detail < 10 {
        out.number("esc-class", status.class.into());
        out.number("esc-code", (status.subject * 10 + status.detail).into());
    } else {
        out.put("status", &status.to_string());
    }
}

/// The field that an envelope of its kind cannot do without comes last, so that a file cut short
/// is missing it.
fn put_kind(out: &mut Writer, kind: &Kind) {
    match kind {
        Kind::Relay => {}
        Kind::Local(local) => {
            match &local.command {
                Some(Command::Pipe(command)) => out.text("mda-exec", command),
                Some(Command::File(path)) => out.text("mda-file", path),
                None => {}
            }
            out.text_if("mda-subaddress", &local.subaddress);
            out.text("mda-user", &local.user);
        }
        Kind::Bounce(BounceKind::Failed) => out.put("bounce-type", "failed"),
        Kind::Bounce(BounceKind::Delayed { delay_s, ttl_s }) => {
            out.number("bounce-ttl", (*ttl_s).into());
            out.number("bounce-delay", (*delay_s).into());
            out.put("bounce-type", "delayed");
        }
        Kind::Bounce(BounceKind::Delivered { relayed }) => {
            if *relayed {
                out.put("bounce-relayed", "1");
            }
            out.put("bounce-type", "delivered");
        }
    }
}

fn kind_word(kind: &Kind) -> &'static str {
    match kind {
        Kind::Local(_) => "mda",
        Kind::Relay => "mta",
        Kind::Bounce(_) => "bounce",
    }
}

fn clip(text: &str) -> Line {
    const END: &str = "...";
    let mut cut = MAX_ERRORLINE_BYTES - END.len();
    while !text.is_char_boundary(cut) {
        cut -= 1;
    }
    let head = text.get(..cut).unwrap_or_default();
    Line::sanitize(format!("{head}{END}").as_bytes())
}

fn kind(fields: &Fields<'_>) -> Result<Kind, String> {
    let word = fields.text("type")?;
    let (mda, bounce) = (word == "mda", word == "bounce");
    fields.only_if(mda, &["mda-exec", "mda-file", "mda-subaddress", "mda-user"])?;
    fields.only_if(
        bounce,
        &[
            "bounce-ttl",
            "bounce-delay",
            "bounce-relayed",
            "bounce-type",
        ],
    )?;
    match word {
        "mda" => Ok(Kind::Local(local(fields)?)),
        "mta" => Ok(Kind::Relay),
        "bounce" => Ok(Kind::Bounce(bounce_kind(fields)?)),
        _ => Err(invalid("type")),
    }
}

fn local(fields: &Fields<'_>) -> Result<Local, String> {
    let command = match (fields.line_if("mda-exec")?, fields.line_if("mda-file")?) {
        (Some(_), Some(_)) => return Err("both mda-exec and mda-file".to_owned()),
        (Some(command), None) => Some(Command::Pipe(command)),
        (None, Some(path)) => Some(Command::File(path)),
        (None, None) => None,
    };
    Ok(Local {
        user: fields.line("mda-user")?,
        subaddress: fields.line_if("mda-subaddress")?,
        command,
    })
}

fn bounce_kind(fields: &Fields<'_>) -> Result<BounceKind, String> {
    let word = fields.text("bounce-type")?;
    let (delayed, delivered) = (
        matches!(word, "delayed" | "warn"),
        matches!(word, "delivered" | "dsn"),
    );
    fields.only_if(delayed, &["bounce-ttl", "bounce-delay"])?;
    fields.only_if(delivered, &["bounce-relayed"])?;
    if delayed {
        return Ok(BounceKind::Delayed {
            delay_s: fields.number("bounce-delay")?,
            ttl_s: fields.number("bounce-ttl")?,
        });
    }
    if delivered {
        return Ok(BounceKind::Delivered {
            relayed: fields.mark("bounce-relayed")?,
        });
    }
    match word {
        "failed" | "error" => Ok(BounceKind::Failed),
        _ => Err(invalid("bounce-type")),
    }
}

fn flags(fields: &Fields<'_>) -> Result<Flags, String> {
    let mut flags = Flags {
        suspended: fields.mark("suspended")?,
        ..Flags::default()
    };
    let words = fields.text_if("flags")?.unwrap_or_default();
    for word in words.split([' ', ',', '|']).filter(|word| !word.is_empty()) {
        match word {
            "authenticated" => flags.authenticated = true,
            "bounce" => flags.bounce = true,
            "internal" => flags.internal = true,
            "enqueued" => {}
            _ => return Err(invalid("flags")),
        }
    }
    Ok(flags)
}

fn dsn(fields: &Fields<'_>) -> Result<Dsn, String> {
    Ok(Dsn {
        notify: Notify(fields.number("dsn-notify")?),
        ret: match fields.text_if("dsn-ret")? {
            Some("FULL") => Some(Ret::Full),
            Some("HDRS") => Some(Ret::Hdrs),
            None => None,
            Some(_) => return Err(invalid("dsn-ret")),
        },
        envid: fields.line_if("dsn-envid")?,
        orcpt: fields.line_if("dsn-orcpt")?,
    })
}

fn status(fields: &Fields<'_>) -> Result<Option<Status>, String> {
    if let Some(text) = fields.text_if("status")? {
        let mut parts = text.split('.').map(digits::<u8>);
        return match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(Some(class)), Some(Some(subject)), Some(Some(detail)), None) => {
                Ok(Some(Status::new(class, subject, detail)))
            }
            _ => Err(invalid("status")),
        };
    }
    let code: u8 = fields.number_if("esc-code")?.unwrap_or(0);
    match fields.number_if::<u8>("esc-class")? {
        None | Some(0) => Ok(None),
        Some(class @ (2 | 4 | 5)) => Ok(Some(Status::new(class, code / 10, code % 10))),
        Some(_) => Err(invalid("esc-class")),
    }
}

struct Writer(String);

impl Writer {
    /// A value of our own words.
    fn put(&mut self, name: &str, value: &str) {
        self.0.push_str(name);
        self.0.push_str(": ");
        self.0.push_str(value);
        self.0.push('\n');
    }

    fn number(&mut self, name: &str, value: u64) {
        self.put(name, &value.to_string());
    }

    fn text(&mut self, name: &str, value: &str) {
        if value.is_empty() || value.starts_with([' ', '\t']) {
            self.put(&format!("{name}{QUOTED}"), &format!("\"{value}\""));
        } else {
            self.put(name, value);
        }
    }

    fn text_if(&mut self, name: &str, value: &Option<Line>) {
        if let Some(value) = value {
            self.text(name, value);
        }
    }
}

const QUOTED: &str = "-quoted";

/// Fields whose values are words and numbers.
const PLAIN: [&str; 19] = [
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
    "bounce-type",
    "check",
];

/// Fields whose values are text of any kind.
const TEXT: [&str; 17] = [
    "dispatcher",
    "tag",
    "smtpname",
    "helo",
    "hostname",
    "username",
    "errorline",
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
struct Fields<'a> {
    plain: [Option<&'a [u8]>; PLAIN.len()],
    text: [Option<&'a [u8]>; TEXT.len()],
}

impl<'a> Fields<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Fields<'a>, String> {
        let mut fields = Fields {
            plain: [None; PLAIN.len()],
            text: [None; TEXT.len()],
        };
        let mut crc = Crc::new();
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
                crc.add(line);
                crc.add(b"\n");
            }
            fields.set(&name, value)?;
        }
        match check {
            Some(value) if value != format!("{:08x}", crc.value()).as_bytes() => {
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

    fn text_if(&self, name: &str) -> Result<Option<&'a str>, String> {
        self.raw(name)
            .map(|value| std::str::from_utf8(value).map_err(|_| invalid(name)))
            .transpose()
    }

    fn text(&self, name: &str) -> Result<&'a str, String> {
        self.text_if(name)?.ok_or_else(|| missing(name))
    }

    fn line_if(&self, name: &str) -> Result<Option<Line>, String> {
        self.raw(name)
            .map(|value| Line::from_bytes(value).map_err(|_| invalid(name)))
            .transpose()
    }

    fn line(&self, name: &str) -> Result<Line, String> {
        self.line_if(name)?.ok_or_else(|| missing(name))
    }

    /// A name that is only shown: OpenSMTPD kept a client's bytes as they came, and mail is not to
    /// be held up over that.
    fn cosmetic(&self, name: &str) -> Result<Line, String> {
        self.raw(name).map(lossy).ok_or_else(|| missing(name))
    }

    fn address(&self, name: &str) -> Result<MailAddr, String> {
        MailAddr::from_stored(self.text(name)?).ok_or_else(|| invalid(name))
    }

    fn number_if<T: FromStr>(&self, name: &str) -> Result<Option<T>, String> {
        self.text_if(name)?
            .map(|text| digits(text).ok_or_else(|| invalid(name)))
            .transpose()
    }

    fn number<T: FromStr>(&self, name: &str) -> Result<T, String> {
        self.number_if(name)?.ok_or_else(|| missing(name))
    }

    fn mark(&self, name: &str) -> Result<bool, String> {
        match self.text_if(name)? {
            None => Ok(false),
            Some("1") => Ok(true),
            Some(_) => Err(invalid(name)),
        }
    }

    fn only_if(&self, allowed: bool, names: &[&str]) -> Result<(), String> {
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
fn digits<T: FromStr>(text: &str) -> Option<T> {
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

fn lossy(value: &[u8]) -> Line {
    Line::from_bytes(value).unwrap_or_else(|_| Line::sanitize(value))
}

fn invalid(name: &str) -> String {
    format!("invalid value of \"{name}\"")
}

fn missing(name: &str) -> String {
    format!("no field \"{name}\"")
}

/// CRC-32 as in gzip (RFC 1952 §8).
struct Crc(u32);

impl Crc {
    fn new() -> Crc {
        Crc(!0)
    }

    fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            let low = (self.0 as u8 ^ byte) as usize;
            self.0 = CRC_TABLE[low] ^ (self.0 >> 8);
        }
    }

    fn value(&self) -> u32 {
        !self.0
    }
}

const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut n = 0;
    while n < 256 {
        let mut value = n as u32;
        let mut bit = 0;
        while bit < 8 {
            value = (value >> 1) ^ (0xedb8_8320 * (value & 1));
            bit += 1;
        }
        table[n] = value;
        n += 1;
    }
    table
};
