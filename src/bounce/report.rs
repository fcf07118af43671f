//! The text of a report: a pure function from bounce envelopes to a message.
//!
//! A multipart/report (RFC 6522) of a text for people, a message/delivery-status (RFC 3464) for
//! programs, and what is returned of the original. Subject, From and the sentences are those that
//! scripts know from the mailer we replace. Where it shows the address that aliases and forwards
//! led to, this shows the one that the sender used.
//!
//! Whatever came from outside is made printable ASCII and folded, so it can neither add a line nor
//! a part to the report; the boundary is one that the returned message does not hold.

use std::fmt::Write;
use std::net::IpAddr;

use crate::mail::{BounceKind, Envelope, Literal, Outcome, Status};
use crate::rfc5322::fields;
use crate::smtp::xtext;
use crate::util::Timestamp;

use super::collect::kind_of;
use super::excerpt::{Excerpt, Extent};

/// Writes a date as header fields hold it.
pub type DateText = fn(Timestamp) -> String;

/// Longest piece of foreign text on one line; RFC 5322 §2.1.1 allows 998 with everything.
const PIECE_MAX: usize = 900;

/// The report about these envelopes, with LF line ends. They are of one group: same message, same
/// kind, same sender.
pub fn compose(
    envelopes: &[Envelope],
    original: Option<&Excerpt>,
    now: Timestamp,
    date: DateText,
) -> Vec<u8> {
    let Some(first) = envelopes.first() else {
        return Vec::new();
    };
    let kind = kind_of(first);
    let boundary = boundary(first, original);
    let mut text = String::new();
    header(&mut text, first, original, &boundary, &date(now));
    for_people(&mut text, envelopes, kind, original, &boundary);
    for_programs(&mut text, envelopes, kind, original, &boundary, date);
    let mut bytes = text.into_bytes();
    if let Some(original) = original {
        returned(&mut bytes, original, &boundary);
    }
    bytes.extend_from_slice(format!("\n--{boundary}--\n").as_bytes());
    bytes
}

fn header(
    out: &mut String,
    first: &Envelope,
    original: Option<&Excerpt>,
    boundary: &str,
    date: &str,
) {
    let action = action(kind_of(first));
    let name = ascii(&first.smtpname);
    put(
        out,
        &format!("Subject: Delivery status notification: {action}"),
    );
    put(out, &format!("From: Mailer Daemon <MAILER-DAEMON@{name}>"));
    put(out, &format!("To: {}", ascii(&first.sender.to_string())));
    put(out, &format!("Date: {date}"));
    // The same report tried again is the same message.
    put(out, &format!("Message-ID: <{}@{name}>", first.id));
    if let Some(id) = original.and_then(|original| message_id(&original.bytes)) {
        put(out, &format!("In-Reply-To: {id}"));
        put(out, &format!("References: {id}"));
    }
    // RFC 3834 §5: nobody answers automatically to what is automatic.
    put(out, "Auto-Submitted: auto-replied");
    put(out, "MIME-Version: 1.0");
    put(
        out,
        "Content-Type: multipart/report; report-type=delivery-status;",
    );
    put(out, &format!("\tboundary=\"{boundary}\""));
    if original.is_some_and(is_8bit) {
        put(out, "Content-Transfer-Encoding: 8bit");
    }
    put(out, "");
    put(out, "This is a MIME-encapsulated message.");
}

fn for_people(
    out: &mut String,
    envelopes: &[Envelope],
    kind: BounceKind,
    original: Option<&Excerpt>,
    boundary: &str,
) {
    part(
        out,
        boundary,
        "Notification",
        "text/plain; charset=us-ascii",
    );
    put(out, "    Hi!\n");
    put(
        out,
        "    This is the MAILER-DAEMON, please DO NOT REPLY to this email.\n",
    );
    put(out, &opening(kind));
    put(out, "");
    for envelope in envelopes {
        let line = match &envelope.errorline {
            Some(error) => format!("{}: {error}", envelope.rcpt),
            None => envelope.rcpt.to_string(),
        };
        folded(out, "", &line, "    ");
    }
    put(out, "");
    if let BounceKind::Delayed { ttl_s, .. } = kind {
        put(
            out,
            "    Please note that this is only a temporary failure report.",
        );
        let life = span(ttl_s);
        put(
            out,
            &format!("    The message is kept in the queue for up to {life}."),
        );
        put(
            out,
            "    You DO NOT NEED to re-send the message to these recipients.\n",
        );
    }
    match original.map(|original| original.extent) {
        Some(Extent::Whole) => put(out, "    Below is a copy of the original message:"),
        Some(Extent::Header) => put(out, "    Below is the header of the original message:"),
        None => {}
    }
}

