//! Opening a user's .forward: as its owner, and only when nobody else can have written it.
//!
//! The engine names an action and a user. The user's home is found in the action's userbase, and
//! nothing but the file of that one name in it is opened. What is there and cannot be used is
//! never taken for nothing: the mail would go where its recipient does not want it, so it waits.
//! Nothing is read here.

use std::fs::File;

use crate::config::{Config, LocalAction, Method};
use crate::log;
use crate::privsep::forward_file::{self, Verdict};
use crate::privsep::identity::Rights;
use crate::sys::creds::{self, Identity};
use crate::sys::errno::strerror;
use crate::sys::user::User;

use super::userbase::Users;

/// What came of a request.
#[derive(Debug)]
pub enum Opened {
    /// There is no such file.
    Absent,
    File(File),
    /// It cannot be used, or nobody can say whether there is one.
    Unusable(String),
}

/// Opens the .forward of a user of an action.
pub fn open(
    config: &Config,
    users: &dyn Users,
    rights: &Rights,
    action: &str,
    user: &str,
) -> Opened {
    let owner = match owner(config, users, action, user) {
        Ok(owner) => owner,
        Err(text) => return Opened::Unusable(text),
    };
    told(&owner, as_owner(rights, &owner))
}

/// Opens a .forward with the rights that this process has, for programs that are not the daemon.
pub fn open_as_oneself(config: &Config, users: &dyn Users, action: &str, user: &str) -> Opened {
    match owner(config, users, action, user) {
        Ok(owner) => told(&owner, forward_file::open(&owner.home, owner.uid)),
        Err(text) => Opened::Unusable(text),
    }
}

fn told(owner: &User, found: Result<Verdict, String>) -> Opened {
    match found {
        Ok(Verdict::None) => Opened::Absent,
        Ok(Verdict::NoHome(why)) => {
            let home = owner.home.display();
            log::debug(format_args!("{home}: {why}: no home directory"));
            Opened::Absent
        }
        Ok(Verdict::File(file)) => Opened::File(file),
        Err(text) => {
            log::warn(format_args!("smtpd: {text}"));
            Opened::Unusable(text)
        }
    }
}

/// The user whose file it is. An action that delivers as somebody else reads no .forward.
fn owner(config: &Config, users: &dyn Users, action: &str, user: &str) -> Result<User, String> {
    let local = local_action(config, action)?;
    if local.user.as_ref().is_some_and(|other| **other != *user) {
        return Err(format!("action '{action}' does not deliver as {user}"));
    }
    users
        .recipient(local, user)?
        .ok_or_else(|| format!("no such user: {user}"))
}

fn local_action<'c>(config: &'c Config, name: &str) -> Result<&'c LocalAction, String> {
    match config.actions.get(name).map(|action| &action.method) {
        Some(Method::Local(local)) => Ok(local),
        _ => Err(format!("unknown action '{name}'")),
    }
}

/// Root looks with the rights of the owner alone: it finds what that user may see, in a directory
/// of another host as well, and follows no path that he could not.
fn as_owner(rights: &Rights, owner: &User) -> Result<Verdict, String> {
    match rights {
        Rights::Root { .. } => {
            let identity = Identity::alone(owner.uid, owner.gid);
            creds::acting_as(&identity, || forward_file::open(&owner.home, owner.uid))
                .map_err(|error| format!("cannot act as {}: {}", owner.name, strerror(&error)))?
        }
        Rights::User { uid, .. } if *uid == owner.uid => forward_file::open(&owner.home, owner.uid),
        // Nothing can be delivered to them either: their mail waits for a start by root.
        Rights::User { .. } => Ok(Verdict::None),
    }
}

#[cfg(test)]
mod tests;
