//! What becomes of an envelope whose delivery has ended, and which report it leads to.

use super::*;

/// One envelope on a faulty disk, settled until nothing is stuck. Asserts on the way that the
/// envelope or its report is there at any time.
fn settle_through(envelope: Envelope, cause: Cause, plan: u64, now: Timestamp) -> Vec<Envelope> {
    let store = Arc::new(Faulty::default());
    let dynamic: Arc<dyn Store> = store.clone();
    let committed = commit(&dynamic, vec![envelope]);
    let mut current = Box::new(committed.envelopes()[0].clone());
    let original = current.id;
    let settler = Settler::new(Queue::new(dynamic), Live::new(policy()));
    store.plan.store(plan, SeqCst);
    let mut cause = cause;
    for _ in 0..100 {
        let settled = settler.settle(current, cause, now);
        let left = store.on_disk();
        assert!(!left.is_empty() || matches!(settled, Settled::Gone { .. }));
        match settled {
            Settled::Stuck {
                envelope, cause: c, ..
            } => {
                assert!(left.iter().any(|e| e.id == original), "removed and stuck");
                (current, cause) = (envelope, c);
            }
            Settled::Gone { .. } => {
                assert!(left.iter().all(|e| e.id != original));
                return left;
            }
            Settled::Again { .. } => return left,
        }
    }
    panic!("never settled");
}

#[test]
fn whichever_call_fails_the_report_is_there_before_the_envelope_goes() {
    // Invariant 3: a failure is on disk as a bounce envelope before the envelope that failed is
    // deleted, or nothing is deleted.
    for plan in 0..32 {
        for cause in [
            Cause::Tried(fail(5)),
            Cause::Tried(Outcome::looped()),
            Cause::Expired,
        ] {
            let left = settle_through(envelope("bob", T0), cause.clone(), plan, T0);
            let kinds: Vec<&Kind> = left.iter().map(|e| &e.kind).collect();
            assert_eq!(
                kinds,
                [&Kind::Bounce(BounceKind::Failed)],
                "{plan:b} {cause:?}"
            );
        }
        let delivered = Cause::Tried(Outcome::delivered());
        assert_eq!(settle_through(envelope("bob", T0), delivered, plan, T0), []);
        assert_eq!(
            settle_through(envelope("bob", T0), Cause::Removed, plan, T0),
            []
        );
    }
}

#[test]
fn a_temporary_failure_is_written_down() {
    // spool-layout.md, Envelope files: errorline, esc-class, esc-code, and one more retry.
    let left = settle_through(envelope("bob", T0), Cause::Tried(fail(4)), 0, T0.plus(9));
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].retry, 1);
    assert_eq!(left[0].last_try, T0.plus(9));
    assert_eq!(left[0].errorline, Some(line("busy")));
    assert_eq!(left[0].status, Some(Status::new(4, 3, 0)));
}

#[test]
fn a_late_envelope_is_reported_once_per_interval() {
    // smtpd.conf(5), bounce warn-interval; last-bounce keeps it from being sent twice.
    let left = settle_through(
        envelope("bob", T0),
        Cause::Tried(fail(4)),
        0,
        T0.plus(14_400),
    );
    assert_eq!(left.len(), 2);
    assert_eq!(left[0].last_bounce, T0.plus(14_400));
    let expected = BounceKind::Delayed {
        delay_s: 14_400,
        ttl_s: 345_600,
    };
    assert_eq!(left[1].kind, Kind::Bounce(expected));
    let again = settle_through(left[0].clone(), Cause::Tried(fail(4)), 0, T0.plus(20_000));
    assert_eq!(again.len(), 1);
}

#[test]
fn the_bounce_of_what_expired_names_the_last_error() {
    // RFC 3463 §3.5, X.4.7: delivery time expired. The report has the last real error, too.
    let mut late = envelope("bob", T0);
    late.errorline = Some(line("451 busy"));
    let left = settle_through(late, Cause::Expired, 0, T0.plus(345_600));
    assert_eq!(left[0].errorline, Some(line("Envelope expired: 451 busy")));
    assert_eq!(left[0].status, Some(Status::new(5, 4, 7)));
    assert_eq!((left[0].created, left[0].retry), (T0.plus(345_600), 0));
}

