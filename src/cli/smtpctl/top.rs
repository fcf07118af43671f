//! `top`: what the daemon is doing, as it changes.
//!
//! On a terminal each picture takes the place of the last one; anywhere else they follow each
//! other.

use std::io::{IsTerminal, Write};
use std::thread;
use std::time::{Duration, Instant};

use crate::cli::exit_error::ExitError;
use crate::config::paths::Paths;
use crate::control::client::Client;
use crate::control::message::Listing;
use crate::control::{Answer, Ask};
use crate::util::Timestamp;

use super::monitor::{Stats, counters};
use super::queue::Sums;
use super::row::Row;

/// How often it looks.
const EVERY: Duration = Duration::from_secs(2);
/// Envelopes that are looked at for the domains: reading more would be work for the daemon.
const ENVELOPES_MAX: usize = 10_000;
/// Lines of relays.
const RELAYS: usize = 8;

/// Until standard output or the daemon goes.
pub fn run(paths: &Paths, out: &mut dyn Write) -> Result<i32, ExitError> {
    let is_terminal = std::io::stdout().is_terminal();
    let mut client = Client::connect(&paths.socket)?;
    let mut last: Option<(Instant, Stats)> = None;
    loop {
        let stats = counters(client.ask(&Ask::Stats)?)?;
        let now = Instant::now();
        let since = last.as_ref().map(|(at, stats)| (now - *at, stats));
        let mut text = head(&stats, since);
        text.push_str(&domains(&mut client)?);
        text.push_str(&relays(&mut client)?);
        // Clear, and go to the first column of the first line.
        let (before, after) = if is_terminal {
            ("\x1b[H\x1b[2J", "")
        } else {
            ("", "\n")
        };
        write!(out, "{before}{text}{after}")
            .and_then(|()| out.flush())
            .map_err(|e| ExitError::output(&e))?;
        last = Some((now, stats));
        thread::sleep(EVERY);
    }
}

/// What is there, and how fast it changes.
fn head(stats: &Stats, since: Option<(Duration, &Stats)>) -> String {
    let value = |key: &str| stats.get(key).copied().unwrap_or(0);
    let rate = |keys: &[&str]| {
        let Some((passed, before)) = since else {
            return "-".to_owned();
        };
        let more: i64 = keys
            .iter()
            .map(|key| value(key).saturating_sub(before.get(*key).copied().unwrap_or(0)))
            .sum();
        format!("{:.1}/s", more as f64 / passed.as_secs_f64().max(0.001))
    };
    const SESSIONS: [&str; 3] = [
        "smtp.session.inet4",
        "smtp.session.inet6",
        "smtp.session.local",
    ];
    format!(
        "sessions {} ({})  out {}  queue {} in {} messages, {} in flight, {} held\n\
         delivered {} ({})  deferred {} ({})  failed {} ({})\n\n",
        value("smtp.session"),
        rate(&SESSIONS),
        value("mta.session"),
        value("scheduler.envelope"),
        value("scheduler.ramqueue.message"),
        value("scheduler.envelope.inflight"),
        value("scheduler.ramqueue.hold"),
        value("scheduler.delivery.ok"),
        rate(&["scheduler.delivery.ok"]),
        value("scheduler.delivery.tempfail"),
        rate(&["scheduler.delivery.tempfail"]),
        value("scheduler.delivery.permfail"),
        rate(&["scheduler.delivery.permfail"]),
    )
}

fn domains(client: &mut Client) -> Result<String, ExitError> {
    let (now, mut sums) = (Timestamp::now(), Sums::default());
    for listed in client.list(None).take(ENVELOPES_MAX) {
        let mut listed = listed?;
        listed.text = super::printable(&listed.text);
        if let Some(row) = Row::new(&listed) {
            sums.add(&row, now);
        }
    }
    Ok(sums.text())
}

/// Relays with mail that waits, the most first.
fn relays(client: &mut Client) -> Result<String, ExitError> {
    let Answer::Lines(lines) = client.ask(&Ask::Relaying(Listing::Relays, 0))? else {
        return Ok(String::new());
    };
    let waiting = |line: &String| {
        let count = line.split("ntask=").nth(1)?.split(' ').next()?;
        let count: u64 = count.parse().ok()?;
        (count > 0).then(|| (count, super::printable(line)))
    };
    let mut lines: Vec<(u64, String)> = lines.iter().filter_map(waiting).collect();
    lines.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
    let mut text = String::new();
    for (_, line) in lines.iter().take(RELAYS) {
        text.push_str(if text.is_empty() { "\nrelays:\n" } else { "" });
        text.push_str(&format!("  {line}\n"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_the_time_that_has_passed() {
        // smtpctl(8), top.
        let stats = |ok: i64| Stats::from([("scheduler.delivery.ok".to_owned(), ok)]);
        assert!(head(&stats(30), None).contains("delivered 30 (-)"));
        let before = stats(10);
        let since = Some((Duration::from_secs(2), &before));
        assert!(head(&stats(30), since).contains("delivered 30 (10.0/s)"));
    }
}