fn for_programs(
    out: &mut String,
    envelopes: &[Envelope],
    kind: BounceKind,
    original: Option<&Excerpt>,
    boundary: &str,
    date: DateText,
) {
    part(out, boundary, "Delivery Report", "message/delivery-status");
    let Some(first) = envelopes.first() else {
        return;
    };
    field(out, "Reporting-MTA", &format!("dns; {}", first.smtpname));
    if let Some(envid) = &first.dsn.envid {
        field(out, "Original-Envelope-Id", &xtext::decode(envid));
    }
    if let Some(arrival) = arrival(first, original, date) {
        field(out, "Arrival-Date", &arrival);
    }
    for envelope in envelopes {
        put(out, "");
        recipient(out, envelope, kind, date);
    }
}

/// RFC 3464 §2.3: the fields of one recipient.
fn recipient(out: &mut String, envelope: &Envelope, kind: BounceKind, date: DateText) {
    if let Some((kind, address)) = envelope.dsn.orcpt.as_ref().and_then(|o| o.split_once(';')) {
        let original = format!("{kind}; {}", xtext::decode(address));
        field(out, "Original-Recipient", &original);
    }
    field(
        out,
        "Final-Recipient",
        &format!("rfc822; {}", envelope.rcpt),
    );
    field(out, "Action", action(kind));
    let status = envelope.status.unwrap_or(default_status(kind));
    field(out, "Status", &status.to_string());
    if let Some(name) = envelope.past.remote.as_deref().and_then(remote_mta) {
        field(out, "Remote-MTA", &format!("dns; {name}"));
    }
    if let Some(error) = &envelope.errorline {
        field(out, "Diagnostic-Code", &diagnostic(error));
    }
    if let Some(tried) = last_attempt(envelope, kind) {
        field(out, "Last-Attempt-Date", &date(tried));
    }
    if let BounceKind::Delayed { ttl_s, .. } = kind
        && envelope.past.arrived != Timestamp(0)
    {
        let until = envelope.past.arrived.plus(u64::from(ttl_s));
        field(out, "Will-Retry-Until", &date(until));
    }
}

/// The name of the other host, or its address in brackets (RFC 3464 §2.3.5); a socket of this host
/// is no name that anybody could use.
fn remote_mta(name: &str) -> Option<String> {
    if name.is_empty() || name.contains('/') {
        return None;
    }
    match name.parse::<IpAddr>() {
        Ok(address) => Some(Literal(address).to_string()),
        Err(_) => Some(name.to_owned()),
    }
}

/// The reply as the other host gave it, also where it has become the reason of an expiry; else our
/// own text.
fn diagnostic(error: &str) -> String {
    let last = Outcome::last_error(error);
    if is_reply(last) {
        format!("smtp; {last}")
    } else {
        format!("x-local; {error}")
    }
}

/// When the original was last tried. A report of an older version has only its own time, which is
/// that of the attempt unless the envelope expired.
fn last_attempt(envelope: &Envelope, kind: BounceKind) -> Option<Timestamp> {
    let tried = envelope.past.tried;
    let delivered = matches!(kind, BounceKind::Delivered { .. });
    match tried == Timestamp(0) {
        false => Some(tried),
        true if delivered || envelope.status == Some(Status::new(5, 4, 7)) => None,
        true => Some(envelope.created),
    }
}

fn returned(out: &mut Vec<u8>, original: &Excerpt, boundary: &str) {
    let (description, content_type) = match original.extent {
        Extent::Header => ("Message headers", "text/rfc822-headers"),
        Extent::Whole => ("Message", "message/rfc822"),
    };
    let mut head = format!(
        "\n--{boundary}\nContent-Description: {description}\nContent-Type: {content_type}\n"
    );
    if is_8bit(original) {
        head.push_str("Content-Transfer-Encoding: 8bit\n");
    }
    head.push('\n');
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(&original.bytes);
}

fn part(out: &mut String, boundary: &str, description: &str, content_type: &str) {
    put(out, &format!("\n--{boundary}"));
    put(out, &format!("Content-Description: {description}"));
    put(out, &format!("Content-Type: {content_type}\n"));
}

fn action(kind: BounceKind) -> &'static str {
    match kind {
        BounceKind::Failed => "failed",
        BounceKind::Delayed { .. } => "delayed",
        BounceKind::Delivered { relayed: false } => "delivered",
        BounceKind::Delivered { relayed: true } => "relayed",
    }
}

