//! What the administrator sees and asks of relaying.

use std::net::IpAddr;

use crate::log::maillog::SmtpOut;
use crate::util::Timestamp;
use crate::util::time::Duration;

use crate::deliver::relay::routes::SourceName;

use super::{Broken, Core, Limit, Login, Readiness, Relay, RouteId, Trouble};

/// One of the listings of smtpctl(8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listing {
    /// `show hosts`.
    Hosts,
    /// `show hoststats`.
    HostStats,
    /// `show relays`.
    Relays,
    /// `show routes`.
    Routes,
    /// `show mta paused`.
    Blocks,
}

impl Core {
    /// The lines of a listing.
    pub fn list(&self, listing: Listing, now: Timestamp) -> Vec<String> {
        match listing {
            Listing::Hosts => self.hosts_lines(now),
            Listing::HostStats => self.stats.lines(),
            Listing::Relays => self.relays_lines(now),
            Listing::Routes => self.routes_lines(now),
            Listing::Blocks => self
                .blocks
                .iter()
                .map(|(addr, name)| {
                    let name = if name.is_empty() { "*" } else { name };
                    format!("{} -> {name}", SourceName(Some(*addr)))
                })
                .collect(),
        }
    }

    fn hosts_lines(&self, now: Timestamp) -> Vec<String> {
        let line = |(addr, host): (&IpAddr, &super::Host)| {
            let ptr = host.name().map_or("(null)", |name| name.as_str());
            let routes = self.routes.values().filter(|route| route.to.ip() == *addr);
            format!(
                "{addr} {ptr} refcount={} nconn={} lastconn={}",
                routes.count(),
                host.connections.count(),
                ago(host.connections.last(), now)
            )
        };
        self.hosts.iter().map(line).collect()
    }

    fn relays_lines(&self, now: Timestamp) -> Vec<String> {
        let mut lines = Vec::new();
        for relay in self.relays.values() {
            lines.push(format!(
                "{} refcount={} ntask={} nconn={} lastconn={} timeout={} wait={}{}",
                relay.printed,
                relay.sessions.len() + self.waiting_of(relay),
                self.waiting_of(relay),
                relay.connections.count(),
                ago(relay.connections.last(), now),
                until(relay.timer, now),
                relay.waits().join(","),
                if relay.on_hold { "ONHOLD" } else { "" },
            ));
            for (source, connector) in &relay.connectors {
                lines.push(format!(
                    "  connector {} refcount=0 nconn={} lastconn={} timeout={} flags={}",
                    SourceName(*source),
                    connector.connections.count(),
                    ago(connector.connections.last(), now),
                    until(relay.timer, now),
                    flags(
                        connector.error.as_ref(),
                        connector.connections.last().is_none()
                    ),
                ));
            }
        }
        lines
    }

    fn routes_lines(&self, now: Timestamp) -> Vec<String> {
        let line = |(id, route): (&RouteId, &super::Route)| {
            let ptr = self.ptr_of(route.to.ip());
            let unused = route.disabled_until.or(route.unfit_until(now));
            let idle = route.connections.count() == 0 && route.disabled_until.is_none();
            format!(
                "{id}. {} {}{}{}- nconn={} nerror={} penalty={} timeout={}",
                route.name(ptr.as_ref()),
                if route.validated { '-' } else { 'N' },
                if unused.is_some() { 'D' } else { '-' },
                if idle && route.timer.is_some() {
                    'Q'
                } else {
                    '-'
                },
                route.connections.count(),
                route.errors,
                route.penalty,
                until(unused.or(route.timer), now),
            )
        };
        self.routes.iter().map(line).collect()
    }

    /// `resume route`: the route is used again.
    pub fn resume_route(&mut self, id: RouteId, now: Timestamp) {
        let Some(route) = self.routes.get_mut(&id) else {
            return;
        };
        route.forgive();
        let addr = route.to.ip();
        self.set_answers(id, false);
        self.waiting.free(Limit::Route(id));
        let ptr = self.ptr_of(addr);
        if let Some(route) = self.routes.get(&id) {
            let name = route.name(ptr.as_ref());
            self.info(SmtpOut::RouteResumed(&name));
        }
        self.work(now);
    }

    /// `pause mta from … for …`, and `resume`. False if that changes nothing.
    pub fn block(&mut self, source: IpAddr, name: &str, on: bool, now: Timestamp) -> bool {
        let block = (source, name.to_ascii_lowercase());
        let changed = if on {
            self.blocks.insert(block)
        } else {
            self.blocks.remove(&block)
        };
        if changed && !on {
            self.unblock(source, name);
            self.work(now);
        }
        changed
    }

    fn unblock(&mut self, source: IpAddr, name: &str) {
        let mut woken = Vec::new();
        for (id, relay) in &mut self.relays {
            if relay.key.name.eq_ignore_ascii_case(name)
                && let Some(connector) = relay.connectors.get_mut(&Some(source))
                && connector.error.as_ref().map(|e| e.what) == Some(Trouble::Blocked)
            {
                connector.error = None;
                woken.push(*id);
            }
        }
        for id in woken {
            self.wake(id);
        }
    }
}

impl Relay {
    fn waits(&self) -> Vec<&'static str> {
        let mut waits = Vec::new();
        if matches!(self.readiness, Readiness::Resolving) {
            waits.push("MX");
        }
        if matches!(self.login, Login::Asked) {
            waits.push("secret");
        }
        if self.draws.asked {
            waits.push("source");
        }
        match &self.place {
            Some((limit, _)) => waits.push(limit.name()),
            None if self.timer.is_some() => waits.push("connector"),
            None => {}
        }
        waits
    }

    /// `[connector:SOURCE->[relay:…],0xFLAGS]`.
    pub(super) fn connector_name(&self, source: Option<IpAddr>) -> String {
        let connector = self.connectors.get(&source);
        let error = connector.and_then(|connector| connector.error.as_ref());
        let flags = error.map_or(0, |broken| match broken.what {
            Trouble::Family => 0x10,
            Trouble::Source => 0x20,
            Trouble::Mx => 0x40,
            Trouble::RouteNet => 0x80,
            Trouble::Blocked => 0x200,
        });
        format!(
            "[connector:{}->{},0x{flags:x}]",
            SourceName(source),
            self.printed
        )
    }
}

fn flags(error: Option<&Broken>, new: bool) -> &'static str {
    match error.map(|broken| broken.what) {
        Some(Trouble::Family) => "ERROR_FAMILY",
        Some(Trouble::Source) => "ERROR_SOURCE",
        Some(Trouble::Mx) => "ERROR_MX",
        Some(Trouble::RouteNet) => "ERROR_ROUTE_NET",
        Some(Trouble::Blocked) => "ERROR_BLOCKED",
        None if new => "NEW",
        None => "",
    }
}

/// How long ago; `-` for never.
fn ago(at: Option<Timestamp>, now: Timestamp) -> String {
    at.map_or_else(|| "-".to_owned(), |at| Duration(now.since(at)).to_string())
}

/// How long until; `-` for no time.
fn until(at: Option<Timestamp>, now: Timestamp) -> String {
    at.map_or_else(|| "-".to_owned(), |at| Duration(at.since(now)).to_string())
}
