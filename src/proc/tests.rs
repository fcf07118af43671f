use std::os::fd::OwnedFd;
use std::sync::mpsc;

use super::*;

const LONG: Duration = Duration::from_secs(120);

fn line(text: &str) -> Line {
    Line::new(text).unwrap()
}

/// Starts `/bin/sh -c` with a script of its own for each life, the last one again and again.
pub(crate) struct Scripts(pub Vec<String>, pub Mutex<usize>);

struct Running(Mutex<std::process::Child>);

impl Launcher for Scripts {
    fn launch(&self, stream: OwnedFd, errors: OwnedFd) -> io::Result<Box<dyn Child>> {
        let mut life = self.1.lock().unwrap();
        let script = &self.0[(*life).min(self.0.len() - 1)];
        *life += 1;
        let child = std::process::Command::new("/bin/sh")
            .args(["-c", script])
            .stdin(stream.try_clone()?)
            .stdout(stream)
            .stderr(errors)
            .spawn()?;
        Ok(Box::new(Running(Mutex::new(child))))
    }
}

impl Child for Running {
    fn pid(&self) -> Option<u32> {
        Some(self.0.lock().unwrap().id())
    }

    fn kill(&self) {
        let _ = self.0.lock().unwrap().kill();
    }

    fn ended(&self, timeout: Duration) -> Option<String> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(how) = self.0.lock().unwrap().try_wait().unwrap() {
                return Some(how.to_string());
            }
            if Instant::now() >= deadline {
                return None;
            }
            thread::yield_now();
        }
    }
}

/// Tells what it hears; `ready` is the word of readiness, `bad` a breach.
struct Ear(mpsc::Sender<String>);

impl Talk for Ear {
    fn greeting(&mut self) -> Vec<u8> {
        b"hello\n".to_vec()
    }

    fn hear(&mut self, line: &[u8]) -> Result<Heard, String> {
        let text = String::from_utf8_lossy(line).into_owned();
        match text.as_str() {
            "ready" => return Ok(Heard::Ready),
            "bad" => return Err("it said bad".to_owned()),
            _ => self.0.send(text).unwrap(),
        }
        Ok(Heard::Line)
    }

    fn gone(&mut self) {
        let _ = self.0.send("(gone)".to_owned());
    }
}

fn started(scripts: &[&str]) -> (Proc, Keeper, mpsc::Receiver<String>) {
    let (tell, heard) = mpsc::channel();
    let scripts = Scripts(
        scripts.iter().map(|s| s.to_string()).collect(),
        Mutex::new(0),
    );
    let (proc, keeper) = Proc::start(&line("ear"), Arc::new(scripts), Box::new(Ear(tell))).unwrap();
    (proc, keeper, heard)
}

fn next(heard: &mpsc::Receiver<String>) -> String {
    heard.recv_timeout(LONG).unwrap()
}

const ECHO: &str = "echo ready; while read -r line; do echo \"$line\"; done";

#[test]
fn what_is_said_before_it_is_ready_comes_behind_the_greeting() {
    let (proc, keeper, heard) = started(&[ECHO]);
    proc.say(b"one\ntwo\n").unwrap();
    assert_eq!(next(&heard), "hello");
    assert_eq!(next(&heard), "one");
    assert_eq!(next(&heard), "two");
    assert!(proc.wait_until_ready(Instant::now() + LONG));
    assert_eq!(proc.status().phase, Phase::Ready);
    assert!(proc.status().pid.is_some());
    drop(keeper);
    assert_eq!(next(&heard), "(gone)");
    assert_eq!(proc.say(b"x\n"), Err(Down));
}

#[test]
fn one_that_ends_is_started_again_and_is_another() {
    let (proc, _keeper, heard) = started(&["read x; echo one; exit 3", ECHO]);
    assert_eq!(next(&heard), "one");
    let first = proc.life();
    assert_eq!(next(&heard), "(gone)");
    assert_eq!(next(&heard), "hello");
    assert!(proc.wait_until_ready(Instant::now() + LONG));
    assert_ne!(proc.life(), first);
    assert_eq!(proc.status().restarts, 1);
    proc.say(b"there?\n").unwrap();
    assert_eq!(next(&heard), "there?");
}

#[test]
fn a_breach_of_the_protocol_ends_it() {
    let endless =
        "while :; do printf xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done";
    for script in ["echo bad; cat >/dev/null", endless] {
        let (proc, _keeper, heard) = started(&[script]);
        assert_eq!(next(&heard), "(gone)");
        assert_eq!(proc.say(b"x\n"), Err(Down));
    }
}

#[test]
fn one_that_does_not_read_is_ended_when_too_much_waits_for_it() {
    let (proc, _keeper, heard) = started(&["echo ready; exec sleep 100"]);
    assert!(proc.wait_until_ready(Instant::now() + LONG));
    let piece = vec![b'\n'; HIGH_WATER];
    while proc.say(&piece).is_ok() {}
    assert!(!proc.has_room() || !proc.is_up());
    assert_eq!(next(&heard), "(gone)");
}

#[test]
fn one_that_is_silent_is_ended_by_whoever_waits() {
    let (proc, _keeper, heard) = started(&["echo ready; exec cat >/dev/null"]);
    assert!(proc.wait_until_ready(Instant::now() + LONG));
    proc.fail_if_silent_since(Instant::now());
    assert_eq!(next(&heard), "(gone)");
}

#[test]
fn lines_are_the_same_however_they_come() {
    let text = b"a\n\nlonger\nrest";
    for piece in 1..text.len() {
        let (mut lines, mut found) = (Lines::default(), Vec::new());
        for bytes in text.chunks(piece) {
            let mut each = |line: &[u8]| {
                found.push(line.to_vec());
                Ok(())
            };
            lines.push(bytes, &mut each).unwrap();
        }
        assert_eq!(found, [&b"a"[..], b"", b"longer"]);
    }
    let mut lines = Lines::default();
    let long = vec![b'x'; LINE_MAX + 1];
    assert!(lines.push(&long, &mut |_| Ok(())).is_err());
}
