//! RSET and HELP.

use crate::session::Session;
use crate::smtp::Reply;

use super::{not_allowed, refuse_argument};

impl Session {
    pub(super) fn check_rset(&self, argument: Option<&[u8]>) -> Result<(), Reply> {
        refuse_argument(argument)?;
        match self.greeting {
            Some(_) => Ok(()),
            None => Err(not_allowed()),
        }
    }

    pub(super) fn proceed_rset(&mut self, line: &[u8], out: &mut Vec<u8>) {
        self.conclude(line, Reply::new(250, "2.0.0 Reset state"), out);
        self.end_transaction();
    }
}

pub(super) fn help() -> Reply {
    let lines = [
        "2.0.0 This is OpenSMTPD",
        "2.0.0 To report bugs in the implementation, please contact bugs@openbsd.org",
        "2.0.0 with full details",
        "2.0.0 End of HELP info",
    ];
    Reply::lines(214, lines.map(str::to_string).to_vec())
}
