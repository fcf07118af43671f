//! Counters and gauges behind `smtpctl show stats`: one static per key, touched from any thread.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use super::{Trace, trace};

/// A counter or gauge of `smtpctl show stats`.
pub struct Stat {
    key: &'static str,
    kind: Kind,
    doc: &'static str,
    value: AtomicI64,
}

/// How a value changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
}

impl Stat {
    const fn new(key: &'static str, kind: Kind, doc: &'static str) -> Stat {
        Stat {
            key,
            kind,
            doc,
            value: AtomicI64::new(0),
        }
    }

    /// The name that `smtpctl show stats` prints.
    pub fn key(&self) -> &'static str {
        self.key
    }

    /// How it changes.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What it counts.
    pub fn doc(&self) -> &'static str {
        self.doc.trim()
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

/// How long something took, each time: counts up to limits that grow.
pub struct Histogram {
    key: &'static str,
    doc: &'static str,
    limits_ms: &'static [u64; LIMITS],
    /// Within each limit and not within the one before; the last ones are beyond all.
    counts: [AtomicI64; LIMITS + 1],
    sum_ms: AtomicI64,
}

const LIMITS: usize = 8;

impl Histogram {
    const fn new(key: &'static str, limits_ms: &'static [u64; LIMITS], doc: &'static str) -> Self {
        Histogram {
            key,
            doc,
            limits_ms,
            counts: [const { AtomicI64::new(0) }; LIMITS + 1],
            sum_ms: AtomicI64::new(0),
        }
    }

    /// Adds one observation: something took this long.
    pub fn took_ms(&self, ms: u64) {
        let at = self
            .limits_ms
            .iter()
            .take_while(|limit| ms > **limit)
            .count();
        if let Some(count) = self.counts.get(at) {
            count.fetch_add(1, Relaxed);
        }
        let ms = i64::try_from(ms).unwrap_or(i64::MAX);
        self.sum_ms.fetch_add(ms, Relaxed);
    }

    /// What its keys begin with.
    pub fn key(&self) -> &'static str {
        self.key
    }

    /// What took so long.
    pub fn doc(&self) -> &'static str {
        self.doc
    }

    /// The limits.
    pub fn limits_ms(&self) -> &'static [u64] {
        self.limits_ms
    }

    fn snapshot(&self) -> Vec<(String, i64)> {
        let mut sum = 0;
        let mut found = Vec::new();
        let ends = self.limits_ms.iter().map(|limit| format!("le.{limit}"));
        for (end, count) in ends.chain(["count".to_owned()]).zip(&self.counts) {
            sum += count.load(Relaxed);
            found.push((format!("{}.{end}", self.key), sum));
        }
        found.push((format!("{}.msec", self.key), self.sum_ms.load(Relaxed)));
        found
    }
}

/// From receiving the final dot until the message is durable.
pub static SMTP_COMMIT: Histogram = Histogram::new(
    "smtp.commit",
    &[1, 5, 10, 50, 100, 500, 1_000, 10_000],
    "From the final dot until the message is durable.",
);
/// From the envelope's creation until it was delivered.
pub static SCHEDULER_DELIVERY_DELAY: Histogram = Histogram::new(
    "scheduler.delivery.delay",
    &[
        1_000,
        5_000,
        30_000,
        300_000,
        1_800_000,
        7_200_000,
        43_200_000,
        172_800_000,
    ],
    "From the creation of an envelope until it was delivered.",
);

/// Every key of one value.
pub fn all() -> impl Iterator<Item = &'static Stat> {
    ALL.iter().copied()
}

/// What is counted by its duration.
pub fn histograms() -> impl Iterator<Item = &'static Histogram> {
    [&SMTP_COMMIT, &SCHEDULER_DELIVERY_DELAY].into_iter()
}

/// Every key with its value, in byte order of the keys.
pub fn snapshot() -> Vec<(String, i64)> {
    let values = all().map(|stat| (stat.key.to_owned(), stat.get()));
    let mut found: Vec<_> = values
        .chain(histograms().flat_map(Histogram::snapshot))
        .collect();
    found.sort();
    found
}

