//! Who calls a front end and what it has to work with: the name that mail is sent under, the home a
//! refused letter goes to, files, and a group that is not the caller's.

use std::io::{self, Read, Write};
use std::path::PathBuf;

use crate::config::paths::Paths;
use crate::sys::setgid;
use crate::sys::user::{self, User, effective_gid, login_name, real_gid, real_uid};

/// What a front end has to work with.
pub struct Environment<'a> {
    /// The daemon it belongs to.
    pub paths: Paths,
    /// Its effective user.
    pub uid: u32,
    /// The group it was started with.
    pub group: Group,
    /// Who calls.
    pub caller: Box<dyn Fn(Login) -> Caller>,
    /// Standard input.
    pub input: Box<dyn Read + Send>,
    /// Standard output.
    pub output: &'a mut dyn Write,
}

/// A group that is not the caller's, for as long as it is kept.
#[derive(Debug, Default)]
pub struct Group {
    gid: Option<u32>,
}

impl Group {
    /// Puts the set-group-id group aside, if there is one.
    pub fn put_aside() -> io::Result<Group> {
        let gid = effective_gid();
        if gid == real_gid() {
            return Ok(Group::default());
        }
        setgid::put_aside()?;
        Ok(Group { gid: Some(gid) })
    }

    /// Takes the group up for `work`, then gives it up.
    pub fn spend<T>(self, work: impl FnOnce() -> T) -> io::Result<T> {
        if let Some(gid) = self.gid {
            setgid::take_up(gid)?;
        }
        let result = work();
        self.give_up()?;
        Ok(result)
    }

    /// Gives the group up for good.
    pub fn give_up(self) -> io::Result<()> {
        match self.gid {
            Some(_) => setgid::give_up(),
            None => Ok(()),
        }
    }
}

/// The caller, as mail shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The local part of addresses; `anonymous` without an entry in passwd(5).
    pub login: String,
    /// The name that passwd(5) has; may be empty.
    pub full_name: String,
    /// The home directory of the user whose process this is.
    pub home: Option<PathBuf>,
}

/// Whether the name given at login counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Login {
    /// It does, if it is the caller's or the caller is root.
    #[default]
    Believed,
    /// Only the user id does.
    Ignored,
}

impl Caller {
    /// Looks the user up in passwd(5), and takes what the environment adds.
    pub fn of(login: Login) -> Caller {
        let uid = real_uid();
        let own = user::by_uid(uid).ok().flatten();
        let named = match login {
            Login::Ignored => None,
            Login::Believed => login_name().and_then(|name| user::by_name(&name).ok().flatten()),
        };
        let named = named.filter(|named| named.uid == uid || uid == 0);
        // A letter goes into a directory of the user that writes it, never into another's.
        let home = own.as_ref().map(|own| own.home.clone());
        match named.or(own) {
            Some(user) => Caller {
                full_name: full_name(&user),
                login: user.name,
                home,
            },
            None => Caller {
                login: "anonymous".to_owned(),
                full_name: String::new(),
                home: None,
            },
        }
    }
}

/// passwd(5): gecos up to the first comma; `&` is the login name with a capital.
fn full_name(user: &User) -> String {
    let name = user.gecos.split(',').next().unwrap_or_default();
    let mut letters = user.name.chars();
    let capital = letters.next().map(|first| first.to_ascii_uppercase());
    let login: String = capital.into_iter().chain(letters).collect();
    name.replacen('&', &login, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_full_name_ends_at_a_comma_and_knows_the_ampersand() {
        // passwd(5), gecos.
        let user = |gecos: &str| User {
            name: "bob".to_owned(),
            uid: 1,
            gid: 1,
            gecos: gecos.to_owned(),
            home: PathBuf::new(),
        };
        assert_eq!(full_name(&user("Bob B,Room 1")), "Bob B");
        assert_eq!(full_name(&user("Charlie &")), "Charlie Bob");
        assert_eq!(full_name(&user("")), "");
    }
}
