//! A plain name in an expansion: an entry of a table, or a user and what the .forward says.

use crate::config::built_in::SYSTEM_USERS;
use crate::config::{Delivery, LocalAction};
use crate::mail::item::Item;
use crate::mail::{Kind, Local, Refusal};
use crate::ruleset::watch::{Answer, Lookup};
use crate::sys::user::User;
use crate::table::{Service, TableError};
use crate::util::Line;

use super::forward::Found;
use super::patience::Patience;
use super::tree::Resolved;
use super::watch::Event;
use super::{Expansion, forward, local_of, replies, subaddress};

impl Expansion<'_, '_> {
    pub(super) fn user(&mut self, at: usize, name: &str) -> Result<(), Refusal> {
        let Some((local, same)) = self.local(at) else {
            return Err(replies::temporary());
        };
        if !same && let Some(items) = self.entry(local, name)? {
            return self.children(at, items);
        }
        let delimiter = self.context.config.smtp.sub_addr_delim;
        let (user, subaddress) = subaddress::cut(name, delimiter);
        let known = self.known_user(local, user)?;
        let user = Line::new(user).map_err(|_| replies::invalid())?;
        let elsewhere = local.user.as_ref().is_some_and(|other| *other != user);
        let own_copy = self.is_own_copy(at, &user, local);
        let forward = if elsewhere || own_copy {
            None
        } else {
            self.forward(at, &user, &known)?
        };
        let resolved = Resolved {
            name: user.clone(),
            uid: known.uid,
            forwarded: forward.is_some(),
        };
        self.tree.resolve(at, resolved);
        match (forward, &local.delivery) {
            (Some(items), _) => self.children(at, items),
            (None, Delivery::ForwardOnly) => {
                Err(replies::invalid().because("the action only forwards"))
            }
            (None, Delivery::ExpandOnly) if own_copy => {
                Err(replies::invalid().because("the action only expands"))
            }
            (None, Delivery::ExpandOnly) => {
                Err(replies::list_permanent().because("the action only expands"))
            }
            (None, _) => {
                let subaddress = subaddress.filter(|tag| !tag.is_empty());
                let subaddress = subaddress.and_then(|tag| Line::new(tag).ok());
                self.destination(
                    at,
                    Kind::Local(Local {
                        user,
                        subaddress,
                        command: None,
                    }),
                )
            }
        }
    }

    /// The user of this name, who has to be in the userbase of the action.
    fn known_user(&self, local: &LocalAction, name: &str) -> Result<User, Refusal> {
        let userbase = local.userbase.as_deref().unwrap_or(SYSTEM_USERS);
        let found = self.user_of(userbase, name)?;
        if let Some(watch) = self.context.watch {
            watch.lookup(&Lookup {
                service: Service::Userinfo,
                table: userbase,
                key: name,
                answer: match &found {
                    Ok(Some(_)) => Answer::Found(None),
                    Ok(None) => Answer::NotFound,
                    Err(error) => Answer::Failed(error),
                },
            });
        }
        match found {
            Ok(Some(known)) => {
                self.tell(Event::User(&known));
                Ok(known)
            }
            Ok(None) => Err(replies::invalid().because(&format!("no such user: {name}"))),
            Err(error) => {
                self.patience.warn(format_args!("{error}"));
                Err(replies::temporary().because(&error.text))
            }
        }
    }

    /// What a userbase says of a name; the system's users of a moment ago are at hand.
    fn user_of(
        &self,
        userbase: &str,
        name: &str,
    ) -> Result<Result<Option<User>, TableError>, Refusal> {
        let (tables, now) = (self.context.tables, self.context.now);
        let recent = self.context.recent;
        let recent = recent.filter(|_| tables.has_system_users(userbase));
        if let Some(user) = recent.and_then(|recent| recent.user(name, now)) {
            return Ok(Ok(Some(user)));
        }
        if tables.may_wait(userbase) && self.patience.gives_up() {
            return Err(replies::temporary());
        }
        let found = tables.userinfo(userbase, name);
        if let (Some(recent), Ok(Some(user))) = (recent, &found) {
            recent.keep_user(name, user, now);
        }
        Ok(found)
    }

    /// Whether a user is named in his own .forward, by his name or by an address of his: that
    /// keeps a copy, and the file is not read again.
    fn is_own_copy(&self, at: usize, user: &Line, local: &LocalAction) -> bool {
        let mut above = self.parent(at);
        while let Some(node) = above {
            match &node.item {
                Item::Address(_) => above = node.parent.and_then(|at| self.tree.node(at)),
                Item::User(_) => {
                    let base = |local: &LocalAction| local.userbase.clone();
                    let same_base = local_of(node).map(base) == Some(base(local));
                    let owner = node.resolved.as_ref();
                    return same_base && owner.is_some_and(|o| o.forwarded && o.name == *user);
                }
                _ => return false,
            }
        }
        false
    }

    /// What the user's .forward says under the action of the node.
    fn forward(
        &mut self,
        at: usize,
        user: &Line,
        owner: &User,
    ) -> Result<Option<Vec<Item>>, Refusal> {
        let Some(action) = self.tree.node(at).and_then(|node| node.action) else {
            return Err(replies::temporary());
        };
        let key = (action.name.clone(), user.clone());
        if let Some(known) = self.forwards.get(&key) {
            return Ok(known.clone());
        }
        let items = self.items_of_forward(&action.name, user, owner)?;
        self.tell(match items {
            Some(_) => Event::Forwarded,
            None => Event::NotForwarded,
        });
        self.forwards.insert(key, items.clone());
        Ok(items)
    }

    /// Asks the parent, unless nothing has changed since it has found nothing.
    fn items_of_forward(
        &self,
        action: &Line,
        user: &Line,
        owner: &User,
    ) -> Result<Option<Vec<Item>>, Refusal> {
        let (recent, now) = (self.context.recent, self.context.now);
        let is_absent = recent.is_some_and(|recent| match self.patience {
            Patience::AtOnce { .. } => recent.has_no_forward_at_once(owner, now),
            Patience::Waits => recent.has_no_forward(owner, now),
        });
        if is_absent {
            return Ok(None);
        }
        if self.patience.gives_up() {
            return Err(replies::temporary());
        }
        match forward::open(self.context.forwards, action, user)? {
            Found::File(file) => forward::items(file, user),
            Found::Absent(home) => {
                if let (Some(recent), Some(state)) = (recent, home) {
                    recent.keep_home(owner, state, now);
                }
                Ok(None)
            }
        }
    }
}
