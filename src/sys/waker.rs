//! Wakes a loop that sleeps in mio, once for any number of calls.
//!
//! A loop that is awake looks for work before it sleeps, and nobody has to wake it: it arms the
//! waker before that last look.
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
    /// Whether the next call has to reach the loop.
    armed: AtomicBool,
    /// Wake-ups that were acknowledged and whose bytes are not read yet.
    unread: AtomicUsize,
}

impl Waker {
    /// An armed one, whose calls arrive at `registry`'s loop as `token`.
    pub fn new(registry: &Registry, token: Token) -> io::Result<Waker> {
        let (far, mut near) = UnixStream::pair()?;
        registry.register(&mut near, token, Interest::READABLE)?;
        Ok(Waker {
            far,
            near,
            armed: AtomicBool::new(true),
            unread: AtomicUsize::new(0),
        })
    }

    /// Wakes the loop, unless it is awake or another call wakes it. What the caller left before is
    /// then seen.
    pub fn wake(&self) {
        // A few bytes at a time: the socket cannot be full.
        if self.armed.swap(false, Ordering::SeqCst) && (&self.far).write(&[0]).is_err() {
            self.armed.store(true, Ordering::SeqCst);
        }
    }

    /// The loop is going to sleep. It must look once more, after this, at all that others may have
    /// left for it.
    pub fn arm(&self) {
        self.armed.store(true, Ordering::SeqCst);
    }

    /// The loop is awake.
    pub fn disarm(&self) {
        self.armed.store(false, Ordering::SeqCst);
    }

    /// For the loop, when the token has come.
    pub fn acknowledge(&self) {
        // With kqueue and epoll each byte is an event of its own, read or not, and a few may lie
        // there. Over poll(2), mio brings no other event before a read has found nothing.
        let unread = self.unread.fetch_add(1, Ordering::Relaxed) + 1;
        if unread >= UNREAD || cfg!(mio_unsupported_force_poll_poll) {
            self.unread.store(0, Ordering::Relaxed);
            let mut bytes = [0; 2 * UNREAD];
            while matches!((&self.near).read(&mut bytes), Ok(count) if count > 0) {}
        }
    }
}

/// So many bytes may lie in the socket.
const UNREAD: usize = 32;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mio::{Events, Poll};

    use super::*;

    #[test]
    fn the_loop_is_woken_once_each_time_it_is_armed() {
        let mut poll = Poll::new().unwrap();
        let mut events = Events::with_capacity(8);
        let waker = Waker::new(poll.registry(), Token(7)).unwrap();
        let mut is_woken = || {
            poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
            let woken = events.iter().any(|event| event.token() == Token(7));
            if woken {
                waker.acknowledge();
            }
            woken
        };
        for _ in 0..3 * UNREAD {
            waker.arm();
            assert!(!is_woken());
            waker.wake();
            waker.wake();
            assert!(is_woken() && !is_woken());
            waker.arm();
            waker.disarm();
            waker.wake();
            assert!(!is_woken(), "a loop that is awake needs no call");
        }
    }
}
