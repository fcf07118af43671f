//! A few envelopes that are wanted soon, so that they need not be read back from the disk.
//!
//! Only a convenience: what is not here is read. When it is full, newcomers are not kept, because
//! the oldest are those that are wanted first.

use std::collections::HashMap;

use crate::mail::{Envelope, EvpId};

/// Most envelopes that are kept.
const MAX: usize = 1024;

/// Envelopes by id. What is here equals what is on the disk.
#[derive(Default)]
pub(super) struct Cache(HashMap<EvpId, Envelope>);

impl Cache {
    /// Keeps an envelope while there is room.
    pub fn put(&mut self, envelope: Envelope) {
        if self.0.len() < MAX {
            self.0.insert(envelope.id, envelope);
        }
    }

    /// Takes an envelope out.
    pub fn take(&mut self, id: EvpId) -> Option<Envelope> {
        self.0.remove(&id)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// An envelope, if it is here.
    pub fn get(&self, id: EvpId) -> Option<&Envelope> {
        self.0.get(&id)
    }
}
