//! Going on with an answer, or without one that has not come in time.

use crate::auth::Verdict;

use super::question::Waits;
use super::state::State;
use super::{Answer, Next, Question, Services, Session, command, opening};

impl Session {
    /// What it has asked is answered: goes on with that, and then with `input`. An answer that it
    /// does not wait for changes nothing.
    pub fn answered(
        &mut self,
        answer: Answer,
        input: &mut Vec<u8>,
        out: &mut Vec<u8>,
        services: &dyn Services,
    ) -> Next {
        let Some(waits) = self.waits.take() else {
            return self.receive(input, out, services);
        };
        let next = match (*waits, answer) {
            (Waits::Name, answer) => {
                let found = match answer {
                    Answer::Name(found) => Some(found),
                    _ => None,
                };
                let stage = self.resolved(found);
                self.enter(stage, out)
            }
            (Waits::ServerName, answer) => {
                if let Answer::ServerName(name) = answer {
                    self.name = name;
                }
                self.enter(opening::Stage::Filters, out)
            }
            (Waits::Tls { opening }, Answer::Secured(facts)) => self.secured(facts, opening, out),
            // Whoever owns the socket closes it when there is no TLS.
            (Waits::Tls { .. }, _) => {
                self.state = State::Closing;
                Next::Close
            }
            (Waits::Password { user, label }, answer) => {
                let verdict = match answer {
                    Answer::Password(verdict) => verdict,
                    _ => Verdict::Unavailable,
                };
                self.judged(user, label, verdict, out);
                Next::Flush
            }
            (Waits::Sender { line }, answer) => {
                let allowed = match answer {
                    Answer::Sender(allowed) => allowed,
                    _ => None,
                };
                self.sender_looked_up(&line, allowed, out, services);
                Next::Flush
            }
            (Waits::Expansion { line, rcpt, asked }, answer) => {
                let expanded = match answer {
                    Answer::Expanded(expanded) => expanded,
                    _ => Err(command::too_late()),
                };
                asking_or_flush(self.expanded(line, rcpt, asked, expanded, out, services))
            }
            (Waits::Filters { then, .. }, Answer::Filters(step)) => {
                asking_or_flush(self.advance(step, then, out, Some(services)))
            }
            (
                Waits::Filters {
                    asking,
                    program,
                    then,
                },
                answer,
            ) => {
                let decision = match answer {
                    Answer::Decided(decision) => decision,
                    _ => {
                        self.too_late(program.as_deref());
                        None
                    }
                };
                let question = match asking {
                    Some(asking) => {
                        self.advance(asking.decided(decision), then, out, Some(services))
                    }
                    None => self.filters_are_late(then, out),
                };
                asking_or_flush(question)
            }
            (Waits::Content, Answer::Moved) => asking_or_flush(self.content_moved(out)),
            (Waits::Content, _) => {
                let reply = self.content_is_late();
                self.give_up(reply, out);
                Next::Flush
            }
            (Waits::Write, Answer::Written(writing)) => {
                self.written(writing);
                asking_or_flush(self.content_moved(out))
            }
            (Waits::Write, _) => {
                self.lost(out);
                Next::Flush
            }
            (Waits::Commit, Answer::Committed(result)) => self.committed(result, out, services),
            (Waits::Commit, _) => {
                self.commit_is_late(out);
                Next::Flush
            }
            (Waits::HandOver | Waits::Pause, _) => Next::Flush,
        };
        match next {
            Next::Ask(Question::Tls) => {
                input.clear();
                next
            }
            Next::Ask(_) => next,
            _ => self.receive(input, out, services),
        }
    }
}

fn asking_or_flush(question: Option<Question>) -> Next {
    question.map_or(Next::Flush, Next::Ask)
}
