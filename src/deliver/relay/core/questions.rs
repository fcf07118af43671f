//! Questions to the resolver: so many at a time, and whoever has the fewest asks next. A zone that
//! does not answer, with however many names in it, holds up no destination but its own.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use crate::deliver::relay::mx::Question;
use crate::deliver::relay::routes::Ptr;

use super::Destination;

/// Questions that the resolver has at a time. Others wait here, as long as it takes.
pub const QUESTIONS_MAX: usize = 192;
/// Those of one destination among them, from where on half of all are open.
const EACH_MAX: usize = 8;
/// Names of addresses that the resolver is asked for at a time, for the log alone.
const NAMES_MAX: usize = 32;
/// Addresses that may wait for that; no others are asked for.
const NAMES_WAITING_MAX: usize = 4096;

/// What is asked about destinations.
#[derive(Default)]
pub(super) struct Questions {
    open: usize,
    askers: BTreeMap<Destination, Asker>,
    /// Who may ask, by how many questions he has open and since when that is so.
    turns: BTreeMap<Turn, Destination>,
    last: u64,
}

type Turn = (usize, u64);

/// A destination with questions.
#[derive(Default)]
struct Asker {
    open: usize,
    waiting: VecDeque<Question>,
    turn: Option<Turn>,
}

impl Questions {
    pub(super) fn add(&mut self, destination: &Destination, questions: Vec<Question>) {
        self.change(destination, |asker| asker.waiting.extend(questions));
    }

    /// A question that may be asked now.
    pub(super) fn next(&mut self) -> Option<(Destination, Question)> {
        if self.open >= QUESTIONS_MAX {
            return None;
        }
        let ((fewest, _), destination) = self.turns.first_key_value()?;
        if *fewest >= EACH_MAX && self.open >= QUESTIONS_MAX / 2 {
            return None;
        }
        let destination = destination.clone();
        let mut next = None;
        self.change(&destination, |asker| {
            next = asker.waiting.pop_front();
            asker.open += usize::from(next.is_some());
        });
        let question = next?;
        self.open += 1;
        Some((destination, question))
    }

    /// One of its questions has been answered.
    pub(super) fn answered(&mut self, destination: &Destination) {
        self.open = self.open.saturating_sub(1);
        self.change(destination, |asker| {
            asker.open = asker.open.saturating_sub(1);
        });
    }

    /// Nobody wants to know any more.
    pub(super) fn forget(&mut self, destination: &Destination) {
        self.change(destination, |asker| asker.waiting.clear());
    }

    fn change(&mut self, destination: &Destination, change: impl FnOnce(&mut Asker)) {
        let mut asker = self.askers.remove(destination).unwrap_or_default();
        if let Some(turn) = asker.turn.take() {
            self.turns.remove(&turn);
        }
        change(&mut asker);
        if !asker.waiting.is_empty() {
            self.last += 1;
            let turn = (asker.open, self.last);
            self.turns.insert(turn, destination.clone());
            asker.turn = Some(turn);
        }
        if !asker.waiting.is_empty() || asker.open > 0 {
            self.askers.insert(destination.clone(), asker);
        }
    }
}

/// What is asked about the names of addresses.
#[derive(Default)]
pub(super) struct Names {
    open: usize,
    waiting: VecDeque<(IpAddr, Ptr)>,
}

impl Names {
    /// The name of an address is to be put there, if not too many others wait.
    pub(super) fn add(&mut self, addr: IpAddr, ptr: Ptr) {
        if self.waiting.len() < NAMES_WAITING_MAX {
            self.waiting.push_back((addr, ptr));
        }
    }

    /// One that may be asked for now.
    pub(super) fn next(&mut self) -> Option<(IpAddr, Ptr)> {
        if self.open >= NAMES_MAX {
            return None;
        }
        let next = self.waiting.pop_front()?;
        self.open += 1;
        Some(next)
    }

    pub(super) fn answered(&mut self) {
        self.open = self.open.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::relay::mx::AsHost;
    use crate::dns::Kind;

    fn destination(name: &str) -> Destination {
        (name.to_owned(), AsHost::No)
    }

    fn some(count: usize) -> Vec<Question> {
        let question = |n| Question {
            name: format!("m{n}.example."),
            kind: Kind::A,
            by: 1,
        };
        (0..count).map(question).collect()
    }

    fn ask(questions: &mut Questions) -> Vec<Destination> {
        let next = || questions.next().map(|(destination, _)| destination);
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn whoever_has_the_fewest_open_questions_asks_next() {
        let mut questions = Questions::default();
        let first = destination("d0.example");
        questions.add(&first, some(200));
        // Alone it may have half.
        let half = QUESTIONS_MAX / 2;
        assert_eq!(ask(&mut questions), vec![first.clone(); half]);
        let second = destination("d1.example");
        questions.add(&second, some(20));
        assert_eq!(ask(&mut questions), vec![second; EACH_MAX]);
        for n in 2..50 {
            questions.add(&destination(&format!("d{n}.example")), some(20));
        }
        assert_eq!(ask(&mut questions).len(), QUESTIONS_MAX - half - EACH_MAX);
        let last = destination("good.example");
        questions.add(&last, some(1));
        assert!(ask(&mut questions).is_empty());
        questions.answered(&first);
        assert_eq!(ask(&mut questions), [last]);
        questions.answered(&first);
        // It still has more open than the others.
        let next = ask(&mut questions);
        assert!(next.len() == 1 && next[0] != first, "{next:?}");
    }

    #[test]
    fn what_nobody_wants_to_know_is_not_asked() {
        let mut questions = Questions::default();
        let destination = destination("d.example");
        questions.add(&destination, some(20));
        questions.add(&destination, some(180));
        let half = QUESTIONS_MAX / 2;
        assert_eq!(ask(&mut questions).len(), half);
        questions.forget(&destination);
        for _ in 0..half {
            questions.answered(&destination);
            assert!(ask(&mut questions).is_empty());
        }
        assert!(questions.askers.is_empty() && questions.turns.is_empty());
        assert_eq!(questions.open, 0);
    }

    #[test]
    fn a_destination_that_is_back_may_ask_while_its_old_questions_hang() {
        let mut questions = Questions::default();
        let destination = destination("d.example");
        questions.add(&destination, some(20));
        assert_eq!(ask(&mut questions).len(), 20);
        questions.forget(&destination);
        questions.add(&destination, some(1));
        assert_eq!(ask(&mut questions), [destination]);
    }

    #[test]
    fn names_that_find_no_room_are_not_asked_for() {
        let mut names = Names::default();
        let addr = IpAddr::from([192, 0, 2, 1]);
        for _ in 0..NAMES_WAITING_MAX + 10 {
            names.add(addr, Ptr::default());
        }
        let mut count = 0;
        while names.next().is_some() {
            count += 1;
            if count >= NAMES_MAX {
                names.answered();
            }
        }
        assert_eq!(count, NAMES_WAITING_MAX);
    }
}
