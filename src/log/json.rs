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
    let (value, rest) = match text.strip_prefix('"') {
        Some(inside) => inside.split_once('"').unwrap_or((inside, "")),
        None => text.split_once(' ').unwrap_or((text, "")),
    };
    (value.to_owned(), rest.trim_start())
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
}
