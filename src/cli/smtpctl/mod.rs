//! smtpctl(8): reads a command, asks the daemon or the spool, prints the answer.
//!
//! Promises: the texts, their order and the exit codes are those of the manual (0 done, 1 not
//! done, 255 not understood); a closed standard output ends it quietly.

mod bags;
pub mod encrypt;
mod export;
mod grammar;
mod history;
mod metrics;
pub mod monitor;
mod queue;
mod row;
mod selection;
mod shown;
pub mod spf;
pub mod spool;
mod spool_file;
mod top;
mod unpack;

use std::io::{self, IsTerminal, Write};

use crate::config::paths::Paths;
use crate::control::client::{Client, Error};
use crate::control::message::{Block, Change, Listing, TraceOf};
use crate::control::{Answer, Ask, Which};
use crate::mail::{MailAddr, Supposed};

use super::exit_error::ExitError;
use super::instance::{configured_key, may_control};
use super::queue_key;
use grammar::{Arg, Command, Misunderstood, Verb};
use queue::Deed;
use selection::Selection;
use shown::{Shown, Watched};
use spool::Keys;

/// Does what `words` (without the program's name and options) ask.
pub fn run(
    words: &[String],
    paths: &Paths,
    uid: u32,
    out: &mut dyn Write,
) -> Result<i32, ExitError> {
    let command = grammar::parse(words)
        .map_err(|Misunderstood(text)| ExitError::verbatim(MISUNDERSTOOD, text))?;
    if command.verb.privileged() && !may_control(paths, uid) {
        return Err(ExitError::new("need root privileges"));
    }
    execute(&command, paths, uid, out)
}

/// mailq(8).
pub fn show_queue(paths: &Paths, out: &mut dyn Write) -> Result<i32, ExitError> {
    queue::show(&Selection::default(), paths, out)
}

/// The exit code for a command that was not understood.
const MISUNDERSTOOD: i32 = 255;

fn execute(
    command: &Command,
    paths: &Paths,
    uid: u32,
    out: &mut dyn Write,
) -> Result<i32, ExitError> {
    let which = command.which();
    let ask =
        |ask: Ask| -> Result<Answer, ExitError> { Ok(Client::connect(&paths.socket)?.ask(&ask)?) };
    let each = |what: fn(Which) -> Ask| ask_each(&command.each(), what, paths);
    if let (Some(selection), Some(deed)) = (&command.selection, deed(command.verb)) {
        return queue::act(selection, &deed, paths, out);
    }
    match command.verb {
        Verb::Discover => count(each(Ask::Discover)?, discovered, out),
        Verb::Schedule => count(each(Ask::Schedule)?, |n| plural(n, "scheduled"), out),
        Verb::Remove => count(each(Ask::Remove)?, |n| plural(n, "removed"), out),
        Verb::Hold => count(each(Ask::Suspend)?, |n| plural(n, "held"), out),
        Verb::Release => count(each(Ask::Resume)?, |n| plural(n, "released"), out),
        Verb::Requeue => queue::requeue(&command.selected(), &Change::default(), paths, out),
        Verb::EditSender | Verb::EditRecipient => {
            queue::requeue(&command.selected(), &change(command)?, paths, out)
        }
        Verb::QueueSummary => queue::summary(paths, out),
        Verb::Top => top::run(paths, out),
        Verb::TraceMessage => {
            let id = match which {
                Which::Envelope(id) => id.to_string(),
                Which::Message(id) => id.to_string(),
                Which::All => String::new(),
            };
            history::run(&id, io::stdin().lock(), out)
        }
        Verb::Export => export::run(&text(command), paths, out),
        Verb::Unpack => unpack::run(paths, out),
        Verb::Metrics => metrics::run(
            command.args.first().map(|_| text(command)).as_deref(),
            paths,
            out,
        ),
        Verb::PauseEnvelope => count(each(Ask::Suspend)?, |n| plural(n, "paused"), out),
        Verb::ResumeEnvelope => count(each(Ask::Resume)?, |n| plural(n, "resumed"), out),
        Verb::Pause(subsystem) => generic(ask(Ask::Pause(subsystem, true))?, out),
        Verb::Resume(subsystem) => generic(ask(Ask::Pause(subsystem, false))?, out),
        Verb::LogBrief => generic(ask(Ask::Verbose(false))?, out),
        Verb::LogVerbose => generic(ask(Ask::Verbose(true))?, out),
        Verb::Explain => explain(ask(Ask::Explain(supposed(command)))?, out),
        Verb::Trace => generic(ask(Ask::Trace(traced(command)?, true))?, out),
        Verb::TraceFrom => generic(ask(trace_of(command, TraceOf::From)?)?, out),
        Verb::TraceTo => generic(ask(trace_of(command, TraceOf::To)?)?, out),
        Verb::TraceTag => generic(ask(trace_of(command, TraceOf::Tag)?)?, out),
        Verb::Profile => generic(ask(Ask::Profile(profiled(command)?, true))?, out),
        Verb::Unprofile => unprofile(ask(Ask::Profile(profiled(command)?, false))?, out),
        Verb::Untrace => generic(ask(Ask::Trace(traced(command)?, false))?, out),
        Verb::UpdateTable => generic(ask(Ask::UpdateTable(text(command)))?, out),
        Verb::Reload => reload(ask(Ask::Reload)?, out),
        Verb::ShowRelaying(listing) => show_relaying(listing, paths, out),
        Verb::ResumeRoute => generic(ask(Ask::ResumeRoute(route(command)))?, out),
        Verb::BlockMta => generic(ask(block(command, true)?)?, out),
        Verb::UnblockMta => generic(ask(block(command, false)?)?, out),
        Verb::Encrypt => encrypt::run(
            command.args.first().map(|_| text(command)),
            io::stdin().lock(),
            out,
        ),
        Verb::SpfWalk => spf::run(paths, uid, io::stdin().lock(), out),
        Verb::ShowStatus => show_status(ask(Ask::Status)?, out),
        Verb::ShowStats => monitor::show_stats(ask(Ask::Stats)?, out),
        Verb::Monitor => monitor::run(&mut Client::connect(&paths.socket)?, out),
        Verb::ShowQueue => queue::show(&command.selected(), paths, out),
        Verb::ShowEnvelope => with_keys(paths, |keys| {
            let mut out = Shown::new(out, is_watched());
            spool::show_envelope(&paths.spool, which, keys, &mut out)
        }),
        Verb::ShowMessage => with_keys(paths, |keys| {
            let mut out = Shown::new(out, is_watched());
            spool::show_message(&paths.spool, which, keys, &mut out)
        }),
    }
}

