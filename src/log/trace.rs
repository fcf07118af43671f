//! `-T`: what is traced, as a set of bits.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

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
}

/// What `-T word` switches on; `None` for a word that means nothing. The profiling words of
/// smtpd(8) are known and do nothing.
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
        "profstat" | "profile-imsg" | "profile-queue" => return Some(0),
        _ => return None,
    };
    Some(trace as u32)
}

/// Sets what is traced.
pub fn set(bits: u32) {
    ON.store(bits, Relaxed);
}

/// Adds to what is traced, or takes away from it.
pub fn change(bits: u32, on: bool) {
    match on {
        true => ON.fetch_or(bits, Relaxed),
        false => ON.fetch_and(!bits, Relaxed),
    };
}

/// Whether `what` is traced: ask before a costly line is put together.
pub fn wanted(what: Trace) -> bool {
    ON.load(Relaxed) & what as u32 != 0
}

static ON: AtomicU32 = AtomicU32::new(0);

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
}