#[test]
fn a_report_has_whose_reply_it_was_and_when() {
    // RFC 3464 §2.2, §2.3: Arrival-Date, Remote-MTA, Last-Attempt-Date, and across an expiry.
    let by = |outcome: Outcome| {
        Cause::Tried(outcome.by(Remote {
            name: line("mx.example.com"),
            dsn: DsnOffer::NotOffered,
        }))
    };
    let past = |tried| Past {
        remote: Some(line("mx.example.com")),
        arrived: T0,
        tried,
    };
    let mut relay = envelope("bob", T0);
    relay.kind = Kind::Relay;
    relay.dsn.notify = Notify(Notify::SUCCESS | Notify::FAILURE);
    for outcome in [fail(5), Outcome::delivered()] {
        let left = settle_through(relay.clone(), by(outcome), 0, T0.plus(9));
        assert_eq!(left[0].past, past(T0.plus(9)));
        assert_eq!(left[0].created, T0.plus(9));
    }
    let tried = settle_through(relay.clone(), by(fail(4)), 0, T0.plus(9)).remove(0);
    assert_eq!(tried.past.remote, Some(line("mx.example.com")));
    let left = settle_through(tried.clone(), Cause::Expired, 0, T0.plus(345_600));
    assert_eq!(left[0].past, past(T0.plus(9)));
    let own = settle_through(tried, Cause::Tried(fail(4)), 0, T0.plus(99)).remove(0);
    assert_eq!(own.past.remote, None, "the last error is ours");
}

#[test]
fn only_a_host_without_dsn_leaves_the_success_to_us() {
    // RFC 3461 §5.2: who was given NOTIFY tells the sender; LMTP into a mailbox is a delivery.
    let offered = |dsn| Remote {
        name: line("mx.example.com"),
        dsn,
    };
    let relayed = |relayed| Some(Kind::Bounce(BounceKind::Delivered { relayed }));
    for (relay, remote, expected) in [
        (true, Some(offered(DsnOffer::Offered)), None),
        (true, Some(offered(DsnOffer::NotOffered)), relayed(true)),
        (true, None, None),
        (false, Some(offered(DsnOffer::Offered)), relayed(false)),
        (false, None, relayed(false)),
    ] {
        let mut envelope = envelope("bob", T0);
        envelope.dsn.notify = Notify(Notify::SUCCESS);
        if relay {
            envelope.kind = Kind::Relay;
        }
        let mut outcome = Outcome::delivered();
        outcome.remote = remote.map(Box::new);
        let left = settle_through(envelope, Cause::Tried(outcome), 0, T0);
        assert_eq!(left.first().map(|e| e.kind.clone()), expected);
    }
}

#[test]
fn notify_decides_who_hears_of_what() {
    // RFC 3461 §4.1: NOTIFY, where given, decides alone; without it failures and delays.
    let late = T0.plus(14_400);
    let causes = [
        (Cause::Tried(Outcome::delivered()), T0),
        (Cause::Tried(fail(5)), T0),
        (Cause::Tried(fail(4)), late),
    ];
    let table = [
        (0, [false, true, true]),
        (Notify::SUCCESS, [true, false, false]),
        (Notify::FAILURE, [false, true, false]),
        (Notify::DELAY, [false, false, true]),
        (Notify::SUCCESS | Notify::FAILURE, [true, true, false]),
        (Notify::NEVER, [false, false, false]),
    ];
    for (notify, expected) in table {
        for ((cause, now), told) in causes.iter().zip(expected) {
            let mut envelope = envelope("bob", T0);
            envelope.dsn.notify = Notify(notify);
            let left = settle_through(envelope.clone(), cause.clone(), 0, *now);
            let reports = left.iter().filter(|e| matches!(e.kind, Kind::Bounce(_)));
            assert_eq!(reports.count(), usize::from(told), "{notify} {cause:?}");
            envelope.sender = MailAddr::null();
            let left = settle_through(envelope, cause.clone(), 0, *now);
            assert!(left.iter().all(|e| !matches!(e.kind, Kind::Bounce(_))));
        }
    }
}

#[test]
fn a_bounce_never_bounces_and_keeps_what_it_reports() {
    // RFC 5321 §6.1: no report is sent about a report. The reason it carries stays.
    let mut bounce = envelope("bob", T0);
    bounce.kind = Kind::Bounce(BounceKind::Failed);
    bounce.errorline = Some(line("the reason"));
    for cause in [Cause::Tried(fail(5)), Cause::Expired] {
        assert_eq!(settle_through(bounce.clone(), cause, 0, T0.plus(DAY_S)), []);
    }
    let left = settle_through(bounce, Cause::Tried(fail(4)), 0, T0.plus(DAY_S));
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].errorline, Some(line("the reason")));
    assert_eq!(left[0].retry, 1);
}
