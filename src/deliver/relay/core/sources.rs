//! What a relay needs of tables: source addresses, and credentials; and what is wrong when there is
//! nothing left.

use std::net::IpAddr;

use crate::client::Credentials;
use crate::log::maillog::SmtpOut;
use crate::log::stat;
use crate::mail::Status;
use crate::util::{Line, Timestamp};

use crate::deliver::relay::key::Key;
use crate::deliver::relay::mx::RelayError;
use crate::deliver::relay::routes::Talk;

use super::{Action, Broken, Connector, Core, Login, Readiness, Relay, RelayId, Trouble, Whose};

const fn unreachable(text: &'static str) -> RelayError {
    RelayError::temporary(Status::new(4, 4, 1), text)
}

/// By what is wrong with its connectors.
const NETWORK: RelayError = unreachable("Network error on destination MXs");
const NO_MX: RelayError = unreachable("No MX found for destination");
const FAMILY: RelayError = unreachable("Address family mismatch on destination MXs");
const BLOCKED: RelayError = unreachable("All routes to destination blocked");
const NO_ROUTE: RelayError = unreachable("No valid route to destination");
const NO_SOURCE: RelayError =
    RelayError::temporary(Status::new(4, 3, 5), "Could not retrieve source address");

/// Seconds until another source address is drawn while messages wait.
const DRAW_NEW_S: u64 = 1;
const DRAW_KNOWN_S: u64 = 10;

impl Relay {
    /// How it talks to an exchanger of this name.
    pub(super) fn talk<'a>(&'a self, exchanger: &'a Line) -> Talk<'a> {
        Talk {
            key: &self.key,
            exchanger,
            login: match &self.login {
                Login::As(credentials) => Some(credentials),
                Login::No | Login::Asked | Login::Unknown => None,
            },
        }
    }
}

impl Core {
    pub(super) fn break_connector(&mut self, id: RelayId, source: Option<IpAddr>, broken: Broken) {
        let Some(relay) = self.relays.get_mut(&id) else {
            return;
        };
        let name = relay.connector_name(source);
        let trouble = broken.what;
        if let Some(connector) = relay.connectors.get_mut(&source) {
            connector.error = Some(broken);
        }
        self.info(match trouble {
            Trouble::Mx => SmtpOut::NoExchanger(&name),
            Trouble::Family => SmtpOut::OtherFamily(&name),
            Trouble::RouteNet => SmtpOut::NoRoute(&name),
            // The one is the administrator's doing, the other has been said.
            Trouble::Blocked | Trouble::Source => return,
        });
    }

    /// A source address is new to a relay.
    pub(super) fn connector(&mut self, key: &Key, source: Option<IpAddr>) -> Connector {
        let whose = Whose::Connector(key.clone(), source);
        Connector {
            connections: self.gone.take(&whose),
            error: None,
        }
    }

    /// Whether another source address may help.
    pub(super) fn may_draw(&self, id: RelayId) -> bool {
        self.relays.get(&id).is_some_and(|relay| {
            let draws = &relay.draws;
            relay.src.is_some() && !draws.failed && draws.fruitless <= relay.connectors.len()
        })
    }

    pub(super) fn draw(&mut self, id: RelayId) {
        let Some(relay) = self.relays.get_mut(&id) else {
            return;
        };
        let Some(table) = relay.src.clone() else {
            return;
        };
        if !std::mem::replace(&mut relay.draws.asked, true) {
            let configured = relay.configured.clone();
            self.out.push(Action::Source(configured, id, table));
        }
    }

    /// A source address for a relay; `None` when the table has none or cannot be asked.
    pub fn source(&mut self, id: RelayId, addr: Option<IpAddr>, now: Timestamp) {
        let Some(relay) = self.relays.get_mut(&id) else {
            return;
        };
        let draws = &mut relay.draws;
        draws.asked = false;
        match addr {
            None => {
                draws.failed = true;
                let line = format!("Failed to get source address for {}", relay.printed);
                self.warn(line);
            }
            Some(addr) => {
                let known = relay.connectors.get(&Some(addr));
                let wait_s = if known.is_some() {
                    DRAW_KNOWN_S
                } else {
                    DRAW_NEW_S
                };
                draws.next = now.plus(wait_s);
                draws.fruitless = match known {
                    Some(connector) if connector.error.is_some() => draws.fruitless + 1,
                    Some(_) | None => 0,
                };
                if known.is_none() {
                    let key = relay.key.clone();
                    let connector = self.connector(&key, Some(addr));
                    if let Some(relay) = self.relays.get_mut(&id) {
                        relay.connectors.insert(Some(addr), connector);
                    }
                    stat::MTA_CONNECTOR.inc();
                }
            }
        }
        self.wake(id);
        self.work(now);
    }

    /// The credentials of a relay; `None` when the table has none or cannot be asked.
    pub fn secret(&mut self, id: RelayId, found: Option<Credentials>, now: Timestamp) {
        let Some(relay) = self.relays.get_mut(&id) else {
            return;
        };
        if let Some(credentials) = found {
            relay.login = Login::As(credentials);
        } else {
            relay.login = Login::Unknown;
            let line = format!("Failed to retrieve secret for {}", relay.printed);
            self.warn(line);
        }
        self.wake(id);
        self.work(now);
    }

    /// No connector is of use. While a session is left, it carries on.
    pub(super) fn nothing_left(&mut self, id: RelayId, now: Timestamp) {
        let Some(relay) = self.relays.get_mut(&id) else {
            return;
        };
        if !relay.sessions.is_empty() {
            return;
        }
        let broken = relay.connectors.values().filter_map(|c| c.error.as_ref());
        let broken = broken.min_by_key(|broken| broken.what);
        let generic = match broken.map(|broken| broken.what) {
            Some(Trouble::RouteNet) => NETWORK,
            Some(Trouble::Mx) => NO_MX,
            Some(Trouble::Family) => FAMILY,
            Some(Trouble::Blocked) => BLOCKED,
            None if relay.draws.failed => NO_SOURCE,
            Some(Trouble::Source) | None => NO_ROUTE,
        };
        let why = broken.and_then(|broken| broken.why.clone());
        let failure = why.unwrap_or_else(|| generic.outcome());
        relay.readiness = Readiness::Failed(failure.clone());
        self.flush(id, &failure, now);
    }
}
