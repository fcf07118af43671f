//! STARTTLS (RFC 3207).

use crate::session::question::{Question, Waits};
use crate::session::{Session, Tls};
use crate::smtp::Reply;

use super::not_allowed;

impl Session {
    /// Whether STARTTLS is offered now.
    pub(super) fn offers_tls(&self) -> bool {
        let by_command = matches!(self.listening.tls, Some(Tls::Offered | Tls::Required));
        by_command && self.security.tls.is_none()
    }

    pub(super) fn check_starttls(&self, argument: Option<&[u8]>) -> Result<(), Reply> {
        let invalid = |text: &'static str| Err(Reply::new(503, text));
        if !self.is_between_transactions() {
            return Err(not_allowed());
        }
        if !matches!(self.listening.tls, Some(Tls::Offered | Tls::Required)) {
            return invalid("5.5.1 Invalid command: Command not supported");
        }
        if self.security.tls.is_some() {
            return invalid("5.5.1 Invalid command: Channel already secured");
        }
        let text = "5.5.4 Invalid command arguments: No parameters allowed";
        argument.map_or(Ok(()), |_| Err(Reply::new(501, text)))
    }

    pub(super) fn proceed_starttls(&mut self, line: &[u8], out: &mut Vec<u8>) -> Option<Question> {
        self.conclude(line, Reply::new(220, "2.0.0 Ready to start TLS"), out);
        if self.is_over() {
            return None;
        }
        self.waits = Some(Box::new(Waits::Tls { opening: false }));
        Some(Question::Tls)
    }
}
