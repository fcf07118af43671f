//! Counters and gauges behind `smtpctl show stats`: one static per key, touched from any thread.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

/// One key.
pub struct Stat {
    key: &'static str,
    value: AtomicI64,
    touched: std::sync::atomic::AtomicBool,
}

impl Stat {
    const fn new(key: &'static str) -> Stat {
        Stat {
            key,
            value: AtomicI64::new(0),
            touched: std::sync::atomic::AtomicBool::new(false),
        }
    }

    /// Adds `n`, which may be negative.
    pub fn add(&self, n: i64) {
        self.touched.store(true, Relaxed);
        self.value.fetch_add(n, Relaxed);
    }

    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Takes one away.
    pub fn dec(&self) {
        self.add(-1);
    }

    /// Sets a gauge.
    pub fn set(&self, value: i64) {
        self.touched.store(true, Relaxed);
        self.value.store(value, Relaxed);
    }

    /// The value now.
    pub fn get(&self) -> i64 {
        self.value.load(Relaxed)
    }
}

/// Every key touched since start with its value, in byte order of the keys.
pub fn snapshot() -> Vec<(&'static str, i64)> {
    ALL.iter()
        .filter(|s| s.touched.load(Relaxed))
        .map(|s| (s.key, s.get()))
        .collect()
}

macro_rules! stats {
    ($($name:ident $key:literal $doc:literal;)*) => {
        $(#[doc = $doc] pub static $name: Stat = Stat::new($key);)*
        static ALL: &[&Stat] = &[$(&$name),*];
    };
}

stats! {
    BOUNCE_ENVELOPE "bounce.envelope" "Bounce envelopes being worked on.";
    BOUNCE_MESSAGE "bounce.message" "Groups of bounces waiting.";
    CONTROL_SESSION "control.session" "Control connections.";
    MDA_ENVELOPE "mda.envelope" "Local envelopes taken from the scheduler.";
    MDA_PENDING "mda.pending" "Local envelopes waiting for their user's turn.";
    MDA_RUNNING "mda.running" "Local deliveries running.";
    MDA_USER "mda.user" "Users with local envelopes.";
    MTA_CONNECTOR "mta.connector" "Connectors.";
    MTA_DOMAIN "mta.domain" "Destinations known.";
    MTA_ENVELOPE "mta.envelope" "Envelopes being relayed.";
    MTA_HOST "mta.host" "Remote addresses known.";
    MTA_RELAY "mta.relay" "Relays.";
    MTA_ROUTE "mta.route" "Routes.";
    MTA_SESSION "mta.session" "Outgoing sessions.";
    MTA_SOURCE "mta.source" "Source addresses in use.";
    MTA_TASK "mta.task" "Messages waiting for a session.";
    MTA_TASK_RUNNING "mta.task.running" "Messages being sent.";
    QUEUE_BOUNCE "queue.bounce" "Bounce envelopes made.";
    SCHEDULER_DELIVERY_LOOP "scheduler.delivery.loop" "Outcomes: loop.";
    SCHEDULER_DELIVERY_OK "scheduler.delivery.ok" "Outcomes: delivered.";
    SCHEDULER_DELIVERY_PERMFAIL "scheduler.delivery.permfail" "Outcomes: permanent failure.";
    SCHEDULER_DELIVERY_TEMPFAIL "scheduler.delivery.tempfail" "Outcomes: temporary failure.";
    SCHEDULER_ENVELOPE "scheduler.envelope" "Envelopes known.";
    SCHEDULER_ENVELOPE_EXPIRED "scheduler.envelope.expired" "Envelopes expired.";
    SCHEDULER_ENVELOPE_INCOMING "scheduler.envelope.incoming" "Envelopes received, not committed.";
    SCHEDULER_ENVELOPE_INFLIGHT "scheduler.envelope.inflight" "Envelopes handed out.";
    SCHEDULER_ENVELOPE_REMOVED "scheduler.envelope.removed" "Envelopes removed by the administrator.";
    SCHEDULER_ENVELOPE_UPDATED "scheduler.envelope.updated" "Envelopes re-timed.";
    SCHEDULER_HOLD "scheduler.ramqueue.hold" "Envelopes held.";
    SCHEDULER_HOLDQ "scheduler.ramqueue.holdq" "Hold queues.";
    SCHEDULER_HOLD_OVERFLOW "scheduler.ramqueue.hold-overflow" "Envelopes a full hold queue turned away.";
    SMTP_SESSION "smtp.session" "Open SMTP sessions.";
    SMTP_SESSION_INET4 "smtp.session.inet4" "IPv4 sessions accepted.";
    SMTP_SESSION_INET6 "smtp.session.inet6" "IPv6 sessions accepted.";
    SMTP_SESSION_LOCAL "smtp.session.local" "Local sessions accepted.";
}
