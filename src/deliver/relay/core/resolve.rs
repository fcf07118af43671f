//! Domains and smarthosts: resolving them, and what that means for their relays.

use std::net::{IpAddr, SocketAddr};

use crate::dns::{Found, Kind};
use crate::mail::Status;
use crate::util::Timestamp;

use crate::deliver::relay::books::Book;
use crate::deliver::relay::mx::{Exchanger, Failure, Question, Resolution, Step};

use super::{Action, Core, Destination, Domain, State};

/// The answer is asked for again after so many seconds; the resolver knows whether it is still
/// good.
const RENEW_S: u64 = 300;

/// None of the exchangers is preferred to us.
const NO_BETTER: Failure = Failure::temporary(Status::new(4, 4, 4), "No MX found for destination");

impl Core {
    /// A relay has come for a destination: its addresses are asked for unless they are known.
    pub(super) fn use_domain(&mut self, destination: Destination, now: Timestamp) {
        if let Some(domain) = self.domains.get_mut(&destination) {
            domain.users += 1;
            if domain.known.is_some() {
                self.resolved(&destination);
            }
            return;
        }
        let (resolution, step) = Resolution::begin(&destination.0, destination.1);
        let domain = Domain {
            resolution,
            known: None,
            users: 1,
            book: Book::default(),
            since: now,
            fresh: None,
        };
        self.domains.insert(destination.clone(), domain);
        self.advance(destination, step, now);
    }

    pub(super) fn leave_domain(&mut self, destination: &Destination) {
        if let Some(domain) = self.domains.get_mut(destination) {
            domain.users = domain.users.saturating_sub(1);
            if domain.users == 0 {
                self.domains.remove(destination);
            }
        }
    }

    /// Asks for an answer that is old again; until it comes, the old one serves.
    pub(super) fn renew(&mut self, destination: &Destination, now: Timestamp) {
        let Some(domain) = self.domains.get_mut(destination) else {
            return;
        };
        if domain.known.is_none() || now.since(domain.since) < RENEW_S || domain.fresh.is_some() {
            return;
        }
        domain.since = now;
        let (resolution, step) = Resolution::begin(&destination.0, destination.1);
        if let Step::Ask(_) = step {
            domain.fresh = Some(resolution);
            self.advance(destination.clone(), step, now);
        }
    }

    /// The resolver's answer.
    pub fn answer(
        &mut self,
        destination: Destination,
        question: &Question,
        found: Found,
        now: Timestamp,
    ) {
        let random = self.random;
        let Some(domain) = self.domains.get_mut(&destination) else {
            return;
        };
        let resolution = match &mut domain.fresh {
            Some(fresh) => fresh,
            None if domain.known.is_some() => return,
            None => &mut domain.resolution,
        };
        let step = match question.kind {
            Kind::Mx => resolution.exchangers(&destination.0, found, random),
            _ => resolution.addresses(&question.name, found, &self.own),
        };
        self.advance(destination, step, now);
        self.work(now);
    }

    fn advance(&mut self, destination: Destination, step: Step, now: Timestamp) {
        match step {
            Step::Wait => {}
            Step::Ask(questions) => {
                for question in questions {
                    let resolve = Action::Resolve(destination.clone(), question);
                    self.out.push(resolve);
                }
            }
            Step::Done(result) => {
                let Some(domain) = self.domains.get_mut(&destination) else {
                    return;
                };
                domain.since = now;
                if let Some(fresh) = domain.fresh.take() {
                    // An answer that fails now does not undo one that has served.
                    if result.is_err() {
                        return;
                    }
                    domain.resolution = fresh;
                }
                self.meet_hosts(result.as_deref().unwrap_or_default());
                if let Some(domain) = self.domains.get_mut(&destination) {
                    domain.known = Some(result);
                }
                self.resolved(&destination);
            }
        }
    }

    /// Asks for the names of hosts that are new; nothing waits for the answers.
    fn meet_hosts(&mut self, exchangers: &[Exchanger]) {
        for exchanger in exchangers {
            if !self.hosts.contains_key(&exchanger.addr) {
                let host = self.hosts.entry(exchanger.addr).or_default();
                let ptr = host.ptr.clone();
                self.out.push(Action::Reverse(exchanger.addr, ptr));
            }
        }
    }

    /// A destination is known: its relays go on.
    fn resolved(&mut self, destination: &Destination) {
        let Some(Some(result)) = self.domains.get(destination).map(|domain| &domain.known) else {
            return;
        };
        let failure = result.as_ref().err().copied();
        let of_it = |relay: &super::Relay| {
            relay.key.name == destination.0 && relay.key.as_host == destination.1
        };
        let ids: Vec<u64> = self
            .relays
            .iter()
            .filter(|(_, relay)| of_it(relay))
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            let resolving = self
                .relays
                .get(&id)
                .is_some_and(|relay| matches!(relay.state, State::Resolving));
            if resolving {
                match failure {
                    Some(failure) => self.unresolved(id, failure),
                    None => self.prefer(id, destination),
                }
            }
            self.wake(id);
        }
    }

    fn unresolved(&mut self, id: u64, failure: Failure) {
        let Some(relay) = self.relays.get_mut(&id) else {
            return;
        };
        relay.state = State::Failed(failure);
        let line = format!(
            "smtp-out: Failed to resolve MX for {}: {}",
            relay.printed, failure.text
        );
        self.info(line);
    }

    /// `backup`: only exchangers preferred to us are used.
    fn prefer(&mut self, id: u64, destination: &Destination) {
        let Some(relay) = self.relays.get_mut(&id) else {
            return;
        };
        relay.state = State::Ready;
        let Some(name) = relay.key.backup.clone() else {
            return;
        };
        let Some(domain) = self.domains.get(destination) else {
            return;
        };
        let Some(below) = domain.resolution.preference_of(&name) else {
            let line = format!(
                "Couldn't find backup preference for {}: error 4",
                relay.printed
            );
            return self.warn(line);
        };
        relay.below = Some(below);
        let list = domain.known.as_ref().and_then(|known| known.as_ref().ok());
        let better = |list: &Vec<Exchanger>| list.iter().any(|entry| entry.preference < below);
        if !list.is_some_and(better) {
            relay.state = State::Failed(NO_BETTER);
        }
    }

    /// The addresses a relay may use, by rising preference.
    pub(super) fn exchangers(&self, id: u64) -> Vec<(Exchanger, SocketAddr)> {
        let Some(relay) = self.relays.get(&id) else {
            return Vec::new();
        };
        let destination = (relay.key.name.clone(), relay.key.as_host);
        let known = self
            .domains
            .get(&destination)
            .and_then(|d| d.known.as_ref());
        let Some(Ok(list)) = known else {
            return Vec::new();
        };
        let port = relay.key.port.unwrap_or(SMTP_PORT);
        list.iter()
            .filter(|entry| relay.below.is_none_or(|below| entry.preference < below))
            .map(|entry| (entry.clone(), SocketAddr::new(entry.addr, port)))
            .collect()
    }

    /// The reverse name of an address, if it is known.
    pub(super) fn ptr_of(&self, addr: IpAddr) -> Option<crate::util::Line> {
        self.hosts.get(&addr)?.name().cloned()
    }
}

const SMTP_PORT: u16 = 25;
