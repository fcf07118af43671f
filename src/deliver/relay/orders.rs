//! What a session is told by the relay thread, in order.
//!
//! A session waits for its next order, or looks whether a message is at hand when it could send it
//! with what it is sending. What it has not taken can be taken back.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::core::Load;

/// What a session is told.
#[derive(Debug)]
pub enum Order {
    /// Send this.
    Send(Arc<Load>),
    /// End.
    Quit,
}

/// A session's end.
#[derive(Clone, Default)]
pub struct Orders(Arc<Shared>);

/// The relay thread's end. Without it, a session that waits is told to quit.
pub struct Teller(Arc<Shared>);

#[derive(Default)]
struct Shared {
    backlog: Mutex<Backlog>,
    told: Condvar,
}

#[derive(Default)]
struct Backlog {
    /// Few: what the relay thread gives a session is bounded.
    waiting: VecDeque<Order>,
    is_over: bool,
}

/// Both ends.
pub fn channel() -> (Teller, Orders) {
    let orders = Orders::default();
    (Teller(orders.0.clone()), orders)
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Backlog> {
        // Nothing is left half-done when a thread panics with it.
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Teller {
    /// Tells the session.
    pub fn tell(&self, order: Order) {
        self.0.lock().waiting.push_back(order);
        self.0.told.notify_one();
    }

    /// Takes back what was told last, so many messages at most, as far as the session has not taken
    /// them; says how many.
    pub fn take_back(&self, most: usize) -> usize {
        let waiting = &mut self.0.lock().waiting;
        let mut count = 0;
        while count < most && matches!(waiting.back(), Some(Order::Send(_))) {
            waiting.pop_back();
            count += 1;
        }
        count
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        self.0.lock().is_over = true;
        self.0.told.notify_one();
    }
}

impl Orders {
    /// Waits for the next order.
    pub fn next(&self) -> Order {
        let mut backlog = self.0.lock();
        loop {
            match backlog.waiting.pop_front() {
                Some(order) => return order,
                None if backlog.is_over => return Order::Quit,
                None => {}
            }
            let woken = self.0.told.wait(backlog);
            backlog = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The next message, if it is there and nothing is to be done before.
    pub fn at_hand(&self) -> Option<Arc<Load>> {
        let mut backlog = self.0.lock();
        match backlog.waiting.pop_front()? {
            Order::Send(load) => Some(load),
            order => {
                backlog.waiting.push_front(order);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::MailAddr;

    fn load() -> Order {
        Order::Send(Arc::new(Load {
            sender: MailAddr::null(),
            srs: None,
            envelopes: Vec::new(),
        }))
    }

    #[test]
    fn what_a_session_has_not_taken_can_be_taken_back() {
        let (teller, orders) = channel();
        for _ in 0..5 {
            teller.tell(load());
        }
        assert!(matches!(orders.next(), Order::Send(_)));
        assert!(orders.at_hand().is_some());
        assert_eq!(teller.take_back(2), 2);
        assert!(orders.at_hand().is_some(), "what was not asked for stays");
        assert_eq!(teller.take_back(2), 0);
        teller.tell(Order::Quit);
        assert!(orders.at_hand().is_none());
        assert!(matches!(orders.next(), Order::Quit));
    }

    #[test]
    fn a_session_that_nobody_tells_anything_any_more_ends() {
        let (teller, orders) = channel();
        teller.tell(load());
        let told = std::thread::spawn(move || (orders.next(), orders.next()));
        drop(teller);
        let (first, second) = told.join().unwrap();
        assert!(matches!((first, second), (Order::Send(_), Order::Quit)));
    }
}
