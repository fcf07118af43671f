//! A value that is replaced as a whole while others use it.

use std::sync::{Arc, PoisonError, RwLock};

/// A value that every holder sees changed at once. Clones share it.
///
/// Whoever does a piece of work takes one snapshot with [`Live::get`] and keeps it until the work
/// is done, so that a change in between does not reach a half of it.
pub struct Live<T: ?Sized>(Arc<RwLock<Arc<T>>>);

impl<T> Live<T> {
    /// Starts with this value.
    pub fn new(value: T) -> Live<T> {
        Live::from(Arc::new(value))
    }
}

impl<T: ?Sized> Live<T> {
    /// The value as it is now.
    pub fn get(&self) -> Arc<T> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Replaces the value for whoever asks from now on.
    pub fn set(&self, value: Arc<T>) {
        let old = {
            let mut now = self.0.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *now, value)
        };
        // Not under the lock: it may be large.
        drop(old);
    }
}

impl<T: ?Sized> From<Arc<T>> for Live<T> {
    fn from(value: Arc<T>) -> Live<T> {
        Live(Arc::new(RwLock::new(value)))
    }
}

impl<T: ?Sized> Clone for Live<T> {
    fn clone(&self) -> Live<T> {
        Live(self.0.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_stays_what_it_was_and_clones_see_the_change() {
        let live = Live::new(1);
        let (other, before) = (live.clone(), live.get());
        live.set(Arc::new(2));
        assert_eq!((*before, *other.get()), (1, 2));
    }
}
