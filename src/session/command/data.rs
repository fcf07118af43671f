//! DATA (RFC 5321 §4.1.1.4), up to its 354.

use crate::log;
use crate::session::state::{Data, State};
use crate::session::{Services, Session};
use crate::smtp::Reply;
use crate::smtp::dot::Decoder;
use crate::transaction::{Protocol, Source, Terms};

use super::{not_allowed, refuse_argument};

impl Session {
    pub(super) fn data(&mut self, argument: Option<&[u8]>, world: &dyn Services) -> Reply {
        if let Err(refusal) = refuse_argument(argument) {
            return refusal;
        }
        let transaction = match std::mem::replace(&mut self.state, State::Identified) {
            State::Mail(transaction) => transaction,
            other => {
                self.state = other;
                return not_allowed();
            }
        };
        if transaction.recipients() == 0 {
            self.state = State::Mail(transaction);
            return Reply::new(
                503,
                "5.5.4 Invalid command arguments: No recipient specified",
            );
        }
        match transaction.write(self.terms(), world.now()) {
            Ok(writing) => {
                self.state = State::Data(Box::new(Data {
                    decoder: Decoder::new(),
                    writing,
                    discarded_bytes: 0,
                }));
                Reply::new(354, "Enter mail, end with \".\" on a line by itself")
            }
            Err(error) => {
                log::warn(format_args!(
                    "smtp-in: session {}: open message: {error}",
                    self.id
                ));
                Reply::new(421, "4.3.0 Temporary Error")
            }
        }
    }

    fn terms(&self) -> Terms {
        Terms {
            protocol: self.protocol(),
            source: match self.listening.mask_src {
                true => Source::Masked,
                false => Source::Shown,
            },
            completion: self.completion(),
            limit_bytes: self.listening.limits.max_message_size,
        }
    }

    pub(in crate::session) fn protocol(&self) -> Protocol {
        self.greeting
            .as_ref()
            .map_or(Protocol::Smtp, |greeting| greeting.protocol)
    }
}
