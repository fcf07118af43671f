//! A line of `show queue`, taken apart.

use crate::control::message::Listed;
use crate::mail::EvpId;
use crate::util::json::quoted;

/// One envelope of the queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// Fields 1 to 14, as `show queue` prints them.
    pub line: String,
    pub family: String,
    pub kind: String,
    pub flags: String,
    pub sender: String,
    pub rcpt: String,
    pub dest: String,
    pub created: u64,
    pub expires: u64,
    pub last_try: u64,
    pub attempts: u64,
    pub state: String,
    /// Until the next attempt, or since the envelope was handed out.
    pub seconds: Option<i64>,
    pub reason: String,
    /// The action that settles it.
    pub action: String,
    /// The host whose words the reason is.
    pub remote: String,
}

impl Row {
    /// `None` if it is no line of a queue.
    pub fn new(listed: &Listed) -> Option<Row> {
        let (family, rest) = listed.text.split_once('|')?;
        let (kind, rest) = rest.split_once('|')?;
        let (flags, rest) = rest.split_once('|')?;
        let (sender, rest) = address(rest)?;
        let (rcpt, rest) = address(rest)?;
        let (dest, rest) = address(rest)?;
        // The reason comes last and may hold what separates the others.
        let mut fields = rest.splitn(7, '|');
        let mut number = || fields.next()?.parse::<u64>().ok();
        let (created, expires, last_try) = (number()?, number()?, number()?);
        let attempts = number()?;
        let (state, seconds) = (fields.next()?, fields.next()?);
        let seconds = seconds.parse().ok();
        Some(Row {
            line: format!("{}|{}", listed.id, listed.text),
            family: family.to_owned(),
            kind: kind.to_owned(),
            flags: flags.to_owned(),
            sender: sender.to_owned(),
            rcpt: rcpt.to_owned(),
            dest: dest.to_owned(),
            created,
            expires,
            last_try,
            attempts,
            state: state.to_owned(),
            seconds,
            reason: fields.next()?.to_owned(),
            action: listed.action.clone(),
            remote: listed.remote.clone(),
        })
    }

    /// The envelope's id.
    pub fn id(&self) -> Option<EvpId> {
        self.line.split('|').next()?.parse().ok()
    }

    /// Its age in seconds.
    pub fn age_s(&self, now_s: u64) -> u64 {
        now_s.saturating_sub(self.created)
    }

    /// The domain it goes to.
    pub fn domain(&self) -> &str {
        self.dest.rsplit_once('@').map_or("", |(_, domain)| domain)
    }

    /// Whether the administrator holds it.
    pub fn is_paused(&self) -> bool {
        self.flags.split(',').any(|flag| flag == "suspend")
    }

    /// The state in one word.
    pub fn standing(&self) -> &str {
        match self.state.as_str() {
            "pending" if self.is_paused() => "held",
            "pending" if self.attempts > 0 => "deferred",
            other => other,
        }
    }

    /// Why it waits: who said so, and what.
    pub fn why(&self) -> String {
        if self.remote.is_empty() || self.reason.is_empty() {
            self.reason.clone()
        } else {
            format!("{}: {}", self.remote, self.reason)
        }
    }

    /// As an object of JSON.
    pub fn json(&self) -> String {
        let id = self.line.split('|').next().unwrap_or_default();
        let message = id.get(..8).unwrap_or_default();
        let flags: Vec<String> = if self.flags.is_empty() {
            Vec::new()
        } else {
            self.flags.split(',').map(quoted).collect()
        };
        let texts = [
            ("id", id),
            ("message", message),
            ("family", &self.family),
            ("type", &self.kind),
            ("sender", &self.sender),
            ("original_recipient", &self.rcpt),
            ("recipient", &self.dest),
            ("action", &self.action),
            ("state", self.standing()),
            ("remote", &self.remote),
            ("reason", &self.reason),
        ];
        let numbers = [
            ("created", Some(i128::from(self.created))),
            ("expires", Some(i128::from(self.expires))),
            ("last_attempt", Some(i128::from(self.last_try))),
            ("attempts", Some(i128::from(self.attempts))),
            ("seconds", self.seconds.map(i128::from)),
        ];
        let texts = texts.map(|(key, text)| format!("\"{key}\":{}", quoted(text)));
        let numbers = numbers.map(|(key, number)| {
            let number = number.map_or("null".to_owned(), |number| number.to_string());
            format!("\"{key}\":{number}")
        });
        let flags = format!("\"flags\":[{}]", flags.join(","));
        format!("{{{},{flags},{}}}", texts.join(","), numbers.join(","))
    }
}

/// An address up to its end: a user may hold what separates fields, a domain cannot.
fn address(text: &str) -> Option<(&str, &str)> {
    let at = text.find('@')?;
    let end = at + text.get(at..)?.find('|')?;
    Some((text.get(..end)?, text.get(end + 1..)?))
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// What a daemon lists.
    pub fn listed(id: &str, text: &str, action: &str) -> Listed {
        Listed {
            id: id.parse().unwrap(),
            text: text.to_owned(),
            action: action.to_owned(),
            remote: String::new(),
        }
    }

    #[test]
    fn a_line_comes_apart_whatever_stands_in_it() {
        // smtpctl(8), show queue: fields are separated by `|`, which users and errors may hold.
        let text = "inet4|mta|auth,suspend|a|b@x.org|@|c@y.org|100|200|0|3|pending|-5|451 a|b \\^[";
        let mut listed = listed("1a2b3c4d7f3e9a10", text, "out");
        listed.remote = "mx.y.org [192.0.2.1]".to_owned();
        let row = Row::new(&listed).unwrap();
        assert_eq!(
            (&*row.sender, &*row.rcpt, &*row.dest),
            ("a|b@x.org", "@", "c@y.org")
        );
        assert_eq!(
            (row.domain(), row.standing(), row.age_s(160)),
            ("y.org", "held", 60)
        );
        assert_eq!(row.why(), "mx.y.org [192.0.2.1]: 451 a|b \\^[");
        assert_eq!(
            row.json(),
            "{\"id\":\"1a2b3c4d7f3e9a10\",\"message\":\"1a2b3c4d\",\"family\":\"inet4\",\
             \"type\":\"mta\",\"sender\":\"a|b@x.org\",\"original_recipient\":\"@\",\
             \"recipient\":\"c@y.org\",\"action\":\"out\",\"state\":\"held\",\
             \"remote\":\"mx.y.org [192.0.2.1]\",\"reason\":\"451 a|b \\\\^[\",\
             \"flags\":[\"auth\",\"suspend\"],\"created\":100,\"expires\":200,\
             \"last_attempt\":0,\"attempts\":3,\"seconds\":-5}"
        );
        assert_eq!(
            Row::new(&tests::listed("1a2b3c4d7f3e9a10", "nonsense", "")),
            None
        );
    }
}
