//! The runner in its own thread, with its handles.

use super::*;

/// Delivers at once.
struct Prompt(Reports, Arc<AtomicU64>);

impl Agent for Prompt {
    fn offer(&mut self, envelope: Envelope) -> Offer {
        self.1.fetch_add(1, SeqCst);
        let done = Report::Done(envelope.id, Outcome::delivered());
        self.0.send(done).unwrap();
        Offer::Taken
    }
    fn finished(&mut self, _id: EvpId) -> Vec<Release> {
        Vec::new()
    }
}

/// Delivers after some time: as often it has to be asked whether it can.
struct Slow(Prompt, Vec<Envelope>, usize);

impl Agent for Slow {
    fn offer(&mut self, envelope: Envelope) -> Offer {
        self.1.push(envelope);
        Offer::Taken
    }
    fn offered(&mut self) {
        self.2 = self.2.saturating_sub(1);
        if self.2 == 0 {
            for envelope in self.1.drain(..) {
                self.0.offer(envelope);
            }
        }
    }
    fn is_waiting(&self) -> bool {
        !self.1.is_empty()
    }
    fn finished(&mut self, _id: EvpId) -> Vec<Release> {
        Vec::new()
    }
}

/// A runner in its own thread, whose agents count what they deliver.
fn started(queue: &Queue, delivered: &Arc<AtomicU64>) -> (Handle, JoinHandle<()>) {
    started_with(queue, delivered, |prompt| Box::new(prompt))
}

/// The same with this agent for local mail.
fn started_with(
    queue: &Queue,
    delivered: &Arc<AtomicU64>,
    local: impl FnOnce(Prompt) -> Box<dyn Agent>,
) -> (Handle, JoinHandle<()>) {
    let (handle, inbox) = channel();
    let limits = Limits::default();
    let (reports, outcomes) = inbox.reports(limits);
    let prompt = || Prompt(reports.clone(), delivered.clone());
    let setup = Setup {
        queue: queue.clone(),
        agents: Agents {
            local: local(prompt()),
            relay: None,
            bounce: Box::new(prompt()),
        },
        reports: outcomes,
        limits,
        policy: Live::new(policy()),
        pause_mda: false,
        pause_mta: false,
        settle_threads: 2,
    };
    (handle, start(inbox, setup).unwrap())
}

#[test]
fn the_thread_runs_the_queue_once_and_stops_when_told() {
    // smtpd -q: everything schedulable is tried once, then the run is over.
    let store = Arc::new(Faulty::default());
    let dynamic: Arc<dyn Store> = store.clone();
    let now = Timestamp::now();
    let mut later = envelope("later", now);
    // Its grid says: not for hours. Running the queue once does not wait for that.
    later.retry = 100;
    commit(&dynamic, vec![later]);
    let delivered = Arc::new(AtomicU64::new(0));
    let queue = Queue::new(dynamic.clone());
    let (handle, runner) = started(&queue, &delivered);
    let (finish, finished) = unbounded();
    handle.run_once(Box::new(move || finish.send(()).unwrap()));
    for n in 0..500 {
        let rcpt = format!("rcpt{n}");
        handle.committed(commit(&dynamic, vec![envelope(&rcpt, now)]));
    }
    let scan = scan::start(queue, handle.clone()).unwrap();
    finished.recv_timeout(Duration::from_secs(180)).unwrap();
    scan.join().unwrap();
    assert_eq!(delivered.load(SeqCst), 501);
    assert_eq!(store.on_disk(), []);
    handle.shutdown();
    runner.join().unwrap();
    let answer = handle.ask(Ask::Status, Box::new(|_| unreachable!("nobody listens")));
    assert!(matches!(answer, Some(Answer::Fail(_))));
}

#[test]
fn an_agent_that_waits_for_time_to_pass_is_asked_again_though_nothing_happens() {
    let dynamic: Arc<dyn Store> = Arc::new(Faulty::default());
    let queue = Queue::new(dynamic.clone());
    let delivered = Arc::new(AtomicU64::new(0));
    let slow = |prompt| -> Box<dyn Agent> { Box::new(Slow(prompt, Vec::new(), 8)) };
    let (handle, runner) = started_with(&queue, &delivered, slow);
    handle.committed(commit(&dynamic, vec![envelope("bob", Timestamp::now())]));
    let deadline = Instant::now() + Duration::from_secs(180);
    while delivered.load(SeqCst) == 0 {
        assert!(Instant::now() < deadline, "it was not asked");
        std::thread::yield_now();
    }
    handle.shutdown();
    runner.join().unwrap();
}

#[test]
fn a_stop_does_not_wait_until_all_that_was_paused_is_on_the_disk() {
    // smtpd(8): SIGTERM ends the daemon; its parent does not wait for ever.
    let dynamic: Arc<dyn Store> = Arc::new(Faulty {
        pause: Duration::from_millis(20),
        ..Faulty::default()
    });
    let queue = Queue::new(dynamic.clone());
    let (handle, runner) = started(&queue, &Arc::default());
    let mut later = envelope("bob", Timestamp::now());
    later.retry = 100;
    let many = commit(&dynamic, vec![later; 3000]);
    handle.committed(many);
    let (reply, paused) = unbounded();
    let ask = Ask::Suspend(Which::All);
    let answer = handle.ask(ask, Box::new(move |answer| reply.send(answer).unwrap()));
    assert_eq!(answer, None);
    assert_eq!(paused.recv(), Ok(Answer::Count(3000)));
    handle.shutdown();
    let (ended, seen) = unbounded();
    std::thread::spawn(move || ended.send(runner.join().is_ok()));
    assert_eq!(seen.recv_timeout(Duration::from_secs(30)), Ok(true));
}

#[test]
fn a_stop_does_not_wait_for_the_end_of_the_walk_over_the_spool() {
    // smtpd(8): SIGTERM ends the daemon, however much mail is found at the same time.
    let queue = Queue::new(Arc::new(Faulty::default()));
    let (handle, runner) = started(&queue, &Arc::default());
    let suspended = Envelope {
        flags: Flags {
            suspended: true,
            ..Flags::default()
        },
        ..envelope("ann", Timestamp::now())
    };
    let (ended, seen) = unbounded();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            // A walk that never ends.
            scope.spawn(|| {
                while !is_over.load(SeqCst) && handle.found(vec![suspended.clone(); 500]) {
                    std::hint::spin_loop();
                }
            });
        }
        scope.spawn(move || {
            runner.join().unwrap();
            ended.send(()).unwrap();
        });
        handle.shutdown();
        let told = seen.recv_timeout(Duration::from_secs(60));
        is_over.store(true, SeqCst);
        assert!(told.is_ok(), "it goes on reading");
    });
}
