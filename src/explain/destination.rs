//! Where the mail of a destination would go.

use std::path::Path;

use crate::config::{
    Action, Delivery, LocalAction, Method, RelayAction, RelayTls, Route, TableSource, built_in,
};
use crate::expansion::Context;
use crate::mail::{Command, Destination, Kind, Local, MailAddr};
use crate::mda;
use crate::privsep::{ChildJob, MdaJob, MdaTask, Single};
use crate::sys::user::User;
use crate::util::Line;

/// What all destinations of a recipient have in common.
pub struct Deliveries<'d> {
    /// Actions and tables.
    pub context: &'d Context<'d>,
    /// Where the mail.* helpers are.
    pub libexec: &'d Path,
    /// The reverse-path.
    pub sender: &'d MailAddr,
    /// The recipient.
    pub rcpt: &'d MailAddr,
}

impl Deliveries<'_> {
    /// One line: the action, the recipient, and what the delivery would do.
    pub fn words(&self, number: usize, destination: &Destination) -> String {
        let name = &destination.action;
        let head = format!(
            "destination {number}: <{}> action \"{name}\"",
            destination.dest
        );
        let Some(action) = self.context.config.actions.get(name.as_str()) else {
            return format!("{head}: no such action");
        };
        match (&action.method, &destination.kind) {
            (Method::Local(local), Kind::Local(to)) => {
                let how = self.local(action, local, to, &destination.dest);
                format!("{head} user {}: {how}", to.user)
            }
            (Method::Relay(relay), _) => format!("{head}: {}", self.relay(relay, destination)),
            _ => head,
        }
    }

    fn local(&self, action: &Action, local: &LocalAction, to: &Local, dest: &MailAddr) -> String {
        let userbase = local.userbase.as_deref();
        let found = match (self.user(&to.user, userbase), &to.command) {
            // A userbase need not have the daemon's own user, who runs what aliases say.
            (Err(_), Some(_)) if *to.user == *self.context.daemon_user => self.user(&to.user, None),
            (found, _) => found,
        };
        let recipient = match found {
            Ok(user) => user,
            Err(why) => return why,
        };
        let runs_as = match local.user.as_ref().map(|name| self.user(name, None)) {
            None => recipient.clone(),
            Some(Ok(user)) => user,
            Some(Err(why)) => return why,
        };
        let who = format!("as {} (uid {})", runs_as.name, runs_as.uid);
        if let (Delivery::Lmtp { dest, rcpt_to }, None) = (&local.delivery, &to.command) {
            let name = if *rcpt_to {
                "the recipient"
            } else {
                "the user"
            };
            return format!("lmtp {dest}, which is given {name}; {who}");
        }
        let wrappers = &self.context.config.mda_wrappers;
        let wrapper = local.wrapper.as_ref().and_then(|name| wrappers.get(name));
        let job = ChildJob {
            job: MdaJob {
                action: action.name.clone(),
                user: to.user.clone(),
                task: MdaTask::Single(Box::new(Single {
                    subaddress: to.subaddress.clone(),
                    command: to.command.clone(),
                    sender: self.sender.clone(),
                    rcpt: self.rcpt.clone(),
                    dest: dest.clone(),
                })),
            },
            delivery: local.delivery.clone(),
            own_forward: false,
            wrapper: wrapper.cloned(),
            user: Line::sanitize(runs_as.name.as_bytes()),
            home: recipient.home.to_string_lossy().into_owned(),
            uid: runs_as.uid,
            libexec: self.libexec.to_owned(),
            delimiter: self.context.config.smtp.sub_addr_delim,
        };
        let what = match mda::exec::describe(&job) {
            Ok(what) => what,
            Err(failure) => return format!("fails: {}", failure.text),
        };
        match &to.command {
            Some(Command::Pipe(_)) => format!("pipe, {what}; {who}"),
            _ => format!("{what}; {who}"),
        }
    }

    fn user(&self, name: &str, userbase: Option<&str>) -> Result<User, String> {
        let table = userbase.unwrap_or(built_in::SYSTEM_USERS);
        match self.context.tables.userinfo(table, name) {
            Ok(Some(user)) => Ok(user),
            Ok(None) => Err(format!("fails: delivery user '{name}' does not exist")),
            Err(error) => Err(format!("fails: {error}")),
        }
    }

    fn relay(&self, relay: &RelayAction, destination: &Destination) -> String {
        let domain = destination.dest.domain();
        let way = match &relay.route {
            Route::Exchangers => format!("relay to the mail exchangers of {domain}"),
            Route::Backup(name) => {
                let own = name.as_ref().unwrap_or(&self.context.config.server_name);
                format!("relay to the mail exchangers of {domain} that are preferred to {own}")
            }
            Route::Host(table) => format!("relay to a host of {}", self.hosts(table)),
            Route::Domain(table) => {
                let key = domain.to_ascii_lowercase();
                let found = self.context.tables.alias(table, &key);
                let url = match found {
                    Ok(Some(url)) => url,
                    Ok(None) => return format!("relay fails: {domain} is not in <{table}>"),
                    Err(error) => return format!("relay fails: {error}"),
                };
                format!("relay to {url}, from <{table}>")
            }
        };
        match relay.tls {
            RelayTls::Opportunistic => way,
            RelayTls::Verified => format!("{way}, with TLS verified"),
            RelayTls::Unverified => format!("{way}, with TLS"),
        }
    }

    /// A table's name; in place of one that nobody has given, its values.
    fn hosts(&self, table: &str) -> String {
        match self.context.config.tables.get(table) {
            Some(TableSource::List(values)) if built_in::is_anonymous(table) => values.join(", "),
            _ => format!("<{}>", table.trim_matches(['<', '>'])),
        }
    }
}