/// What commands for selected envelopes do to each.
fn deed(verb: Verb) -> Option<Deed> {
    let deed = |ask, done| Some(Deed { ask, done });
    match verb {
        Verb::Remove => deed(Ask::Remove, "removed"),
        Verb::Schedule => deed(Ask::Schedule, "scheduled"),
        Verb::PauseEnvelope => deed(Ask::Suspend, "paused"),
        Verb::ResumeEnvelope => deed(Ask::Resume, "resumed"),
        Verb::Hold => deed(Ask::Suspend, "held"),
        Verb::Release => deed(Ask::Resume, "released"),
        _ => None,
    }
}

/// `edit`: the address that takes the place of another.
fn change(command: &Command) -> Result<Change, ExitError> {
    let text = match command.args.get(1) {
        Some(Arg::Text(text)) => text.as_str(),
        _ => "",
    };
    let addr = match (command.verb, text) {
        (Verb::EditSender, "<>") => Some(MailAddr::null()),
        _ if text.contains(|c: char| c.is_whitespace() || c.is_control()) => None,
        _ => MailAddr::from_stored(text).filter(|a| !a.user().is_empty() && !a.domain().is_empty()),
    };
    let addr =
        addr.ok_or_else(|| ExitError::new(format!("not an address: {}", printable(text))))?;
    Ok(match command.verb {
        Verb::EditSender => Change {
            sender: Some(addr),
            rcpt: None,
        },
        _ => Change {
            sender: None,
            rcpt: Some(addr),
        },
    })
}

/// One question for each of these; the counts are added up.
fn ask_each(ids: &[Which], what: fn(Which) -> Ask, paths: &Paths) -> Result<Answer, ExitError> {
    let mut client = Client::connect(&paths.socket)?;
    let mut sum: u32 = 0;
    for which in ids {
        match client.ask(&what(*which))? {
            Answer::Count(count) => sum = sum.saturating_add(count),
            other => return Ok(other),
        }
    }
    Ok(Answer::Count(sum))
}

