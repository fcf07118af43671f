//! The queue in the administrator's hand: it is listed, and what was selected is acted on.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::mpsc::sync_channel;
use std::thread;

use crate::cli::exit_error::ExitError;
use crate::cli::instance::{configured_ttl_s, decode_envelope};
use crate::config::paths::Paths;
use crate::control::client::{Client, Error, Pages};
use crate::control::message::{Change, Listed};
use crate::control::{Answer, Ask, Which};
use crate::mail::{EvpId, MsgId};
use crate::rfc5322::fields;
use crate::util::Timestamp;
use crate::util::time::Duration;

use super::row::Row;
use super::selection::{Content, Form, Selection};
use super::{plural, printable, spool, with_keys};

/// Each envelope of the queue, or of one message, as the daemon lists it, or as the spool holds it
/// when there is none.
fn each(
    only: Option<MsgId>,
    fetch: Fetch,
    paths: &Paths,
    take: &mut dyn FnMut(Listed) -> Result<(), ExitError>,
) -> Result<(), ExitError> {
    match Client::connect(&paths.socket) {
        Ok(mut client) => {
            let mut pages = client.pages(only);
            let each = |page: Result<Vec<Listed>, Error>| {
                page?.into_iter().try_for_each(|mut listed| {
                    // None of what the daemon says may steer a terminal.
                    for text in [&mut listed.text, &mut listed.action, &mut listed.remote] {
                        if !text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
                            *text = printable(text);
                        }
                    }
                    take(listed)
                })
            };
            match fetch {
                Fetch::Ahead => each_ahead(pages, each),
                Fetch::InTurn => pages.try_for_each(each),
            }
        }
        Err(Error::Down) => {
            let known: (spool::Decode, u32) = (decode_envelope, configured_ttl_s(paths));
            with_keys(paths, |keys| {
                spool::each_envelope(&paths.spool, only, known, keys, take)
            })
        }
        Err(error) => Err(error.into()),
    }
}

/// When the daemon is asked for more lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fetch {
    /// While those before are taken.
    Ahead,
    /// When those before have been taken: that reads messages, as the owner of the queue, and such
    /// ids are for a moment those of all threads. Nobody else may connect to the daemon under them.
    InTurn,
}

/// Takes pages, while a thread waits for the next ones: the daemon reads on meanwhile, and
/// none of its answers lies half read when whoever reads ours stops to look.
fn each_ahead(
    mut pages: Pages<'_>,
    mut each: impl FnMut(Result<Vec<Listed>, Error>) -> Result<(), ExitError>,
) -> Result<(), ExitError> {
    let (sender, ready) = sync_channel(PAGES_AHEAD);
    thread::scope(|scope| {
        let ahead = || {
            // Whoever takes no more has closed the channel.
            let _ = pages.by_ref().try_for_each(|page| sender.send(page));
            drop(sender);
        };
        let name = "pages".to_owned();
        match thread::Builder::new().name(name).spawn_scoped(scope, ahead) {
            Ok(_) => ready.into_iter().try_for_each(&mut each),
            Err(_) => Ok(()),
        }
    })?;
    // All of them, if there was no thread to be had.
    pages.try_for_each(each)
}

/// Pages that wait to be taken.
const PAGES_AHEAD: usize = 1;

/// `show queue`.
pub fn show(selection: &Selection, paths: &Paths, out: &mut dyn Write) -> Result<i32, ExitError> {
    if selection.is_plain() {
        each(selection.message(), Fetch::Ahead, paths, &mut |listed| {
            writeln!(out, "{}|{}", listed.id, listed.text).map_err(|e| ExitError::output(&e))
        })?;
        return Ok(0);
    }
    let now = Timestamp::now();
    let mut count = 0;
    each_selected(selection, paths, &mut |row| {
        count += 1;
        let printed = match selection.form {
            Form::Fields => writeln!(out, "{}", row.line),
            Form::Json => writeln!(out, "{}", row.json()),
            Form::Human => out.write_all(paragraph(&row, now, count == 1).as_bytes()),
        };
        printed.map_err(|e| ExitError::output(&e))
    })?;
    if selection.form == Form::Human {
        let s = if count == 1 { "" } else { "s" };
        writeln!(out, "{count} envelope{s}").map_err(|e| ExitError::output(&e))?;
    }
    Ok(0)
}

