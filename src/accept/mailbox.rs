//! How other threads reach the event loop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::Sender;

use crate::control::Answer;
use crate::sys::waker::Waker;

use super::Listeners;
use super::slab::ConnId;

/// Reaches a running event loop from any thread. Letters to a loop that has ended, or to a
/// connection that is gone, are dropped.
#[derive(Clone)]
pub struct Mailbox {
    pub(super) letters: Sender<Letter>,
    pub(super) wishes: Arc<Wishes>,
    pub(super) waker: Arc<Waker>,
}

/// What the loop is told.
pub(super) enum Letter {
    /// About one connection.
    Answer(ConnId, Answer),
    /// About where connections come in.
    Listen(Listeners),
}

/// What is wished of the whole loop. Kept apart from the letters so that a full channel, or a
/// [`super::Host`] that runs inside the loop, never waits.
#[derive(Default)]
pub(super) struct Wishes {
    pub(super) paused: AtomicBool,
    pub(super) shutdown: AtomicBool,
}

impl Mailbox {
    /// The answer to what [`super::Host::ask`] left open. Waits when the loop has much to read;
    /// not to be called from the loop itself.
    pub fn answer(&self, conn: ConnId, answer: Answer) {
        if self.letters.send(Letter::Answer(conn, answer)).is_ok() {
            self.waker.wake();
        }
    }

    /// Other listeners from now on. Not to be called from the loop itself.
    pub fn listen(&self, listeners: Listeners) {
        if self.letters.send(Letter::Listen(listeners)).is_ok() {
            self.waker.wake();
        }
    }

    /// `smtpctl pause smtp` (true) and `resume smtp` (false): whether new sessions are refused.
    /// Sessions that exist go on.
    pub fn pause(&self, paused: bool) {
        self.wishes.paused.store(paused, Ordering::Release);
        self.waker.wake();
    }

    /// Whether receiving is paused.
    pub fn paused(&self) -> bool {
        self.wishes.paused.load(Ordering::Acquire)
    }

    /// Ends the loop: no new connections, each session is told after its present command, and
    /// after [`super::Limits::shutdown`] at the latest the loop returns.
    pub fn shutdown(&self) {
        self.wishes.shutdown.store(true, Ordering::Release);
        self.waker.wake();
    }
}
