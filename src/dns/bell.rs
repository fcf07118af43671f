//! Wakes a loop that sleeps in mio, once for any number of rings.
//!
//! It is a socket pair and not `mio::Waker`: over poll(2), mio's own waker loses a wake-up that
//! meets a registration in another thread, and a ring must not be lost.

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use mio::net::UnixStream;
use mio::{Interest, Registry, Token};

/// The cord that other threads pull after they left work in a channel.
pub(crate) struct Bell {
    cord: UnixStream,
    clapper: UnixStream,
    rung: AtomicBool,
}

impl Bell {
    /// A bell whose ring arrives at `registry`'s loop as `token`.
    pub(crate) fn new(registry: &Registry, token: Token) -> io::Result<Bell> {
        let (cord, mut clapper) = UnixStream::pair()?;
        registry.register(&mut clapper, token, Interest::READABLE)?;
        Ok(Bell {
            cord,
            clapper,
            rung: AtomicBool::new(false),
        })
    }

    /// Wakes the loop, unless a ring that it has not taken notice of yet will.
    pub(crate) fn ring(&self) {
        // One byte at a time: the socket cannot be full.
        if !self.rung.swap(true, Ordering::AcqRel) && (&self.cord).write(&[0]).is_err() {
            self.rung.store(false, Ordering::Release);
        }
    }

    /// The loop, woken by the token, takes notice. What was left in a channel before the ring is
    /// now visible; what is left there from now on rings again.
    pub(crate) fn hush(&self) {
        let mut bytes = [0; 8];
        while matches!((&self.clapper).read(&mut bytes), Ok(count) if count > 0) {}
        self.rung.swap(false, Ordering::AcqRel);
    }
}
