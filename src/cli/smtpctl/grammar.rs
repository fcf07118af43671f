//! The commands of smtpctl(8) and how abbreviations find them.
//!
//! A word matches a keyword exactly, else an argument of its type, else the one keyword it is
//! the beginning of. What cannot be matched is answered with everything possible at that place.

use std::net::IpAddr;

use crate::cli::supposed::{self, Misfit};
use crate::control::Which;
use crate::control::message::{Listing, Subsystem};
use crate::mail::{EvpId, MsgId, Supposed};

use super::selection::{self, Purpose, Selection};

/// A command line that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    pub verb: Verb,
    /// The arguments, in order.
    pub args: Vec<Arg>,
    /// Which envelopes, if not by their ids alone.
    pub selection: Option<Selection>,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Discover,
    Explain,
    PauseEnvelope,
    ResumeEnvelope,
    /// `pause mda`, `pause mta`, `pause smtp`.
    Pause(Subsystem),
    /// `resume mda`, `resume mta`, `resume smtp`.
    Resume(Subsystem),
    LogBrief,
    LogVerbose,
    Monitor,
    Hold,
    Release,
    Requeue,
    EditSender,
    EditRecipient,
    QueueSummary,
    Top,
    Metrics,
    TraceMessage,
    Export,
    Unpack,
    Remove,
    Schedule,
    ShowEnvelope,
    ShowMessage,
    ShowQueue,
    ShowStats,
    ShowStatus,
    Trace,
    /// `trace … from …`.
    TraceFrom,
    /// `trace … to …`.
    TraceTo,
    /// `trace … tag …`.
    TraceTag,
    Untrace,
    Profile,
    Unprofile,
    Reload,
    UpdateTable,
    /// `show hosts`, `show hoststats`, `show mta paused`, `show relays`, `show routes`,
    /// `show filters`.
    ShowRelaying(Listing),
    ResumeRoute,
    /// `pause mta from … for …`.
    BlockMta,
    /// `resume mta from … for …`.
    UnblockMta,
    SpfWalk,
    Encrypt,
}

impl Verb {
    /// Whether only root or the instance's owner may.
    pub fn privileged(self) -> bool {
        !matches!(self, Verb::Encrypt | Verb::SpfWalk | Verb::TraceMessage)
    }

    /// What a selection of envelopes is for, if one may follow.
    fn selects(self) -> Option<Purpose> {
        match self {
            Verb::ShowQueue => Some(Purpose::Show),
            Verb::Remove
            | Verb::Schedule
            | Verb::PauseEnvelope
            | Verb::ResumeEnvelope
            | Verb::Hold
            | Verb::Release
            | Verb::Requeue => Some(Purpose::Act),
            _ => None,
        }
    }
}

/// An argument, read as what the command wants there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arg {
    /// `<evpid>`.
    Envelope(EvpId),
    /// `<msgid>`.
    Message(MsgId),
    /// `<routeid>`, `<addr>`, `<str>`.
    Text(String),
    /// All that follows `explain`.
    Supposed(Box<Supposed>),
}

impl Arg {
    fn which(&self) -> Option<Which> {
        match self {
            Arg::Envelope(id) => Some(Which::Envelope(*id)),
            Arg::Message(id) => Some(Which::Message(*id)),
            Arg::Text(_) | Arg::Supposed(_) => None,
        }
    }
}

impl Command {
    /// The envelopes the command is about; without an id, all.
    pub fn which(&self) -> Which {
        match self.args.first() {
            Some(Arg::Envelope(id)) => Which::Envelope(*id),
            Some(Arg::Message(id)) => Which::Message(*id),
            _ => Which::All,
        }
    }
}

impl Command {
    /// What was selected, by ids or otherwise.
    pub fn selected(&self) -> Selection {
        let selection = self.selection.clone();
        selection.unwrap_or_else(|| Selection::of(self.each()))
    }