/// An encrypted spool needs a key: the configured one, else what is typed.
fn with_keys<T>(paths: &Paths, show: impl FnOnce(&Keys<'_>) -> T) -> T {
    show(&Keys {
        configured: &|| configured_key(paths),
        ask: &|| queue_key::ask("key> "),
    })
}

/// Whether what is printed goes to a terminal.
fn is_watched() -> Watched {
    if io::stdout().is_terminal() {
        Watched::ByTerminal
    } else {
        Watched::No
    }
}

fn text(command: &Command) -> String {
    match command.args.first() {
        Some(Arg::Text(text)) => text.clone(),
        _ => String::new(),
    }
}

fn route(command: &Command) -> u64 {
    text(command).parse().unwrap_or(0)
}

fn block(command: &Command, on: bool) -> Result<Ask, ExitError> {
    let domain = match command.args.get(1) {
        Some(Arg::Text(domain)) => domain.clone(),
        _ => String::new(),
    };
    let source = text(command);
    // The daemon knows source addresses without their scope.
    let bare = source.split('%').next().unwrap_or_default();
    let source = bare
        .parse()
        .map_err(|_| ExitError::new(format!("not an address: {bare}")))?;
    Ok(Ask::Block(Block { source, domain, on }))
}

/// Asks until there are no more lines.
fn show_relaying(listing: Listing, paths: &Paths, out: &mut dyn Write) -> Result<i32, ExitError> {
    let mut client = Client::connect(&paths.socket)?;
    let mut seen: u32 = 0;
    loop {
        let lines = match client.ask(&Ask::Relaying(listing, seen))? {
            Answer::Lines(lines) if lines.is_empty() => return Ok(0),
            Answer::Lines(lines) => lines,
            other => return generic(other, out),
        };
        for line in &lines {
            writeln!(out, "{}", printable(line)).map_err(|e| ExitError::output(&e))?;
        }
        let more = u32::try_from(lines.len()).unwrap_or(u32::MAX);
        seen = seen.saturating_add(more);
    }
}

fn supposed(command: &Command) -> Box<Supposed> {
    match command.args.first() {
        Some(Arg::Supposed(supposed)) => supposed.clone(),
        _ => Box::default(),
    }
}

fn explain(answer: Answer, out: &mut dyn Write) -> Result<i32, ExitError> {
    let Answer::Text(text) = answer else {
        return generic(answer, out);
    };
    for line in text.lines() {
        writeln!(out, "{}", printable(line)).map_err(|e| ExitError::output(&e))?;
    }
    Ok(0)
}

/// What can be traced in a running daemon. `smtpd -T` knows a few more words for the same.
const TRACES: &[&str] = &[
    "imsg",
    "io",
    "smtp",
    "filters",
    "mta",
    "bounce",
    "scheduler",
    "lookup",
    "stat",
    "rules",
    "mproc",
    "expand",
    "tables",
    "queue",
    "all",
];

fn traced(command: &Command) -> Result<String, ExitError> {
    let word = text(command);
    if TRACES.contains(&word.as_str()) {
        Ok(word)
    } else {
        Err(ExitError::new(format!("invalid trace keyword: {word}")))
    }
}

fn trace_of(command: &Command, whom: fn(String) -> TraceOf) -> Result<Ask, ExitError> {
    let text = match command.args.get(1) {
        Some(Arg::Text(text)) => text.clone(),
        _ => String::new(),
    };
    Ok(Ask::TraceOf(traced(command)?, whom(text)))
}

fn profiled(command: &Command) -> Result<String, ExitError> {
    let word = text(command);
    match word.as_str() {
        "imsg" | "queue" => Ok(word),
        _ => Err(ExitError::new(format!("invalid profile keyword: {word}"))),
    }
}

/// `unprofile`: what was counted since `profile`.
fn unprofile(answer: Answer, out: &mut dyn Write) -> Result<i32, ExitError> {
    let Answer::Lines(lines) = answer else {
        return generic(answer, out);
    };
    for line in lines {
        writeln!(out, "{}", printable(&line)).map_err(|e| ExitError::output(&e))?;
    }
    generic(Answer::Ok, out)
}

/// `N envelope scheduled`; from two on, `envelopes`.
fn plural(count: u32, done: &str) -> String {
    let s = if count > 1 { "s" } else { "" };
    format!("{count} envelope{s} {done}")
}

/// `discover` alone says `0 envelopes`.
fn discovered(count: u32) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{count} envelope{s} discovered")
}

fn count(
    answer: Answer,
    sentence: impl Fn(u32) -> String,
    out: &mut dyn Write,
) -> Result<i32, ExitError> {
    match answer {
        Answer::Count(count) => {
            writeln!(out, "{}", sentence(count)).map_err(|e| ExitError::output(&e))?;
            Ok(0)
        }
        other => generic(other, out),
    }
}

fn generic(answer: Answer, out: &mut dyn Write) -> Result<i32, ExitError> {
    let (line, result) = match answer {
        Answer::Ok => ("command succeeded", Ok(0)),
        Answer::Fail(why) => ("command failed", Err(ExitError::new(printable(&why)))),
        _ => return Err(Error::Unexpected.into()),
    };
    writeln!(out, "{line}").map_err(|e| ExitError::output(&e))?;
    result
}

/// `reload`: each line about the configuration on a line of its own.
fn reload(answer: Answer, out: &mut dyn Write) -> Result<i32, ExitError> {
    let Answer::Fail(why) = answer else {
        return generic(answer, out);
    };
    writeln!(out, "command failed").map_err(|e| ExitError::output(&e))?;
    let lines: Vec<String> = why.lines().map(printable).collect();
    Err(ExitError::new(lines.join("\n")))
}

/// The daemon's words, without what could steer a terminal.
fn printable(text: &str) -> String {
    text.replace(char::is_control, "?")
}

fn show_status(answer: Answer, out: &mut dyn Write) -> Result<i32, ExitError> {
    let Answer::Status {
        mda,
        mta,
        smtp,
        notes,
    } = answer
    else {
        return generic(answer, out);
    };
    let word = |paused| if paused { "paused" } else { "running" };
    writeln!(
        out,
        "MDA {}\nMTA {}\nSMTP {}",
        word(mda),
        word(mta),
        word(smtp)
    )
    .map_err(|e| ExitError::output(&e))?;
    for note in notes {
        writeln!(out, "{}", printable(&note)).map_err(|e| ExitError::output(&e))?;
    }
    Ok(0)
}

#[cfg(test)]
mod tests;
