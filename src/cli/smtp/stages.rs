//! At which command a recipient was refused, learned from what both sides said.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::client::{Said, Tap};
use crate::util::Line;

use super::say;

/// Listens to a session. Clones hear the same.
#[derive(Clone, Default)]
pub struct Stages(Arc<Mutex<Heard>>);

#[derive(Default)]
struct Heard {
    /// Commands without a reply yet.
    open: VecDeque<&'static str>,
    /// Refusals and where they were said, the last ones.
    refused: VecDeque<(&'static str, Line)>,
}

/// Refusals remembered: more than one transaction brings.
const REFUSED_MAX: usize = 1024;

impl Stages {
    /// What a session is to be made with. `aloud` also prints the dialogue.
    pub fn tap(&self, aloud: bool) -> Tap {
        let stages = self.clone();
        Box::new(move |said| {
            if aloud {
                match &said {
                    Said::Client(line) => say(&format!(">>> {line}")),
                    Said::Server(line) => say(&format!("<<< {line}")),
                }
            }
            stages.heard().hear(&said);
        })
    }

    /// Where `text` was said.
    pub fn of(&self, text: &Line) -> &'static str {
        let heard = self.heard();
        let found = heard.refused.iter().rev().find(|(_, said)| said == text);
        found.map_or("MAIL", |(stage, _)| stage)
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Heard {
    fn hear(&mut self, said: &Said) {
        match said {
            Said::Client(line) => {
                if let Some(stage) = stage(line) {
                    self.open.push_back(stage);
                }
            }
            Said::Server(line) => {
                // LMTP answers the end of a message more than once.
                let stage = match self.open.len() {
                    0 => "EOM",
                    _ => self.open.pop_front().unwrap_or("EOM"),
                };
                if line.starts_with(['4', '5']) {
                    self.refused.push_back((stage, line.clone()));
                    self.refused.truncate(REFUSED_MAX);
                }
            }
        }
    }
}

fn stage(command: &str) -> Option<&'static str> {
    let verb = command.split([' ', ':']).next().unwrap_or_default();
    Some(match verb {
        "MAIL" => "MAIL",
        "RCPT" => "RCPT",
        "DATA" => "DATA",
        "." => "EOM",
        "EHLO" | "HELO" | "LHLO" | "STARTTLS" | "AUTH" | "RSET" | "QUIT" => "SESSION",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_known_by_their_command() {
        let line = |text: &str| Line::new(text).unwrap();
        let stages = Stages::default();
        let mut tap = stages.tap(false);
        for command in ["MAIL FROM:<a@b>", "RCPT TO:<c@d>", "RCPT TO:<e@f>", "DATA"] {
            tap(Said::Client(line(command)));
        }
        for reply in ["250 ok", "550 no c", "250 ok", "354 go"] {
            tap(Said::Server(line(reply)));
        }
        tap(Said::Client(line(".")));
        tap(Said::Server(line("452 full")));
        assert_eq!(stages.of(&line("550 no c")), "RCPT");
        assert_eq!(stages.of(&line("452 full")), "EOM");
        assert_eq!(stages.of(&line("never said")), "MAIL");
    }
}
