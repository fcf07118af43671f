//! Opening a user's .forward: as its owner, and only when nobody else can have written it.
//!
//! The engine names an action and a user. The user's home is found in the action's userbase, and
//! nothing but the file of that one name in it is opened. What is there and cannot be used is
//! never taken for nothing: the mail would go where its recipient does not want it, so it waits.
//! Nothing is read here. Where a home may keep whoever looks at it waiting, a child looks:
//! [`super::looks`].

use std::fs::File;

use crate::config::{Config, LocalAction, Method};
use crate::log;
use crate::privsep::HomeState;
use crate::privsep::forward_file::{self, Verdict};
use crate::privsep::identity::Rights;
use crate::sys::creds::{self, Identity};
use crate::sys::errno::strerror;
use crate::sys::mounts::Mounts;
use crate::sys::user::User;

use super::userbase::Users;

/// What came of a request.
#[derive(Debug)]
pub enum Opened {
    /// There is no such file. With what the home was before it was looked at, if it is near.
    Absent(Option<HomeState>),
    File(File),
    /// It cannot be used, or nobody can say whether there is one.
    Unusable(String),
}

/// Opens the .forward of a user of an action, however long it takes.
pub fn open(
    config: &Config,
    users: &dyn Users,
    rights: &Rights,
    action: &str,
    user: &str,
) -> Opened {
    match owner(config, users, action, user) {
        Ok(owner) => told(&owner, as_owner(rights, &owner), None),
        Err(text) => Opened::Unusable(text),
    }
}

/// Opens the .forward of somebody whose home [`is_near`].
pub fn open_near(rights: &Rights, owner: &User) -> Opened {
    let home = may_look(rights, owner).then(|| HomeState::of(&owner.home));
    told(owner, as_owner(rights, owner), home.flatten())
}

/// Whether a look for the .forward of `owner` waits for this system alone.
pub fn is_near(mounts: &mut Mounts, rights: &Rights, owner: &User) -> bool {
    // Nobody looks at these.
    !owner.home.is_absolute()
        || !may_look(rights, owner)
        || mounts.lead_locally_to(&owner.home.join(forward_file::NAME))
}

/// Opens a .forward with the rights that this process has, for programs that are not the daemon.
pub fn open_as_oneself(config: &Config, users: &dyn Users, action: &str, user: &str) -> Opened {
    match owner(config, users, action, user) {
        Ok(owner) => told(&owner, forward_file::open(&owner.home, owner.uid), None),
        Err(text) => Opened::Unusable(text),
    }
}

/// Tells the log what it should know.
pub fn told(owner: &User, found: Result<Verdict, String>, state: Option<HomeState>) -> Opened {
    match found {
        Ok(Verdict::None) => Opened::Absent(state),
        Ok(Verdict::NoHome(why)) => {
            let home = owner.home.display();
            log::debug(format_args!("{home}: {why}: no home directory"));
            Opened::Absent(state)
        }
        Ok(Verdict::File(file)) => Opened::File(file),
        Err(text) => {
            log::warn(format_args!("smtpd: {text}"));
            Opened::Unusable(text)
        }
    }
}

/// The user whose file it is. An action that delivers as somebody else reads no .forward.
pub fn owner(config: &Config, users: &dyn Users, action: &str, user: &str) -> Result<User, String> {
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
        Rights::User { .. } if may_look(rights, owner) => {
            forward_file::open(&owner.home, owner.uid)
        }
        // Nothing can be delivered to them either: their mail waits for a start by root.
        Rights::User { .. } => Ok(Verdict::None),
    }
}

fn may_look(rights: &Rights, owner: &User) -> bool {
    match rights {
        Rights::Root { .. } => true,
        Rights::User { uid, .. } => *uid == owner.uid,
    }
}

#[cfg(test)]
mod tests;
