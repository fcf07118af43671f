//! One message: MAIL, RCPT for each recipient, DATA, the message, and whose outcome each reply is.

mod command;
mod outcomes;

use crate::mail::{EvpId, MsgId, Outcome, Remote, Status, Verdict};
use crate::util::Line;

use super::super::event::Event;
use super::super::extensions::{Extensions, Size};
use super::super::order::{Message, Recipient, Transacted};
use super::super::reply::{Class, Reply};
use super::{Engine, Expect, Loss, Phase, TOO_MUCH};

use self::command::{is_path, mail, path, rcpt};
use self::outcomes::{failed, is_taken, is_too_many, outcome, too_many_refused};

/// Most recipients of a transaction. RFC 5321 §4.5.3.1.8: any server takes a hundred.
const RCPT_MAX: usize = 100;

/// Commands that may be ahead of their replies. A server that waits for us to read them, while
/// we wait for it to read commands, would never come to an end; so few fit any buffer.
const AHEAD_MAX: usize = 32;

/// A message on its way.
#[derive(Debug)]
pub struct Transaction {
    mail: String,
    /// The reverse-path in it.
    sender: String,
    step: Step,
    slots: Vec<Slot>,
    /// The first recipient that was not looked at yet.
    next: usize,
    /// Whether the server said anything of this message.
    heard: bool,
    /// Whether MAIL was accepted.
    begun: bool,
    /// Whether MAIL was sent before the message before had been answered for.
    ahead: bool,
    /// Bytes of the message that were sent, but for the final dot.
    sent_bytes: u64,
    /// Whether the server said that there are too many recipients.
    full: bool,
    settled: Vec<(EvpId, Outcome)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// MAIL is to be said.
    Mail,
    /// RCPT is to be said, for one after another; then DATA.
    Rcpt,
    Data,
    /// Nothing is left to say.
    Ended,
}

#[derive(Debug)]
struct Slot {
    recipient: Recipient,
    fate: Fate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// RCPT was not said.
    Unsaid,
    /// RCPT was not answered.
    Said,
    Accepted,
    /// To be tried in another transaction.
    Untried,
    Settled,
}

impl Engine {
    /// Most recipients that [`Engine::begin`] should be given.
    pub fn most_recipients(&self) -> usize {
        self.extensions.rcpt_max.unwrap_or(RCPT_MAX).min(RCPT_MAX)
    }

    /// Begins a transaction, if the server can take the message at all.
    pub fn begin(&mut self, message: &Message<'_>, recipients: Vec<Recipient>) {
        let line = mail(message, &recipients, &self.extensions);
        let mut transaction = Transaction::new(line, path(&message.sender), recipients);
        if let Some(outcome) = self.unfit(message) {
            transaction.settle_rest(&outcome);
            transaction.step = Step::Ended;
        } else {
            self.counts.begun += 1;
            self.counts.fruitless += 1;
        }
        let reset = std::mem::take(&mut self.counts.unfinished);
        self.transaction = Some(transaction);
        if reset {
            self.say("RSET", Expect::Rset);
        }
        self.pump();
    }

    /// Whether another transaction may be begun with the end of the message that is being sent (RFC
    /// 2920 §3.1: commands may follow the final dot). The server has to have taken a message on
    /// this connection, and nothing may have gone wrong since.
    pub fn can_follow(&self) -> bool {
        let most = self.extensions.mail_max.unwrap_or(usize::MAX);
        let whole = |transaction: &Transaction| !transaction.full;
        self.phase == Phase::Sending
            && self.extensions.pipelining
            && !self.is_lmtp()
            && !self.out_of_step
            && self.before.is_none()
            && self.transaction.as_ref().is_some_and(whole)
            && self.counts.accepted > 0
            && self.counts.fruitless == 1
            && self.counts.begun < most
            && self.counts.refused == 0
    }

