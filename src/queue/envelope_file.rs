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

use fields::{Field, Fields, Writer, digits, invalid};

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
    if fields.text(Field::Version)? != VERSION {
        return Err("version mismatch".to_owned());
    }
    Ok(Envelope {
        id,
        action: fields.line(Field::Dispatcher)?,
        tag: fields.line_if(Field::Tag)?,
        kind: match fields.text_if(Field::Check)? {
            Some(_) => kind(&fields)?,
            None => foreign::understood(kind(&fields)?, daemon),
        },
        smtpname: fields.cosmetic(Field::Smtpname)?,
        helo: fields.cosmetic(Field::Helo)?,
        hostname: fields.cosmetic(Field::Hostname)?,
        username: fields.line_if(Field::Username)?,
        errorline: fields.cosmetic_if(Field::Errorline),
        peer: Peer::parse(fields.text(Field::Sockaddr)?).ok_or_else(|| invalid(Field::Sockaddr))?,
        sender: fields.address(Field::Sender)?,
        rcpt: fields.address(Field::Rcpt)?,
        dest: fields.address(Field::Dest)?,
        created: Timestamp(fields.number(Field::Ctime)?),
        last_try: Timestamp(fields.number(Field::LastTry)?),
        last_bounce: Timestamp(fields.number(Field::LastBounce)?),
        ttl_s: fields.number(Field::Ttl)?,
        retry: fields.number(Field::Retry)?,
        flags: flags(&fields)?,
        dsn: dsn(&fields)?,
        status: status(&fields)?,
        past: past(&fields)?,
    })
}

fn render(envelope: &Envelope) -> String {
    let mut out = Writer::default();
    out.text(Field::Dispatcher, &envelope.action);
    out.text_if(Field::Tag, &envelope.tag);
    out.put(Field::Type, kind_word(&envelope.kind));
    out.text(Field::Smtpname, &envelope.smtpname);
    out.text(Field::Helo, &envelope.helo);
    out.text(Field::Hostname, &envelope.hostname);
    out.text_if(Field::Username, &envelope.username);
    out.text_if(Field::Errorline, &envelope.errorline);
    out.text_if(Field::Remote, &envelope.past.remote);
    out.text(Field::Sockaddr, &envelope.peer.to_string());
    out.text(Field::Sender, &envelope.sender.stored());
    out.text(Field::Rcpt, &envelope.rcpt.stored());
    out.text(Field::Dest, &envelope.dest.stored());
    out.number(Field::Ctime, envelope.created.0);
    out.number(Field::LastTry, envelope.last_try.0);
    out.number(Field::LastBounce, envelope.last_bounce.0);
    out.number(Field::Ttl, envelope.ttl_s.into());
    out.number(Field::Retry, envelope.retry.into());
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
        out.put(Field::Flags, &words.join(" "));
    }
    if flags.suspended {
        out.put(Field::Suspended, "1");
    }
}

fn put_dsn(out: &mut Writer, dsn: &Dsn) {
    out.number(Field::DsnNotify, dsn.notify.0.into());
    match dsn.ret {
        Some(Ret::Full) => out.put(Field::DsnRet, "FULL"),
        Some(Ret::Hdrs) => out.put(Field::DsnRet, "HDRS"),
        None => {}
    }
    out.text_if(Field::DsnEnvid, &dsn.envid);
    out.text_if(Field::DsnOrcpt, &dsn.orcpt);
}

/// `esc-code` is subject * 10 + detail and cannot say 5.7.25; `status` can say anything.
fn put_status(out: &mut Writer, status: Option<Status>) {
    let Some(status) = status else { return };
    if matches!(status.class, 2 | 4 | 5) && status.subject < 25 && status.detail < 10 {
        out.number(Field::EscClass, status.class.into());
        out.number(Field::EscCode, (status.subject * 10 + status.detail).into());
    } else {
        out.put(Field::Status, &status.to_string());
    }
}

