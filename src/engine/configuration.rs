//! What the rooms of an engine are configured with, and how all of it is replaced at once.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};

use crate::accept::{Door, Listeners, secure};
use crate::config::{Config, Method, Sources};
use crate::deliver::relay::Configured;
use crate::deliver::relay::secure::Connectors;
use crate::filter::Filters;
use crate::log;
use crate::runner::{ActionFacts, ActionKind, Policy};
use crate::session::Listening;
use crate::table::{Snapshot, Tables};
use crate::tls::Trust;
use crate::tls::keys::Keys;
use crate::tls::server::Server;
use crate::util::Live;

use super::helpers::Programs;
use super::listening::door;

/// A configuration with all that can go wrong behind it.
pub struct Prepared {
    snapshot: Arc<Snapshot>,
    tls: Connectors,
    /// TLS of every listener, in the order of `Config::listeners`.
    servers: Vec<Option<Arc<Server>>>,
    /// When certificates end.
    certificates: Vec<(String, i64)>,
}

impl Prepared {
    /// Reads the tables, and makes what relaying needs of TLS. `roots` are the system's
    /// authorities; private keys stay in the process that `keys` leads to.
    pub fn new(
        version: u64,
        config: Config,
        sources: &Sources,
        roots: &Trust,
        keys: &Keys,
    ) -> Result<Prepared, String> {
        let tls = Connectors::load(&config, sources, roots, keys);
        let tls = tls.map_err(|found| found.to_string())?;
        let servers = secure::servers(&config, sources, roots, keys);
        let servers = servers.map_err(|found| found.to_string())?;
        let certificates = secure::ends(&config, sources);
        let snapshot = Snapshot::load(version, config, sources).map_err(|found| {
            let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
            lines.join("\n")
        })?;
        Ok(Prepared {
            snapshot: Arc::new(snapshot),
            tls,
            servers,
            certificates,
        })
    }

    /// The tables that it brings.
    pub fn tables(&self) -> &Tables {
        &self.snapshot.tables
    }

    /// The configuration itself.
    pub fn config(&self) -> &Config {
        &self.snapshot.config
    }
}

/// Listening sockets, with their position in `Config::listeners`.
pub type Sockets = Vec<(u32, TcpListener)>;

/// The one configuration of an engine. Each room has the part that it works with and takes a
/// snapshot of it for each piece of work.
pub struct Configuration {
    /// Sessions, local delivery and smtpctl(8): rules, actions and tables.
    pub snapshot: Live<Snapshot>,
    /// Relaying: the same, and TLS.
    pub relaying: Live<Configured>,
    /// The runner: how envelopes are settled.
    pub policy: Live<Policy>,
    /// Sessions over the control socket, and reports.
    pub socket: Live<Listening>,
    /// What sessions of each listening socket are told, by its address.
    doors: Mutex<BTreeMap<SocketAddr, Live<Door>>>,
    /// The filters of listeners and relays.
    pub filters: Live<Filters>,
    programs: Programs,
    /// When certificates end, by their pki.
    pub certificates: Live<Vec<(String, i64)>>,
}

impl Configuration {
    /// The first one, and its listening sockets.
    pub fn new(
        prepared: Prepared,
        programs: Programs,
        sockets: Sockets,
    ) -> io::Result<(Configuration, Listeners)> {
        let Prepared {
            snapshot,
            tls,
            servers,
            certificates,
        } = prepared;
        let config = &snapshot.config;
        let filters = Arc::new(programs.start(&snapshot, None)?);
        let doors = Mutex::default();
        let listeners = change_doors(&doors, sockets, &snapshot, &servers, &filters);
        let configuration = Configuration {
            policy: Live::new(policy(&snapshot)),
            socket: Live::new(programs.socket_listening(config, &filters)),
            relaying: Live::new(Configured {
                snapshot: snapshot.clone(),
                tls,
                filters: filters.clone(),
                bound: bound(&doors),
            }),
            doors,
            certificates: Live::new(certificates),
            snapshot: Live::from(snapshot),
            filters: Live::from(filters),
            programs,
        };
        Ok((configuration, listeners))
    }

    /// Replaces it, and says what changes about listeners. What has begun ends as it began.
    pub fn replace(&self, prepared: Prepared, sockets: Sockets) -> Listeners {
        let Prepared {
            snapshot,
            tls,
            servers,
            certificates,
        } = prepared;
        let config = &snapshot.config;
        self.certificates.set(Arc::new(certificates));
        let before = self.filters.get();
        match self.programs.start(&snapshot, Some(&before)) {
            Ok(filters) => self.filters.set(Arc::new(filters)),
            // Nobody is served without them: those there are stay.
            Err(error) => log::warn(format_args!("filters: {error}")),
        }
        let filters = self.filters.get();
        let listeners = change_doors(&self.doors, sockets, &snapshot, &servers, &filters);
        self.socket
            .set(Arc::new(self.programs.socket_listening(config, &filters)));
        self.policy.set(Arc::new(policy(&snapshot)));
        self.relaying.set(Arc::new(Configured {
            snapshot: snapshot.clone(),
            tls,
            filters,
            bound: bound(&self.doors),
        }));
        self.snapshot.set(snapshot);
        listeners
    }
}

/// Tells the doors of listeners that go on what holds now, and forgets those of the others.
fn change_doors(
    doors: &Mutex<BTreeMap<SocketAddr, Live<Door>>>,
    sockets: Sockets,
    now: &Arc<Snapshot>,
    servers: &[Option<Arc<Server>>],
    filters: &Filters,
) -> Listeners {
    let mut doors = doors.lock().unwrap_or_else(PoisonError::into_inner);
    let mut before = std::mem::take(&mut *doors);
    let mut added = Vec::new();
    for (index, socket) in sockets {
        let listener = now.config.listeners.get(index as usize);
        let (Some(listener), Ok(address)) = (listener, socket.local_addr()) else {
            continue;
        };
        let server = servers.get(index as usize).cloned().flatten();
        let told = Arc::new(door(now, listener, Some(address), filters, server));
        let live = match before.remove(&address) {
            Some(live) => {
                live.set(told);
                live
            }
            None => {
                let live = Live::from(told);
                added.push((socket, live.clone()));
                live
            }
        };
        doors.insert(address, live);
    }
    let gone = before.into_keys().collect();
    Listeners { added, gone }
}

fn bound(doors: &Mutex<BTreeMap<SocketAddr, Live<Door>>>) -> Arc<[SocketAddr]> {
    let doors = doors.lock().unwrap_or_else(PoisonError::into_inner);
    doors.keys().copied().collect()
}

fn policy(now: &Arc<Snapshot>) -> Policy {
    let actions = now.clone();
    Policy {
        queue_ttl_s: now.config.queue.ttl_s,
        bounce_warn_s: now.config.bounce_warn_s.clone(),
        action: Arc::new(move |name| {
            let action = actions.config.actions.get(name)?;
            let kind = match action.method {
                Method::Local(_) => ActionKind::Local,
                Method::Relay(_) => ActionKind::Relay,
            };
            Some(ActionFacts {
                kind,
                ttl_s: action.ttl_s,
            })
        }),
    }
}