    /// Begins a transaction behind the message that is being sent, if the server can take it so.
    /// The bytes are to be sent with the final dot, then [`Engine::sent`] is called, and
    /// [`Engine::take`] once for each of the two messages.
    pub fn follow(&mut self, message: &Message<'_>, recipients: Vec<Recipient>) -> Option<Vec<u8>> {
        if !self.can_follow()
            || self.unfit(message).is_some()
            || recipients.len() > self.most_recipients()
        {
            return None;
        }
        self.say_end();
        self.before = self.transaction.take();
        self.phase = Phase::Talking;
        self.begin(message, recipients);
        self.phase = Phase::Sending;
        if let Some(transaction) = &mut self.transaction {
            transaction.ahead = true;
        }
        Some(std::mem::take(&mut self.output))
    }

    /// Whether a transaction has been begun that has come to nothing yet.
    pub fn is_under_way(&self) -> bool {
        self.transaction.is_some()
    }

    /// Whether the server does not cope with a message that follows another in one go.
    pub fn is_out_of_step(&self) -> bool {
        self.out_of_step
    }

    /// Whether it is known what the message before has come to.
    pub fn has_ended_before(&self) -> bool {
        self.before.as_ref().is_some_and(Transaction::is_settled)
    }

    /// Whether the replies awaited are those to what followed a message.
    pub(super) fn is_ahead(&self) -> bool {
        let ahead = self.transaction.as_ref().is_some_and(Transaction::is_ahead);
        ahead && self.before.is_none()
    }

    /// The message was sent, so many bytes of it and the final dot.
    pub fn sent(&mut self, bytes: u64) {
        if self.phase != Phase::Sending {
            return;
        }
        if self.before.is_none() {
            self.say_end();
        }
        self.phase = Phase::Talking;
        if let Some(transaction) = self.before.as_mut().or(self.transaction.as_mut()) {
            transaction.sent_bytes = bytes;
        }
        self.asked = self.expected.len();
    }

    /// The final dot is said, by whoever sends the message.
    fn say_end(&mut self) {
        self.tell(|| Event::Client(Line::sanitize(b".")));
        match (self.is_lmtp(), &self.transaction) {
            // RFC 2033 §4.2: a reply for each recipient that was accepted, in their order.
            (true, Some(transaction)) => {
                let places = transaction.accepted().map(Expect::DotFor);
                self.expected.extend(places);
            }
            _ => self.expected.push_back(Expect::Dot),
        }
    }

    /// The message could not be read to its end: the server must not take a part for the whole, so
    /// the connection is dropped without the final dot.
    pub fn unreadable(&mut self, text: &str) {
        let text = Line::sanitize(text.as_bytes());
        if let Some(transaction) = &mut self.transaction {
            transaction.settle_rest(&Outcome::temp(Status::new(4, 3, 0), text.clone()));
            transaction.ahead = false;
        }
        self.lose(&Loss::Broken(text));
    }

    /// What becomes of recipients that no transaction could be begun for: outcomes, when the server
    /// has refused too many; else they are untried.
    pub fn after_all(
        &self,
        recipients: Vec<Recipient>,
    ) -> Result<Vec<(EvpId, Outcome)>, Vec<Recipient>> {
        if self.is_refused() {
            Ok(recipients
                .into_iter()
                .map(|recipient| (recipient.id, too_many_refused()))
                .collect())
        } else {
            Err(recipients)
        }
    }

    /// The outcome of a message that the server has already said it cannot take.
    fn unfit(&self, message: &Message<'_>) -> Option<Outcome> {
        let perm =
            |status, text: &str| Some(Outcome::perm(status, Line::sanitize(text.as_bytes())));
        if let (Some(Size::Bytes(most)), Some(size)) = (self.extensions.size, message.size_bytes)
            && size > most
        {
            return perm(Status::new(5, 3, 4), "message too large for peer");
        }
        if !is_path(&path(&message.sender)) {
            return perm(Status::new(5, 1, 7), "sender address cannot be sent");
        }
        None
    }

