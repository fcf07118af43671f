//! Counters and gauges behind `smtpctl show stats`: one static per key, touched from any thread.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use super::{Trace, trace};

/// One key.
pub struct Stat {
    key: &'static str,
    value: AtomicI64,
}

impl Stat {
    const fn new(key: &'static str) -> Stat {
        Stat {
            key,
            value: AtomicI64::new(0),
        }
    }

    /// Adds `n`, which may be negative.
    pub fn add(&self, n: i64) {
        let before = self.value.fetch_add(n, Relaxed);
        self.trace(before, before + n);
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
        let before = self.value.swap(value, Relaxed);
        self.trace(before, value);
    }

    fn trace(&self, before: i64, now: i64) {
        if before != now {
            trace(Trace::Stat, format_args!("stat: {}: {now}", self.key));
        }
    }

    /// The value now.
    pub fn get(&self) -> i64 {
        self.value.load(Relaxed)
    }
}

/// Every key with its value, in byte order of the keys.
pub fn snapshot() -> Vec<(&'static str, i64)> {
    ALL.iter().map(|s| (s.key, s.get())).collect()
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
    BOUNCE_SESSION "bounce.session" "Reports on their way into the queue.";
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
    QUEUE_CACHE_LOAD_HIT "queue.evpcache.load.hit" "Envelopes wanted and at hand.";
    QUEUE_CACHE_LOAD_MISSED "queue.evpcache.load.missed" "Envelopes wanted and read from the disk.";
    QUEUE_CACHE_SIZE "queue.evpcache.size" "Envelopes at hand.";
    QUEUE_CACHE_UPDATE_HIT "queue.evpcache.update.hit" "Envelopes changed while at hand; none is.";
    QUEUE_CACHE_UPDATE_MISSED "queue.evpcache.update.missed" "Envelopes changed on the disk.";
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
    SCHEDULER_RAM_ENVELOPE "scheduler.ramqueue.envelope" "Envelopes known.";
    SCHEDULER_HOLD "scheduler.ramqueue.hold" "Envelopes held.";
    SCHEDULER_HOLD_OVERFLOW "scheduler.ramqueue.hold-overflow" "Envelopes a full hold queue turned away.";
    SCHEDULER_HOLDQ "scheduler.ramqueue.holdq" "Hold queues.";
    SCHEDULER_RAM_MESSAGE "scheduler.ramqueue.message" "Messages known.";
    SCHEDULER_RAM_UPDATE "scheduler.ramqueue.update" "Envelopes waiting for their commit; none is seen before.";
    SMTP_SESSION "smtp.session" "Open SMTP sessions.";
    SMTP_SESSION_INET4 "smtp.session.inet4" "IPv4 sessions accepted.";
    SMTP_SESSION_INET6 "smtp.session.inet6" "IPv6 sessions accepted.";
    SMTP_SESSION_LOCAL "smtp.session.local" "Local sessions accepted.";
    SMTP_SMTPS "smtp.smtps" "Sessions in TLS from their first byte on.";
    SMTP_TLS "smtp.tls" "Sessions in TLS by STARTTLS.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_opensmtpd_is_there_in_byte_order() {
        // smtpctl(8), show stats: the keys of OpenSMTPD 7.8 with its usual back ends.
        let keys: Vec<&str> = snapshot().into_iter().map(|(key, _)| key).collect();
        assert!(keys.is_sorted(), "{keys:?}");
        let all = "bounce.envelope bounce.message bounce.session control.session mda.envelope \
                   mda.pending mda.running mda.user mta.connector mta.domain mta.envelope mta.host \
                   mta.relay mta.route mta.session mta.source mta.task mta.task.running \
                   queue.bounce queue.evpcache.load.hit queue.evpcache.load.missed \
                   queue.evpcache.size queue.evpcache.update.hit queue.evpcache.update.missed \
                   scheduler.delivery.loop scheduler.delivery.ok scheduler.delivery.permfail \
                   scheduler.delivery.tempfail scheduler.envelope scheduler.envelope.expired \
                   scheduler.envelope.incoming scheduler.envelope.inflight \
                   scheduler.envelope.removed scheduler.envelope.updated \
                   scheduler.ramqueue.envelope scheduler.ramqueue.hold \
                   scheduler.ramqueue.hold-overflow scheduler.ramqueue.holdq \
                   scheduler.ramqueue.message scheduler.ramqueue.update smtp.session \
                   smtp.session.inet4 smtp.session.inet6 smtp.session.local smtp.smtps smtp.tls";
        for key in all.split_whitespace() {
            assert!(keys.contains(&key), "{key}");
        }
    }
}
