//! RSET, QUIT, HELP, WIZ.

use crate::session::Session;
use crate::session::state::State;
use crate::smtp::Reply;

use super::{not_allowed, refuse_argument};

impl Session {
    pub(super) fn rset(&mut self, argument: Option<&[u8]>) -> Reply {
        if let Err(refusal) = refuse_argument(argument) {
            return refusal;
        }
        if self.greeting.is_none() {
            return not_allowed();
        }
        self.state = State::Identified;
        Reply::new(250, "2.0.0 Reset state")
    }

    pub(super) fn quit(&self, argument: Option<&[u8]>) -> Reply {
        refuse_argument(argument)
            .err()
            .unwrap_or_else(|| Reply::new(221, "2.0.0 Bye"))
    }

    pub(super) fn help(&self, argument: Option<&[u8]>) -> Reply {
        let lines = [
            "2.0.0 This is OpenSMTPD",
            "2.0.0 To report bugs in the implementation, please contact bugs@openbsd.org",
            "2.0.0 with full details",
            "2.0.0 End of HELP info",
        ];
        let help = || Reply::lines(214, lines.map(str::to_string).to_vec());
        refuse_argument(argument).err().unwrap_or_else(help)
    }

    pub(super) fn wiz(&self, argument: Option<&[u8]>) -> Reply {
        let text = "5.5.1 Invalid command: this feature is not supported yet ;-)";
        refuse_argument(argument)
            .err()
            .unwrap_or_else(|| Reply::new(500, text))
    }
}
