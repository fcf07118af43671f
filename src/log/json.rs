//! A log line as an object of JSON, for `smtpd -L json`.
//!
//! Lines that begin with the number of a session and say what happened in `key=value` come apart;
//! of all others there is the level and the text.

use crate::util::json::quoted;

/// The object. `text` is one line.
pub fn object(level: &str, text: &str) -> String {
    let mut out = format!("{{\"level\":{}", quoted(level));
    if let Some(parts) = parts(text) {
        for (key, value) in parts {
            out.push_str(&format!(",{}:{}", quoted(key), quoted(&value)));
        }
    }
    out.push_str(&format!(",\"message\":{}}}", quoted(text)));
    out
}

/// `1f1f762895a078da smtp message msgid=… size=…`.
fn parts(text: &str) -> Option<Vec<(&str, String)>> {
    let (session, rest) = text.split_once(' ')?;
    if session.len() != 16 || !session.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let (part, rest) = rest.split_once(' ')?;
    let (event, mut rest) = rest.split_once(' ').unwrap_or((rest, ""));
    let mut parts = vec![
        ("session", session.to_owned()),
        ("part", part.to_owned()),
        ("event", event.to_owned()),
    ];
    while let Some((key, behind)) = rest.split_once('=') {
        let (value, more) = value(behind);
        // Each name once, and none that is ours.
        let key = key.trim();
        let is_new = !["level", "message"].contains(&key) && parts.iter().all(|(k, _)| *k != key);
        if is_new {
            parts.push((key, value));
        }
        rest = more;
    }
    Some(parts)
}

/// A value, which may stand in quotes, and what follows it.
fn value(text: &str) -> (String, &str) {
    let (value, rest) = text
        .strip_prefix('"')
        .and_then(|inside| inside.split_at_checked(closing_quote(inside)?))
        .map(|(value, rest)| (value, rest.get(1..).unwrap_or_default()))
        .unwrap_or_else(|| text.split_once(' ').unwrap_or((text, "")));
    (value.to_owned(), rest.trim_start())
}

/// Where the quotes end: a quote behind a backslash is part of what a stranger said, and so is one
/// that a word goes on behind. A word that only begins with a quote has no end of quotes.
fn closing_quote(inside: &str) -> Option<usize> {
    let mut is_escaped = false;
    let mut bytes = inside.bytes().enumerate().peekable();
    while let Some((at, byte)) = bytes.next() {
        let is_last = matches!(bytes.peek(), None | Some((_, b' ')));
        if byte == b'"' && !is_escaped && is_last {
            return Some(at);
        }
        is_escaped = byte == b'\\' && !is_escaped;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_session_comes_apart_and_others_stay_whole() {
        // smtpd(8), -L json.
        let line = "1f1f762895a078da mta delivery evpid=1a2b3c4d7f3e9a10 to=<b@x.org> rcpt=<-> \
                    result=\"TempFail\" stat=\"451 a = b\" level=x";
        let message = quoted(line);
        assert_eq!(
            object("info", line),
            format!(
                "{{\"level\":\"info\",\"session\":\"1f1f762895a078da\",\"part\":\"mta\",\
                 \"event\":\"delivery\",\"evpid\":\"1a2b3c4d7f3e9a10\",\"to\":\"<b@x.org>\",\
                 \"rcpt\":\"<->\",\"result\":\"TempFail\",\"stat\":\"451 a = b\",\
                 \"message\":{message}}}"
            )
        );
        assert_eq!(
            object("err", "warn: a \"b\""),
            r#"{"level":"err","message":"warn: a \"b\""}"#
        );
    }

    #[test]
    fn no_client_writes_fields_of_its_own() {
        // What it says is in quotes, with a backslash in front of those of its own, or is one word.
        for (line, own) in [
            (
                r#"command="HELO x\" address=192.0.2.1 y" result="501 say \\" address=198.51.100.7"#,
                r#""command":"HELO x\\\" address=192.0.2.1 y","result":"501 say \\\\""#,
            ),
            (r#"user="bob address=198.51.100.7"#, r#""user":"\"bob""#),
        ] {
            let line = format!("1f1f762895a078da smtp failed-command {line}");
            let message = quoted(&line);
            assert_eq!(
                object("info", &line),
                format!(
                    "{{\"level\":\"info\",\"session\":\"1f1f762895a078da\",\"part\":\"smtp\",\
                     \"event\":\"failed-command\",{own},\"address\":\"198.51.100.7\",\
                     \"message\":{message}}}"
                )
            );
        }
    }
}
