//! Opening a user's .forward: as its owner, and only when nobody else can have written it.
//!
//! The engine names an action and a user. The user's home is found in the action's userbase, and
//! nothing but the file of that one name in it is opened. What is there and cannot be used is
//! never taken for nothing: the mail would go where its recipient does not want it, so it waits.
//! Nothing is read here.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::config::{Config, LocalAction, Method};
use crate::log;
use crate::privsep::identity::Rights;
use crate::sys::creds::{self, Identity};
use crate::sys::errno::strerror;
use crate::sys::open;
use crate::sys::user::User;

use super::userbase::Users;

/// The file's name in a home directory.
const NAME: &str = ".forward";

/// What came of a request.
#[derive(Debug)]
pub enum Opened {
    /// There is no such file.
    Absent,
    /// Here it is.
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

/// The same for whoever is not the daemon: with the rights that this process has.
pub fn open_as_oneself(config: &Config, users: &dyn Users, action: &str, user: &str) -> Opened {
    match owner(config, users, action, user) {
        Ok(owner) => told(&owner, look(&owner)),
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

/// What was found.
#[derive(Debug)]
enum Verdict {
    None,
    NoHome(String),
    File(File),
}

/// Root looks with the rights of the owner alone: it finds what that user may see, in a directory
/// of another host as well, and follows no path that he could not.
fn as_owner(rights: &Rights, owner: &User) -> Result<Verdict, String> {
    match rights {
        Rights::Root { .. } => {
            let identity = Identity::alone(owner.uid, owner.gid);
            creds::acting_as(&identity, || look(owner))
                .map_err(|error| format!("cannot act as {}: {}", owner.name, strerror(&error)))?
        }
        Rights::User { uid, .. } if *uid == owner.uid => look(owner),
        // Nothing can be delivered to them either: their mail waits for a start by root.
        Rights::User { .. } => Ok(Verdict::None),
    }
}

fn look(owner: &User) -> Result<Verdict, String> {
    const STICKY: u32 = 0o1000;
    let path = owner.home.join(NAME);
    let failed =
        |path: &Path, error: io::Error| format!("{}: {}", path.display(), strerror(&error));
    if !owner.home.is_absolute() {
        return Ok(Verdict::NoHome("not an absolute path".to_owned()));
    }
    let home = match fs::metadata(&owner.home) {
        Ok(home) if home.is_dir() => home,
        Ok(_) => return Ok(Verdict::NoHome("not a directory".to_owned())),
        Err(error) if is_missing(&error) => return Ok(Verdict::NoHome(strerror(&error))),
        Err(error) => return Err(failed(&owner.home, error)),
    };
    if home.mode() & STICKY != 0 {
        let home = owner.home.display();
        return Err(format!("parent_forward_open: {home} is sticky"));
    }
    // Neither a FIFO nor a device is waited for.
    let file = match open::foreign(&path) {
        Ok(file) => file,
        Err(error) if is_missing(&error) => return Ok(Verdict::None),
        Err(_) if is_link(&path) => {
            let path = path.display();
            return Err(format!("{path}: cannot follow symbolic links"));
        }
        Err(error) => return Err(failed(&path, error)),
    };
    let found = file.metadata().map_err(|error| failed(&path, error))?;
    let safe = found.is_file() && found.uid() == owner.uid && only_owner_writes(&found);
    let in_safety = [0, owner.uid].contains(&home.uid()) && only_owner_writes(&home);
    match safe && in_safety {
        true => Ok(Verdict::File(file)),
        false => Err(format!("{}: insecure file", path.display())),
    }
}

fn only_owner_writes(found: &Metadata) -> bool {
    const OTHERS_WRITE: u32 = 0o022;
    found.mode() & OTHERS_WRITE == 0
}

fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// Systems have different errors for a link that is not to be followed.
fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink())
}

#[cfg(test)]
mod tests;
