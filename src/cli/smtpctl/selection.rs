//! Which envelopes a command is about, by what is known of them.

use crate::control::Which;
use crate::mail::{EvpId, MsgId};

use super::row::Row;

/// Envelopes that have all of this in common.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Of these alone; of all, if there are none.
    pub ids: Vec<Which>,
    conditions: Vec<Condition>,
    /// `-n`: nothing is done.
    pub is_trial: bool,
    /// How the queue is shown.
    pub form: Form,
}

/// How `show queue` shows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// Fields separated by `|`.
    #[default]
    Fields,
    /// `-j`: an object of JSON on each line.
    Json,
    /// `-H`: for people.
    Human,
}

/// What is done with the selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// They are shown, in one form or another.
    Show,
    /// Something is done to them: a word about a form, which says nothing of which, is a mistake.
    Act,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Condition {
    Sender(String),
    Recipient(String),
    Domain(String),
    Relay(String),
    State(String),
    Age(Bound),
    Size(Bound),
    MessageId(String),
}

/// At least, or with `-` in front less than.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bound {
    AtLeast(u64),
    LessThan(u64),
}

/// What the message itself says, which takes reading it.
#[derive(Clone, Debug, Default)]
pub struct Content {
    pub size_bytes: u64,
    /// Message-ID, without angle brackets.
    pub message_id: String,
}

/// Words that a selection is made of, as they are shown to who errs.
pub const WORDS: &[&str] = &[
    "sender <str>",
    "recipient <str>",
    "domain <str>",
    "age <time>",
    "state <str>",
    "relay <str>",
    "size <bytes>",
    "message-id <str>",
    "-n",
];

const STATES: &[&str] = &["pending", "deferred", "held", "inflight", "offline"];

impl Selection {
    /// These alone, whatever else is known of them.
    pub fn of(ids: Vec<Which>) -> Selection {
        Selection {
            ids,
            ..Selection::default()
        }
    }

    /// Whether this word is of a selection and of nothing else.
    pub fn begins(word: &str, purpose: Purpose) -> bool {
        let mut known = WORDS.iter().filter_map(|known| known.split(' ').next());
        let is_form = purpose == Purpose::Show && ["-j", "-H"].contains(&word);
        is_form || known.any(|known| known == word)
    }

    /// Reads one that goes on from `ids`. An error is what is possible in place of the word at its
    /// position.
    pub fn parse(
        ids: Vec<Which>,
        words: &[String],
        purpose: Purpose,
    ) -> Result<Selection, (usize, Vec<&'static str>)> {
        let mut selection = Selection::of(ids);
        let mut at = 0;
        while let Some(word) = words.get(at) {
            let misfit = |possible: Vec<&'static str>, at| Err((at, possible));
            match word.as_str() {
                "-n" => selection.is_trial = true,
                "-j" if purpose == Purpose::Show => selection.form = Form::Json,
                "-H" if purpose == Purpose::Show => selection.form = Form::Human,
                "all" => {}
                word => {
                    if let Some(which) = id(word) {
                        selection.ids.push(which);
                        at += 1;
                        continue;
                    }
                    let Some(known) = WORDS.iter().find(|w| w.split(' ').next() == Some(word))
                    else {
                        return misfit(WORDS.to_vec(), at);
                    };
                    at += 1;
                    let value = words.get(at).and_then(|value| condition(word, value));
                    let Some(condition) = value else {
                        return misfit(vec![known], at - 1);
                    };
                    selection.conditions.push(condition);
                }
            }
            at += 1;
        }
        Ok(selection)
    }

    /// Whether it is what `show queue` without more, or with one message, means.
    pub fn is_plain(&self) -> bool {
        let one = matches!(self.ids.as_slice(), [] | [Which::All | Which::Message(_)]);
        one && self.conditions.is_empty() && self.form == Form::Fields
    }

    /// Whether a message has to be read to know.
    pub fn reads_messages(&self) -> bool {
        let reads = |condition: &Condition| match condition {
            Condition::Size(_) | Condition::MessageId(_) => true,
            Condition::Sender(_)
            | Condition::Recipient(_)
            | Condition::Domain(_)
            | Condition::Relay(_)
            | Condition::State(_)
            | Condition::Age(_) => false,
        };
        self.conditions.iter().any(reads)
    }

    /// The one message that all envelopes are of, if that is known beforehand.
    pub fn message(&self) -> Option<MsgId> {
        match self.ids.as_slice() {
            [Which::Message(id)] => Some(*id),
            [Which::Envelope(id)] => Some(id.msgid()),
            _ => None,
        }
    }

    /// Whether an envelope is one of these. `content` is asked for only if it is needed.
    pub fn has(&self, row: &Row, now_s: u64, content: &mut dyn FnMut() -> Option<Content>) -> bool {
        let is_named = |id: EvpId| {
            self.ids.iter().any(|which| match which {
                Which::All => true,
                Which::Message(msgid) => id.msgid() == *msgid,
                Which::Envelope(one) => id == *one,
            })
        };
        if !self.ids.is_empty() && !row.id().is_some_and(is_named) {
            return false;
        }
        self.conditions.iter().all(|condition| match condition {
            Condition::Sender(pattern) => matches(pattern, &row.sender),
            Condition::Recipient(pattern) => {
                matches(pattern, &row.rcpt) || matches(pattern, &row.dest)
            }
            Condition::Domain(pattern) => matches(pattern, row.domain()),
            Condition::Relay(pattern) => row.kind == "mta" && matches(pattern, &row.action),
            Condition::State(state) => row.standing() == state || row.state == *state,
            Condition::Age(bound) => bound.holds(row.age_s(now_s)),
            Condition::Size(bound) => content().is_some_and(|c| bound.holds(c.size_bytes)),
            Condition::MessageId(id) => content().is_some_and(|c| c.message_id == *id),
        })
    }
}

