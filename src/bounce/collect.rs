//! Gathers bounce envelopes that belong into one report.
//!
//! A group is one message, one receiving name and one kind of news. It waits a second after its
//! last addition, so that the recipients of a message that fail together are told of together, but
//! never more than a few seconds in all. A pure structure: time comes in as milliseconds of any
//! clock that does not go back.

use std::collections::HashMap;

use crate::mail::{BounceKind, Envelope, Kind, MsgId, Ret};
use crate::util::Line;

/// How long a group waits after an addition.
const QUIET_MS: u64 = 1000;
/// How long it waits in all.
const LONGEST_MS: u64 = 5000;

/// Envelopes of one report, in the order they came; never empty.
#[derive(Debug)]
pub struct Group {
    pub envelopes: Vec<Envelope>,
    first_ms: u64,
    last_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    message: MsgId,
    smtpname: Line,
    kind: BounceKind,
    ret: Option<Ret>,
}

/// Groups that are waiting.
#[derive(Default)]
pub struct Collector {
    groups: HashMap<Key, Group>,
}

impl Collector {
    /// Adds an envelope to its group.
    pub fn add(&mut self, envelope: Envelope, now_ms: u64) {
        let key = Key {
            message: envelope.id.msgid(),
            smtpname: envelope.smtpname.clone(),
            kind: kind_of(&envelope),
            ret: envelope.dsn.ret,
        };
        let group = self.groups.entry(key).or_insert_with(|| Group {
            envelopes: Vec::new(),
            first_ms: now_ms,
            last_ms: now_ms,
        });
        group.envelopes.push(envelope);
        group.last_ms = now_ms;
    }

    /// A group that has waited long enough, the one that is due longest first.
    pub fn ready(&mut self, now_ms: u64) -> Option<Group> {
        let key = self
            .groups
            .iter()
            .filter(|(_, group)| group.due_ms() <= now_ms)
            .min_by_key(|(_, group)| group.due_ms())
            .map(|(key, _)| key.clone())?;
        self.groups.remove(&key)
    }

    /// When the next group is ready.
    pub fn next_event(&self) -> Option<u64> {
        self.groups.values().map(Group::due_ms).min()
    }

    /// How many reports are being collected.
    pub fn groups(&self) -> usize {
        self.groups.len()
    }
}

impl Group {
    fn due_ms(&self) -> u64 {
        (self.last_ms + QUIET_MS).min(self.first_ms + LONGEST_MS)
    }
}

/// What a bounce envelope tells. Anything else that came here by mistake is a failure.
pub(super) fn kind_of(envelope: &Envelope) -> BounceKind {
    match envelope.kind {
        Kind::Bounce(kind) => kind,
        Kind::Local(_) | Kind::Relay => BounceKind::Failed,
    }
}
