//! The unprivileged assembly: builds rooms, starts threads, joins them in order.
//!
//! It has no rules of its own. What it makes first is what the others hang on: the queue, the
//! runner's inbox, the agents; the event loop comes last and holds the main thread. The end goes
//! the other way round: no new sessions, then the runner, which records what it hears back.

#![forbid(unsafe_code)]

mod host;
mod names;
mod services;
pub mod start;

use std::io;
use std::net::{IpAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use crate::accept;
use crate::bounce::front_door::FrontDoor;
use crate::bounce::{self, BounceAgent};
use crate::config::{
    Config, Diagnostic, Listener, Method, Paths, QueueKey, Secret, SocketListener, Sources,
};
use crate::deliver::{local, relay};
use crate::dns;
use crate::log;
use crate::mail::Peer;
use crate::queue::Queue;
use crate::queue::coding::{Coding, Key};
use crate::queue::fs::{self, Fs};
use crate::runner::{self, ActionFacts, Agents, Policy, Way};
use crate::scheduler;
use crate::session::{HostNames, Limits, Listening, Session};
use crate::sys::{localtime, random, user};
use crate::table::Tables;
use crate::tls::keys::Keys;
use crate::util::Timestamp;

pub use start::Startup;

use host::Host;
use services::Services;

/// Serves until the parent says to stop; says what to exit with.
pub fn run(startup: Startup) -> i32 {
    match serve(startup) {
        Ok(()) => 0,
        Err(why) => {
            log::fatal(format_args!("{why}"));
            1
        }
    }
}

/// Threads that write outcomes to the disk.
const SETTLE_THREADS: usize = 4;

/// What is wrong with a configuration that only the rooms that serve it can tell.
pub fn check(config: &Config, sources: &Sources) -> Vec<Diagnostic> {
    relay::secure::check(config, sources)
}

fn serve(startup: Startup) -> Result<(), String> {
    let said = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    let config = Arc::new(startup.config);
    let tables = Arc::new(Tables::load(&config, &startup.sources).map_err(|found| {
        found
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("; ")
    })?);
    let keys = startup.client.clone();
    let keys = Keys::new(move || keys.take_keys());
    let connectors =
        relay::secure::Connectors::load(&config, &startup.sources, &startup.roots, &keys)
            .map_err(|found| found.to_string())?;
    // The text of large tables; what is in it has been taken.
    drop(startup.sources);
    let coding = coding(&config, startup.queue_key.as_ref())?;
    let store = open_spool(&startup.paths.spool, &config, coding)?;
    let queue = Queue::new(Arc::new(store.clone()));
    let (handle, inbox) = runner::channel();
    let services = Arc::new(Services {
        config: config.clone(),
        tables: tables.clone(),
        queue: queue.clone(),
        runner: handle.clone(),
        parent: startup.client.clone(),
        daemon_user: daemon_user(startup.owner_uid),
    });

    let limits = scheduler::Limits {
        max_inflight: config.scheduler.max_inflight,
        max_schedule: config.scheduler.max_schedule,
    };
    let (reports, outcomes) = runner::reports(limits);
    let relay_reports = reports.clone();
    let calls = Arc::new(startup.client.clone());
    let resolver =
        dns::start(dns::Settings::system(), random::number_u32).map_err(said("resolver"))?;
    let options = local::Options {
        names: names::blocking(resolver.clone()),
        ..local::Options::default()
    };
    let (queue_of_local, reports_of_local) = (queue.clone(), reports.clone());
    let local = local::Agent::with_options(
        config.clone(),
        queue_of_local,
        calls,
        reports_of_local,
        &options,
    )
    .map_err(said("local delivery"))?;
    let bounce = BounceAgent::start(bounce::Setup {
        queue: queue.clone(),
        inject: Box::new(FrontDoor {
            services: services.clone(),
            server_name: config.server_name.clone(),
            tag: config.socket.tag.clone(),
        }),
        reports,
        date,
    })
    .map_err(said("bounce"))?;
    let resolver = dns::start(resolver_settings(&startup.paths), random::number_u32)
        .map_err(said("resolver"))?;
    let (relay, relaying) = relay::start(relay::Setup {
        config: config.clone(),
        queue: queue.clone(),
        tables,
        resolver: resolver.clone(),
        tls: connectors,
        reports: relay_reports,
        offers_max: runner::inflight_max(limits),
    })
    .map_err(said("relay"))?;
    let runner = runner::start(
        inbox,
        runner::Setup {
            queue: queue.clone(),
            agents: Agents {
                local: Box::new(local),
                relay: Some(Box::new(relay)),
                bounce: Box::new(bounce),
            },
            reports: outcomes,
            limits,
            policy: policy(&config),
            pause_mda: startup.flags.pause_mda,
            pause_mta: startup.flags.pause_mta,
            settle_threads: SETTLE_THREADS,
        },
    )
    .map_err(said("runner"))?;
    runner::scan::start(queue, handle.clone()).map_err(said("scan"))?;
    purge_in_the_background(store).map_err(said("purge"))?;

    let (acceptor, mailbox) = accept::new().map_err(said("event loop"))?;
    mailbox.pause(startup.flags.pause_smtp);
    let host = Host::start(
        services.clone(),
        relaying,
        mailbox.clone(),
        startup.client.clone(),
        startup.paths.libexec.clone(),
        startup.owner_uid,
    )
    .map_err(said("tables"))?;
    let stop = startup.shutdown;
    thread::Builder::new()
        .name("shutdown".to_owned())
        .spawn(move || {
            let _ = stop.recv();
            mailbox.shutdown();
        })
        .map_err(said("shutdown"))?;
    if startup.flags.run_once {
        let client = startup.client.clone();
        handle.run_once(Box::new(move || {
            let _ = client.finished();
        }));
    }
    startup.client.ready().map_err(said("parent"))?;
    acceptor
        .run::<Session>(accept::Setup {
            listeners: listeners(startup.listeners, &config),
            control: startup.control,
            socket: Arc::new(socket_listening(&config, &config.socket)),
            server_name: config.server_name.clone(),
            services,
            host: Box::new(host),
            resolver,
            workers: 0,
            own_uid: startup.owner_uid,
            limits: accept::Limits::of_this_process(),
        })
        .map_err(said("event loop"))?;
    handle.shutdown();
    let _ = runner.join();
    Ok(())
}

/// The resolver's files: the system's, or an instance's own where its root has them.
fn resolver_settings(paths: &Paths) -> dns::Settings {
    let file = |name: &str| {
        let own = paths.root.as_ref().map(|root| root.join(name));
        own.filter(|path| path.exists())
            .unwrap_or_else(|| Path::new("/etc").join(name))
    };
    dns::Settings::read(&file("resolv.conf"), &file("hosts"))
}

/// How queue files are written. A key that is asked for has come from the parent.
fn coding(config: &Config, handed: Option<&Secret>) -> Result<Coding, String> {
    let key = match &config.queue.encryption {
        None => None,
        Some(QueueKey::Text(key)) => Some(key),
        Some(QueueKey::Stdin | QueueKey::Terminal) => {
            Some(handed.ok_or("there is no key for queue encryption")?)
        }
    };
    let key = key
        .map(|key| Key::new(key.reveal()).ok_or("crypto_setup: invalid key for queue encryption"));
    let coding = Coding {
        compress: config.queue.compression,
        key: key.transpose()?,
    };
    if coding.compress {
        log::info(format_args!("queue: queue compression enabled"));
    }
    if coding.key.is_some() {
        log::info(format_args!("queue: queue encryption enabled"));
    }
    Ok(coding)
}

fn open_spool(root: &Path, config: &Config, coding: Coding) -> Result<Fs, String> {
    let options = fs::Options {
        coding,
        max_message_bytes: config.smtp.max_message_size,
        ..fs::Options::default()
    };
    Fs::open(root, options).map_err(|error| format!("spool {}: {error}", root.display()))
}

/// What was never promised is deleted while everything else goes on.
fn purge_in_the_background(store: Fs) -> io::Result<()> {
    thread::Builder::new()
        .name("purge".to_owned())
        .spawn(move || {
            if let Err(error) = store.purge() {
                log::warn(format_args!("purge: {error}"));
            }
        })?;
    Ok(())
}

/// Commands of aliases run as the daemon's user; in an instance that is not root's, as its owner.
pub fn daemon_user(owner_uid: u32) -> String {
    let found = match owner_uid {
        0 => Ok(None),
        uid => user::by_uid(uid),
    };
    match found {
        Ok(Some(user)) => user.name,
        _ => crate::config::paths::USER.to_owned(),
    }
}

fn date(at: Timestamp) -> String {
    localtime::rfc5322_date(at.0)
}

fn policy(config: &Arc<Config>) -> Policy {
    let actions = config.clone();
    Policy {
        queue_ttl_s: config.queue.ttl_s,
        bounce_warn_s: config.bounce_warn_s.clone(),
        action: Arc::new(move |name| {
            let action = actions.actions.get(name)?;
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

fn listeners(
    sockets: Vec<(u32, TcpListener)>,
    config: &Config,
) -> Vec<(TcpListener, Arc<Listening>)> {
    sockets
        .into_iter()
        .filter_map(|(index, socket)| {
            let listener = config.listeners.get(index as usize)?;
            let bound = socket.local_addr().ok().map(|addr| addr.ip());
            Some((socket, Arc::new(tcp_listening(config, listener, bound))))
        })
        .collect()
}

fn tcp_listening(config: &Config, listener: &Listener, bound: Option<IpAddr>) -> Listening {
    const SUBMISSION: [u16; 2] = [587, 465];
    let names = |table: &String| {
        Some(HostNames {
            table: table.clone(),
            bound: Peer::inet(bound?),
        })
    };
    Listening {
        server_name: listener.hostname.clone(),
        hostname: listener.hostname.clone(),
        hostnames: listener.hostnames.as_ref().and_then(names),
        tag: listener.tag.clone(),
        mask_src: listener.mask_src,
        no_dsn: listener.no_dsn,
        local: bound.is_some_and(|addr| addr.is_loopback()),
        submission: SUBMISSION.contains(&listener.port),
        limits: session_limits(config),
    }
}

fn socket_listening(config: &Config, socket: &SocketListener) -> Listening {
    Listening {
        server_name: config.server_name.clone(),
        hostname: config.server_name.clone(),
        hostnames: None,
        tag: socket.tag.clone(),
        mask_src: socket.mask_src,
        no_dsn: socket.no_dsn,
        local: true,
        submission: true,
        limits: session_limits(config),
    }
}

fn session_limits(config: &Config) -> Limits {
    Limits {
        max_message_size: config.smtp.max_message_size,
        max_rcpt: config.smtp.max_rcpt,
        max_mails: config.smtp.max_mails,
    }
}
