//! What somebody who wants to know hears of an expansion while it goes on.
//!
//! Every expansion can be watched, so what is told is what happened: there is no second way to
//! find out.

use std::fmt;

use crate::mail::MailAddr;
use crate::ruleset::{self, Decision, Unanswered};
use crate::sys::user::User;

/// Hears every step, in the order in which they are taken.
pub trait Watch: ruleset::watch::Watch {
    /// Something has happened to the node that was taken last.
    fn event(&self, event: &Event<'_>);
}

/// A step of an expansion.
#[derive(Clone, Copy)]
pub enum Event<'e> {
    /// There is a new node, with this number.
    Added {
        /// Its number; 0 is the recipient.
        at: usize,
        /// The node it comes from.
        parent: Option<usize>,
        /// What it is: `user bob`.
        item: &'e dyn fmt::Display,
    },
    /// An item adds no node: an equal one is or was there.
    Repeated { item: &'e dyn fmt::Display },
    /// A node is worked on now.
    Taken { at: usize },
    /// The rules have been tried on an address.
    Decided(&'e Result<Decision<'e>, Unanswered<'e>>),
    /// The address was that of a rewritten sender (SRS), and leads back to this one.
    LedBack(&'e MailAddr),
    /// The node is this user.
    User(&'e User),
    /// The user's .forward takes the place of the user.
    Forwarded,
    /// The user has no .forward, or there is nothing in it.
    NotForwarded,
    /// Something is wrong, but not with the recipient.
    Warning(fmt::Arguments<'e>),
    /// It is a destination, with this number.
    Destination(usize),
    /// It is a destination that another node has led to already.
    SameDestination,
}