    /// The same, where several may be named.
    pub fn each(&self) -> Vec<Which> {
        let ids: Vec<Which> = self.args.iter().filter_map(Arg::which).collect();
        if ids.is_empty() {
            vec![Which::All]
        } else {
            ids
        }
    }
}

/// What to say about a command line that was not understood: standard error's lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misunderstood(pub String);

/// Finds the command that these words abbreviate.
pub fn parse(words: &[String]) -> Result<Command, Misunderstood> {
    let mut candidates: Vec<Candidate> = COMMANDS.iter().map(Candidate::new).collect();
    let mut said: Vec<&str> = Vec::new();
    let mut args = Vec::new();
    for (at, word) in words.iter().enumerate() {
        if let Some((verb, purpose)) = selecting(&candidates)
            && Selection::begins(word, purpose)
        {
            let words = words.get(at..).unwrap_or_default();
            return select((verb, purpose), args, &said, words);
        }
        if let Some(arg) = one_more(&candidates, &args, word) {
            said.push(word);
            args.push(arg);
            continue;
        }
        let Some((token, arg)) = choose(&following(&candidates), word) else {
            let mut possible = following(&candidates);
            if selecting(&candidates).is_some() && !possible.is_empty() {
                possible.extend(selection::WORDS);
            }
            return Err(listed(&said, &possible));
        };
        candidates.retain_mut(|candidate| candidate.advance(token));
        if token == EXPLAIN {
            return explain(words.get(at + 1..).unwrap_or_default());
        }
        match arg {
            Some(arg) => {
                said.push(word);
                args.push(arg);
            }
            None => said.push(token),
        }
    }
    match candidates
        .iter()
        .find(|candidate| candidate.left.is_empty())
    {
        Some(done) => Ok(Command {
            verb: done.verb,
            args,
            selection: None,
        }),
        None => Err(possibilities(&said, &candidates)),
    }
}

/// The command whose words have all been said, if a selection may follow it.
fn selecting(candidates: &[Candidate]) -> Option<(Verb, Purpose)> {
    let verb = candidates.first()?.verb;
    let purpose = verb.selects()?;
    let is_said = |candidate: &Candidate| match candidate.left.last() {
        Some(next) => next.starts_with('<') || ["all", "summary"].contains(next),
        None => true,
    };
    candidates.iter().all(is_said).then_some((verb, purpose))
}

fn select(
    (verb, purpose): (Verb, Purpose),
    args: Vec<Arg>,
    said: &[&str],
    words: &[String],
) -> Result<Command, Misunderstood> {
    let ids = args.iter().filter_map(Arg::which).collect();
    match Selection::parse(ids, words, purpose) {
        Ok(selection) => Ok(Command {
            verb,
            args,
            selection: Some(selection),
        }),
        Err((at, possible)) => {
            let behind = words.iter().take(at).map(String::as_str);
            let said: Vec<&str> = said.iter().copied().chain(behind).collect();
            Err(listed(&said, &possible))
        }
    }
}

/// Another id behind those of a complete command that takes several.
fn one_more(candidates: &[Candidate], args: &[Arg], word: &str) -> Option<Arg> {
    let done = candidates
        .iter()
        .find(|candidate| candidate.left.is_empty())?;
    let several = matches!(
        done.verb,
        Verb::Discover
            | Verb::Remove
            | Verb::Schedule
            | Verb::PauseEnvelope
            | Verb::ResumeEnvelope
            | Verb::ShowQueue
            | Verb::Hold
            | Verb::Release
            | Verb::Requeue
    );
    match args.last() {
        Some(Arg::Envelope(_) | Arg::Message(_)) if several => {
            argument("<evpid>", word).or_else(|| argument("<msgid>", word))
        }
        _ => None,
    }
}

/// Its words follow each other in any order.
fn explain(words: &[String]) -> Result<Command, Misunderstood> {
    match supposed::parse(words) {
        Ok(supposed) => Ok(Command {
            verb: Verb::Explain,
            args: vec![Arg::Supposed(Box::new(supposed))],
            selection: None,
        }),
        Err(Misfit { said, possible }) => {
            let said: Vec<&str> = std::iter::once(EXPLAIN)
                .chain(said.iter().map(String::as_str))
                .collect();
            Err(listed(&said, &possible))
        }
    }
}

