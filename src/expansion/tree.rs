//! The nodes of one expansion: what came from what, how deep, and what was there before.

use std::collections::HashSet;

use crate::config::{Action, Position};
use crate::mail::item::Item;
use crate::mail::{MailAddr, Refusal};
use crate::ruleset::Origin;
use crate::util::Line;

use super::replies;

/// A chain of nodes ends before this depth.
pub const DEPTH: usize = 10;
/// More nodes than this for one recipient are refused.
pub const NODES: usize = 10_000;

/// A recipient, or what one has led to.
pub struct Node<'c> {
    pub item: Item,
    /// The node it came from.
    pub parent: Option<usize>,
    /// How far from the recipient.
    pub depth: usize,
    /// The action of the address it came from.
    pub action: Option<&'c Action>,
    /// The rule that chose the action.
    pub rule: Option<&'c Position>,
    /// The address that counts as its destination: its own, or the nearest one above.
    pub dest: MailAddr,
    /// Where that address came from.
    pub origin: Origin,
    /// A user that is named by its own entry: it is not looked up again.
    pub same: bool,
    /// The user it turned out to be.
    pub resolved: Option<Resolved>,
}

/// A user that exists.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The name, without sub-address.
    pub name: Line,
    pub uid: u32,
    /// Whether a .forward took the user's place.
    pub forwarded: bool,
}

/// What makes two nodes equal: the entry, whether it names its own user, the address and the user
/// above it, and the action, which the same address may not have everywhere. Commands and files are
/// not run twice for another action.
type Known = (Item, bool, MailAddr, Option<Line>, Option<Line>);

/// All nodes of one recipient, first in, first out.
pub struct Tree<'c> {
    nodes: Vec<Node<'c>>,
    known: HashSet<Known>,
    next: usize,
}

impl<'c> Tree<'c> {
    /// A tree that is only the recipient.
    pub fn new(rcpt: &MailAddr) -> Tree<'c> {
        Tree {
            nodes: vec![Node {
                item: Item::Address(rcpt.clone()),
                parent: None,
                depth: 0,
                action: None,
                rule: None,
                dest: rcpt.clone(),
                origin: Origin::Client,
                same: false,
                resolved: None,
            }],
            known: HashSet::new(),
            next: 0,
        }
    }

    /// The next node to work on.
    pub fn take(&mut self) -> Option<usize> {
        let at = self.next;
        self.next += 1;
        (at < self.nodes.len()).then_some(at)
    }

    /// The node of this number.
    pub fn node(&self, at: usize) -> Option<&Node<'c>> {
        self.nodes.get(at)
    }

    /// Gives a node its action, and the rule that chose it.
    pub fn settle(&mut self, at: usize, action: &'c Action, rule: &'c Position) {
        if let Some(node) = self.nodes.get_mut(at) {
            node.action = Some(action);
            node.rule = Some(rule);
        }
    }

    /// Puts an address in the place of one that leads to it. It counts as the product of
    /// forwarding.
    pub fn replace(&mut self, at: usize, address: MailAddr) {
        if let Some(node) = self.nodes.get_mut(at) {
            node.item = Item::Address(address.clone());
            node.dest = address;
            node.origin = Origin::Internal;
        }
    }

    /// Notes which user a node is.
    pub fn resolve(&mut self, at: usize, resolved: Resolved) {
        if let Some(node) = self.nodes.get_mut(at) {
            node.resolved = Some(resolved);
        }
    }

    /// Adds a node below `parent` and says its number, unless an equal one is or was there: what it
    /// leads to is on its way already.
    pub fn add(&mut self, parent: usize, item: Item) -> Result<Option<usize>, Refusal> {
        let Some(above) = self.nodes.get(parent) else {
            return Ok(None);
        };
        let (dest, origin) = match &item {
            Item::Address(address) => (address.clone(), Origin::Internal),
            _ => (above.dest.clone(), above.origin),
        };
        let same = self.is_same(parent, &item);
        let above_dest = above.dest.clone();
        let user = above.resolved.as_ref().map(|user| user.name.clone());
        let action = match &item {
            Item::User(_) | Item::Address(_) => above.action.map(|action| action.name.clone()),
            _ => None,
        };
        let node = Node {
            parent: Some(parent),
            depth: above.depth + 1,
            action: above.action,
            rule: above.rule,
            dest,
            origin,
            same,
            resolved: None,
            item: item.clone(),
        };
        if !self.known.insert((item, same, above_dest, user, action)) {
            return Ok(None);
        }
        if self.nodes.len() >= NODES {
            return Err(replies::list_temporary().because("too many entries lead on"));
        }
        self.nodes.push(node);
        Ok(Some(self.nodes.len() - 1))
    }

    /// Whether a user is named by its own entry, directly or by an address that leads back to it
    /// under the same action.
    fn is_same(&self, parent: usize, item: &Item) -> bool {
        let Item::User(name) = item else { return false };
        let action = self.node(parent).and_then(|node| node.action);
        let mut above = Some(parent);
        while let Some(node) = above.and_then(|at| self.node(at)) {
            match &node.item {
                Item::User(user) => {
                    let same_action = match (action, node.action) {
                        (Some(a), Some(b)) => a.name == b.name,
                        _ => false,
                    };
                    return user == name && same_action;
                }
                Item::Address(_) => above = node.parent,
                _ => return false,
            }
        }
        false
    }
}
