//! The lines of `smtpctl show queue`, as many as fit an answer.

use crate::control::listing::{self, Standing};
use crate::control::message::{Listed, MAX_FRAME};
use crate::control::summary::Summary;
use crate::mail::{Envelope, EvpId};
use crate::queue::{LoadError, Queue};
use crate::scheduler::{Class, Holding, Row, State};
use crate::util::{Line, Timestamp};

use super::Policy;

/// Envelopes of one answer: most answers have room for all of them, so that none is read in vain.
pub(super) const PAGE: usize = 2 * SHARE;
/// Envelopes that one thread reads.
const SHARE: usize = 256;
/// Bytes of one answer: a frame with room for its own fields.
const PAGE_BYTES: usize = MAX_FRAME / 2;
/// What a listed envelope costs in a frame beside its text.
const ROW_BYTES: usize = 32;

/// One envelope to list, and what is said of it where the runner knows that.
pub(super) type Wanted = (Row, Option<Summary>);

/// The lines of as many envelopes as fit into an answer. What has gone meanwhile is left out.
pub(super) fn lines(
    wanted: Vec<Wanted>,
    queue: &Queue,
    policy: &Policy,
    now: Timestamp,
) -> Vec<Listed> {
    let mut lines = Vec::with_capacity(wanted.len());
    let mut size_bytes = 0;
    for listed in in_parallel(&wanted, |share| these(share, queue, policy, now)) {
        size_bytes += listed.text.len() + listed.action.len() + listed.remote.len() + ROW_BYTES;
        if size_bytes > PAGE_BYTES && !lines.is_empty() {
            break;
        }
        lines.push(listed);
    }
    lines
}

fn these(share: &[Wanted], queue: &Queue, policy: &Policy, now: Timestamp) -> Vec<Listed> {
    let absent = share.iter().filter(|(_, summary)| summary.is_none());
    let absent: Vec<EvpId> = absent.map(|(row, _)| row.id).collect();
    let mut loaded = queue.load_these(&absent).into_iter();
    let listed = |(row, summary): &Wanted| match summary {
        Some(summary) => Some(line(row, summary.clone(), now)),
        None => read(row, loaded.next()?, policy, now),
    };
    share.iter().filter_map(listed).collect()
}

/// The line of an envelope that was read.
fn read(
    row: &Row,
    envelope: Result<Envelope, LoadError>,
    policy: &Policy,
    now: Timestamp,
) -> Option<Listed> {
    let unreadable = |why: &str| Listed {
        id: row.id,
        text: unreadable(row, why, now),
        action: String::new(),
        remote: String::new(),
    };
    Some(match envelope {
        Ok(mut envelope) => {
            explain(row, &mut envelope, policy);
            line(row, Summary::of(&envelope), now)
        }
        Err(LoadError::Missing) => return None,
        Err(LoadError::Corrupt(why)) => unreadable(&why),
        Err(LoadError::Io(error)) => unreadable(&error.to_string()),
    })
}

/// What `work` makes of the items, in their order; several threads share a large number.
fn in_parallel<A: Sync, B: Send>(items: &[A], work: impl Fn(&[A]) -> Vec<B> + Sync) -> Vec<B> {
    let work = &work;
    let (first, rest) = items.split_at(items.len().min(SHARE));
    std::thread::scope(|scope| {
        let helpers: Vec<_> = rest
            .chunks(SHARE)
            .map(|share| {
                let helper = std::thread::Builder::new().name("list".to_owned());
                (share, helper.spawn_scoped(scope, move || work(share)))
            })
            .collect();
        let mut made = work(first);
        for (share, helper) in helpers {
            made.extend(match helper.map(|helper| helper.join()) {
                Ok(Ok(theirs)) => theirs,
                // No thread to be had.
                _ => work(share),
            });
        }
        made
    })
}

/// Says of what nobody can settle why that is so.
fn explain(row: &Row, envelope: &mut Envelope, policy: &Policy) {
    if row.hold == Holding::Parked
        && let Some(misfit) = policy.misfit(envelope)
    {
        let why = misfit.text(&envelope.action);
        envelope.errorline = Some(Line::sanitize(why.as_bytes()));
    }
}

fn line(row: &Row, mut summary: Summary, now: Timestamp) -> Listed {
    summary.flags.suspended = row.suspended;
    listing::listed(row.id, &summary, &standing(row, summary.last_try, now))
}

fn unreadable(row: &Row, why: &str, now: Timestamp) -> String {
    listing::unreadable(class(row.class), &standing(row, Timestamp(0), now), why)
}

fn standing(row: &Row, last_try: Timestamp, now: Timestamp) -> Standing {
    let (state, last_try) = match row.state {
        State::Inflight => {
            let for_s = now.since(row.at);
            (listing::State::Inflight { for_s }, row.at)
        }
        _ => {
            let until = i128::from(row.at.0) - i128::from(now.0);
            let in_s = i64::try_from(until).unwrap_or(i64::MAX);
            (listing::State::Pending { in_s }, last_try)
        }
    };
    Standing {
        expires: row.expire,
        last_try,
        held: row.hold != Holding::No,
        state,
    }
}

fn class(class: Class) -> &'static str {
    match class {
        Class::Bounce => "bounce",
        Class::Mda => "mda",
        Class::Mta => "mta",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_is_shared_keeps_its_order() {
        for count in [0, 1, SHARE, SHARE + 1, PAGE] {
            let items: Vec<usize> = (0..count).collect();
            let odd = in_parallel(&items, |share| {
                share.iter().copied().filter(|n| n % 2 == 1).collect()
            });
            assert!(odd.iter().copied().eq((0..count).filter(|n| n % 2 == 1)));
        }
    }
}
