//! How much memory the scheduler needs per queued envelope. A program of its own, because a
//! counting allocator counts for the whole process.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use smtpd::mail::{EvpId, MsgId};
use smtpd::scheduler::{Class, Destination, Facts, Limits, Scheduler};
use smtpd::util::Timestamp;

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
    let random = measure(|n| n.wrapping_mul(2_654_435_761));
    let rising = measure(|n| n);
    println!("{random} bytes per envelope with random ids, {rising} with rising ids");
    assert!(random <= LIMIT_BYTES && rising <= LIMIT_BYTES);
}
