//! At which command a recipient was refused, learned from what both sides said.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::client::{Class, Event, Tap};
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
        Box::new(move |event| {
            if aloud {
                match &event {
                    Event::Client(line) => say(&format!(">>> {line}")),
                    Event::Server(reply) => say(&format!("<<< {reply}")),
                    _ => {}
                }
            }
            stages.heard().hear(&event);
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
    fn hear(&mut self, event: &Event) {
        match event {
            Event::Client(line) => {
                if let Some(stage) = stage(line) {
                    self.open.push_back(stage);
                }
            }
            Event::Server(reply) => {
                // LMTP answers the end of a message more than once.
                let stage = match self.open.len() {
                    0 => "EOM",
                    _ => self.open.pop_front().unwrap_or("EOM"),
                };
                if matches!(reply.class(), Class::NotNow | Class::Never) {
                    self.refused.push_back((stage, reply.text().clone()));
                    self.refused.truncate(REFUSED_MAX);
                }
            }
            _ => {}
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
    use crate::client::Reply;

    #[test]
    fn refusals_are_known_by_their_command() {
        let line = |text: &str| Line::new(text).unwrap();
        let stages = Stages::default();
        let mut tap = stages.tap(false);
        for command in ["MAIL FROM:<a@b>", "RCPT TO:<c@d>", "RCPT TO:<e@f>", "DATA"] {
            tap(Event::Client(line(command)));
        }
        for reply in ["250 ok", "550 no c", "250 ok", "354 go"] {
            tap(Event::Server(Reply::sample(reply)));
        }
        tap(Event::Client(line(".")));
        tap(Event::Server(Reply::sample("452 full")));
        assert_eq!(stages.of(&line("550 no c")), "RCPT");
        assert_eq!(stages.of(&line("452 full")), "EOM");
        assert_eq!(stages.of(&line("never said")), "MAIL");
    }
}
