//! .forward files for a question: somebody asks what would become of a recipient, and no daemon
//! runs whose parent could open them.

use std::io;

use crate::config::{Config, Paths, Sources};
use crate::log;
use crate::privsep::identity::Rights;
use crate::privsep::{Forward, Forwards};
use crate::util::Line;

use super::forward::{self, Opened};
use super::userbase::Userbases;

/// What the one who asks may open.
pub struct OwnForwards<'q> {
    config: &'q Config,
    users: Userbases,
    rights: Rights,
    /// Whether the daemon that is asked about would have the same rights.
    ours: bool,
}

impl<'q> OwnForwards<'q> {
    /// For this configuration. An ordinary user asks about an instance of their own, or about the
    /// system's daemon, which has rights that the user has not.
    pub fn new(
        config: &'q Config,
        sources: &Sources,
        paths: &Paths,
    ) -> Result<OwnForwards<'q>, String> {
        let rights = Rights::find(paths)?;
        Ok(OwnForwards {
            config,
            users: Userbases::load(config, sources)?,
            ours: rights.is_root() || paths.root.is_some(),
            rights,
        })
    }
}

impl Forwards for OwnForwards<'_> {
    fn open_forward(&self, action: &Line, user: &Line) -> io::Result<Forward> {
        let (config, users) = (self.config, &self.users);
        let opened = if self.ours {
            forward::open(config, users, &self.rights, action, user)
        } else {
            forward::open_as_oneself(config, users, action, user)
        };
        Ok(match opened {
            Opened::Absent(home) => Forward::Absent(home),
            Opened::File(file) => Forward::File(file.into()),
            Opened::Unusable(text) if self.ours => {
                Forward::Unusable(Line::sanitize(text.as_bytes()))
            }
            Opened::Unusable(text) => {
                log::warn(format_args!("{text}: taken as if it were not there"));
                Forward::Absent(None)
            }
        })
    }
}
