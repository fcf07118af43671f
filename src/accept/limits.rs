//! Every bound of the event loop in one place.

use std::time::Duration;

use crate::sys::descriptors;

/// Bounds of the event loop. The defaults are lenient: no client that behaves meets them.
#[derive(Clone, Debug)]
pub struct Limits {
    /// TCP sessions at a time; from then on connections wait in the backlog.
    pub sessions: usize,
    /// Sessions of the loopback network at a time; for other sources see
    /// [`Door::most_per_source`](super::Door::most_per_source).
    pub sessions_per_loopback: usize,
    /// Sessions over the control socket of one user at a time.
    pub sessions_per_uid: usize,
    /// Control connections at a time, root's and our own user's not counted.
    pub controls: usize,
    /// Control connections of one user at a time.
    pub controls_per_uid: usize,
    /// Descriptors this process may have; a connection that gets one of the last
    /// [`Limits::descriptor_reserve`] is refused, so that the spool can go on.
    pub descriptors: usize,
    /// See [`Limits::descriptors`].
    pub descriptor_reserve: usize,
    /// Connections taken from one listener before the loop looks at something else.
    pub accept_burst: usize,
    /// Turns of reading and writing before a worker passes a busy session to the end of its line.
    pub turns: usize,
    /// Time after which it does the same.
    pub slice: Duration,
    /// Bytes read in one turn.
    pub read_bytes: usize,
    /// How long a peer may be silent, or take nothing.
    pub inactivity: Duration,
    /// How long a peer may go on without a reply of ours or [`Limits::stall_bytes`] of its own.
    pub stall: Duration,
    /// See [`Limits::stall`].
    pub stall_bytes: usize,
    /// How long the banner waits for the peer's name.
    pub resolve: Duration,
    /// The same where filters or rules look at it: until name servers that are dead, or slow, have
    /// had their time, and another one has been asked.
    pub resolve_needed: Duration,
    /// How long a session waits for tables, rules and users before the client is refused.
    pub lookup: Duration,
    /// How long it waits for a password to be checked.
    pub password: Duration,
    /// How long a TLS handshake, or the header of a proxy, may take.
    pub prelude: Duration,
    /// How long it waits for the disk.
    pub store: Duration,
    /// How long a control client may take to finish a frame or to read an answer.
    pub frame: Duration,
    /// How long a control client may be silent between frames.
    pub control_idle: Duration,
    /// How long we wait before we try again when descriptors have run out.
    pub retry: Duration,
    /// How long a shutdown may take.
    pub shutdown: Duration,
}

impl Limits {
    /// The defaults, with sessions after the descriptors that this process may still open: each
    /// needs one for its socket and one for the message it sends.
    pub fn of_this_process() -> Limits {
        let limits = Limits::default();
        let Ok(descriptors) = descriptors::limit() else {
            return limits;
        };
        let free = descriptors.saturating_sub(descriptors::open_count());
        Limits {
            sessions: (free / 2)
                .saturating_sub(limits.descriptor_reserve)
                .clamp(1, MAX_SESSIONS),
            descriptors,
            ..limits
        }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            sessions: MAX_SESSIONS,
            sessions_per_loopback: usize::MAX,
            sessions_per_uid: 100,
            controls: 256,
            controls_per_uid: 32,
            descriptors: usize::MAX,
            descriptor_reserve: 5,
            accept_burst: 64,
            turns: 16,
            slice: Duration::from_millis(5),
            read_bytes: 64 * 1024,
            inactivity: Duration::from_secs(300),
            stall: Duration::from_secs(3600),
            stall_bytes: 64 * 1024,
            resolve: Duration::from_secs(5),
            resolve_needed: Duration::from_secs(20),
            lookup: Duration::from_secs(60),
            password: Duration::from_secs(60),
            prelude: Duration::from_secs(60),
            store: Duration::from_secs(300),
            frame: Duration::from_secs(30),
            control_idle: Duration::from_secs(300),
            retry: Duration::from_secs(1),
            shutdown: Duration::from_secs(5),
        }
    }
}

/// A process without a limit on descriptors still has one on sessions.
const MAX_SESSIONS: usize = 100_000;