macro_rules! stats {
    ($($name:ident $key:literal $kind:ident $doc:literal;)*) => {
        $(#[doc = $doc] pub static $name: Stat = Stat::new($key, Kind::$kind, $doc);)*
        static ALL: &[&Stat] = &[$(&$name),*];
    };
}

stats! {
    BOUNCE_ENVELOPE "bounce.envelope" Gauge "Bounce envelopes being worked on.";
    BOUNCE_MESSAGE "bounce.message" Gauge "Groups of bounces waiting.";
    BOUNCE_SESSION "bounce.session" Gauge "Reports on their way into the queue.";
    CONTROL_SESSION "control.session" Gauge "Control connections.";
    MDA_ENVELOPE "mda.envelope" Gauge "Local envelopes taken from the scheduler.";
    MDA_PENDING "mda.pending" Gauge "Local envelopes waiting for their user's turn.";
    MDA_RUNNING "mda.running" Gauge "Local deliveries running.";
    MDA_USER "mda.user" Gauge "Users with local envelopes.";
    MTA_CONNECTOR "mta.connector" Gauge "Connectors.";
    MTA_DOMAIN "mta.domain" Gauge "Destinations known.";
    MTA_ENVELOPE "mta.envelope" Gauge "Envelopes being relayed.";
    MTA_HOST "mta.host" Gauge "Remote addresses known.";
    MTA_RELAY "mta.relay" Gauge "Relays.";
    MTA_ROUTE "mta.route" Gauge "Routes.";
    MTA_SESSION "mta.session" Gauge "Outgoing sessions.";
    MTA_SOURCE "mta.source" Gauge "Source addresses in use.";
    MTA_TASK "mta.task" Gauge "Messages waiting for a session.";
    MTA_TASK_RUNNING "mta.task.running" Gauge "Messages being sent.";
    QUEUE_BOUNCE "queue.bounce" Counter "Bounce envelopes made.";
    QUEUE_CORRUPT "queue.corrupt" Counter "Envelopes, messages and bags that could not be understood and went to corrupt.";
    QUEUE_CACHE_LOAD_HIT "queue.evpcache.load.hit" Counter "Envelopes wanted and at hand.";
    QUEUE_CACHE_LOAD_MISSED "queue.evpcache.load.missed" Counter "Envelopes wanted and read from the disk.";
    QUEUE_CACHE_SIZE "queue.evpcache.size" Gauge "Envelopes at hand.";
    QUEUE_CACHE_UPDATE_HIT "queue.evpcache.update.hit" Counter "Envelopes changed while at hand; none is.";
    QUEUE_CACHE_UPDATE_MISSED "queue.evpcache.update.missed" Counter "Envelopes changed on the disk.";
    QUEUE_SYNC "queue.sync" Counter "Files and directories of the queue that were synced.";
    QUEUE_UNREADABLE "queue.unreadable" Counter "Buckets, bags, messages and envelopes that the system did not let us read, and that stay.";
    SCHEDULER_DELIVERY_LOOP "scheduler.delivery.loop" Counter "Outcomes: loop.";
    SCHEDULER_DELIVERY_OK "scheduler.delivery.ok" Counter "Outcomes: delivered.";
    SCHEDULER_DELIVERY_PERMFAIL "scheduler.delivery.permfail" Counter "Outcomes: permanent failure.";
    SCHEDULER_DELIVERY_TEMPFAIL "scheduler.delivery.tempfail" Counter "Outcomes: temporary failure.";
    SCHEDULER_ENVELOPE "scheduler.envelope" Gauge "Envelopes known.";
    SCHEDULER_ENVELOPE_EXPIRED "scheduler.envelope.expired" Counter "Envelopes expired.";
    SCHEDULER_ENVELOPE_INCOMING "scheduler.envelope.incoming" Gauge "Envelopes received, not committed.";
    SCHEDULER_ENVELOPE_INFLIGHT "scheduler.envelope.inflight" Gauge "Envelopes handed out.";
    SCHEDULER_ENVELOPE_REMOVED "scheduler.envelope.removed" Counter "Envelopes removed by the administrator.";
    SCHEDULER_ENVELOPE_UPDATED "scheduler.envelope.updated" Counter "Envelopes re-timed.";
    SCHEDULER_RAM_ENVELOPE "scheduler.ramqueue.envelope" Gauge "Envelopes known.";
    SCHEDULER_HOLD "scheduler.ramqueue.hold" Gauge "Envelopes held.";
    SCHEDULER_HOLD_OVERFLOW "scheduler.ramqueue.hold-overflow" Counter "Envelopes a full hold queue turned away.";
    SCHEDULER_HOLDQ "scheduler.ramqueue.holdq" Gauge "Hold queues.";
    SCHEDULER_RAM_MESSAGE "scheduler.ramqueue.message" Gauge "Messages known.";
    SCHEDULER_RAM_UPDATE "scheduler.ramqueue.update" Gauge "Envelopes waiting for their commit; none is seen before.";
    SMTP_SESSION "smtp.session" Gauge "Open SMTP sessions.";
    SMTP_SESSION_INET4 "smtp.session.inet4" Counter "IPv4 sessions accepted.";
    SMTP_SESSION_INET6 "smtp.session.inet6" Counter "IPv6 sessions accepted.";
    SMTP_SESSION_LOCAL "smtp.session.local" Counter "Local sessions accepted.";
    SMTP_SMTPS "smtp.smtps" Gauge "Sessions in TLS from their first byte on.";
    SMTP_TLS "smtp.tls" Gauge "Sessions in TLS by STARTTLS.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_opensmtpd_is_there_in_byte_order() {
        // smtpctl(8), show stats: the keys of OpenSMTPD 7.8 with its usual back ends.
        let found = snapshot();
        let keys: Vec<&str> = found.iter().map(|(key, _)| key.as_str()).collect();
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

    #[test]
    fn durations_are_counted_up_to_their_limits() {
        let slow = Histogram::new("x", &[1, 2, 3, 4, 5, 6, 7, 8], "");
        for ms in [0, 1, 2, 9] {
            slow.took_ms(ms);
        }
        let found = slow.snapshot();
        let value = |key: &str| found.iter().find(|(k, _)| k == key).unwrap().1;
        assert_eq!(
            (value("x.le.1"), value("x.le.2"), value("x.le.8")),
            (2, 3, 3)
        );
        assert_eq!((value("x.count"), value("x.msec")), (4, 12));
    }
}
