//! Parameters of MAIL and RCPT (RFC 1870, 3461, 4954, 6152).
//!
//! They are separated by spaces, and any number of spaces may stand around them: sendmail(8) of
//! the system we replace puts spaces behind every path. A repeated parameter counts as given last.

use crate::mail::{Notify, Ret};
use crate::util::Line;

use super::xtext;

/// The longest ENVID.
pub const MAX_ENVID: usize = 100;
/// The longest ORCPT.
pub const MAX_ORCPT: usize = 500;

/// Whether the listener knows delivery status notifications.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DsnSupport {
    /// DSN is in the EHLO reply.
    Offered,
    /// It is not (`no-dsn`), and its parameters are unknown ones.
    Withheld,
}

/// What MAIL was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MailParams {
    /// SIZE in bytes; numbers too large to count are `u64::MAX`.
    pub size_bytes: Option<u64>,
    pub ret: Option<Ret>,
    pub envid: Option<Line>,
}

/// What RCPT was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RcptParams {
    pub notify: Notify,
    pub orcpt: Option<Line>,
}

/// Why parameters are refused; options are as the client sent them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadParam<'a> {
    /// An option we do not know, or do not offer here.
    Unsupported(&'a [u8]),
    /// An ENVID longer than [`MAX_ENVID`].
    EnvidTooLong(&'a [u8]),
    /// An ENVID with bytes that no xtext has.
    EnvidSyntax,
    /// NOTIFY=NEVER and another word.
    NotifyNever,
    /// An ORCPT that is not of the form of RFC 3461.
    OrcptSyntax,
}

/// Reads what follows the reverse-path.
pub fn mail(rest: &[u8], dsn: DsnSupport) -> Result<MailParams, BadParam<'_>> {
    let mut params = MailParams::default();
    for option in options(rest) {
        match (keyword(option), dsn) {
            // A SIZE that is no number is let pass, as it always was.
            (Some(("SIZE", value)), _) => params.size_bytes = size(value),
            // RFC 4954 §5: those who do not trust it ignore it.
            (Some(("AUTH", _)), _) => {}
            (Some(("BODY", value)), _) if is_known_body(value) => {}
            (Some(("RET", value)), DsnSupport::Offered) => params.ret = ret(value).or(params.ret),
            (Some(("ENVID", value)), DsnSupport::Offered) => params.envid = envid(value)?,
            _ => return Err(BadParam::Unsupported(option)),
        }
    }
    Ok(params)
}

/// Reads what follows the forward-path.
pub fn rcpt(rest: &[u8], dsn: DsnSupport) -> Result<RcptParams, BadParam<'_>> {
    let mut params = RcptParams::default();
    for option in options(rest) {
        match (keyword(option), dsn) {
            (Some(("NOTIFY", value)), DsnSupport::Offered) => {
                params.notify = notify(params.notify, value)?;
            }
            (Some(("ORCPT", value)), DsnSupport::Offered) => params.orcpt = Some(orcpt(value)?),
            _ => return Err(BadParam::Unsupported(option)),
        }
    }
    Ok(params)
}

fn options(rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    rest.split(|&byte| byte == b' ')
        .filter(|option| !option.is_empty())
}

/// The keyword in capitals, if it is one of those that are known, and the value behind the `=`.
fn keyword(option: &[u8]) -> Option<(&'static str, &[u8])> {
    let equals = memchr::memchr(b'=', option)?;
    let (word, value) = option.split_at(equals);
    let known = ["SIZE", "AUTH", "BODY", "RET", "ENVID", "NOTIFY", "ORCPT"];
    let word = known
        .into_iter()
        .find(|name| word.eq_ignore_ascii_case(name.as_bytes()))?;
    Some((word, value.get(1..).unwrap_or_default()))
}

fn size(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = std::str::from_utf8(value).ok()?;
    Some(digits.parse().unwrap_or(u64::MAX))
}

fn is_known_body(value: &[u8]) -> bool {
    value.eq_ignore_ascii_case(b"7BIT") || value.eq_ignore_ascii_case(b"8BITMIME")
}

fn ret(value: &[u8]) -> Option<Ret> {
    if value.eq_ignore_ascii_case(b"FULL") {
        return Some(Ret::Full);
    }
    value.eq_ignore_ascii_case(b"HDRS").then_some(Ret::Hdrs)
}

fn envid(value: &[u8]) -> Result<Option<Line>, BadParam<'_>> {
    if let Some(head) = value.get(..MAX_ENVID)
        && value.len() > MAX_ENVID
    {
        return Err(BadParam::EnvidTooLong(head));
    }
    if value.is_empty() {
        return Ok(None);
    }
    printable(value).map(Some).ok_or(BadParam::EnvidSyntax)
}

