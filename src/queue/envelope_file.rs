//! An envelope as text: `name: value` lines, format version 3.
//!
//! Every field that OpenSMTPD writes is here under its name and in its order, so its files are read
//! as they are. Ours have more: `check`, a CRC-32 of all other lines, which makes a damaged file
//! unreadable instead of another envelope; `remote`, `suspended`, `status`, `mda-file`,
//! `bounce-arrival`, `bounce-last-try`, `bounce-relayed`; and `NAME-quoted: "text"` for a text that
//! is empty or begins with a blank, which a plain line cannot hold. A file without `check` is taken
//! at its word: it comes from OpenSMTPD, or an administrator has edited it and deleted that line.
//!
//! Reading: order is free, names are compared without regard to case, the last of a repeated
//! field wins. An unknown field, a value that does not parse, another version, a missing field
//! or too much text make the whole file unreadable; nothing is guessed.

mod fields;
pub mod foreign;
#[cfg(test)]
mod tests;

use crc32fast::Hasher;

use crate::mail::{
    BounceKind, Command, Dsn, Envelope, EvpId, Flags, Kind, Local, Notify, Past, Peer, Ret, Status,
};
use crate::util::{Line, Timestamp};

use fields::{Fields, Writer, digits, invalid};

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
                errorline: Some(Line::shortened(text, MAX_ERRORLINE_BYTES)),
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
    decode_for(id, bytes, None)
}

/// The same; commands that an OpenSMTPD was to run as its own user are for `daemon`, who runs those
/// of aliases here.
pub fn decode_for(id: EvpId, bytes: &[u8], daemon: Option<&Line>) -> Result<Envelope, String> {
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
        kind: match fields.text_if("check")? {
            Some(_) => kind(&fields)?,
            None => foreign::understood(kind(&fields)?, daemon),
        },
        smtpname: fields.cosmetic("smtpname")?,
        helo: fields.cosmetic("helo")?,
        hostname: fields.cosmetic("hostname")?,
        username: fields.line_if("username")?,
        errorline: fields.cosmetic_if("errorline"),
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
        past: past(&fields)?,
    })
}

fn render(envelope: &Envelope) -> String {
    let mut out = Writer::default();
    out.text("dispatcher", &envelope.action);
    out.text_if("tag", &envelope.tag);
    out.put("type", kind_word(&envelope.kind));
    out.text("smtpname", &envelope.smtpname);
    out.text("helo", &envelope.helo);
    out.text("hostname", &envelope.hostname);
    out.text_if("username", &envelope.username);
    out.text_if("errorline", &envelope.errorline);
    out.text_if("remote", &envelope.past.remote);
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
    put_times(&mut out, &envelope.past);
    put_kind(&mut out, &envelope.kind);
    out.into_text()
}

/// The check stands second, between two lines that hold no free text: a damaged line end can then
/// never hide it inside a value.
fn with_check(body: &str) -> String {
    let version = format!("version: {VERSION}\n");
    let mut crc = Hasher::new();
    crc.update(version.as_bytes());
    crc.update(body.as_bytes());
    format!("{version}check: {:08x}\n{body}", crc.finalize())
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

fn put_times(out: &mut Writer, past: &Past) {
    for (name, at) in [
        ("bounce-arrival", past.arrived),
        ("bounce-last-try", past.tried),
    ] {
        if at != Timestamp(0) {
            out.number(name, at.0);
        }
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
            "bounce-arrival",
            "bounce-last-try",
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

fn past(fields: &Fields<'_>) -> Result<Past, String> {
    let time = |name| {
        let seconds = fields.number_if(name)?;
        Ok::<_, String>(Timestamp(seconds.unwrap_or(0)))
    };
    Ok(Past {
        remote: fields.cosmetic_if("remote"),
        arrived: time("bounce-arrival")?,
        tried: time("bounce-last-try")?,
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