impl Bound {
    fn holds(self, value: u64) -> bool {
        match self {
            Bound::AtLeast(least) => value >= least,
            Bound::LessThan(limit) => value < limit,
        }
    }
}

fn id(word: &str) -> Option<Which> {
    let envelope = word.parse().ok().map(Which::Envelope);
    envelope.or_else(|| word.parse().ok().map(Which::Message))
}

fn condition(word: &str, value: &str) -> Option<Condition> {
    let text = || value.to_owned();
    Some(match word {
        // As RCPT and MAIL write the null address, and as the listing does.
        "sender" if value == "<>" => Condition::Sender("@".to_owned()),
        "sender" => Condition::Sender(text()),
        "recipient" => Condition::Recipient(text()),
        "domain" => Condition::Domain(text()),
        "relay" => Condition::Relay(text()),
        "state" if STATES.contains(&value) => Condition::State(text()),
        "age" => Condition::Age(bound(
            value,
            &[("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)],
        )?),
        "size" => Condition::Size(bound(
            value,
            &[("K", 1 << 10), ("M", 1 << 20), ("G", 1 << 30)],
        )?),
        "message-id" => {
            let bare = value
                .strip_prefix('<')
                .and_then(|rest| rest.strip_suffix('>'));
            Condition::MessageId(bare.unwrap_or(value).to_owned())
        }
        _ => return None,
    })
}

/// `[+|-]number[unit]`.
fn bound(value: &str, units: &[(&str, u64)]) -> Option<Bound> {
    let (less, rest) = match value.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, value.strip_prefix('+').unwrap_or(value)),
    };
    let unit = units
        .iter()
        .find_map(|(unit, worth)| Some((rest.strip_suffix(unit)?, *worth)));
    let (digits, worth) = unit.unwrap_or((rest, 1));
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number = digits.parse::<u64>().ok()?.checked_mul(worth)?;
    Some(if less {
        Bound::LessThan(number)
    } else {
        Bound::AtLeast(number)
    })
}

/// Case does not matter; `*` stands for anything.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.to_lowercase(), text.to_lowercase());
    let mut pieces = pattern.split('*');
    let Some(mut rest) = pieces.next().and_then(|first| text.strip_prefix(first)) else {
        return false;
    };
    let Some(last) = pieces.next_back() else {
        return rest.is_empty();
    };
    for piece in pieces {
        let Some((_, behind)) = rest.split_once(piece) else {
            return false;
        };
        rest = behind;
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::smtpctl::row::tests::listed;

    fn parse(line: &str) -> Result<Selection, (usize, Vec<&'static str>)> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Selection::parse(Vec::new(), &words, Purpose::Show)
    }

    #[test]
    fn conditions_are_all_to_be_met() {
        // smtpctl(8), SELECTIONS.
        let text = "inet4|mta||Alice@x.org|bob@y.org|bob@z.org|1000|2000|0|3|pending|5|451 no";
        let row = Row::new(&listed("1a2b3c4d7f3e9a10", text, "out")).unwrap();
        let mut content = || {
            Some(Content {
                size_bytes: 5000,
                message_id: "1@x.org".to_owned(),
            })
        };
        let mut has = |line: &str| parse(line).unwrap().has(&row, 4600, &mut content);
        for line in [
            "",
            "all",
            "sender alice@X.org",
            "sender *@x.org recipient bob@y.org recipient bob@z.org",
            "domain z.org",
            "domain *.org",
            "relay out",
            "age 1h",
            "age +60m age -2h",
            "state deferred",
            "state pending",
            "size 4K size -1M",
            "message-id <1@x.org>",
            "1a2b3c4d sender *",
            "00000001 1a2b3c4d7f3e9a10",
        ] {
            assert!(has(line), "{line}");
        }
        for line in [
            "sender alice@x",
            "sender <>",
            "domain y.org",
            "relay in",
            "age -1h",
            "age 2h",
            "state held",
            "size +5K",
            "message-id 2@x.org",
            "00000001",
            "sender alice@x.org domain y.org",
        ] {
            assert!(!has(line), "{line}");
        }
    }

    #[test]
    fn what_is_no_condition_is_answered_with_what_is_possible() {
        assert_eq!(parse("nonsense").unwrap_err().1, WORDS);
        for (line, possible) in [
            ("age x", "age <time>"),
            ("age", "age <time>"),
            ("size 1m", "size <bytes>"),
            ("size 99999999999999999999", "size <bytes>"),
            ("state gone", "state <str>"),
            ("-n sender", "sender <str>"),
        ] {
            assert_eq!(parse(line).unwrap_err().1, [possible], "{line}");
        }
        assert!(parse("-n -j").unwrap().is_trial);
    }

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, text) in [
            ("*", ""),
            ("a*", "ab"),
            ("*b", "ab"),
            ("a*b*c", "aXbYc"),
            ("@", "@"),
        ] {
            assert!(matches(pattern, text), "{pattern}");
        }
        for (pattern, text) in [("", "a"), ("a", "ab"), ("a*a", "a"), ("a*b*c", "acb")] {
            assert!(!matches(pattern, text), "{pattern}");
        }
    }
}
