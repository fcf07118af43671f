//! Who a user is: the parent asks the userbase itself, in a copy of its own.
//!
//! The engine names a user; whom that makes, and where his home is, the parent never believes it.
//! The tables are those of the configuration, read as the engine reads them. A userbase that cannot
//! be asked is a failure that passes. What a program says of a user is asked beforehand
//! ([`super::user_programs`]) and told here.

use crate::config::built_in::SYSTEM_USERS;
use crate::config::{Config, LocalAction, Method, Sources, TableSource, service};
use crate::privsep::Request;
use crate::sys::user::User;
use crate::table::Tables;

use super::user_programs::Told;

/// Whom a name makes.
pub trait Users {
    /// A user of an action.
    fn recipient(&self, action: &LocalAction, name: &str) -> Result<Option<User>, String>;
    /// A user of the system.
    fn system(&self, name: &str) -> Result<Option<User>, String>;
}

/// The userbases of all actions, and the system's users.
pub struct Userbases {
    tables: Tables,
    /// What the program of this table has said of this user, for the request that is served now.
    told: Option<(String, String, Told)>,
}

impl Userbases {
    /// Takes the tables that actions find their users in.
    pub fn load(config: &Config, sources: &Sources) -> Result<Userbases, String> {
        let mut reduced = config.clone();
        reduced.rules.clear();
        reduced
            .tables
            .retain(|name, _| name == SYSTEM_USERS || is_userbase(config, name));
        match Tables::load(&reduced, sources) {
            Ok(tables) => Ok(Userbases { tables, told: None }),
            Err(found) => {
                let texts: Vec<String> = found.iter().map(ToString::to_string).collect();
                Err(texts.join("; "))
            }
        }
    }

    /// Puts other entries in the place of those of a table in a file.
    pub fn replace(&self, table: &str, bytes: &[u8]) -> Result<(), String> {
        self.tables
            .replace(table, bytes)
            .map_err(|error| error.to_string())
    }

    /// The program's table and the user that a request needs, if its userbase is a program's.
    pub fn needed(config: &Config, request: &Request) -> Option<(String, String)> {
        let (action, user) = match request {
            Request::OpenForward { action, user, .. } => (action, user),
            Request::StartMda { job, .. } => (&job.action, &job.user),
            _ => return None,
        };
        let table = match &config.actions.get(action.as_str())?.method {
            Method::Local(local) => local.userbase.as_ref()?,
            Method::Relay(_) => return None,
        };
        let of_program = matches!(config.tables.get(table), Some(TableSource::Program(_)));
        of_program.then(|| (table.clone(), user.to_ascii_lowercase()))
    }

    /// Serves a request while it is known what a program has said of its user.
    pub fn tell(&mut self, table: &str, user: &str, told: Option<Told>) {
        self.told = told.map(|told| (table.to_owned(), user.to_owned(), told));
    }

    fn find(&self, table: &str, name: &str) -> Result<Option<User>, String> {
        if let Some((of, user, told)) = &self.told
            && of == table
            && user.eq_ignore_ascii_case(name)
        {
            let failed = |why: &str| format!("table {table}: {why}");
            let value = told.as_ref().map_err(|why| failed(why))?;
            let parsed = value.as_ref().map(|value| {
                service::userinfo(user, value)
                    .ok_or_else(|| failed(&format!("bad userinfo for {user}")))
            });
            return parsed.transpose();
        }
        self.tables
            .userinfo(table, name)
            .map_err(|error| error.to_string())
    }
}

impl Users for Userbases {
    fn recipient(&self, action: &LocalAction, name: &str) -> Result<Option<User>, String> {
        self.find(action.userbase.as_deref().unwrap_or(SYSTEM_USERS), name)
    }

    fn system(&self, name: &str) -> Result<Option<User>, String> {
        self.find(SYSTEM_USERS, name)
    }
}

/// Whether users of an action are found in this table.
pub(super) fn is_userbase(config: &Config, table: &str) -> bool {
    config.actions.values().any(|action| match &action.method {
        Method::Local(local) => local.userbase.as_deref() == Some(table),
        Method::Relay(_) => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Defaults;
    use crate::mail::samples::line;
    use crate::privsep::Handover;

    fn load(text: &str) -> (Config, Userbases) {
        let handover = Handover {
            sources: Sources::from_text("test", text, &[]),
            defaults: Defaults {
                server_name: line("localhost"),
                addresses: Vec::new(),
            },
        };
        let config = handover.load().unwrap().config;
        let users = Userbases::load(&config, &handover.sources).unwrap();
        (config, users)
    }

    fn action<'c>(config: &'c Config, name: &str) -> &'c LocalAction {
        match &config.actions[name].method {
            Method::Local(local) => local,
            Method::Relay(_) => panic!("the action is local"),
        }
    }

    // smtpd.conf(5), userbase: users are those of the action's table and no others.
    #[test]
    fn an_action_has_the_users_of_its_userbase() {
        let (config, users) = load(
            "table people { bob = \"5000:5001:/srv/bob\", broken = \"5000\" }\n\
             table secret { eve = \"1:1:/\" }\n\
             action v maildir userbase <people>\naction s maildir virtual <secret>\n\
             match from any for domain v.org action v\nmatch for local action s\n",
        );
        let (v, s) = (action(&config, "v"), action(&config, "s"));
        let bob = users.recipient(v, "Bob").unwrap().unwrap();
        assert_eq!((bob.name.as_str(), bob.uid, bob.gid), ("bob", 5000, 5001));
        assert_eq!(bob.home.to_str(), Some("/srv/bob"));
        assert_eq!(users.recipient(v, "root"), Ok(None));
        assert!(users.recipient(v, "broken").is_err());
        assert_eq!(users.recipient(s, "bob"), Ok(None));
        assert_eq!(users.recipient(s, "root").unwrap().unwrap().uid, 0);
        assert_eq!(users.system("root").unwrap().unwrap().uid, 0);
        // The parent does not need other tables.
        assert!(users.find("secret", "eve").is_err());
    }
}
