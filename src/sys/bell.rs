//! Wakes a loop that sleeps in mio, once for any number of rings.
//!
//! It is a socket pair and not `mio::Waker`: over poll(2), mio's own waker loses a wake-up that
//! meets a registration in another thread, and a ring must not be lost.

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use mio::net::UnixStream;
use mio::{Interest, Registry, Token};

/// The cord that other threads pull after they left work in a channel.
pub struct Bell {
    cord: UnixStream,
    clapper: UnixStream,
    rung: AtomicBool,
    /// Rings that were noticed and whose bytes are not read yet.
    unread: AtomicUsize,
}

impl Bell {
    /// A bell whose ring arrives at `registry`'s loop as `token`.
    pub fn new(registry: &Registry, token: Token) -> io::Result<Bell> {
        let (cord, mut clapper) = UnixStream::pair()?;
        registry.register(&mut clapper, token, Interest::READABLE)?;
        Ok(Bell {
            cord,
            clapper,
            rung: AtomicBool::new(false),
            unread: AtomicUsize::new(0),
        })
    }

    /// Wakes the loop, unless a ring that it has not taken notice of yet will.
    pub fn ring(&self) {
        // A few bytes at a time: the socket cannot be full.
        if !self.rung.swap(true, Ordering::AcqRel) && (&self.cord).write(&[0]).is_err() {
            self.rung.store(false, Ordering::Release);
        }
    }

    /// The loop, woken by the token, takes notice. What was left in a channel before the ring is
    /// now visible; what is left there from now on rings again.
    pub fn hush(&self) {
        // With kqueue and epoll each byte is an event of its own, read or not, and a few may lie
        // there. Over poll(2), mio brings no other event before a read has found nothing.
        let unread = self.unread.fetch_add(1, Ordering::Relaxed) + 1;
        if unread >= UNREAD || cfg!(mio_unsupported_force_poll_poll) {
            self.unread.store(0, Ordering::Relaxed);
            let mut bytes = [0; 2 * UNREAD];
            while matches!((&self.clapper).read(&mut bytes), Ok(count) if count > 0) {}
        }
        self.rung.swap(false, Ordering::AcqRel);
    }
}

/// So many bytes may lie in the socket.
const UNREAD: usize = 32;