fn default_status(kind: BounceKind) -> Status {
    match kind {
        BounceKind::Failed => Status::new(5, 0, 0),
        BounceKind::Delayed { .. } => Status::new(4, 0, 0),
        BounceKind::Delivered { .. } => Status::new(2, 0, 0),
    }
}

fn opening(kind: BounceKind) -> String {
    match kind {
        BounceKind::Failed => {
            "    An error has occurred while attempting to deliver a message for\n    \
             the following list of recipients:"
                .to_owned()
        }
        BounceKind::Delayed { delay_s, .. } => format!(
            "    A message is delayed for more than {} for the following\n    list of recipients:",
            span(delay_s)
        ),
        BounceKind::Delivered { relayed: false } => {
            "    Your message was successfully delivered to these recipients.".to_owned()
        }
        BounceKind::Delivered { relayed: true } => {
            "    Your message was relayed to these recipients.".to_owned()
        }
    }
}

/// A duration in its largest whole unit.
fn span(seconds: u32) -> String {
    let (count, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..86_400 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {unit}{plural}")
}

/// Whether an error is a whole SMTP reply rather than a text of ours.
fn is_reply(error: &str) -> bool {
    let bytes = error.as_bytes();
    matches!(bytes, [b'2'..=b'5', b'0'..=b'9', b'0'..=b'9'])
        || matches!(
            bytes,
            [b'2'..=b'5', b'0'..=b'9', b'0'..=b'9', b' ' | b'-', ..]
        )
}

fn is_8bit(original: &Excerpt) -> bool {
    !original.bytes.is_ascii()
}

/// A boundary that does not occur in the original.
fn boundary(first: &Envelope, original: Option<&Excerpt>) -> String {
    let name: String = first
        .smtpname
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-'))
        .take(40)
        .collect();
    let mut number = first.id.get();
    loop {
        let boundary = format!("{number:016}/{name}");
        let taken = original.is_some_and(|original| holds(&original.bytes, boundary.as_bytes()));
        if !taken {
            return boundary;
        }
        // A bounded original can hold only so many of the numbers.
        number = number.wrapping_add(1);
    }
}

fn holds(text: &[u8], piece: &[u8]) -> bool {
    text.windows(piece.len()).any(|window| window == piece)
}

/// The Message-ID of the original, if it looks like one.
fn message_id(header: &[u8]) -> Option<String> {
    let value = header_value(header, "Message-ID")?;
    let inner = value.strip_prefix('<')?.strip_suffix('>')?;
    let plain = inner.len() <= 500
        && inner.contains('@')
        && inner
            .bytes()
            .all(|b| b.is_ascii_graphic() && !matches!(b, b'<' | b'>'));
    plain.then_some(value)
}

/// When the original came: as its envelope says, else the date of the first Received field, which
/// is ours.
fn arrival(first: &Envelope, original: Option<&Excerpt>, date: DateText) -> Option<String> {
    if first.past.arrived != Timestamp(0) {
        return Some(date(first.past.arrived));
    }
    let value = header_value(&original?.bytes, "Received")?;
    let (_, date) = value.rsplit_once(';')?;
    let date = date.trim();
    (!date.is_empty() && date.len() <= 60).then(|| ascii(date))
}

/// The value of the first field of this name, unfolded.
fn header_value(header: &[u8], name: &str) -> Option<String> {
    let field = fields(header).find(|field| field.is(name))?;
    Some(field.unfolded())
}

/// A field of the machine-readable part.
fn field(out: &mut String, name: &str, value: &str) {
    folded(out, &format!("{name}: "), value, "\t");
}

/// One logical line of foreign text on as many lines as it needs.
fn folded(out: &mut String, start: &str, text: &str, next: &str) {
    let text = ascii(text);
    let mut lead = start;
    let mut rest = text.as_str();
    loop {
        let cut = if rest.len() <= PIECE_MAX {
            rest.len()
        } else {
            // At a blank where there is one; the text is ASCII, so any place will do.
            rest.get(..PIECE_MAX)
                .and_then(|piece| piece.rfind(' '))
                .filter(|at| *at > 0)
                .unwrap_or(PIECE_MAX)
        };
        let (piece, tail) = rest.split_at(cut);
        put(out, &format!("{lead}{piece}"));
        if tail.is_empty() {
            return;
        }
        rest = tail;
        lead = next;
    }
}

/// Printable ASCII and blanks; anything else becomes a question mark.
fn ascii(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\t' => ' ',
            ' '..='~' => c,
            _ => '?',
        })
        .collect()
}

fn put(out: &mut String, line: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{line}");
}
