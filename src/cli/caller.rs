//! Who calls sendmail(8): the name that mail is sent under, and the home a refused letter goes to.

use std::path::PathBuf;

use crate::sys::user::{self, User, login_name, real_uid};

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
