//! What the scheduler remembers of one envelope: a few words, no text.

use crate::util::Timestamp;

use super::{Class, Destination};

/// Where an envelope stands. It is in exactly one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Waits for its time (or, suspended, for the administrator).
    Pending,
    /// Due, in the line of its class.
    Scheduled,
    /// Handed out; its outcome is awaited.
    Inflight,
    /// On a hold queue of the agent that had too many.
    Held,
}

/// One envelope. Kept small: there may be millions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub created: Timestamp,
    /// The next attempt.
    pub next: Timestamp,
    pub spot: Spot,
    pub ttl_s: u32,
    pub retry: u16,
    pub class: Class,
    pub to: Destination,
    pub marks: Marks,
}

/// The state of an envelope with what is needed to find it in the index of that state.
#[derive(Clone, Copy, Debug)]
pub(super) enum Spot {
    Pending,
    Scheduled { since: Timestamp, ticket: u64 },
    Inflight { since: Timestamp, from: Lane },
    Held { key: u64, ticket: u64 },
}

/// Flags of an envelope, beside its state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks(u8);

impl Marks {
    /// Paused by the administrator.
    pub const SUSPENDED: u8 = 1;
    /// To be removed without a bounce.
    pub const REMOVED: u8 = 2;
    /// Its life time is over.
    pub const EXPIRED: u8 = 4;
    /// Nobody can settle it now; it waits for the administrator or its expiry.
    pub const PARKED: u8 = 8;

    /// Whether any of these is set.
    pub fn has(self, bits: u8) -> bool {
        self.0 & bits != 0
    }

    /// Sets these, whichever are set already.
    pub fn set(&mut self, bits: u8) {
        self.0 |= bits;
    }

    /// Takes these away.
    pub fn clear(&mut self, bits: u8) {
        self.0 &= !bits;
    }
}

/// The lines in which due envelopes wait, in the order a batch visits them: first attempts apart
/// from later ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    Removed,
    Expired,
    Bounce,
    BounceAgain,
    Mda,
    MdaAgain,
    Mta,
    MtaAgain,
}

impl Lane {
    /// Every line, in the order of a batch.
    pub const ALL: [Lane; 8] = [
        Lane::Removed,
        Lane::Expired,
        Lane::Bounce,
        Lane::BounceAgain,
        Lane::Mda,
        Lane::MdaAgain,
        Lane::Mta,
        Lane::MtaAgain,
    ];

    /// The two lines of a class.
    pub fn of(class: Class) -> [Lane; 2] {
        match class {
            Class::Bounce => [Lane::Bounce, Lane::BounceAgain],
            Class::Mda => [Lane::Mda, Lane::MdaAgain],
            Class::Mta => [Lane::Mta, Lane::MtaAgain],
        }
    }

    /// Whether it is for attempts after the first.
    pub fn is_again(self) -> bool {
        matches!(self, Lane::BounceAgain | Lane::MdaAgain | Lane::MtaAgain)
    }

    /// Whether what is handed out goes somewhere.
    pub fn has_destinations(self) -> bool {
        matches!(
            self,
            Lane::Mda | Lane::MdaAgain | Lane::Mta | Lane::MtaAgain
        )
    }
}

impl Entry {
    /// The state in which listings show it.
    pub fn state(&self) -> State {
        match self.spot {
            Spot::Pending => State::Pending,
            Spot::Scheduled { .. } => State::Scheduled,
            Spot::Inflight { .. } => State::Inflight,
            Spot::Held { .. } => State::Held,
        }
    }

    /// When its life time is over.
    pub fn expire(&self) -> Timestamp {
        self.created.plus(u64::from(self.ttl_s))
    }

    /// When the scheduler must look at it again, while it is pending.
    pub fn wake(&self) -> Timestamp {
        self.next.min(self.expire())
    }

    /// Whether the administrator has suspended it.
    pub fn is_suspended(&self) -> bool {
        self.marks.has(Marks::SUSPENDED)
    }

    /// Whether it is on its way out and hidden from listings.
    pub fn is_leaving(&self) -> bool {
        self.marks.has(Marks::REMOVED | Marks::EXPIRED)
    }

    /// The line in which it waits when it is due.
    pub fn lane(&self) -> Lane {
        if self.marks.has(Marks::REMOVED) {
            return Lane::Removed;
        }
        if self.marks.has(Marks::EXPIRED) {
            return Lane::Expired;
        }
        let [first, again] = Lane::of(self.class);
        if self.retry == 0 { first } else { again }
    }
}
