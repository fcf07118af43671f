//! `trace` of smtpctl(8), which may be limited to some clients or to the listener they came by.

use std::fmt::Arguments;

use crate::log::{self, Subject, Trace};
use crate::smtp::Reply;
use crate::util::Line;

use super::Session;

impl Session {
    /// A line about it, if `what` is traced of it.
    pub fn trace(&self, what: Trace, line: Arguments<'_>) {
        log::trace_of(what, &self.subject(), line);
    }

    /// A reply to this command line, or to none. Credentials are masked in the line already.
    pub(super) fn trace_reply(&self, command: Option<&[u8]>, reply: &Reply) {
        if !log::tracing_of(Trace::Smtp, &self.subject()) {
            return;
        }
        let id = self.id;
        if let Some(command) = command {
            let command = Line::sanitize(command);
            self.trace(Trace::Smtp, format_args!("smtp: {id}: <<< {command}"));
        }
        self.trace(Trace::Smtp, format_args!("smtp: {id}: >>> {reply}"));
    }

    fn subject(&self) -> Subject<'_> {
        Subject {
            peer: &self.peer,
            tag: self.listening.tag.as_deref(),
        }
    }
}
