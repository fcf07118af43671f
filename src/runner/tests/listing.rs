//! What `show queue` is told.

use super::*;

#[test]
fn listed_lines_have_the_fields_that_scripts_split() {
    // smtpctl(8), The queue listing: fields 2 to 14, with the real expiry.
    let store = Arc::new(Faulty::default());
    let dynamic: Arc<dyn Store> = store.clone();
    let mut stage = stage(&store, Limits::default());
    let message = commit(&dynamic, vec![envelope("bob", T0), envelope("carol", T0)]);
    let (bob, carol) = (message.envelopes()[0].id, message.envelopes()[1].id);
    stage.core.committed(message, T0);
    assert_eq!(
        stage.ask(Ask::Suspend(Which::Envelope(carol)), T0),
        Answer::Count(1)
    );
    let lines = stage.list(T0.plus(5));
    let expected = [
        "local|mda||alice@example.net|bob@example.com|bob@example.com\
         |1700000000|1700345600|1700000000|0|inflight|5|",
        "local|mda|suspend|alice@example.net|carol@example.com|carol@example.com\
         |1700000000|1700345600|0|0|pending|-5|",
    ];
    let texts: Vec<&str> = lines.iter().map(|line| line.text.as_str()).collect();
    assert_eq!(texts, expected);
    assert!(store.on_disk()[1].flags.suspended, "it outlives a restart");
    stage.core.report(Report::Done(bob, fail(4)), T0.plus(5));
    stage.steps(T0.plus(5));
    let text = stage.list(T0.plus(6)).remove(0).text;
    assert!(
        text.ends_with("|1700345600|1700000005|1|pending|4|busy"),
        "{text}"
    );
}

#[test]
fn an_envelope_without_its_action_stays_visible_and_bounces_when_it_expires() {
    // smtpd.conf(5), action: envelopes keep the name of their action, and it may be gone.
    let store = Arc::new(Faulty::default());
    let dynamic: Arc<dyn Store> = store.clone();
    let mut stage = stage(&store, Limits::default());
    let mut renamed = envelope("bob", T0);
    renamed.action = line("old-name");
    let mut relayed = envelope("carol", T0);
    relayed.action = line("outbound");
    relayed.kind = Kind::Relay;
    stage
        .core
        .committed(commit(&dynamic, vec![renamed, relayed]), T0);
    stage.steps(T0);
    let lines = stage.list(T0);
    assert_eq!(lines.len(), 2);
    assert!(lines[0].text.contains("|mda|hold|"));
    assert!(
        lines[0]
            .text
            .ends_with("no action \"old-name\" in the configuration")
    );
    assert!(lines[1].text.contains("|mta|hold|"));
    assert!(lines[1].text.contains("|1700003600|"), "the action's ttl");
    assert_eq!(stage.local.taken().len(), 0);
    stage.steps(T0.plus(345_600));
    let reports = stage.bounce.taken();
    assert_eq!(reports.len(), 2);
    assert!(
        reports
            .iter()
            .all(|r| r.kind == Kind::Bounce(BounceKind::Failed))
    );
}

#[test]
fn a_long_listing_comes_whole_and_in_order() {
    // smtpctl(8), The queue listing: in order of the envelope ids. An answer fits a frame.
    let store = Arc::new(Faulty::default());
    let dynamic: Arc<dyn Store> = store.clone();
    let mut stage = stage(&store, Limits::default());
    let mut paused = envelope("bob", T0);
    paused.flags.suspended = true;
    paused.errorline = Some(line(&"\u{7f}".repeat(2000)));
    for _ in 0..150 {
        let message = commit(&dynamic, vec![paused.clone(), paused.clone()]);
        stage.core.committed(message, T0);
    }
    let lines = stage.list(T0);
    assert_eq!(lines.len(), 300);
    assert!(lines.is_sorted_by_key(|line| line.id));
}

#[test]
fn a_listing_reads_nothing_that_is_known() {
    // smtpctl(8), The queue listing: as things are now, whatever the disk is busy with.
    let store = Arc::new(Faulty::default());
    let dynamic: Arc<dyn Store> = store.clone();
    let mut stage = stage(&store, Limits::default());
    let waiting = |n: u32| Envelope {
        retry: 1,
        errorline: Some(line("451 busy")),
        ..envelope(&format!("rcpt{n}"), T0)
    };
    let message = commit(&dynamic, (0..2000).map(waiting).collect());
    stage.core.found(message.into_envelopes(), T0);
    let fresh = commit(&dynamic, vec![envelope("bob", T0.plus(1))]);
    let bob = fresh.envelopes()[0].id;
    stage.core.committed(fresh, T0.plus(1));
    stage.steps(T0.plus(1));
    stage.core.report(Report::Done(bob, fail(4)), T0.plus(1));
    stage.steps(T0.plus(1));
    let before = store.loads.load(SeqCst);
    let lines = stage.list(T0.plus(2));
    assert_eq!(lines.len(), 2001);
    let texts = |error: &str| lines.iter().filter(|l| l.text.ends_with(error)).count();
    assert_eq!((texts("|451 busy"), texts("|busy")), (2000, 1));
    assert!(lines.iter().all(|line| line.action == "local"));
    assert_eq!(store.loads.load(SeqCst), before);
}