fn each_selected(
    selection: &Selection,
    paths: &Paths,
    take: &mut dyn FnMut(Row) -> Result<(), ExitError>,
) -> Result<(), ExitError> {
    let now_s = Timestamp::now().0;
    let mut known: Option<(MsgId, Option<Content>)> = None;
    let fetch = if selection.reads_messages() {
        Fetch::InTurn
    } else {
        Fetch::Ahead
    };
    each(selection.message(), fetch, paths, &mut |listed| {
        let Some(row) = Row::new(&listed) else {
            return Ok(());
        };
        let msgid = listed.id.msgid();
        let mut content = || {
            if known.as_ref().is_none_or(|(of, _)| *of != msgid) {
                known = Some((msgid, read(msgid, paths)));
            }
            known.as_ref().and_then(|(_, content)| content.clone())
        };
        if selection.has(&row, now_s, &mut content) {
            take(row)
        } else {
            Ok(())
        }
    })
}

/// What a message says of itself; `None` when it has just gone or cannot be read.
fn read(msgid: MsgId, paths: &Paths) -> Option<Content> {
    let mut counted = Counted::default();
    let which = Which::Message(msgid);
    let shown = with_keys(paths, |keys| {
        spool::show_message(&paths.spool, which, keys, &mut counted)
    });
    shown.ok()?;
    Some(Content {
        size_bytes: counted.bytes,
        message_id: message_id(&counted.head),
    })
}

/// A message on its way to nowhere: its size, and as much of it as a header may need.
#[derive(Default)]
struct Counted {
    bytes: u64,
    head: Vec<u8>,
}

const HEAD_MAX: usize = 64 * 1024;

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes += bytes.len() as u64;
        let room = HEAD_MAX.saturating_sub(self.head.len());
        (&bytes[..bytes.len().min(room)]).read_to_end(&mut self.head)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn message_id(head: &[u8]) -> String {
    let field = fields::fields(head).find(|field| field.is("Message-ID"));
    let value = field.map(|field| field.unfolded()).unwrap_or_default();
    let bare = value
        .strip_prefix('<')
        .and_then(|rest| rest.strip_suffix('>'));
    bare.unwrap_or(&value).to_owned()
}

/// One envelope for people: two lines at most.
fn paragraph(row: &Row, now: Timestamp, is_first: bool) -> String {
    let mut text = String::new();
    if is_first {
        text.push_str("ENVELOPE         TYPE       AGE TRIES STATE    SENDER -> RECIPIENT\n");
    }
    let id = row.line.split('|').next().unwrap_or_default();
    let sender = if row.sender == "@" { "<>" } else { &row.sender };
    let age = Duration(row.age_s(now.0)).to_string();
    text.push_str(&format!(
        "{id} {:<6} {age:>7} {:>5} {:<8} {sender} -> {}",
        row.kind,
        row.attempts,
        row.standing(),
        row.rcpt
    ));
    if row.rcpt != row.dest {
        text.push_str(&format!(" ({})", row.dest));
    }
    text.push('\n');
    let next = match (row.standing(), row.seconds) {
        ("deferred" | "pending", Some(seconds)) if seconds > 0 => {
            format!("next try in {}", Duration(seconds.unsigned_abs()))
        }
        _ => String::new(),
    };
    let why = row.why();
    let between = if next.is_empty() || why.is_empty() {
        ""
    } else {
        ": "
    };
    if !(next.is_empty() && why.is_empty()) {
        text.push_str(&format!("                 {next}{between}{why}\n"));
    }
    text
}

