//! What the rooms of an engine are configured with, and how all of it is replaced at once.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use crate::accept::{Door, secure};
use crate::config::{Config, Method, Sources};
use crate::deliver::relay::Configured;
use crate::deliver::relay::secure::Connectors;
use crate::filter::Filters;
use crate::log;
use crate::runner::{ActionFacts, Policy, Way};
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

    /// Its tables.
    pub fn tables(&self) -> &Tables {
        &self.snapshot.tables
    }

    /// What it says.
    pub fn config(&self) -> &Config {
        &self.snapshot.config
    }
}

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
    /// Sessions of each listening socket: its position in `Config::listeners` and its address.
    listeners: Vec<(u32, Option<SocketAddr>, Live<Door>)>,
    /// The filters of listeners.
    pub filters: Live<Filters>,
    programs: Programs,
    /// TLS of the first ones.
    servers: Vec<Option<Arc<Server>>>,
    /// When certificates end, by their pki.
    pub certificates: Live<Vec<(String, i64)>>,
}

impl Configuration {
    /// The first one, and what listeners are bound to for as long as we live.
    pub fn new(
        prepared: Prepared,
        programs: Programs,
        bound: Arc<[SocketAddr]>,
    ) -> io::Result<Configuration> {
        let Prepared {
            snapshot,
            tls,
            servers,
            certificates,
        } = prepared;
        let config = &snapshot.config;
        let filters = programs.start(&snapshot, None)?;
        Ok(Configuration {
            policy: Live::new(policy(&snapshot)),
            socket: Live::new(programs.socket_listening(config, &filters)),
            relaying: Live::new(Configured {
                snapshot: snapshot.clone(),
                tls,
                bound,
            }),
            listeners: Vec::new(),
            servers,
            certificates: Live::new(certificates),
            snapshot: Live::from(snapshot),
            filters: Live::new(filters),
            programs,
        })
    }

    /// Takes the listening sockets in; each comes out with what its sessions are told.
    pub fn listeners(
        &mut self,
        sockets: Vec<(u32, TcpListener)>,
    ) -> Vec<(TcpListener, Live<Door>)> {
        let now = self.snapshot.get();
        let mut all = Vec::new();
        for (index, socket) in sockets {
            let Some(listener) = now.config.listeners.get(index as usize) else {
                continue;
            };
            let bound = socket.local_addr().ok();
            let server = self.servers.get(index as usize).cloned().flatten();
            let filters = self.filters.get();
            let told = Live::new(door(&now, listener, bound, &filters, server));
            self.listeners.push((index, bound, told.clone()));
            all.push((socket, told));
        }
        all
    }

    /// Replaces it. What has begun ends as it began.
    pub fn replace(&self, prepared: Prepared) {
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
        for (index, bound, told) in &self.listeners {
            if let Some(listener) = config.listeners.get(*index as usize) {
                let server = servers.get(*index as usize).cloned().flatten();
                told.set(Arc::new(door(
                    &snapshot, listener, *bound, &filters, server,
                )));
            }
        }
        self.socket
            .set(Arc::new(self.programs.socket_listening(config, &filters)));
        self.policy.set(Arc::new(policy(&snapshot)));
        self.relaying.set(Arc::new(Configured {
            snapshot: snapshot.clone(),
            tls,
            bound: self.relaying.get().bound.clone(),
        }));
        self.snapshot.set(snapshot);
    }
}

fn policy(now: &Arc<Snapshot>) -> Policy {
    let actions = now.clone();
    Policy {
        queue_ttl_s: now.config.queue.ttl_s,
        bounce_warn_s: now.config.bounce_warn_s.clone(),
        action: Arc::new(move |name| {
            let action = actions.config.actions.get(name)?;
            let way = match action.method {
                Method::Local(_) => Way::Local,
                Method::Relay(_) => Way::Relay,
            };
            Some(ActionFacts {
                way,
                ttl_s: action.ttl_s,
            })
        }),
    }
}