    /// Says what can be said now.
    fn pump(&mut self) {
        let ahead = if self.extensions.pipelining {
            AHEAD_MAX
        } else {
            1
        };
        while self.phase == Phase::Talking && self.expected.len() < ahead {
            let refused = self.is_refused();
            let Some(transaction) = &mut self.transaction else {
                return;
            };
            if refused {
                transaction.give_up();
            }
            match transaction.say(&self.extensions) {
                Some((line, expect)) => self.say(&line, expect),
                None => {
                    // Whatever was begun and not sent has to be reset.
                    self.counts.unfinished |= transaction.is_begun_in_vain();
                    return;
                }
            }
        }
    }

    /// The end of the message before was answered.
    fn before_replied(&mut self, reply: &Reply) {
        let remote = self.remote();
        if let Some(before) = &mut self.before {
            before.settle_rest(&outcome(reply, &remote));
        }
        self.ended(is_taken(reply));
        if reply.code() != 421 {
            return self.pump();
        }
        if let Some(transaction) = &mut self.transaction {
            // A host that has served enough says so, and copes with all that it is sent.
            transaction.put_off();
            transaction.ahead = false;
        }
        self.lose(&Loss::Broken(reply.text().clone()));
    }

    pub(super) fn transaction_replied(&mut self, expect: Expect, reply: &Reply) {
        if self.before.is_some() {
            return self.before_replied(reply);
        }
        let remote = self.remote();
        if let Some(transaction) = &mut self.transaction {
            // RFC 5321 §3.8: 421 may answer anything, and the server is gone after it.
            let closing = reply.code() == 421;
            let untouched = !transaction.heard && self.counts.begun > 1;
            if closing && untouched && matches!(expect, Expect::Rset | Expect::Mail) {
                transaction.ahead = false;
                return self.lose(&Loss::Reset(reply.text().clone()));
            }
            self.apply(expect, reply, &remote);
            if closing {
                if let Some(transaction) = &mut self.transaction {
                    transaction.settle_rest(&outcome(reply, &remote));
                }
                return self.lose(&Loss::Broken(reply.text().clone()));
            }
        }
        self.pump();
    }

    fn apply(&mut self, expect: Expect, reply: &Reply, remote: &Remote) {
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        transaction.heard |= expect != Expect::Rset;
        let done = reply.class() == Class::Done;
        transaction.begun |= done && expect == Expect::Mail;
        self.tell_of(|transaction| transaction.answered(expect, reply.class()));
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        match expect {
            Expect::Mail if !done => {
                if transaction.ahead {
                    // It may mind that MAIL came so early, and nothing else.
                    transaction.put_off();
                    self.out_of_step = true;
                } else {
                    transaction.settle_rest(&failed(reply, remote));
                }
                self.counts.unfinished = true;
            }
            Expect::Rcpt(place) => match transaction.rcpt_replied(place, reply, remote) {
                Answered::Yes => self.counts.refused = 0,
                Answered::No => self.counts.refused = self.counts.refused.saturating_add(1),
                Answered::Neither => {}
            },
            Expect::Data => self.data_replied(reply, remote),
            Expect::Dot => {
                transaction.settle_rest(&outcome(reply, remote));
                self.ended(is_taken(reply));
            }
            Expect::DotFor(place) => {
                transaction.settle(place, &outcome(reply, remote));
                self.ended(is_taken(reply));
            }
            Expect::EmptyDot => self.counts.unfinished = true,
            _ => {}
        }
    }

    fn data_replied(&mut self, reply: &Reply, remote: &Remote) {
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        let wanted = transaction.accepted().next().is_some();
        match (reply.class(), wanted) {
            (Class::GoOn, true) => self.phase = Phase::Sending,
            // RFC 2920 §3.1: DATA ran ahead of the last refusal, and there is nobody to send to.
            (Class::GoOn, false) => self.say(".", Expect::EmptyDot),
            _ => {
                transaction.settle_rest(&failed(reply, remote));
                self.counts.unfinished = true;
            }
        }
    }