/// What is asked for in `value` and was asked for `before`: several parameters add up.
fn notify(before: Notify, value: &[u8]) -> Result<Notify, BadParam<'_>> {
    let mut bits = before.0;
    for word in value.split(|&byte| byte == b',') {
        let known: [(&[u8], u8); 4] = [
            (b"SUCCESS", Notify::SUCCESS),
            (b"FAILURE", Notify::FAILURE),
            (b"DELAY", Notify::DELAY),
            (b"NEVER", Notify::NEVER),
        ];
        bits |= known
            .iter()
            .find(|(name, _)| word.eq_ignore_ascii_case(name))
            .map_or(0, |k| k.1);
    }
    if bits & Notify::NEVER != 0 && bits != Notify::NEVER {
        return Err(BadParam::NotifyNever);
    }
    Ok(Notify(bits))
}

/// RFC 3461 §4.2: address type, `;`, xtext.
fn orcpt(value: &[u8]) -> Result<Line, BadParam<'_>> {
    let semicolon = memchr::memchr(b';', value).ok_or(BadParam::OrcptSyntax)?;
    let (_, address) = value.split_at(semicolon);
    let address = address.get(1..).unwrap_or_default();
    if value.len() > MAX_ORCPT || !xtext::is_xtext(address) {
        return Err(BadParam::OrcptSyntax);
    }
    printable(value).ok_or(BadParam::OrcptSyntax)
}

fn printable(value: &[u8]) -> Option<Line> {
    if !value.iter().all(u8::is_ascii_graphic) {
        return None;
    }
    Line::from_bytes(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DSN: DsnSupport = DsnSupport::Offered;

    #[test]
    fn mail_parameters_are_read_in_any_case_and_between_any_spaces() {
        let params = mail(
            b"   size=1200  Body=8bitmime AUTH=<> ret=hdrs ENVID=x1  ",
            DSN,
        )
        .unwrap();
        assert_eq!(params.size_bytes, Some(1200));
        assert_eq!(params.ret, Some(Ret::Hdrs));
        assert_eq!(params.envid.unwrap().as_str(), "x1");
        assert_eq!(mail(b"", DSN), Ok(MailParams::default()));
        assert_eq!(mail(b" SIZE=x RET=half", DSN), Ok(MailParams::default()));
        let huge = mail(b" SIZE=99999999999999999999999", DSN).unwrap();
        assert_eq!(huge.size_bytes, Some(u64::MAX));
    }

    #[test]
    fn unknown_parameters_are_named() {
        for bad in [
            "SMTPUTF8",
            "BODY=BINARYMIME",
            "SIZE",
            "X=1",
            "NOTIFY=NEVER",
            "=",
            "\r",
        ] {
            assert_eq!(
                mail(bad.as_bytes(), DSN),
                Err(BadParam::Unsupported(bad.as_bytes()))
            );
        }
        for bad in ["RET=FULL", "ENVID=x"] {
            let refused = mail(bad.as_bytes(), DsnSupport::Withheld);
            assert_eq!(refused, Err(BadParam::Unsupported(bad.as_bytes())));
        }
        assert_eq!(rcpt(b" SIZE=1", DSN), Err(BadParam::Unsupported(b"SIZE=1")));
        let refused = rcpt(b"NOTIFY=DELAY", DsnSupport::Withheld);
        assert_eq!(refused, Err(BadParam::Unsupported(b"NOTIFY=DELAY")));
    }

    #[test]
    fn envid_has_at_most_100_printable_bytes() {
        let long = format!("ENVID={}", "x".repeat(101));
        assert!(
            matches!(mail(long.as_bytes(), DSN), Err(BadParam::EnvidTooLong(h)) if h.len() == 100)
        );
        assert!(mail(&long.as_bytes()[..106], DSN).unwrap().envid.is_some());
        assert_eq!(mail(b"ENVID=a\rb", DSN), Err(BadParam::EnvidSyntax));
    }

    #[test]
    fn rcpt_parameters_follow_rfc_3461() {
        // RFC 3461 §4.1: NEVER must stand alone. §4.2: ORCPT is type;xtext.
        let params = rcpt(b" NOTIFY=success,Delay ORCPT=rfc822;b+2Bc@example.org", DSN).unwrap();
        assert_eq!(params.notify, Notify(Notify::SUCCESS | Notify::DELAY));
        assert_eq!(params.orcpt.unwrap().as_str(), "rfc822;b+2Bc@example.org");
        for bad in [
            "NOTIFY=NEVER,DELAY",
            "NOTIFY=SUCCESS NOTIFY=NEVER",
            "NOTIFY=NEVER NOTIFY=SUCCESS",
        ] {
            assert_eq!(
                rcpt(bad.as_bytes(), DSN),
                Err(BadParam::NotifyNever),
                "{bad}"
            );
        }
        let twice = rcpt(b"NOTIFY=SUCCESS NOTIFY=DELAY", DSN).unwrap();
        assert_eq!(twice.notify, params.notify);
        let long = format!("ORCPT=rfc822;{}", "x".repeat(494));
        for bad in [
            "ORCPT=bob",
            "ORCPT=rfc822;a+2b",
            "ORCPT=rfc822;a=b",
            "ORCPT=a\tb;c",
            &long,
        ] {
            assert_eq!(
                rcpt(bad.as_bytes(), DSN),
                Err(BadParam::OrcptSyntax),
                "{bad}"
            );
        }
    }
}
