//! The unprivileged assembly: builds rooms, starts threads, joins them in order.
//!
//! It has no rules of its own. Each room is built from those before it: tables, TLS, the resolver,
//! the queue; then the agents and the runner; the event loop comes last and holds the main thread.
//! The end goes the other way round: no new sessions, then the runner, which records what it hears
//! back.

#![forbid(unsafe_code)]

mod agents;
mod configuration;
mod helpers;
mod host;
mod listening;
mod names;
mod reload;
mod requeue;
mod services;
mod spool;
mod traces;
pub mod start;

use std::io;
use std::sync::Arc;
use std::thread;

use crossbeam_channel::Receiver;

use crate::accept::{self, Mailbox};
use crate::auth;
use crate::config::{Config, Diagnostic, Sources};
use crate::deliver::relay;
use crate::dns;
use crate::expansion::Recent;
use crate::log;
use crate::queue::Queue;
use crate::runner;
use crate::session::Refusals;
use crate::sys::{random, user};
use crate::util::Timestamp;

pub use start::Startup;

use configuration::{Configuration, Prepared};
use helpers::Programs;
use host::Host;
use reload::{KeyRing, Reloader};
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

/// What is wrong with a configuration that only the rooms that serve it can tell.
pub fn check(config: &Config, sources: &Sources) -> Vec<Diagnostic> {
    let mut found = relay::secure::check(config, sources);
    found.extend(accept::secure::check(config, sources));
    found
}

/// Warnings about a configuration that can be used, for the start and for `smtpd -n`.
pub fn warnings(config: &Config, sources: &Sources, now: Timestamp) -> Vec<String> {
    accept::secure::warnings(config, sources, now)
}

fn serve(startup: Startup) -> Result<(), String> {
    let said = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    let Startup {
        paths,
        sources,
        config,
        flags,
        client,
        owner_uid,
        ..
    } = startup;
    let keys = KeyRing::new(&client);
    let prepared = Prepared::new(1, config, &sources, &startup.roots, &keys.current().1)?;
    helpers::start_tables(prepared.tables(), &client).map_err(said("tables"))?;
    // The text of large tables; what is in it has been taken.
    drop(sources);
    let resolver = dns::start(
        dns::Settings::of_instance(paths.root.as_deref()),
        random::number_u32,
    )
    .map_err(said("resolver"))?;
    let daemon_user = daemon_user(owner_uid);
    let key = startup.queue_key.as_ref();
    let spool = spool::open(&paths.spool, prepared.config(), key, &daemon_user)?;
    let programs = Programs {
        parent: client.clone(),
        paths: paths.clone(),
    };
    let (configuration, listeners) =
        Configuration::new(prepared, programs, startup.listeners).map_err(said("filters"))?;
    for text in accept::secure::ending(&configuration.certificates.get(), Timestamp::now()) {
        log::warn(format_args!("{text}"));
    }
    let (runner_handle, inbox) = runner::channel();
    let services = Arc::new(Services {
        live: configuration.snapshot.clone(),
        queue: Queue::new(Arc::new(spool.clone())),
        runner: runner_handle.clone(),
        parent: client.clone(),
        recent: Recent::default(),
        passwords: auth::Checker::start(client.clone()).map_err(said("auth"))?,
        daemon_user,
        refusals: Refusals::default(),
    });
    let (runner, relaying) = agents::start(&services, &resolver, &configuration, inbox, &flags)?;

    let (acceptor, mailbox) = accept::new().map_err(said("event loop"))?;
    mailbox.pause(flags.pause_smtp);
    let socket = configuration.socket.clone();
    let host = Host::start(
        services.clone(),
        relaying,
        mailbox.clone(),
        Reloader {
            configuration,
            client: client.clone(),
            paths,
            reach: startup.reach,
            keys,
            mailbox: mailbox.clone(),
        },
        startup.hangups,
        owner_uid,
    )
    .map_err(said("admin"))?;
    stop_when_told(startup.shutdown, mailbox).map_err(said("shutdown"))?;
    if flags.run_once {
        let client = client.clone();
        runner_handle.run_once(Box::new(move || {
            let _ = client.finished();
        }));
    }
    client.ready().map_err(said("parent"))?;
    acceptor
        .run(accept::Setup {
            listeners: listeners.added,
            control: startup.control,
            socket,
            services,
            host: Box::new(host),
            resolver,
            workers: 0,
            own_uid: owner_uid,
            limits: accept::Limits::of_this_process(),
        })
        .map_err(said("event loop"))?;
    runner_handle.shutdown();
    let _ = runner.join();
    spool::close(&spool);
    Ok(())
}

/// The parent's word, or its end, ends the event loop.
fn stop_when_told(stop: Receiver<()>, mailbox: Mailbox) -> io::Result<()> {
    thread::Builder::new()
        .name("shutdown".to_owned())
        .spawn(move || {
            let _ = stop.recv();
            mailbox.shutdown();
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
