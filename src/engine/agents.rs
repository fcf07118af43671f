//! Those who carry envelopes out, and the runner that hands them out.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::bounce::front_door::FrontDoor;
use crate::bounce::{self, BounceAgent};
use crate::config::{Config, Method};
use crate::deliver::{local, relay};
use crate::dns;
use crate::runner::{self, ActionFacts, Agents, Inbox, Policy, Way};
use crate::scheduler;
use crate::sys::localtime;
use crate::util::Timestamp;

use super::names;
use super::services::Services;
use super::start::Flags;

/// Threads that write outcomes to the disk.
const SETTLE_THREADS: usize = 4;

/// Starts the agents, the runner, and the scan that tells it what the spool holds.
pub fn start(
    services: &Arc<Services>,
    resolver: &dns::Handle,
    tls: relay::secure::Connectors,
    inbox: Inbox,
    flags: &Flags,
) -> Result<(JoinHandle<()>, relay::Handle), String> {
    let said = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    let Services { config, queue, .. } = &**services;
    let limits = scheduler::Limits {
        max_inflight: config.scheduler.max_inflight,
        max_schedule: config.scheduler.max_schedule,
    };
    let (reports, outcomes) = runner::reports(limits);
    let local = local::Agent::with_options(
        config.clone(),
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
        config: config.clone(),
        queue: queue.clone(),
        tables: services.tables.clone(),
        resolver: resolver.clone(),
        tls,
        reports: reports.clone(),
        offers_max: runner::inflight_max(limits),
    })
    .map_err(said("relay"))?;
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
            policy: policy(config),
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
