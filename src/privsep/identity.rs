//! Who the unprivileged processes run as.

use crate::config::Paths;
use crate::config::paths::{QUEUE_GROUP, USER};
use crate::sys::creds::{self, Identity};
use crate::sys::user;

/// Who we start as, and who the engine becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rights {
    /// Root; the engine and the queue are this user's.
    Root {
        /// The engine.
        engine: Identity,
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
    /// then uses `nobody`, so that a trial on a bare machine works.
    pub fn find(paths: &Paths) -> Result<Rights, String> {
        let uid = user::effective_uid();
        if uid != 0 {
            let gid = user::effective_gid();
            return Ok(Rights::User { uid, gid });
        }
        let named = |name| user::by_name(name).map_err(|error| format!("user {name}: {error}"));
        let engine = match named(USER)? {
            Some(user) => user,
            None if paths.root.is_some() => {
                named("nobody")?.ok_or_else(|| unknown("user", USER))?
            }
            None => return Err(unknown("user", USER)),
        };
        if engine.uid == 0 {
            return Err(format!("user {} must not be root", engine.name));
        }
        let queue_gid = match user::group_id(QUEUE_GROUP) {
            Err(error) => return Err(format!("group {QUEUE_GROUP}: {error}")),
            Ok(Some(gid)) => gid,
            Ok(None) if paths.root.is_some() => engine.gid,
            Ok(None) => return Err(unknown("group", QUEUE_GROUP)),
        };
        let groups = creds::groups_of(&engine.name, engine.gid)
            .map_err(|error| format!("groups of {}: {error}", engine.name))?;
        Ok(Rights::Root {
            engine: Identity {
                uid: engine.uid,
                gid: engine.gid,
                groups,
            },
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

    /// Whether this is the user that the unprivileged processes run as.
    pub fn is_daemon(&self, uid: u32) -> bool {
        match self {
            Rights::Root { engine, .. } => engine.uid == uid,
            Rights::User { uid: own, .. } => *own == uid,
        }
    }

    /// Whether we are root.
    pub fn is_root(&self) -> bool {
        matches!(self, Rights::Root { .. })
    }
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
        if let Rights::Root { engine, .. } = rights {
            assert_ne!(engine.uid, 0);
        }
    }
}
