//! Those who carry envelopes out, and the runner that hands them out.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::bounce::front_door::FrontDoor;
use crate::bounce::{self, BounceAgent};
use crate::deliver::{local, relay};
use crate::dns;
use crate::runner::{self, Agents, Inbox};
use crate::scheduler;
use crate::sys::localtime;
use crate::util::Timestamp;

use super::configuration::Configuration;
use super::names;
use super::services::Services;
use super::start::Flags;

/// Threads that write outcomes to the disk.
const SETTLE_THREADS: usize = 4;

/// Starts the agents, the runner, and the scan that tells it what the spool holds.
pub fn start(
    services: &Arc<Services>,
    resolver: &dns::Handle,
    configuration: &Configuration,
    inbox: Inbox,
    flags: &Flags,
) -> Result<(JoinHandle<()>, relay::Handle), String> {
    let said = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    let Services { live, queue, .. } = &**services;
    let config = &live.get().config;
    let limits = scheduler::Limits {
        max_inflight: config.scheduler.max_inflight,
        max_schedule: config.scheduler.max_schedule,
    };
    let (reports, outcomes) = inbox.reports(limits);
    let local = local::Agent::with_options(
        live.clone(),
        queue.clone(),
        Arc::new(services.parent.clone()),
        reports.clone(),
        &local::Options {
            names: names::blocking(resolver.clone()),
            ..local::Options::default()
        },
    )
    .map_err(said("local delivery"))?;
    let (relay, relaying) = relay::start(relay::Setup {
        live: configuration.relaying.clone(),
        queue: queue.clone(),
        resolver: resolver.clone(),
        reports: reports.clone(),
        offers_max: runner::inflight_max(limits),
    })
    .map_err(said("relay"))?;
    let bounce = BounceAgent::start(bounce::Setup {
        queue: queue.clone(),
        inject: Box::new(FrontDoor {
            services: services.clone(),
            socket: configuration.socket.clone(),
        }),
        reports,
        date,
    })
    .map_err(said("bounce"))?;
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
            policy: configuration.policy.clone(),
            pause_mda: flags.pause_mda,
            pause_mta: flags.pause_mta,
            settle_threads: SETTLE_THREADS,
        },
    )
    .map_err(said("runner"))?;
    runner::scan::start(queue.clone(), services.runner.clone()).map_err(said("scan"))?;
    Ok((runner, relaying))
}

fn date(at: Timestamp) -> String {
    localtime::rfc5322_date(at.0)
}
