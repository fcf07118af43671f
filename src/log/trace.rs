//! `-T`: what is traced, as a set of bits; and what is traced of some clients and hosts alone.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{PoisonError, RwLock};

use crate::mail::Peer;

/// One thing that can be traced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Trace {
    /// Frames between parent and engine.
    Imsg = 1,
    /// Bytes in and out.
    Io = 1 << 1,
    Smtp = 1 << 2,
    Filters = 1 << 3,
    Mta = 1 << 4,
    Bounce = 1 << 5,
    Scheduler = 1 << 6,
    Lookup = 1 << 7,
    Stat = 1 << 8,
    Rules = 1 << 9,
    Mproc = 1 << 10,
    Expand = 1 << 11,
    Tables = 1 << 12,
    Queue = 1 << 13,
    /// `profile imsg`.
    ProfileImsg = 1 << 14,
    /// `profile queue`.
    ProfileQueue = 1 << 15,
}

/// What `-T word` switches on; `None` for a word that means nothing. `profstat`, a back end of
/// OpenSMTPD, is known and does nothing.
pub fn bits(word: &str) -> Option<u32> {
    let trace = match word {
        "imsg" => Trace::Imsg,
        "io" => Trace::Io,
        "smtp" => Trace::Smtp,
        "filters" => Trace::Filters,
        "mta" | "transfer" => Trace::Mta,
        "bounce" | "bounces" => Trace::Bounce,
        "scheduler" => Trace::Scheduler,
        "lookup" => Trace::Lookup,
        "stat" | "stats" => Trace::Stat,
        "rules" => Trace::Rules,
        "mproc" => Trace::Mproc,
        "expand" => Trace::Expand,
        "table" | "tables" => Trace::Tables,
        "queue" => Trace::Queue,
        "all" => return Some((1 << 14) - 1),
        "profile-imsg" => Trace::ProfileImsg,
        "profile-queue" => Trace::ProfileQueue,
        "profstat" => return Some(0),
        _ => return None,
    };
    Some(trace as u32)
}

/// Sets what is traced, of everybody.
pub fn set(bits: u32) {
    ON.store(bits, Relaxed);
    end_limited(u32::MAX);
}

/// Adds to what is traced of everybody; or takes away from it, and from what is traced of some.
pub fn change(bits: u32, on: bool) {
    if on {
        ON.fetch_or(bits, Relaxed);
    } else {
        ON.fetch_and(!bits, Relaxed);
        end_limited(bits);
    }
}

/// Whether `what` is traced of everybody: ask before a costly line is put together.
pub fn wanted(what: Trace) -> bool {
    ON.load(Relaxed) & what as u32 != 0
}

/// Whether `what` is traced of this one.
pub fn wanted_of(what: Trace, subject: &Subject<'_>) -> bool {
    let bit = what as u32;
    if ON.load(Relaxed) & bit != 0 {
        return true;
    }
    if LIMITED_BITS.load(Relaxed) & bit == 0 {
        return false;
    }
    let limited = LIMITED.read().unwrap_or_else(PoisonError::into_inner);
    limited
        .iter()
        .any(|limited| limited.bits & bit != 0 && (limited.is_about)(subject))
}

/// Traces this, too, of everybody whom `is_about` accepts. False when there are
/// [`LIMITED_MAX`] of these already.
pub fn limit(bits: u32, is_about: IsAbout) -> bool {
    let mut limited = LIMITED.write().unwrap_or_else(PoisonError::into_inner);
    if limited.len() >= LIMITED_MAX {
        return false;
    }
    limited.push(Limited { bits, is_about });
    LIMITED_BITS.fetch_or(bits, Relaxed);
    true
}

/// Whom a traced line is about.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'s> {
    /// The client of a session, or the host that mail is sent to.
    pub peer: &'s Peer,
    /// The tag of the listener that the client came by.
    pub tag: Option<&'s str>,
}

/// Whether a limited trace is about this one.
pub type IsAbout = Box<dyn Fn(&Subject<'_>) -> bool + Send + Sync>;

/// How many limited traces there may be: each line is held against all of them.
pub const LIMITED_MAX: usize = 16;

/// What is known of clients: the traces that can be limited to some of them.
pub const OF_CLIENTS: u32 = Trace::Io as u32
    | Trace::Smtp as u32
    | Trace::Filters as u32
    | Trace::Rules as u32
    | Trace::Lookup as u32
    | Trace::Expand as u32;
/// The traces that can be limited to hosts that mail is sent to.
pub const OF_HOSTS: u32 = Trace::Mta as u32;

struct Limited {
    bits: u32,
    is_about: IsAbout,
}

fn end_limited(bits: u32) {
    let mut limited = LIMITED.write().unwrap_or_else(PoisonError::into_inner);
    limited.retain_mut(|limited| {
        limited.bits &= !bits;
        limited.bits != 0
    });
    LIMITED_BITS.fetch_and(!bits, Relaxed);
}

static ON: AtomicU32 = AtomicU32::new(0);
/// What any of [`LIMITED`] traces.
static LIMITED_BITS: AtomicU32 = AtomicU32::new(0);
static LIMITED: RwLock<Vec<Limited>> = RwLock::new(Vec::new());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_of_the_manual_is_known() {
        // smtpd(8), -T.
        for word in "imsg io smtp filters mta transfer bounce bounces scheduler lookup stat stats \
                     rules mproc expand table tables queue"
            .split_whitespace()
        {
            assert_eq!(bits(word).unwrap().count_ones(), 1, "{word}");
            assert_eq!(
                bits("all").unwrap() & bits(word).unwrap(),
                bits(word).unwrap()
            );
        }
        assert_eq!(bits("profstat"), Some(0));
        assert_eq!(bits("nonsense"), None);
    }

    #[test]
    fn a_limited_trace_is_about_some_until_it_ends() {
        // smtpctl(8), trace: `from` limits it to these clients; untrace ends it.
        let (near, far) = (Peer::Local, Peer::parse("192.0.2.1").unwrap());
        let of = |peer| {
            let tag = None;
            wanted_of(Trace::Io, &Subject { peer, tag })
        };
        let local = |subject: &Subject<'_>| *subject.peer == Peer::Local;
        let bits = Trace::Io as u32 | Trace::Filters as u32;
        assert!(limit(bits, Box::new(local)));
        assert!(of(&near) && !of(&far) && !wanted(Trace::Io));
        change(Trace::Filters as u32, false);
        assert!(of(&near));
        change(Trace::Io as u32, false);
        assert!(!of(&near));
        for _ in 0..LIMITED_MAX {
            assert!(limit(bits, Box::new(local)));
        }
        assert!(!limit(bits, Box::new(local)));
        change(bits, false);
        assert!(LIMITED.read().unwrap().is_empty());
    }
}