/// `show queue summary`: how many wait how long for which domain, and why.
pub fn summary(paths: &Paths, out: &mut dyn Write) -> Result<i32, ExitError> {
    let now = Timestamp::now();
    let mut sums = Sums::default();
    each(None, Fetch::Ahead, paths, &mut |listed| {
        if let Some(row) = Row::new(&listed) {
            sums.add(&row, now);
        }
        Ok(())
    })?;
    out.write_all(sums.text().as_bytes())
        .map_err(|e| ExitError::output(&e))?;
    Ok(0)
}

/// Ages in minutes at which a column ends; the last one has no end.
const AGES_MIN: [u64; 9] = [5, 10, 20, 40, 80, 160, 320, 640, 1280];
/// Domains and reasons that have a line of their own.
const DOMAINS: usize = 25;
const REASONS: usize = 10;

/// Envelopes by domain and age, and by reason.
#[derive(Default)]
pub(super) struct Sums {
    domains: BTreeMap<String, [u64; AGES_MIN.len() + 2]>,
    reasons: BTreeMap<String, u64>,
}

impl Sums {
    pub(super) fn add(&mut self, row: &Row, now: Timestamp) {
        let age_min = row.age_s(now.0) / 60;
        let column = AGES_MIN.iter().take_while(|end| age_min >= **end).count();
        let domain = row.domain().to_lowercase();
        let counts = self.domains.entry(domain).or_default();
        counts[0] += 1;
        counts[column + 1] += 1;
        if !row.reason.is_empty() {
            *self.reasons.entry(row.why()).or_default() += 1;
        }
    }

    pub(super) fn text(&self) -> String {
        let mut text = format!("{:>40} {:>6}", "", "T");
        for end in AGES_MIN {
            text.push_str(&format!(" {end:>5}"));
        }
        text.push_str(" 1280+\n");
        let mut total = [0; AGES_MIN.len() + 2];
        for counts in self.domains.values() {
            total.iter_mut().zip(counts).for_each(|(sum, n)| *sum += n);
        }
        let mut domains: Vec<_> = self.domains.iter().collect();
        domains.sort_by_key(|(_, counts)| std::cmp::Reverse(counts[0]));
        text.push_str(&counted("TOTAL", &total));
        for (domain, counts) in domains.iter().take(DOMAINS) {
            text.push_str(&counted(domain, *counts));
        }
        if let Some(left @ 1..) = domains.len().checked_sub(DOMAINS) {
            text.push_str(&format!("{:>40}\n", format!("and {left} more")));
        }
        let mut reasons: Vec<_> = self.reasons.iter().collect();
        reasons.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        if !reasons.is_empty() {
            text.push_str("\nreasons:\n");
        }
        for (reason, count) in reasons.iter().take(REASONS) {
            text.push_str(&format!("{count:>7} {reason}\n"));
        }
        text
    }
}

fn counted(name: &str, counts: &[u64]) -> String {
    let mut line = format!("{name:>40} {:>6}", counts[0]);
    for count in &counts[1..] {
        line.push_str(&format!(" {count:>5}"));
    }
    line + "\n"
}

/// What is done to the envelopes of a selection.
pub struct Deed {
    /// The question for one of them.
    pub ask: fn(Which) -> Ask,
    /// The word behind the count.
    pub done: &'static str,
}

/// Does it to each of them, or only says to which.
pub fn act(
    selection: &Selection,
    deed: &Deed,
    paths: &Paths,
    out: &mut dyn Write,
) -> Result<i32, ExitError> {
    let ids = chosen(selection, deed.done, paths, out)?;
    let Some(ids) = ids else { return Ok(0) };
    let ids: Vec<Which> = ids.into_iter().map(Which::Envelope).collect();
    let count = if ids.is_empty() {
        Answer::Count(0)
    } else {
        super::ask_each(&ids, deed.ask, paths)?
    };
    super::count(count, |n| plural(n, deed.done), out)
}

