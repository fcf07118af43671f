//! What a host does that misbehaves, and what is expected then: a case of `tests/dialogs/hosts`, a
//! line a step.
//!
//! ```text
//! case NAME         it is the host for NAME.example
//! lmtp              it speaks LMTP
//! body BYTES        the message is this long
//! greet [WORD]      banner, EHLO (or LHLO) and its reply, which offers WORD
//! usual VERB ...    hears these commands and agrees
//! C: TEXT           hears a line that begins so
//! S: TEXT           says a line
//! S~ TEXT           says bytes, with \r \n \0 \xNN
//! to WHOM TEXT      how `rcpts` will answer RCPT for a recipient; 250 unless told
//! rcpts             hears RCPT for each recipient
//! message           hears a message up to its final dot
//! part BYTES        hears so much of it
//! end WHOM TEXT     how `ends` will answer for a recipient
//! ends              says that, for each in the order of their RCPTs
//! endless TEXT      says this until nobody listens any more, but no more than a gibibyte
//! trickle TEXT      says this, and its last byte again and again, slowly, until the test ends
//! hold              does nothing until the test ends
//! close             says no more, and hears the rest
//! reset             is gone
//! mixed             which recipient has which outcome does not matter
//! want WHOM RESULT TEXT [| TEXT]    the outcome for a recipient
//! log TEXT          the log says so
//! ```
//!
//! A host that has come to the end of its dialog agrees to QUIT, and to nothing else.

use std::collections::BTreeMap;

/// What a host does next.
#[derive(Clone, Debug)]
pub enum Step {
    Hear(String),
    Say(Vec<u8>),
    Recipients,
    Message,
    Part(u64),
    Ends,
    Endless(Vec<u8>),
    Trickle(Vec<u8>),
    Hold,
    Close,
    Reset,
}

/// One host, and what is expected.
#[derive(Clone, Debug, Default)]
pub struct Case {
    pub name: String,
    pub scheme: &'static str,
    pub body_bytes: usize,
    pub steps: Vec<Step>,
    pub answers: BTreeMap<String, String>,
    pub ends: BTreeMap<String, String>,
    pub is_mixed: bool,
    pub wanted: Vec<Wanted>,
    pub logged: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct Wanted {
    pub whom: String,
    pub result: String,
    pub texts: Vec<String>,
}

impl Case {
    pub fn parse_all(text: &str) -> Vec<Case> {
        let mut cases: Vec<Case> = Vec::new();
        for line in text.lines() {
            let line = line.trim_start();
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            match (word, cases.last_mut()) {
                ("" | "#", _) => {}
                ("case", _) => cases.push(Case {
                    name: rest.to_owned(),
                    scheme: "smtp",
                    body_bytes: 100,
                    ..Case::default()
                }),
                (_, Some(case)) => case.read(word, rest),
                (_, None) => panic!("{line:?} belongs to no case"),
            }
        }
        cases
    }

    fn read(&mut self, word: &str, rest: &str) {
        let pair = || {
            let (whom, text) = rest.split_once(' ').expect("whom, and a text");
            (whom.to_owned(), text.to_owned())
        };
        match word {
            "lmtp" => self.scheme = "lmtp",
            "mixed" => self.is_mixed = true,
            "body" => self.body_bytes = rest.parse().expect("bytes"),
            "greet" => self.greet(rest),
            "usual" => {
                for verb in rest.split(' ') {
                    self.hear_and_say(verb, b"250 2.0.0 ok\r\n".to_vec());
                }
            }
            "C:" => self.steps.push(Step::Hear(rest.to_owned())),
            "S:" => self.steps.push(Step::Say(format!("{rest}\r\n").into())),
            "S~" => self.steps.push(Step::Say(unescape(rest))),
            "to" => self.answers.extend([pair()]),
            "end" => self.ends.extend([pair()]),
            "rcpts" => self.steps.push(Step::Recipients),
            "ends" => self.steps.push(Step::Ends),
            "message" => self.steps.push(Step::Message),
            "part" => self.steps.push(Step::Part(rest.parse().expect("bytes"))),
            "endless" => self.steps.push(Step::Endless(unescape(rest))),
            "trickle" => self.steps.push(Step::Trickle(rest.into())),
            "hold" => self.steps.push(Step::Hold),
            "close" => self.steps.push(Step::Close),
            "reset" => self.steps.push(Step::Reset),
            "log" => self.logged.push(rest.to_owned()),
            "want" => {
                let mut words = rest.splitn(3, ' ').map(str::to_owned);
                let mut next = || words.next().expect("whom, a result and a text");
                self.wanted.push(Wanted {
                    whom: next(),
                    result: next(),
                    texts: next().split(" | ").map(str::to_owned).collect(),
                });
            }
            _ => panic!("{}: {word:?} is no step", self.name),
        }
    }

    fn greet(&mut self, offer: &str) {
        let hello = match self.scheme {
            "lmtp" => "LHLO",
            _ => "EHLO",
        };
        self.steps.push(Step::Say(b"220 mx.example\r\n".to_vec()));
        let reply = match offer {
            "" => "250 mx.example\r\n".to_owned(),
            offer => format!("250-mx.example\r\n250 {offer}\r\n"),
        };
        self.hear_and_say(hello, reply.into());
    }

    fn hear_and_say(&mut self, command: &str, reply: Vec<u8>) {
        self.steps.push(Step::Hear(command.to_owned()));
        self.steps.push(Step::Say(reply));
    }

    /// Whether the host keeps its peer waiting.
    pub fn is_slow(&self) -> bool {
        let slow = |step: &Step| matches!(step, Step::Hold | Step::Trickle(_));
        self.steps.iter().any(slow)
    }

    pub fn address(&self, whom: &str) -> String {
        format!("{whom}@{}.example", self.name)
    }

    pub fn message(&self) -> Vec<u8> {
        let line = b"the quick brown fox jumps over the lazy dog and over all the others too\n";
        let count = self.body_bytes / line.len() + 1;
        [&b"Subject: x\n\n"[..], &line.repeat(count)].concat()
    }

    /// Whether these outcomes, by recipient, are those that are wanted.
    pub fn fits(&self, outcomes: &[(String, String, String)]) -> bool {
        let mut left: Vec<&Wanted> = self.wanted.iter().collect();
        for (whom, result, text) in outcomes {
            let same = |wanted: &&Wanted| {
                (self.is_mixed || self.address(&wanted.whom) == *whom)
                    && wanted.result == *result
                    && wanted.texts.contains(text)
            };
            match left.iter().position(same) {
                Some(at) => drop(left.remove(at)),
                None => return false,
            }
        }
        left.is_empty()
    }
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            bytes.extend(c.to_string().bytes());
            continue;
        }
        bytes.push(match chars.next() {
            Some('r') => b'\r',
            Some('n') => b'\n',
            Some('0') => 0,
            Some('x') => {
                let digits: String = chars.by_ref().take(2).collect();
                u8::from_str_radix(&digits, 16).expect("two digits")
            }
            other => panic!("\\{other:?}"),
        });
    }
    bytes
}
