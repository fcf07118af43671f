//! What is known of envelopes without the disk: a few are kept whole, as they are wanted soon, and of
//! the others there is what `show queue` says of them.
//!
//! Only a convenience: what is not here is read. When it is full, newcomers are not kept: of those
//! kept whole, because the oldest are wanted first; of the others, because none is better than another.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use crate::control::summary::{Common, Summary};
use crate::mail::{Envelope, EvpId};

/// Most envelopes that are kept whole.
const WHOLE_MAX: usize = 1024;
/// Memory for summaries: enough for a hundred thousand and more. A longer queue costs no more.
const SUMMARIES_MAX_BYTES: usize = 32 << 20;
/// Places for what summaries have in common with earlier ones.
const COMMON_MAX: usize = 1024;

/// Envelopes by id. What is whole equals what is on the disk; a summary says what was last to be
/// written there.
#[derive(Default)]
pub(super) struct Cache {
    whole: HashMap<EvpId, Envelope>,
    summaries: HashMap<EvpId, Summary>,
    /// What all summaries take, at the most.
    bytes: usize,
    commons: Commons,
}

/// The last summaries' common part, each at a place that its contents choose.
#[derive(Default)]
struct Commons {
    places: Vec<Option<Arc<Common>>>,
    hasher: RandomState,
}

impl Cache {
    /// Keeps an envelope whole while there is room, or else what is listed of it.
    pub fn put(&mut self, envelope: Envelope) {
        if self.whole.len() < WHOLE_MAX {
            self.whole.insert(envelope.id, envelope);
        } else {
            self.note(&envelope);
        }
    }

    /// Keeps what is listed of an envelope, in place of what was before.
    pub fn note(&mut self, envelope: &Envelope) {
        self.drop_summary(envelope.id);
        let mut summary = Summary::of(envelope);
        let bytes = self.bytes + summary.memory_bytes();
        if bytes > SUMMARIES_MAX_BYTES {
            return;
        }
        self.bytes = bytes;
        self.commons.share(&mut summary.common);
        self.summaries.insert(envelope.id, summary);
    }

    /// Takes an envelope out.
    pub fn take(&mut self, id: EvpId) -> Option<Envelope> {
        self.whole.remove(&id)
    }

    /// The envelope is no more.
    pub fn forget(&mut self, id: EvpId) {
        self.whole.remove(&id);
        self.drop_summary(id);
    }

    /// How many are kept whole.
    pub fn whole(&self) -> usize {
        self.whole.len()
    }

    /// What is listed of an envelope, if it is here.
    pub fn summary(&self, id: EvpId) -> Option<Summary> {
        let whole = self.whole.get(&id).map(Summary::of);
        whole.or_else(|| self.summaries.get(&id).cloned())
    }

    /// Proves that the books balance, and that nothing is kept of what is not known any more.
    #[cfg(test)]
    pub fn check(&self, knows: impl Fn(EvpId) -> bool) {
        for id in self.whole.keys().chain(self.summaries.keys()) {
            assert!(knows(*id), "{id} is no more");
        }
        let bytes: usize = self.summaries.values().map(Summary::memory_bytes).sum();
        assert_eq!(self.bytes, bytes);
    }

    fn drop_summary(&mut self, id: EvpId) {
        if let Some(summary) = self.summaries.remove(&id) {
            self.bytes -= summary.memory_bytes();
        }
    }
}

impl Commons {
    /// Puts an equal one in its place, if one was here lately.
    fn share(&mut self, common: &mut Arc<Common>) {
        self.places.resize(COMMON_MAX, None);
        let nth = self.hasher.hash_one(&**common) as usize % COMMON_MAX;
        let Some(place) = self.places.get_mut(nth) else {
            return;
        };
        match place {
            Some(before) if before == common => *common = before.clone(),
            _ => *place = Some(common.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::samples::{self, line};

    fn envelope(n: u64, error: &str) -> Envelope {
        Envelope {
            id: EvpId::from_u64(0x0000_0001_0000_0000 + n).unwrap(),
            errorline: Some(line(error)),
            ..samples::envelope("bob")
        }
    }

    #[test]
    fn summaries_take_no_more_than_their_share_of_memory() {
        let mut cache = Cache::default();
        let long = "x".repeat(2000);
        let mut kept = 0;
        for n in 1..=20_000 {
            cache.note(&envelope(n, &long));
            kept += u64::from(cache.summary(envelope(n, "").id).is_some());
        }
        assert!((10_000..20_000).contains(&kept), "{kept}");
        for n in 1..=20_000 {
            cache.note(&envelope(n, "short"));
        }
        assert_eq!(cache.summaries.len(), 20_000, "what was replaced left room");
        for n in 1..=20_000 {
            cache.forget(envelope(n, "").id);
        }
        assert_eq!((cache.summaries.len(), cache.bytes), (0, 0));
    }

    #[test]
    fn what_envelopes_have_in_common_is_kept_once() {
        let mut cache = Cache::default();
        for n in 1..=100 {
            let error = if n % 2 == 0 { "busy" } else { "closed" };
            cache.note(&envelope(n, error));
        }
        let common = |n| cache.summary(envelope(n, "").id).unwrap().common;
        assert!(Arc::ptr_eq(&common(1), &common(99)));
        assert!(Arc::ptr_eq(&common(2), &common(100)));
        assert_ne!(common(1), common(2));
    }

    #[test]
    fn an_envelope_that_finds_no_room_is_still_listed() {
        let mut cache = Cache::default();
        for n in 1..=2000 {
            cache.put(envelope(n, "busy"));
        }
        assert_eq!(cache.whole(), WHOLE_MAX);
        for n in 1..=2000 {
            let of = Summary::of(&envelope(n, "busy"));
            assert_eq!(cache.summary(envelope(n, "").id), Some(of));
        }
        assert!(cache.take(envelope(1, "").id).is_some());
        assert!(cache.take(envelope(2000, "").id).is_none());
    }
}
