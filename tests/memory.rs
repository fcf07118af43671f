//! How much memory the scheduler needs per queued envelope, and a pattern that is looked up again
//! and again. A program of its own, because a counting allocator counts for the whole process.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use smtpd::config::{Defaults, Sources, load};
use smtpd::mail::{EvpId, MsgId};
use smtpd::scheduler::{Class, Destination, Facts, Limits, Scheduler};
use smtpd::table::Tables;
use smtpd::util::{Line, Timestamp};

/// Bytes that are allocated now.
static LIVE: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call is handed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Held by the test that counts.
static COUNTS: Mutex<()> = Mutex::new(());

const COUNT: u32 = 100_000;
/// Half of what the queue may cost; the lines of destinations take a part of it.
const LIMIT_BYTES: usize = 160;

fn measure(id_of: impl Fn(u32) -> u32) -> usize {
    let before = LIVE.load(Relaxed);
    let mut scheduler = Scheduler::new(Limits::default());
    for n in 1..=COUNT {
        let msgid = MsgId::new(id_of(n)).expect("not zero");
        let facts = Facts {
            to: Destination(n),
            class: Class::Mta,
            created: Timestamp(1_700_000_000 + u64::from(n % 977)),
            ttl_s: 345_600,
            retry: (n % 7) as u16,
            suspended: false,
        };
        let id = EvpId::new(msgid, 1).expect("not zero");
        assert!(scheduler.insert(id, &facts, Timestamp(1_700_001_000)));
    }
    (LIVE.load(Relaxed) - before) / COUNT as usize
}

#[test]
fn an_envelope_costs_little_memory() {
    // A queue of a million envelopes is to fit into 300 MB.
    let _alone = COUNTS.lock().unwrap_or_else(PoisonError::into_inner);
    let random = measure(|n| n.wrapping_mul(2_654_435_761));
    let rising = measure(|n| n);
    println!("{random} bytes per envelope with random ids, {rising} with rising ids");
    assert!(random <= LIMIT_BYTES && rising <= LIMIT_BYTES);
}

#[test]
fn a_pattern_costs_memory_once() {
    // CVE-2020-35679: each look-up of a pattern lost some.
    let _alone = COUNTS.lock().unwrap_or_else(PoisonError::into_inner);
    let text = "table \"t\" { \"^a+b.*@example\\.org$\", \"x{3}\" }\n\
                action \"a\" mbox\nmatch from src regex <t> for any action \"a\"\n";
    let sources = Sources::from_text("t", text, &[]);
    let defaults = Defaults {
        server_name: Line::new("mx.example.org").expect("a line"),
        addresses: Vec::new(),
    };
    let config = load(&sources, &defaults).expect("a configuration").config;
    let tables = Tables::load(&config, &sources).expect("tables");
    let look_up = |times: usize| {
        for n in 0..times {
            let found = tables.regex("t", &format!("{}b{n}@example.org", "a".repeat(n % 50)));
            assert_eq!(found.expect("an answer"), n % 50 > 0);
        }
    };
    look_up(1000);
    let before = LIVE.load(Relaxed);
    look_up(100_000);
    let after = LIVE.load(Relaxed);
    assert!(
        after <= before + 4096,
        "{before} bytes before, {after} after"
    );
}
