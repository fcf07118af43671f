//! Who the unprivileged processes run as.

use crate::config::Paths;
use crate::config::paths::{QUEUE_GROUP, QUEUE_USER, USER};
use crate::sys::creds::{self, Identity};
use crate::sys::user;

/// Who we start as, and who the processes become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rights {
    Root {
        /// The engine's, who owns the queue. Its groups are the daemon's, for tables that are
        /// closed to others, and never that of sendmail(8).
        engine: Identity,
        /// Who runs what is ours and not the engine's: commands of aliases, the process with the
        /// private keys.
        daemon: Identity,
        /// The group that may submit offline.
        queue_gid: u32,
    },
    /// An ordinary user, for everything.
    User {
        /// Our user id.
        uid: u32,
        /// Our group id.
        gid: u32,
    },
}

impl Rights {
    /// Finds out. The users must exist when we are root; only an instance root may do without, and
    /// then uses those that there are, or `nobody`, so that a trial on a bare machine works.
    pub fn find(paths: &Paths) -> Result<Rights, String> {
        let uid = user::effective_uid();
        if uid != 0 {
            let gid = user::effective_gid();
            return Ok(Rights::User { uid, gid });
        }
        let either = |name, instead| match (named(name)?, &paths.root) {
            (Some(user), _) => Ok(user),
            (None, None) => Err(unknown("user", name)),
            (None, Some(_)) => match named(instead)? {
                Some(user) => Ok(user),
                None => named("nobody")?.ok_or_else(|| unknown("user", name)),
            },
        };
        let (daemon, queue) = (either(USER, QUEUE_USER)?, either(QUEUE_USER, USER)?);
        if let Some(user) = [&daemon, &queue].into_iter().find(|user| user.uid == 0) {
            return Err(format!("user {} must not be root", user.name));
        }
        let queue_gid = match user::group_id(QUEUE_GROUP) {
            Err(error) => return Err(format!("group {QUEUE_GROUP}: {error}")),
            Ok(Some(gid)) => gid,
            Ok(None) if paths.root.is_some() => daemon.gid,
            Ok(None) => return Err(unknown("group", QUEUE_GROUP)),
        };
        if paths.root.is_none() && daemon.gid == queue_gid {
            let name = daemon.name;
            return Err(format!(
                "user {name} must have another group than {QUEUE_GROUP}"
            ));
        }
        let mut groups = creds::groups_of(&daemon.name, daemon.gid)
            .map_err(|error| format!("groups of {}: {error}", daemon.name))?;
        groups.retain(|gid| *gid != queue_gid || *gid == daemon.gid);
        Ok(Rights::Root {
            engine: Identity {
                uid: queue.uid,
                gid: daemon.gid,
                groups,
            },
            daemon: Identity::alone(daemon.uid, daemon.gid),
            queue_gid,
        })
    }

    /// Becomes the engine's user for good, if we are root.
    pub fn drop_privileges(&self) -> std::io::Result<()> {
        match self {
            Rights::Root { engine, .. } => creds::become_for_good(engine),
            Rights::User { .. } => Ok(()),
        }
    }

    /// The user of programs of tables and filters; `None` if it is our own.
    pub fn of_helpers(&self) -> Option<Identity> {
        match self {
            Rights::Root { daemon, .. } => Some(daemon.clone()),
            Rights::User { .. } => None,
        }
    }

    /// Whether we are root.
    pub fn is_root(&self) -> bool {
        matches!(self, Rights::Root { .. })
    }
}

fn named(name: &str) -> Result<Option<user::User>, String> {
    user::by_name(name).map_err(|error| format!("user {name}: {error}"))
}

fn unknown(what: &str, name: &str) -> String {
    format!("unknown {what} {name}: smtpd started by root needs it; create it first")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn an_instance_root_needs_no_users_of_its_own() {
        // smtpd(8), not started by root: everything runs as the user who started it.
        let rights = Rights::find(&Paths::under(Path::new("/nonexistent"))).unwrap();
        assert_eq!(rights.is_root(), user::effective_uid() == 0);
        if let Rights::Root { engine, daemon, .. } = rights {
            assert!(engine.uid != 0 && daemon.uid != 0);
        }
    }
}
