//! Listening sockets, and whether they are in the event loop.
//!
//! Out of it, connections wait in the kernel's backlog and cost nothing: there is no loop that
//! accepts and fails.

use std::io;

use mio::event::Source;
use mio::{Interest, Registry, Token};

/// A group of listeners that are opened and shut together.
pub(super) struct Gate<L> {
    listeners: Vec<L>,
    first_token: usize,
    /// Listeners that may have connections waiting.
    ready: Vec<bool>,
    registered: bool,
    paused: bool,
    /// Shut for want of room until this time, or until somebody leaves.
    shut_until_ms: Option<u64>,
}

impl<L: Source> Gate<L> {
    /// Listeners whose events have tokens from `first_token` on; not in the loop yet.
    pub(super) fn new(listeners: Vec<L>, first_token: usize) -> Gate<L> {
        Gate {
            ready: vec![false; listeners.len()],
            listeners,
            first_token,
            registered: false,
            paused: false,
            shut_until_ms: None,
        }
    }

    pub(super) fn listener(&self, index: usize) -> &L {
        &self.listeners[index]
    }

    /// An event for listener `index` has come.
    pub(super) fn mark_ready(&mut self, index: usize) {
        if let Some(ready) = self.ready.get_mut(index) {
            *ready = true;
        }
    }

    /// A listener in the loop that may have connections waiting. Each is named until
    /// [`Gate::exhausted`] is said of it, because its event is not repeated.
    pub(super) fn next_ready(&self, from: usize) -> Option<usize> {
        (from..self.listeners.len()).find(|&index| self.registered && self.ready[index])
    }

    /// Nobody waits at listener `index`.
    pub(super) fn exhausted(&mut self, index: usize) {
        self.ready[index] = false;
    }

    pub(super) fn pause(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// Closes until `until_ms`, for want of room. Says whether it was open.
    pub(super) fn shut(&mut self, until_ms: u64) -> bool {
        self.shut_until_ms.replace(until_ms).is_none()
    }

    /// Somebody has left: looks for room at once, if the gate is shut for want of it.
    pub(super) fn hurry(&mut self, now_ms: u64) {
        if let Some(until_ms) = &mut self.shut_until_ms {
            *until_ms = now_ms;
        }
    }

    /// Opens, since there is room again. Says whether it was closed.
    pub(super) fn reopen(&mut self) -> bool {
        self.shut_until_ms.take().is_some()
    }

    /// Until when the gate is shut for want of room.
    pub(super) fn shut_until_ms(&self) -> Option<u64> {
        self.shut_until_ms
    }

    /// Puts the listeners into the loop or takes them out, as it should be now.
    pub(super) fn sync(&mut self, registry: &Registry) -> io::Result<()> {
        let wanted = !self.paused && self.shut_until_ms.is_none();
        if wanted == self.registered {
            return Ok(());
        }
        self.registered = wanted;
        for (index, listener) in self.listeners.iter_mut().enumerate() {
            if wanted {
                let token = Token(self.first_token + index);
                registry.register(listener, token, Interest::READABLE)?;
            } else {
                registry.deregister(listener)?;
            }
            self.ready[index] = false;
        }
        Ok(())
    }

    /// Whether somebody may wait at listener `index`.
    pub(super) fn is_ready(&self, index: usize) -> bool {
        self.ready[index]
    }

    /// Takes all listeners out of the loop, to be given back with [`Gate::put`]. Those who wait at
    /// them are announced again then.
    pub(super) fn take(&mut self, registry: &Registry) -> Vec<L> {
        let mut listeners = std::mem::take(&mut self.listeners);
        if self.registered {
            for listener in &mut listeners {
                // One that cannot be taken out is closed, or fails when it is put in again.
                let _ = registry.deregister(listener);
            }
        }
        self.registered = false;
        self.ready.clear();
        listeners
    }

    /// Other listeners; [`Gate::sync`] puts them into the loop.
    pub(super) fn put(&mut self, listeners: Vec<L>) {
        self.ready = vec![false; listeners.len()];
        self.listeners = listeners;
    }

    /// Closes all listeners for good: clients are refused from now on.
    pub(super) fn close(&mut self, registry: &Registry) {
        drop(self.take(registry));
    }
}
