//! Domains and smarthosts: resolving them, and what that means for their relays.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use crate::dns::{DnsResult, Kind};
use crate::log::maillog::SmtpOut;
use crate::mail::Status;
use crate::util::Timestamp;

use crate::deliver::relay::mx::{Exchanger, OURSELVES, Question, RelayError, Resolution, Step};

use super::{Action, Core, Destination, Domain, Readiness, Relay, RelayId, Whose};

/// The answer is asked for again after so many seconds; the resolver knows whether it is still
/// good.
const RENEW_S: u64 = 300;

/// None of the exchangers is preferred to us.
const NO_BETTER: RelayError =
    RelayError::temporary(Status::new(4, 4, 4), "No MX found for destination");

impl Core {
    /// A relay has come for a destination: its addresses are asked for unless they are known.
    pub(super) fn join_domain(&mut self, id: RelayId, destination: Destination, now: Timestamp) {
        if let Some(domain) = self.domains.get_mut(&destination) {
            domain.relays.insert(id);
            if domain.known.is_some() {
                self.resolved(&destination);
            }
            return;
        }
        let (resolution, step) = self.begin(&destination);
        let domain = Domain {
            resolution,
            known: None,
            relays: BTreeSet::from([id]),
            connections: self.gone.take(&Whose::Domain(destination.clone())),
            since: now,
            fresh: None,
        };
        self.domains.insert(destination.clone(), domain);
        self.advance_resolution(destination, step, now);
    }

    pub(super) fn leave_domain(&mut self, id: RelayId, destination: &Destination, now: Timestamp) {
        let Some(domain) = self.domains.get_mut(destination) else {
            return;
        };
        domain.relays.remove(&id);
        if !domain.relays.is_empty() {
            return;
        }
        if let Some(domain) = self.domains.remove(destination) {
            let whose = Whose::Domain(destination.clone());
            self.gone.keep(whose, domain.connections, now);
        }
        self.questions.forget(destination);
    }

    fn begin(&mut self, destination: &Destination) -> (Resolution, Step) {
        let number = self.next_resolution;
        self.next_resolution += 1;
        Resolution::begin(number, &destination.0, destination.1, &self.own)
    }

    /// Asks for an answer that is old again; until it comes, the old one serves.
    pub(super) fn renew(&mut self, destination: &Destination, now: Timestamp) {
        let is_old = |domain: &Domain| {
            domain.known.is_some() && now.since(domain.since) >= RENEW_S && domain.fresh.is_none()
        };
        if !self.domains.get(destination).is_some_and(is_old) {
            return;
        }
        let (resolution, step) = self.begin(destination);
        let Some(domain) = self.domains.get_mut(destination) else {
            return;
        };
        domain.since = now;
        if let Step::Ask(_) = step {
            domain.fresh = Some(resolution);
            self.advance_resolution(destination.clone(), step, now);
        }
    }

    /// Takes an answer of the resolver, and goes on with who waits for it.
    pub fn answer(
        &mut self,
        destination: Destination,
        question: &Question,
        found: DnsResult,
        now: Timestamp,
    ) {
        self.questions.answered(&destination);
        self.answered(destination, question, found, now);
        self.ask_on();
        self.work(now);
    }

    fn answered(
        &mut self,
        destination: Destination,
        question: &Question,
        found: DnsResult,
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
        if !resolution.has_asked(question) {
            return;
        }
        let step = match question.kind {
            Kind::Mx => resolution.exchangers(&destination.0, found, random, &self.own),
            _ => resolution.addresses(&question.name, found, &self.own),
        };
        self.advance_resolution(destination, step, now);
    }

    /// Asks what waits to be asked, as far as there is room.
    fn ask_on(&mut self) {
        while let Some((destination, question)) = self.questions.next() {
            self.out.push(Action::Resolve(destination, question));
        }
        while let Some((addr, ptr)) = self.names.next() {
            self.out.push(Action::Reverse(addr, ptr));
        }
    }

    /// The resolver has said what it knows of the name of an address.
    pub fn named(&mut self) {
        self.names.answered();
        self.ask_on();
    }

    fn advance_resolution(&mut self, destination: Destination, step: Step, now: Timestamp) {
        match step {
            Step::Wait => {}
            Step::Ask(questions) => {
                self.questions.add(&destination, questions);
                self.ask_on();
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
                    domain.known = Some(result.map(Arc::from));
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
                self.names.add(exchanger.addr, host.ptr.clone());
            }
        }
        self.ask_on();
    }

    /// A destination is known: its relays go on.
    fn resolved(&mut self, destination: &Destination) {
        let Some(Some(result)) = self.domains.get(destination).map(|domain| &domain.known) else {
            return;
        };
        let failure = result.as_ref().err().copied();
        let ids: Vec<RelayId> = self
            .domains
            .get(destination)
            .into_iter()
            .flat_map(|domain| &domain.relays)
            .copied()
            .collect();
        for id in ids {
            let resolving = self
                .relays
                .get(&id)
                .is_some_and(|relay| matches!(relay.readiness, Readiness::Resolving));
            if resolving {
                match failure {
                    Some(failure) => self.unresolved(id, failure),
                    None => self.prefer(id, destination),
                }
            }
            self.wake(id);
        }
    }

    fn unresolved(&mut self, id: RelayId, failure: RelayError) {
        let Some(relay) = self.relays.get_mut(&id) else {
            return;
        };
        // A backup keeps what it has no better exchanger for: one may be there again tomorrow.
        let failure = match &relay.key.backup {
            Some(_) if failure == OURSELVES => NO_BETTER,
            Some(_) | None => failure,
        };
        relay.readiness = Readiness::Failed(failure.outcome());
        let printed = relay.printed.clone();
        self.info(SmtpOut::Unresolved(&printed, &failure.text));
    }

    /// `backup`: only exchangers preferred to us are used.
    fn prefer(&mut self, id: RelayId, destination: &Destination) {
        let Some(relay) = self.relays.get_mut(&id) else {
            return;
        };
        relay.readiness = Readiness::Ready;
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
        let better = |list: &Arc<[Exchanger]>| list.iter().any(|entry| entry.preference < below);
        if !list.is_some_and(better) {
            relay.readiness = Readiness::Failed(NO_BETTER.outcome());
        }
    }

    /// The addresses of a relay's destination, by rising preference.
    pub(super) fn exchangers(&self, relay: &Relay) -> Option<Arc<[Exchanger]>> {
        let domain = self.domains.get(&relay.key.destination())?;
        domain.known.as_ref()?.as_ref().ok().cloned()
    }

    /// The reverse name of an address, if it is known.
    pub(super) fn ptr_of(&self, addr: IpAddr) -> Option<crate::util::Line> {
        self.hosts.get(&addr)?.name().cloned()
    }
}
