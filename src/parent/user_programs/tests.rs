use super::*;

fn request(id: u32) -> Request {
    Request::OpenForward {
        id,
        action: Line::sanitize(b"in"),
        user: Line::sanitize(b"bob"),
    }
}

fn parked(id: u32) -> Parked {
    parked_for("people", id)
}

fn parked_for(table: &str, id: u32) -> Parked {
    Parked {
        request: request(id),
        fds: Vec::new(),
        engine: 1,
        table: table.to_owned(),
        user: "bob".to_owned(),
    }
}

/// Programs of which the test is the other end.
#[derive(Default)]
struct Ends(Vec<UnixStream>);

impl Ends {
    fn start(&mut self) -> impl FnMut(&str, &OwnedFd) -> Result<u32, String> {
        |_, stream| {
            let end = UnixStream::from(stream.try_clone().unwrap());
            end.set_nonblocking(false).unwrap();
            self.0.push(end);
            Ok(self.0.len() as u32)
        }
    }

    fn lines(&self, count: usize) -> Vec<String> {
        let mut reader = io::BufReader::with_capacity(1, self.0.last().unwrap());
        (0..count)
            .map(|_| {
                let mut line = String::new();
                io::BufRead::read_line(&mut reader, &mut line).unwrap();
                line.trim_end().to_owned()
            })
            .collect()
    }

    fn say(&self, text: &str) {
        let mut end = self.0.last().unwrap();
        end.write_all(text.as_bytes()).unwrap();
    }
}

fn id_of(line: &str) -> String {
    line.split('|').nth(6).unwrap().to_owned()
}

fn told(found: Vec<(Parked, Told)>) -> Vec<(Request, Told)> {
    found
        .into_iter()
        .map(|(p, told)| (p.request, told))
        .collect()
}

// smtpd-tables(7): several lookups are under way at a time, and their ids tell them apart.
#[test]
fn each_request_gets_the_answer_to_its_own_question() {
    let (mut programs, mut ends, now) = (UserPrograms::default(), Ends::default(), Instant::now());
    for id in [1, 2, 3] {
        programs.ask(parked(id), now, &mut ends.start());
    }
    assert_eq!(ends.0.len(), 1, "one process serves them all");
    let lines = ends.lines(7);
    assert_eq!(lines[3], "config|ready");
    assert!(lines[4].ends_with("|bob") && lines[4].contains("|people|lookup|userinfo|"));
    let ids: Vec<String> = lines[4..].iter().map(|line| id_of(line)).collect();
    ends.say("register|userinfo\nregister|ready\n");
    ends.say(&format!("lookup-result|{}|not-found\n", ids[2]));
    ends.say(&format!("lookup-result|{}|found|5:6:/h", ids[0]));
    programs.talk(now);
    assert_eq!(told(programs.answered()), [(request(3), Ok(None))]);
    ends.say(&format!("\nlookup-result|{}|error|no\n", ids[1]));
    programs.talk(now);
    let want = [
        (request(1), Ok(Some("5:6:/h".to_owned()))),
        (request(2), Err("no".to_owned())),
    ];
    assert_eq!(told(programs.answered()), want);
}

#[test]
fn whoever_waits_for_a_program_that_fails_is_told_and_it_is_started_again_later() {
    for breach in ["hello\n", "register|ready\nlookup-result|1|found\n", ""] {
        let (mut programs, mut ends, now) =
            (UserPrograms::default(), Ends::default(), Instant::now());
        programs.ask(parked(1), now, &mut ends.start());
        ends.say(breach);
        if breach.is_empty() {
            ends.0.clear();
        }
        programs.talk(now);
        let all = programs.answered();
        assert!(matches!(all.as_slice(), [(_, Err(_))]), "{breach}");
        assert_eq!(programs.left(), [1]);
        programs.ask(parked(2), now, &mut ends.start());
        assert!(matches!(programs.answered().as_slice(), [(_, Err(_))]));
        let later = now + Duration::from_secs(2);
        programs.ask(parked(3), later, &mut ends.start());
        assert!(programs.answered().is_empty());
    }
}

#[test]
fn nobody_waits_for_ever() {
    let (mut programs, mut ends, now) = (UserPrograms::default(), Ends::default(), Instant::now());
    programs.ask(parked(1), now, &mut ends.start());
    assert_eq!(programs.deadline(), Some(now + PATIENCE));
    programs.talk(now + PATIENCE);
    assert!(matches!(programs.answered().as_slice(), [(_, Err(_))]));
    let later = now + PATIENCE * 2;
    for id in 0..=MOST_PARKED {
        programs.ask(parked(id as u32), later, &mut ends.start());
    }
    assert_eq!(programs.answered().len(), 1);
    programs.close();
    assert_eq!(programs.answered().len(), MOST_PARKED);
    assert_eq!(programs.fds().count(), 0);
}