const EXPLAIN: &str = "explain";
/// Words that OpenSMTPD does not have: no abbreviation of one that it has becomes ambiguous.
const OURS: &[&str] = &[
    EXPLAIN, "edit", "export", "hold", "metrics", "release", "requeue", "summary", "top", "unpack",
];

/// Every command, its words separated by blanks; the order is that of `possibilities are:`.
const COMMANDS: &[(&str, Verb)] = &[
    ("discover <evpid>", Verb::Discover),
    ("discover <msgid>", Verb::Discover),
    ("pause mta from <addr> for <str>", Verb::BlockMta),
    ("resume mta from <addr> for <str>", Verb::UnblockMta),
    ("show mta paused", Verb::ShowRelaying(Listing::Blocks)),
    ("log brief", Verb::LogBrief),
    ("log verbose", Verb::LogVerbose),
    ("monitor", Verb::Monitor),
    ("pause envelope <evpid>", Verb::PauseEnvelope),
    ("pause envelope <msgid>", Verb::PauseEnvelope),
    ("pause envelope all", Verb::PauseEnvelope),
    ("pause mda", Verb::Pause(Subsystem::Mda)),
    ("pause mta", Verb::Pause(Subsystem::Mta)),
    ("pause smtp", Verb::Pause(Subsystem::Smtp)),
    ("profile <str>", Verb::Profile),
    ("reload", Verb::Reload),
    ("remove <evpid>", Verb::Remove),
    ("remove <msgid>", Verb::Remove),
    ("remove all", Verb::Remove),
    ("resume envelope <evpid>", Verb::ResumeEnvelope),
    ("resume envelope <msgid>", Verb::ResumeEnvelope),
    ("resume envelope all", Verb::ResumeEnvelope),
    ("resume mda", Verb::Resume(Subsystem::Mda)),
    ("resume mta", Verb::Resume(Subsystem::Mta)),
    ("resume route <routeid>", Verb::ResumeRoute),
    ("resume smtp", Verb::Resume(Subsystem::Smtp)),
    ("schedule <msgid>", Verb::Schedule),
    ("schedule <evpid>", Verb::Schedule),
    ("schedule all", Verb::Schedule),
    ("show envelope <evpid>", Verb::ShowEnvelope),
    ("show hoststats", Verb::ShowRelaying(Listing::HostStats)),
    ("show message <msgid>", Verb::ShowMessage),
    ("show message <evpid>", Verb::ShowMessage),
    ("show queue", Verb::ShowQueue),
    ("show queue <msgid>", Verb::ShowQueue),
    ("show hosts", Verb::ShowRelaying(Listing::Hosts)),
    ("show relays", Verb::ShowRelaying(Listing::Relays)),
    ("show routes", Verb::ShowRelaying(Listing::Routes)),
    ("show stats", Verb::ShowStats),
    ("show status", Verb::ShowStatus),
    ("show filters", Verb::ShowRelaying(Listing::Filters)),
    ("trace <str>", Verb::Trace),
    ("unprofile <str>", Verb::Unprofile),
    ("untrace <str>", Verb::Untrace),
    ("update table <str>", Verb::UpdateTable),
    ("encrypt", Verb::Encrypt),
    ("encrypt <str>", Verb::Encrypt),
    ("spf walk", Verb::SpfWalk),
    (EXPLAIN, Verb::Explain),
    ("hold <evpid>", Verb::Hold),
    ("hold <msgid>", Verb::Hold),
    ("hold all", Verb::Hold),
    ("release <evpid>", Verb::Release),
    ("release <msgid>", Verb::Release),
    ("release all", Verb::Release),
    ("requeue <evpid>", Verb::Requeue),
    ("requeue <msgid>", Verb::Requeue),
    ("requeue all", Verb::Requeue),
    ("edit <evpid> sender <str>", Verb::EditSender),
    ("edit <msgid> sender <str>", Verb::EditSender),
    ("edit <evpid> recipient <str>", Verb::EditRecipient),
    ("show queue all", Verb::ShowQueue),
    ("show queue summary", Verb::QueueSummary),
    ("top", Verb::Top),
    ("export <str>", Verb::Export),
    ("unpack", Verb::Unpack),
    ("metrics", Verb::Metrics),
    ("trace message <evpid>", Verb::TraceMessage),
    ("trace message <msgid>", Verb::TraceMessage),
    ("trace <str> from <str>", Verb::TraceFrom),
    ("trace <str> to <str>", Verb::TraceTo),
    ("trace <str> tag <str>", Verb::TraceTag),
    ("metrics <str>", Verb::Metrics),
];

