//! `show stats` and `monitor`: counters once, and their differences every second.

use std::collections::BTreeMap;
use std::io::Write;
use std::thread;

use crate::cli::exit_error::ExitError;
use crate::control::client::{Client, Error};
use crate::control::{Answer, Ask};
use crate::util::time::Duration;

/// Prints `KEY=VALUE` in byte order of the keys; the uptime comes last, twice.
pub fn show_stats(answer: Answer, out: &mut dyn Write) -> Result<i32, ExitError> {
    let mut stats = counters(answer)?;
    let uptime_s = stats.remove(UPTIME).unwrap_or(0);
    let print = |out: &mut dyn Write| {
        for (key, value) in &stats {
            writeln!(out, "{}={value}", super::printable(key))?;
        }
        writeln!(out, "{UPTIME}={uptime_s}")?;
        let human = Duration(u64::try_from(uptime_s).unwrap_or(0));
        writeln!(out, "{UPTIME}.human={human}")
    };
    print(out).map_err(|e| ExitError::output(&e))?;
    Ok(0)
}

/// Prints a line every second until standard output or the daemon goes.
pub fn run(client: &mut Client, out: &mut dyn Write) -> Result<i32, ExitError> {
    let mut last = Digest::default();
    for count in (0..LINES_PER_HEADER).cycle() {
        let digest = Digest::of(&counters(client.ask(&Ask::Stats)?)?);
        let mut text = String::new();
        if count == 0 {
            text.push_str(if last.started { "\n" } else { "" });
            text.push_str(HEADER);
        }
        text.push_str(&digest.line(&last));
        out.write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .map_err(|e| ExitError::output(&e))?;
        last = digest;
        thread::sleep(std::time::Duration::from_secs(1));
    }
    Ok(0)
}

const UPTIME: &str = "uptime";
const LINES_PER_HEADER: u32 = 25;
const HEADER: &str = "\
--- client ---  -- envelope --   ---- relay/delivery --- ------- misc -------
curr conn disc  curr  enq  deq   ok tmpfail prmfail loop expire remove bounce
";

/// Keys and values.
pub type Stats = BTreeMap<String, i64>;

/// What is in an answer to `Ask::Stats`.
pub fn counters(answer: Answer) -> Result<Stats, ExitError> {
    match answer {
        Answer::Stats(list) => Ok(list.into_iter().collect()),
        Answer::Fail(why) => Err(Error::Refused(super::printable(&why)).into()),
        _ => Err(Error::Unexpected.into()),
    }
}

/// Totals since the daemon's start, and two gauges.
#[derive(Clone, Debug, Default)]
struct Digest {
    started: bool,
    sessions: i64,
    connected: i64,
    envelopes: i64,
    ok: i64,
    tempfail: i64,
    permfail: i64,
    looped: i64,
    expired: i64,
    removed: i64,
    bounced: i64,
}

impl Digest {
    fn of(stats: &BTreeMap<String, i64>) -> Digest {
        let value = |key: &str| stats.get(key).copied().unwrap_or(0);
        Digest {
            started: true,
            sessions: value("smtp.session"),
            connected: value("smtp.session.inet4")
                .saturating_add(value("smtp.session.inet6"))
                .saturating_add(value("smtp.session.local")),
            envelopes: value("scheduler.envelope"),
            ok: value("scheduler.delivery.ok"),
            tempfail: value("scheduler.delivery.tempfail"),
            permfail: value("scheduler.delivery.permfail"),
            looped: value("scheduler.delivery.loop"),
            expired: value("scheduler.envelope.expired"),
            removed: value("scheduler.envelope.removed"),
            bounced: value("queue.bounce"),
        }
    }

    fn disconnected(&self) -> i64 {
        self.connected.saturating_sub(self.sessions)
    }

    /// Every way out of the queue.
    fn dequeued(&self) -> i64 {
        [
            self.ok,
            self.permfail,
            self.looped,
            self.expired,
            self.removed,
        ]
        .into_iter()
        .fold(0, i64::saturating_add)
    }

    fn enqueued(&self) -> i64 {
        self.envelopes.saturating_add(self.dequeued())
    }

    fn line(&self, last: &Digest) -> String {
        // Threads count one after the other; a difference seen half-way is not worth a sign.
        let since = |now: i64, then: i64| now.saturating_sub(then).max(0);
        format!(
            "{:4} {:4} {:4}  {:4} {:4} {:4} {:4}    {:4}    {:4} {:4}   {:4}   {:4}   {:4}\n",
            self.sessions.max(0),
            since(self.connected, last.connected),
            since(self.disconnected(), last.disconnected()),
            self.envelopes.max(0),
            since(self.enqueued(), last.enqueued()),
            since(self.dequeued(), last.dequeued()),
            since(self.ok, last.ok),
            since(self.tempfail, last.tempfail),
            since(self.permfail, last.permfail),
            since(self.looped, last.looped),
            since(self.expired, last.expired),
            since(self.removed, last.removed),
            since(self.bounced, last.bounced),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(list: &[(&str, i64)]) -> Answer {
        Answer::Stats(list.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect())
    }

    fn digest(list: &[(&str, i64)]) -> Digest {
        Digest::of(&counters(stats(list)).unwrap())
    }

    #[test]
    fn stats_are_sorted_and_end_in_the_uptime() {
        // smtpctl(8), show stats: byte order; the last two lines are uptime and uptime.human.
        let answer = stats(&[
            ("uptime", 93_784),
            ("smtp.session", 1),
            ("control.session", -1),
            ("smtp.session.local", 3),
        ]);
        let mut out = Vec::new();
        assert_eq!(show_stats(answer, &mut out), Ok(0));
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "control.session=-1\nsmtp.session=1\nsmtp.session.local=3\n\
             uptime=93784\nuptime.human=1d2h3m4s\n"
        );
    }

    #[test]
    fn a_monitor_line_shows_gauges_and_differences() {
        // smtpctl(8), monitor: `curr` columns are absolute, the others relative to the last line.
        let first = digest(&[
            ("smtp.session", 2),
            ("smtp.session.inet4", 5),
            ("smtp.session.local", 7),
            ("scheduler.envelope", 3),
            ("scheduler.delivery.ok", 4),
        ]);
        assert_eq!(
            first.line(&Digest::default()),
            "   2   12   10     3    7    4    4       0       0    0      0      0      0\n"
        );
        let second = digest(&[
            ("smtp.session", 1),
            ("smtp.session.inet4", 5),
            ("smtp.session.inet6", 1),
            ("smtp.session.local", 7),
            ("scheduler.envelope", 4),
            ("scheduler.delivery.ok", 5),
            ("scheduler.delivery.tempfail", 12),
            ("scheduler.delivery.permfail", 1),
            ("scheduler.delivery.loop", 1),
            ("scheduler.envelope.expired", 1),
            ("scheduler.envelope.removed", 1),
            ("queue.bounce", 3),
        ]);
        assert_eq!(
            second.line(&first),
            "   1    1    2     4    6    5    1      12       1    1      1      1      3\n"
        );
    }
}
