//! DATA (RFC 5321 §4.1.1.4), up to its 354.

use crate::log::maillog;
use crate::session::event::Event;
use crate::session::state::{Data, Filtered, State};
use crate::session::{Services, Session};
use crate::smtp::Reply;
use crate::smtp::dot::Decoder;
use crate::transaction::{ShownUser, Source, Terms};

use super::{not_allowed, refuse_argument};

impl Session {
    pub(super) fn check_data(&self, argument: Option<&[u8]>) -> Result<(), Reply> {
        refuse_argument(argument)?;
        match &self.state {
            State::Mail(transaction) if transaction.recipients() > 0 => Ok(()),
            State::Mail(_) => Err(Reply::new(
                503,
                "5.5.4 Invalid command arguments: No recipient specified",
            )),
            _ => Err(not_allowed()),
        }
    }

    pub(super) fn proceed_data(&mut self, line: &[u8], out: &mut Vec<u8>, services: &dyn Services) {
        let transaction = match std::mem::replace(&mut self.state, State::Identified) {
            State::Mail(transaction) => transaction,
            other => {
                self.state = other;
                return;
            }
        };
        let msgid = transaction.msgid();
        let content = match self.content() {
            Ok(content) => content,
            Err(reply) => {
                self.state = State::Mail(transaction);
                self.conclude(line, reply.clone(), out);
                return self.tell(&Event::Data(msgid, &reply));
            }
        };
        let mut head = None;
        let reply = match transaction.write(self.terms(content.is_some()), services.now()) {
            Ok(mut writing) => {
                head = content
                    .clone()
                    .map(|content| (content, writing.take_head()));
                self.state = State::Data(Box::new(Data {
                    msgid,
                    decoder: Decoder::new(),
                    writing: Some(Box::new(writing)),
                    discarded_bytes: 0,
                    filtered: content.map(Filtered::new),
                }));
                Reply::new(354, "Enter mail, end with \".\" on a line by itself")
            }
            Err(error) => {
                maillog::smtp_trouble(self.id, &format_args!("open message: {error}"));
                Reply::new(421, "4.3.0 Temporary Error")
            }
        };
        let is_refused = reply.is_failure();
        self.conclude(line, reply.clone(), out);
        self.tell(&Event::Data(msgid, &reply));
        if is_refused {
            self.tell(&Event::Rollback(msgid));
        }
        // Filters hear that there will be a message before they get it.
        if let Some((content, head)) = head {
            content.feed(&head);
        }
    }

    fn terms(&self, filtered: bool) -> Terms {
        Terms {
            protocol: self.protocol(),
            source: if self.listening.mask_src {
                Source::Masked
            } else {
                Source::Shown
            },
            tls: self.security.tls.as_deref().cloned(),
            user: if self.listening.received_auth {
                ShownUser::Shown
            } else {
                ShownUser::Hidden
            },
            masquerade: self.security.user.is_some()
                && self
                    .listening
                    .senders
                    .as_ref()
                    .is_some_and(|senders| senders.masquerade),
            completion: self.completion(),
            junk: self.is_junk(),
            filtered,
            limit_bytes: self.listening.limits.max_message_size,
        }
    }
}