fn put_times(out: &mut Writer, past: &Past) {
    for (field, at) in [
        (Field::BounceArrival, past.arrived),
        (Field::BounceLastTry, past.tried),
    ] {
        if at != Timestamp(0) {
            out.number(field, at.0);
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
                Some(Command::Pipe(command)) => out.text(Field::MdaExec, command),
                Some(Command::File(path)) => out.text(Field::MdaFile, path),
                None => {}
            }
            out.text_if(Field::MdaSubaddress, &local.subaddress);
            out.text(Field::MdaUser, &local.user);
        }
        Kind::Bounce(BounceKind::Failed) => out.put(Field::BounceType, "failed"),
        Kind::Bounce(BounceKind::Delayed { delay_s, ttl_s }) => {
            out.number(Field::BounceTtl, (*ttl_s).into());
            out.number(Field::BounceDelay, (*delay_s).into());
            out.put(Field::BounceType, "delayed");
        }
        Kind::Bounce(BounceKind::Delivered { relayed }) => {
            if *relayed {
                out.put(Field::BounceRelayed, "1");
            }
            out.put(Field::BounceType, "delivered");
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
    let word = fields.text(Field::Type)?;
    let (mda, bounce) = (word == "mda", word == "bounce");
    fields.only_if(
        mda,
        &[
            Field::MdaExec,
            Field::MdaFile,
            Field::MdaSubaddress,
            Field::MdaUser,
        ],
    )?;
    fields.only_if(
        bounce,
        &[
            Field::BounceTtl,
            Field::BounceDelay,
            Field::BounceRelayed,
            Field::BounceArrival,
            Field::BounceLastTry,
            Field::BounceType,
        ],
    )?;
    match word {
        "mda" => Ok(Kind::Local(local(fields)?)),
        "mta" => Ok(Kind::Relay),
        "bounce" => Ok(Kind::Bounce(bounce_kind(fields)?)),
        _ => Err(invalid(Field::Type)),
    }
}

fn local(fields: &Fields<'_>) -> Result<Local, String> {
    let command = match (
        fields.line_if(Field::MdaExec)?,
        fields.line_if(Field::MdaFile)?,
    ) {
        (Some(_), Some(_)) => return Err("both mda-exec and mda-file".to_owned()),
        (Some(command), None) => Some(Command::Pipe(command)),
        (None, Some(path)) => Some(Command::File(path)),
        (None, None) => None,
    };
    Ok(Local {
        user: fields.line(Field::MdaUser)?,
        subaddress: fields.line_if(Field::MdaSubaddress)?,
        command,
    })
}

fn bounce_kind(fields: &Fields<'_>) -> Result<BounceKind, String> {
    let word = fields.text(Field::BounceType)?;
    let (delayed, delivered) = (
        matches!(word, "delayed" | "warn"),
        matches!(word, "delivered" | "dsn"),
    );
    fields.only_if(delayed, &[Field::BounceTtl, Field::BounceDelay])?;
    fields.only_if(delivered, &[Field::BounceRelayed])?;
    if delayed {
        return Ok(BounceKind::Delayed {
            delay_s: fields.number(Field::BounceDelay)?,
            ttl_s: fields.number(Field::BounceTtl)?,
        });
    }
    if delivered {
        return Ok(BounceKind::Delivered {
            relayed: fields.mark(Field::BounceRelayed)?,
        });
    }
    match word {
        "failed" | "error" => Ok(BounceKind::Failed),
        _ => Err(invalid(Field::BounceType)),
    }
}

fn flags(fields: &Fields<'_>) -> Result<Flags, String> {
    let mut flags = Flags {
        suspended: fields.mark(Field::Suspended)?,
        ..Flags::default()
    };
    let words = fields.text_if(Field::Flags)?.unwrap_or_default();
    for word in words.split([' ', ',', '|']).filter(|word| !word.is_empty()) {
        match word {
            "authenticated" => flags.authenticated = true,
            "bounce" => flags.bounce = true,
            "internal" => flags.internal = true,
            "enqueued" => {}
            _ => return Err(invalid(Field::Flags)),
        }
    }
    Ok(flags)
}

fn dsn(fields: &Fields<'_>) -> Result<Dsn, String> {
    Ok(Dsn {
        notify: Notify(fields.number(Field::DsnNotify)?),
        ret: match fields.text_if(Field::DsnRet)? {
            Some("FULL") => Some(Ret::Full),
            Some("HDRS") => Some(Ret::Hdrs),
            None => None,
            Some(_) => return Err(invalid(Field::DsnRet)),
        },
        envid: fields.line_if(Field::DsnEnvid)?,
        orcpt: fields.line_if(Field::DsnOrcpt)?,
    })
}

fn past(fields: &Fields<'_>) -> Result<Past, String> {
    let time = |field| {
        let seconds = fields.number_if(field)?;
        Ok::<_, String>(Timestamp(seconds.unwrap_or(0)))
    };
    Ok(Past {
        remote: fields.cosmetic_if(Field::Remote),
        arrived: time(Field::BounceArrival)?,
        tried: time(Field::BounceLastTry)?,
    })
}

fn status(fields: &Fields<'_>) -> Result<Option<Status>, String> {
    if let Some(text) = fields.text_if(Field::Status)? {
        let mut parts = text.split('.').map(digits::<u8>);
        return match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(Some(class)), Some(Some(subject)), Some(Some(detail)), None) => {
                Ok(Some(Status::new(class, subject, detail)))
            }
            _ => Err(invalid(Field::Status)),
        };
    }
    let code: u8 = fields.number_if(Field::EscCode)?.unwrap_or(0);
    match fields.number_if::<u8>(Field::EscClass)? {
        None | Some(0) => Ok(None),
        Some(class @ (2 | 4 | 5)) => Ok(Some(Status::new(class, code / 10, code % 10))),
        Some(_) => Err(invalid(Field::EscClass)),
    }
}