    /// A reply to the end of the message.
    fn ended(&mut self, done: bool) {
        if done && self.counts.fruitless > 0 {
            self.counts.accepted += 1;
            // The transaction that followed is still open.
            self.counts.fruitless = usize::from(self.before.is_some());
        }
    }

    /// A reply while we are sending the message: a server that gives up says so before it closes.
    /// It cannot have accepted what it has not seen.
    pub(super) fn interrupted(&mut self, reply: &Reply) {
        let remote = self.remote();
        match reply.class() {
            Class::NotNow | Class::Never => {
                if let Some(transaction) = self.before.as_mut().or(self.transaction.as_mut()) {
                    transaction.settle_rest(&failed(reply, &remote));
                }
                self.lose(&Loss::Broken(reply.text().clone()));
            }
            Class::Done | Class::GoOn => {
                self.lose(&Loss::Broken(Line::sanitize(TOO_MUCH.as_bytes())));
            }
        }
    }
}

/// What a reply to RCPT means for the count of refusals.
enum Answered {
    Yes,
    No,
    Neither,
}

impl Transaction {
    fn new(mail: String, sender: String, recipients: Vec<Recipient>) -> Transaction {
        let slot = |recipient| Slot {
            recipient,
            fate: Fate::Unsaid,
        };
        Transaction {
            mail,
            sender,
            step: Step::Mail,
            slots: recipients.into_iter().map(slot).collect(),
            next: 0,
            heard: false,
            begun: false,
            ahead: false,
            sent_bytes: 0,
            full: false,
            settled: Vec::new(),
        }
    }

    /// The next command, if there is one to say.
    fn say(&mut self, extensions: &Extensions) -> Option<(String, Expect)> {
        match self.step {
            Step::Mail => {
                self.step = Step::Rcpt;
                Some((self.mail.clone(), Expect::Mail))
            }
            Step::Rcpt => self.say_rcpt(extensions).or_else(|| {
                let wanted = |slot: &Slot| matches!(slot.fate, Fate::Said | Fate::Accepted);
                if self.slots.iter().any(wanted) {
                    self.step = Step::Data;
                    return Some(("DATA".to_owned(), Expect::Data));
                }
                self.step = Step::Ended;
                None
            }),
            Step::Data | Step::Ended => None,
        }
    }

    fn say_rcpt(&mut self, extensions: &Extensions) -> Option<(String, Expect)> {
        while let Some(slot) = self.slots.get_mut(self.next) {
            let place = self.next;
            self.next += 1;
            if slot.fate != Fate::Unsaid {
                continue;
            }
            if self.full {
                slot.fate = Fate::Untried;
                continue;
            }
            if !is_path(&slot.recipient.to) || slot.recipient.to.is_empty() {
                let text = Line::sanitize(b"recipient address cannot be sent");
                self.settle(place, &Outcome::perm(Status::new(5, 1, 3), text));
                continue;
            }
            slot.fate = Fate::Said;
            return Some((rcpt(&slot.recipient, extensions), Expect::Rcpt(place)));
        }
        None
    }

    fn rcpt_replied(&mut self, place: usize, reply: &Reply, remote: &Remote) -> Answered {
        let some = self.accepted().next().is_some();
        let Some(slot) = self.slots.get_mut(place) else {
            return Answered::Neither;
        };
        if slot.fate != Fate::Said {
            return Answered::Neither;
        }
        match reply.class() {
            Class::Done => {
                slot.fate = Fate::Accepted;
                Answered::Yes
            }
            _ if some && is_too_many(reply) => {
                slot.fate = Fate::Untried;
                self.full = true;
                Answered::Neither
            }
            _ => {
                self.settle(place, &failed(reply, remote));
                Answered::No
            }
        }
    }

