//! Wakes a loop that sleeps in mio, once for any number of calls.
//!
//! It is a socket pair and not `mio::Waker`: over poll(2), mio's own waker loses a wake-up that
//! meets a registration in another thread, and a wake-up must not be lost.

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use mio::net::UnixStream;
use mio::{Interest, Registry, Token};

/// Other threads leave work in a channel and then wake the loop that it is for.
pub struct Waker {
    far: UnixStream,
    /// The loop's end.
    near: UnixStream,
    /// The loop was woken and has not acknowledged it.
    awake: AtomicBool,
    /// Wake-ups that were acknowledged and whose bytes are not read yet.
    unread: AtomicUsize,
}

impl Waker {
    /// Its calls arrive at `registry`'s loop as `token`.
    pub fn new(registry: &Registry, token: Token) -> io::Result<Waker> {
        let (far, mut near) = UnixStream::pair()?;
        registry.register(&mut near, token, Interest::READABLE)?;
        Ok(Waker {
            far,
            near,
            awake: AtomicBool::new(false),
            unread: AtomicUsize::new(0),
        })
    }

    /// Wakes the loop, unless a call that it has not acknowledged yet will.
    pub fn wake(&self) {
        // A few bytes at a time: the socket cannot be full.
        if !self.awake.swap(true, Ordering::AcqRel) && (&self.far).write(&[0]).is_err() {
            self.awake.store(false, Ordering::Release);
        }
    }

    /// For the loop, when the token has come. What was left in a channel before the call is now
    /// visible; what is left there from now on wakes it again.
    pub fn acknowledge(&self) {
        // With kqueue and epoll each byte is an event of its own, read or not, and a few may lie
        // there. Over poll(2), mio brings no other event before a read has found nothing.
        let unread = self.unread.fetch_add(1, Ordering::Relaxed) + 1;
        if unread >= UNREAD || cfg!(mio_unsupported_force_poll_poll) {
            self.unread.store(0, Ordering::Relaxed);
            let mut bytes = [0; 2 * UNREAD];
            while matches!((&self.near).read(&mut bytes), Ok(count) if count > 0) {}
        }
        self.awake.swap(false, Ordering::AcqRel);
    }
}

/// So many bytes may lie in the socket.
const UNREAD: usize = 32;