/// A command whose first words have been said.
struct Candidate {
    left: Vec<&'static str>,
    verb: Verb,
}

impl Candidate {
    fn new((words, verb): &(&'static str, Verb)) -> Candidate {
        Candidate {
            left: words.split(' ').rev().collect(),
            verb: *verb,
        }
    }

    /// Whether `token` is the next word, which is then taken off.
    fn advance(&mut self, token: &str) -> bool {
        self.left.pop() == Some(token)
    }
}

/// The different next words of `candidates`, in order.
fn following(candidates: &[Candidate]) -> Vec<&'static str> {
    let mut tokens = Vec::new();
    for token in candidates.iter().filter_map(|c| c.left.last().copied()) {
        if !tokens.contains(&token) {
            tokens.push(token);
        }
    }
    tokens
}

/// Which of `tokens` the word means.
fn choose(tokens: &[&'static str], word: &str) -> Option<(&'static str, Option<Arg>)> {
    let keyword = |token: &&&'static str| !token.starts_with('<');
    if let Some(exact) = tokens.iter().filter(keyword).find(|token| **token == word) {
        return Some((exact, None));
    }
    if let Some(typed) = tokens
        .iter()
        .find_map(|token| Some((*token, Some(argument(token, word)?))))
    {
        return Some(typed);
    }
    if word.is_empty() {
        return None;
    }
    let begun = tokens
        .iter()
        .filter(keyword)
        .filter(|token| token.starts_with(word));
    let (ours, theirs): (Vec<&str>, Vec<&str>) = begun.partition(|token| OURS.contains(token));
    match (theirs.as_slice(), ours.as_slice()) {
        ([only], _) | ([], [only]) => Some((only, None)),
        ([], ours) if ours.contains(&EXPLAIN) => Some((EXPLAIN, None)),
        _ => None,
    }
}

/// The word as an argument of this type.
fn argument(token: &str, word: &str) -> Option<Arg> {
    let text = || Some(Arg::Text(word.to_owned()));
    match token {
        "<evpid>" => word.parse().ok().map(Arg::Envelope),
        "<msgid>" => word.parse().ok().map(Arg::Message),
        "<routeid>" => (word.parse::<u64>().ok()? > 0).then(text)?,
        "<addr>" => is_address(word).then(text)?,
        "<str>" => text(),
        _ => None,
    }
}

fn is_address(word: &str) -> bool {
    match word.split_once('%') {
        Some((address, scope)) => !scope.is_empty() && matches!(address.parse(), Ok(IpAddr::V6(_))),
        None => word.parse::<IpAddr>().is_ok(),
    }
}

fn possibilities(said: &[&str], candidates: &[Candidate]) -> Misunderstood {
    listed(said, &following(candidates))
}

fn listed(said: &[&str], tokens: &[&str]) -> Misunderstood {
    if tokens.is_empty() {
        return Misunderstood("invalid command\n".to_owned());
    }
    let mut text = "possibilities are:\n".to_owned();
    for token in tokens {
        for word in said {
            text.push_str(word);
            text.push(' ');
        }
        text.push_str(token);
        text.push('\n');
    }
    Misunderstood(text)
}

#[cfg(test)]
mod tests;
