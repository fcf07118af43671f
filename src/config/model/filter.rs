//! `proc` and `filter`.

use std::path::PathBuf;

use crate::util::Line;

use super::{Pattern, Position};

/// The name of a filter; it exists in [`super::Config::filters`].
pub type FilterName = String;

/// A program that filters, started once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proc {
    /// What is run; from the helpers' directory if it does not start with a slash.
    pub command: Line,
    /// `user`; the daemon's user without it.
    pub user: Option<Line>,
    /// `group`; the user's without it.
    pub group: Option<Line>,
    pub chroot: Option<PathBuf>,
    pub on_failure: OnFailure,
    /// File and line of the directive.
    pub at: Position,
}

/// What is done where a program should be asked and cannot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// The client is to try again later.
    #[default]
    Tempfail,
    /// As if it were not there.
    Bypass,
    /// The client is refused.
    Reject,
}

impl OnFailure {
    /// All of them.
    pub const ALL: [OnFailure; 3] = [OnFailure::Tempfail, OnFailure::Bypass, OnFailure::Reject];

    /// The word in the text.
    pub fn word(self) -> &'static str {
        match self {
            OnFailure::Tempfail => "tempfail",
            OnFailure::Bypass => "bypass",
            OnFailure::Reject => "reject",
        }
    }
}

/// What a filter's name stands for.
#[derive(Clone, Debug)]
pub enum Filter {
    /// `proc` and `proc-exec`: a program, by its key in [`super::Config::procs`]. One of
    /// `proc-exec` has the name of its filter.
    Proc(String),
    /// `chain`, or names in braces where one is wanted: filters that are no chains, in the order
    /// they are asked.
    Chain(Vec<FilterName>),
    /// `phase`: one question and what follows from a yes.
    BuiltIn(BuiltIn),
}

/// `phase PHASE match [!]CONDITION DECISION`.
#[derive(Clone, Debug)]
pub struct BuiltIn {
    /// When it is asked.
    pub phase: Phase,
    pub negated: bool,
    pub condition: Condition,
    /// What then happens.
    pub decision: Decision,
}

/// A phase of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Connect,
    Helo,
    Ehlo,
    Auth,
    MailFrom,
    RcptTo,
    Data,
    /// The final dot.
    Commit,
}

impl Phase {
    /// Every phase, in the order of a session.
    pub const ALL: [Phase; 8] = [
        Phase::Connect,
        Phase::Helo,
        Phase::Ehlo,
        Phase::Auth,
        Phase::MailFrom,
        Phase::RcptTo,
        Phase::Data,
        Phase::Commit,
    ];

    /// The word in the text.
    pub fn word(self) -> &'static str {
        match self {
            Phase::Connect => "connect",
            Phase::Helo => "helo",
            Phase::Ehlo => "ehlo",
            Phase::Auth => "auth",
            Phase::MailFrom => "mail-from",
            Phase::RcptTo => "rcpt-to",
            Phase::Data => "data",
            Phase::Commit => "commit",
        }
    }
}

/// What a filter asks.
#[derive(Clone, Debug)]
pub enum Condition {
    /// The client's name leads back to its address.
    Fcrdns,
    /// The client has a name, perhaps one of these.
    Rdns(Option<Pattern>),
    /// The client's address.
    Src(Pattern),
    /// The greeting's name.
    Helo(Pattern),
    /// The client has authenticated, perhaps as one of these.
    Auth(Option<Pattern>),
    /// The sender.
    MailFrom(Pattern),
    RcptTo(Pattern),
}

/// What a filter decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Answer the command with this reply, which starts with a code from 400 and a blank.
    Reject(Line),
    /// The same, and end the session.
    Disconnect(Line),
    /// Put this in place of the command's argument.
    Rewrite(Line),
    /// Tell filters that listen to reports.
    Report(Line),
    /// Mark the message as junk.
    Junk,
    /// Ask no further filters.
    Bypass,
}
