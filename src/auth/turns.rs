//! Whose turn it is on threads that wait for others: one who does not answer keeps half of them,
//! and those who wait for him stand in a line of their own.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

/// Who is asked: a table, or the system.
pub type Asked = Option<String>;

/// What is under way with each who is asked, and what waits for it.
pub struct Turns<T> {
    lines: Mutex<HashMap<Asked, Line<T>>>,
    under_way_max: usize,
    waiting_max: usize,
}

struct Line<T> {
    under_way: usize,
    waiting: VecDeque<T>,
}

/// What became of one who came.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn<T> {
    /// It is his turn. [`Turns::next`] is to be called behind it.
    Now(T),
    /// He stands in line.
    Later,
    /// The line is full.
    Never(T),
}

impl<T> Turns<T> {
    /// With bounds for each who is asked.
    pub fn new(under_way_max: usize, waiting_max: usize) -> Turns<T> {
        Turns {
            lines: Mutex::default(),
            under_way_max,
            waiting_max,
        }
    }

    /// Somebody comes.
    pub fn come(&self, asked: &Asked, who: T) -> Turn<T> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let line = lines.entry(asked.clone()).or_insert_with(|| Line {
            under_way: 0,
            waiting: VecDeque::new(),
        });
        if line.under_way < self.under_way_max {
            line.under_way += 1;
            return Turn::Now(who);
        }
        if line.waiting.len() >= self.waiting_max {
            return Turn::Never(who);
        }
        line.waiting.push_back(who);
        Turn::Later
    }

    /// One has had his turn: who is the next?
    pub fn next(&self, asked: &Asked) -> Option<T> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let line = lines.get_mut(asked)?;
        let next = line.waiting.pop_front();
        if next.is_none() {
            line.under_way = line.under_way.saturating_sub(1);
            if line.under_way == 0 {
                lines.remove(asked);
            }
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_who_is_asked_has_a_line_of_his_own() {
        let turns = Turns::new(2, 1);
        let (slow, system) = (Some("slow".to_owned()), None);
        assert_eq!(turns.come(&slow, 1), Turn::Now(1));
        assert_eq!(turns.come(&slow, 2), Turn::Now(2));
        assert_eq!(turns.come(&slow, 3), Turn::Later);
        assert_eq!(turns.come(&slow, 4), Turn::Never(4));
        assert_eq!(turns.come(&system, 5), Turn::Now(5));
        assert_eq!(turns.next(&system), None);
        assert_eq!(turns.next(&slow), Some(3));
        assert_eq!(turns.next(&slow), None);
        assert_eq!(turns.come(&slow, 6), Turn::Now(6));
        assert_eq!([turns.next(&slow), turns.next(&slow)], [None, None]);
        assert!(turns.lines.lock().unwrap().is_empty());
    }
}