/// The selected ids; `None` when they were only to be shown.
fn chosen(
    selection: &Selection,
    done: &str,
    paths: &Paths,
    out: &mut dyn Write,
) -> Result<Option<Vec<EvpId>>, ExitError> {
    // A daemon that is down is told apart before anything is printed.
    drop(Client::connect(&paths.socket)?);
    let (mut ids, mut lines) = (Vec::new(), Vec::new());
    each_selected(selection, paths, &mut |row| {
        ids.extend(row.id());
        if selection.is_trial {
            lines.push(row.line);
        }
        Ok(())
    })?;
    if !selection.is_trial {
        return Ok(Some(ids));
    }
    for line in lines {
        writeln!(out, "{line}").map_err(|e| ExitError::output(&e))?;
    }
    let count = u32::try_from(ids.len()).unwrap_or(u32::MAX);
    writeln!(out, "{}", plural(count, &format!("would be {done}")))
        .map_err(|e| ExitError::output(&e))?;
    Ok(None)
}

/// `requeue` and `edit`: rules and expansion are run again, for another sender or recipient where
/// one is given.
pub fn requeue(
    selection: &Selection,
    change: &Change,
    paths: &Paths,
    out: &mut dyn Write,
) -> Result<i32, ExitError> {
    let Some(ids) = chosen(selection, "requeued", paths, out)? else {
        return Ok(0);
    };
    let mut client = Client::connect(&paths.socket)?;
    let (mut done, mut complaints) = (0, Vec::new());
    for group in ids.chunk_by(|a, b| a.msgid() == b.msgid()) {
        for ids in group.chunks(REQUEUED_AT_ONCE) {
            let ask = Ask::Requeue(ids.to_vec(), change.clone());
            match client.ask(&ask)? {
                Answer::Requeued(count, mut why) => {
                    done += count;
                    complaints.append(&mut why);
                }
                other => return super::generic(other, out),
            }
        }
    }
    super::count(Answer::Count(done), |n| plural(n, "requeued"), out)?;
    if complaints.is_empty() {
        Ok(0)
    } else {
        let lines: Vec<String> = complaints.iter().map(|line| printable(line)).collect();
        Err(ExitError::new(lines.join("\n")))
    }
}

/// Envelopes of one question: each needs expansion.
const REQUEUED_AT_ONCE: usize = 500;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::smtpctl::row::tests::listed;

    fn row(dest: &str, created: u64, reason: &str) -> Row {
        let text = format!("local|mta||a@x.org|{dest}|{dest}|{created}|9|0|2|pending|60|{reason}");
        Row::new(&listed("1a2b3c4d7f3e9a10", &text, "out")).unwrap()
    }

    #[test]
    fn a_summary_has_domains_by_age_and_the_reasons() {
        // smtpctl(8), show queue summary.
        let now = Timestamp(100_000);
        let mut sums = Sums::default();
        sums.add(&row("a@one.org", 100_000, ""), now);
        sums.add(&row("b@One.org", 100_000 - 5 * 60, "451 later"), now);
        sums.add(&row("c@two.org", 0, "451 later"), now);
        let lines: Vec<String> = sums
            .text()
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(
            lines,
            [
                "T 5 10 20 40 80 160 320 640 1280 1280+",
                "TOTAL 3 1 1 0 0 0 0 0 0 0 1",
                "one.org 2 1 1 0 0 0 0 0 0 0 0",
                "two.org 1 0 0 0 0 0 0 0 0 0 1",
                "",
                "reasons:",
                "2 451 later"
            ]
        );
    }

    #[test]
    fn people_read_who_to_whom_when_and_why() {
        // smtpctl(8), show queue -H.
        let shown = paragraph(&row("b@y.org", 100, "451 later"), Timestamp(160), false);
        assert_eq!(
            shown,
            "1a2b3c4d7f3e9a10 mta         1m     2 deferred a@x.org -> b@y.org\n\
             \x20                next try in 1m: 451 later\n"
        );
    }

    #[test]
    fn the_message_id_is_found_in_the_header() {
        let head = b"Subject: x\nmessage-id:\n <1@x.org>\n\nMessage-ID: <2@x.org>\n";
        assert_eq!(message_id(head), "1@x.org");
        assert_eq!(message_id(b"\n"), "");
    }
}