    /// The server has refused so many that no further one is offered to it.
    fn give_up(&mut self) {
        let outcome = too_many_refused();
        for place in self.next..self.slots.len() {
            self.settle(place, &outcome);
        }
        self.next = self.slots.len();
    }

    /// All recipients are tried again, in another transaction.
    fn put_off(&mut self) {
        self.full = true;
        for slot in &mut self.slots {
            if slot.fate != Fate::Settled {
                slot.fate = Fate::Untried;
            }
        }
    }

    /// Whether MAIL was sent before the message before had been answered for, and was not answered.
    pub(super) fn is_ahead(&self) -> bool {
        self.ahead && !self.heard
    }

    pub(super) fn is_settled(&self) -> bool {
        self.slots.iter().all(|slot| slot.fate == Fate::Settled)
    }

    /// The places of the recipients that were accepted and have no outcome yet.
    fn accepted(&self) -> impl Iterator<Item = usize> {
        let places = self.slots.iter().enumerate();
        places
            .filter(|(_, slot)| slot.fate == Fate::Accepted)
            .map(|(place, _)| place)
    }

    fn is_begun_in_vain(&self) -> bool {
        self.step == Step::Ended && self.heard && self.accepted().next().is_none()
    }

    /// Settles one, unless it is settled.
    fn settle(&mut self, place: usize, outcome: &Outcome) {
        if let Some(slot) = self.slots.get_mut(place)
            && !matches!(slot.fate, Fate::Settled | Fate::Untried)
        {
            slot.fate = Fate::Settled;
            self.settled.push((slot.recipient.id, outcome.clone()));
        }
    }

    fn settle_rest(&mut self, outcome: &Outcome) {
        for place in 0..self.slots.len() {
            self.settle(place, outcome);
        }
    }

    fn msgid(&self) -> Option<MsgId> {
        let slot = self.slots.first().filter(|_| self.begun)?;
        Some(slot.recipient.id.msgid())
    }

    /// For who watches: RCPT is about to be answered.
    pub(super) fn answers(&self, expect: Expect) -> Option<Event> {
        let Expect::Rcpt(place) = expect else {
            return None;
        };
        let slot = self.slots.get(place).filter(|_| self.begun)?;
        Some(Event::Envelope(slot.recipient.id))
    }

    /// For who watches: a command was answered.
    fn answered(&self, expect: Expect, class: Class) -> Option<Event> {
        let msgid = self.msgid()?;
        match expect {
            Expect::Mail => Some(Event::Begin(msgid, self.sender.clone())),
            Expect::Rcpt(place) => {
                let to = self.slots.get(place)?.recipient.to.clone();
                Some(Event::Rcpt(msgid, to, class))
            }
            Expect::Data => Some(Event::Data(msgid, class)),
            _ => None,
        }
    }

    /// For who watches: it is over.
    pub(super) fn ended(&self) -> Option<Event> {
        let msgid = self.msgid()?;
        let delivered = |(_, outcome): &(EvpId, Outcome)| outcome.verdict == Verdict::Delivered;
        Some(if self.settled.iter().any(delivered) {
            Event::Commit(msgid, self.sent_bytes)
        } else {
            Event::Rollback(msgid)
        })
    }

    /// The connection is gone.
    pub(super) fn lost(&mut self, loss: &Loss, reused: bool) {
        let gone = matches!(loss, Loss::Closed | Loss::Reset(_));
        if self.is_ahead() || gone && reused && !self.heard {
            // It was closed while it was idle, or before it came to this message; another one may
            // do.
            return self.put_off();
        }
        let text = Line::sanitize(loss.text().as_bytes());
        self.settle_rest(&Outcome::temp(Status::new(4, 4, 2), text));
    }

    pub(super) fn into_result(self) -> Transacted {
        let untried = |slot: &Slot| slot.fate != Fate::Settled;
        Transacted {
            settled: self.settled,
            untried: self
                .slots
                .into_iter()
                .filter(untried)
                .map(|slot| slot.recipient)
                .collect(),
        }
    }
}