// smtpd-tables(7), FAILURES: one that is not ready in time, or says nothing at all for the time of
// a lookup, is started again.
#[test]
fn a_program_that_hangs_is_left_and_another_one_is_asked() {
    let (mut programs, mut ends, now) = (UserPrograms::default(), Ends::default(), Instant::now());
    programs.ask(parked(1), now, &mut ends.start());
    assert_eq!(programs.deadline(), Some(now + PATIENCE));
    programs.talk(now + PATIENCE);
    assert_eq!(programs.left(), [1]);
    assert!(matches!(programs.answered().as_slice(), [(_, Err(_))]));
    assert_eq!(programs.deadline(), None);

    let now = now + PATIENCE * 2;
    programs.ask(parked(2), now, &mut ends.start());
    assert_eq!(ends.0.len(), 2);
    ends.say("register|userinfo\nregister|ready\n");
    programs.talk(now);
    // One that answers others is only slow.
    let later = now + Duration::from_secs(1);
    programs.ask(parked(3), later, &mut ends.start());
    let id = id_of(&ends.lines(6)[5]);
    ends.say(&format!("lookup-result|{id}|not-found\n"));
    programs.talk(later);
    assert_eq!(told(programs.answered()), [(request(3), Ok(None))]);
    programs.talk(now + PATIENCE);
    assert_eq!(programs.answered().len(), 1);
    assert!(programs.left().is_empty());

    let now = now + PATIENCE * 2;
    programs.ask(parked(4), now, &mut ends.start());
    programs.talk(now + PATIENCE);
    assert_eq!(programs.left(), [2]);
    assert_eq!(programs.answered().len(), 1);
}

#[test]
fn a_program_that_hangs_keeps_no_other_table_waiting() {
    let (mut programs, mut ends, now) = (UserPrograms::default(), Ends::default(), Instant::now());
    for id in 0..MOST_PARKED {
        programs.ask(parked_for("hangs", id as u32), now, &mut ends.start());
    }
    programs.ask(parked_for("works", 1), now, &mut ends.start());
    let id = id_of(&ends.lines(5)[4]);
    ends.say(&format!("register|ready\nlookup-result|{id}|not-found\n"));
    programs.talk(now);
    assert_eq!(told(programs.answered()), [(request(1), Ok(None))]);
}

#[test]
fn a_program_that_does_not_read_is_not_written_to_without_end() {
    let (mut programs, mut ends, now) = (UserPrograms::default(), Ends::default(), Instant::now());
    let long = "x".repeat(FULL / 64);
    for id in 0..128 {
        let user = long.clone();
        let parked = Parked { user, ..parked(id) };
        programs.ask(parked, now, &mut ends.start());
    }
    assert_eq!(programs.left(), [1]);
    assert_eq!(programs.answered().len(), 128);
}

#[test]
fn a_program_that_talks_without_end_leaves_others_their_turn() {
    let (mut programs, mut ends, now) = (UserPrograms::default(), Ends::default(), Instant::now());
    programs.ask(parked(1), now, &mut ends.start());
    let id = id_of(&ends.lines(5)[4]);
    ends.say("register|ready\n");
    programs.talk(now);
    let unasked = "lookup-result|ffffffff|not-found\n";
    let flood = unasked.repeat(READS * 4096 / unasked.len() + 1);
    let mut turns = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| ends.say(&format!("{flood}lookup-result|{id}|not-found\n")));
        while programs.answered.is_empty() {
            programs.talk(now);
            turns += 1;
            std::thread::yield_now();
        }
    });
    assert!(turns > 1);
    assert_eq!(told(programs.answered()), [(request(1), Ok(None))]);
}

// smtpctl(8), update table: the parent's program reads again what its answers are made of.
#[test]
fn a_program_that_runs_is_told_of_an_update() {
    let (mut programs, mut ends, now) = (UserPrograms::default(), Ends::default(), Instant::now());
    programs.update("people", now);
    programs.ask(parked(1), now, &mut ends.start());
    programs.update("others", now);
    programs.update("people", now);
    programs.ask(parked(2), now, &mut ends.start());
    let lines = ends.lines(7);
    let ids: Vec<String> = [&lines[4], &lines[6]].map(|line| id_of(line)).into();
    assert!(lines[5].contains("|people|update|"), "{lines:?}");
    ends.say("register|ready\nupdate-result|1|error|no\n");
    ends.say(&format!("lookup-result|{}|not-found\n", ids[1]));
    programs.talk(now);
    assert_eq!(told(programs.answered()), [(request(2), Ok(None))]);
    // It was told once.
    ends.say("update-result|1|ok\n");
    programs.talk(now);
    assert_eq!(programs.left(), [1]);
}
