//! A table that a program serves: smtpd-tables(7), protocol 0.1.
//!
//! Requests go out as they come and answers are told apart by their ids, so that a slow one holds
//! nobody up if the program can do several at a time. A program that is down, does not answer in
//! time or answers what cannot be understood makes the lookup fail for now; it never makes it find
//! something else. Whoever asks waits, no longer than [`WAIT`].

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use crate::log;
use crate::proc::{Heard, Keeper, Launcher, Proc, Talk};
pub use crate::proc::{Lines, stamp};
use crate::sys::random;
use crate::util::Line;

/// How long a program may take for an answer.
pub const WAIT: Duration = Duration::from_secs(30);
/// Requests that may wait for one program.
const UNDER_WAY: usize = 1024;
/// Services of table(5), as programs register them.
pub(super) const SERVICES: [&str; 12] = [
    "alias",
    "domain",
    "credentials",
    "netaddr",
    "userinfo",
    "source",
    "mailaddr",
    "addrname",
    "mailaddrmap",
    "relayhost",
    "string",
    "auth",
];
/// The one service that is asked with `check` alone and is no list.
pub(super) const REGEX: &str = "regex";

/// A program that answers for a table (smtpd-tables(7)).
pub struct Program {
    name: Line,
    proc: Proc,
    asked: Asked,
    _keeper: Keeper,
}

/// Requests that wait, by their id, and what the program has registered.
type Asked = Arc<Mutex<Waiting>>;

#[derive(Default)]
struct Waiting {
    requests: HashMap<u32, (Operation, Sender<Answer>)>,
    /// Of the last program that got ready; `None` while none has.
    services: Option<BTreeSet<String>>,
}

/// What a table is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Read what it is made of again.
    Update,
    /// Is this key in it?
    Check,
    /// What is the value of this key?
    Lookup,
    /// What is the next element?
    Fetch,
}

/// What a program answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Yes; with a value where one was asked for.
    Found(String),
    NotFound,
    /// It cannot say now, for this reason.
    Error(String),
}

impl Operation {
    fn word(self) -> &'static str {
        match self {
            Operation::Update => "update",
            Operation::Check => "check",
            Operation::Lookup => "lookup",
            Operation::Fetch => "fetch",
        }
    }
}

impl Program {
    /// Starts the program of the table `name`.
    pub fn start(name: &Line, launcher: Arc<dyn Launcher>) -> io::Result<Program> {
        let asked = Asked::default();
        let talk = Box::new(Tongue {
            name: name.clone(),
            asked: asked.clone(),
            ready: false,
            registered: BTreeSet::new(),
        });
        let (proc, keeper) = Proc::start(name, launcher, talk)?;
        Ok(Program {
            name: name.clone(),
            proc,
            asked,
            _keeper: keeper,
        })
    }

    /// Waits until it serves, or has failed to.
    pub fn wait_until_ready(&self, deadline: Instant) -> bool {
        self.proc.wait_until_ready(deadline)
    }

    /// Whether it has registered a service; while it is being started again, whether the one before
    /// had. `None` where no program has got ready yet.
    pub fn serves(&self, service: &str) -> Option<bool> {
        let asked = lock(&self.asked);
        asked.services.as_ref().map(|all| all.contains(service))
    }

    /// Whether a key is in the table.
    pub fn check(&self, service: &str, key: &str) -> Result<bool, String> {
        match self.ask(Operation::Check, service, key)? {
            Answer::Found(_) => Ok(true),
            Answer::NotFound => Ok(false),
            Answer::Error(text) => Err(text),
        }
    }

    /// The value of a key.
    pub fn lookup(&self, service: &str, key: &str) -> Result<Option<String>, String> {
        self.value(Operation::Lookup, service, key)
    }

    /// The next element of the table, in an order of the program's own.
    pub fn fetch(&self, service: &str) -> Result<Option<String>, String> {
        self.value(Operation::Fetch, service, "")
    }

    /// Lets it read again what it is made of.
    pub fn update(&self) -> Result<(), String> {
        match self.ask(Operation::Update, "", "")? {
            Answer::Error(text) => Err(text),
            _ => Ok(()),
        }
    }

    fn value(&self, how: Operation, service: &str, key: &str) -> Result<Option<String>, String> {
        match self.ask(how, service, key)? {
            Answer::Found(value) if value.is_empty() => Err("an empty answer".to_owned()),
            Answer::Found(value) => Ok(Some(value)),
            Answer::NotFound => Ok(None),
            Answer::Error(text) => Err(text),
        }
    }

    fn ask(&self, how: Operation, service: &str, key: &str) -> Result<Answer, String> {
        if key.bytes().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
            return Err("a key with a line end".to_owned());
        }
        let (promise, answer) = bounded(1);
        let id = self.register(how, promise)?;
        let since = Instant::now();
        let line = request(&stamp(), &self.name, how, service, id, key);
        let outcome = match self.proc.say(line.as_bytes()) {
            Err(_) => Err("its program does not run".to_owned()),
            Ok(()) => answer.recv_timeout(WAIT).map_err(|error| match error {
                RecvTimeoutError::Timeout => {
                    self.proc.fail_if_silent_since(since);
                    "its program does not answer".to_owned()
                }
                RecvTimeoutError::Disconnected => "its program has ended".to_owned(),
            }),
        };
        lock(&self.asked).requests.remove(&id);
        outcome
    }

    fn register(&self, how: Operation, promise: Sender<Answer>) -> Result<u32, String> {
        let mut asked = lock(&self.asked);
        if asked.requests.len() >= UNDER_WAY {
            return Err("too many lookups wait for its program".to_owned());
        }
        loop {
            let id = random::number_u32();
            if let Entry::Vacant(place) = asked.requests.entry(id) {
                place.insert((how, promise));
                return Ok(id);
            }
        }
    }
}

/// What the program of the table `name` is told first.
pub fn greeting(name: &Line) -> Vec<u8> {
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "config|smtpd-version|{version}\nconfig|protocol|0.1\nconfig|tablename|{name}\n\
         config|ready\n"
    )
    .into_bytes()
}

/// One request, its line end included. The key is the last field, and may hold bars.
pub fn request(
    stamp: &str,
    table: &str,
    how: Operation,
    service: &str,
    id: u32,
    key: &str,
) -> String {
    let head = format!("table|0.1|{stamp}|{table}|{}", how.word());
    match how {
        Operation::Update => format!("{head}|{id:08x}\n"),
        Operation::Fetch => format!("{head}|{service}|{id:08x}\n"),
        Operation::Check | Operation::Lookup => format!("{head}|{service}|{id:08x}|{key}\n"),
    }
}

/// What the program says, made sense of.
struct Tongue {
    name: Line,
    asked: Asked,
    ready: bool,
    /// What a program that is not ready has registered so far.
    registered: BTreeSet<String>,
}

impl Talk for Tongue {
    fn greeting(&mut self) -> Vec<u8> {
        self.ready = false;
        self.registered.clear();
        greeting(&self.name)
    }

    fn hear(&mut self, line: &[u8]) -> Result<Heard, String> {
        let text = std::str::from_utf8(line).map_err(|_| "a line that is not UTF-8".to_owned())?;
        if self.ready {
            self.answered(text).map(|()| Heard::Line)
        } else {
            self.register(text)
        }
    }

    fn gone(&mut self) {
        lock(&self.asked).requests.clear();
    }
}

impl Tongue {
    fn register(&mut self, line: &str) -> Result<Heard, String> {
        let Some(service) = line.strip_prefix("register|") else {
            return Err(format!("invalid handshake reply: {}", shown(line)));
        };
        match service {
            "ready" if self.registered.is_empty() => Err("no services registered".to_owned()),
            "ready" => {
                self.ready = true;
                lock(&self.asked).services = Some(std::mem::take(&mut self.registered));
                Ok(Heard::Ready)
            }
            known if SERVICES.contains(&known) || known == REGEX => {
                self.registered.insert(known.to_owned());
                Ok(Heard::Line)
            }
            unknown => {
                // A newer program may know more than we do.
                let unknown = shown(unknown);
                log::warn(format_args!(
                    "table {}: unknown service {unknown}",
                    self.name
                ));
                Ok(Heard::Line)
            }
        }
    }

    fn answered(&self, line: &str) -> Result<(), String> {
        let (how, id, answer) = answer(line)?;
        let Some((asked, promise)) = lock(&self.asked).requests.remove(&id) else {
            // It came too late, or nobody has asked.
            log::warn(format_args!(
                "table {}: an answer that nobody waits for: {id:08x}",
                self.name
            ));
            return Ok(());
        };
        if asked != how {
            return Err(format!("{}-result for {}", how.word(), asked.word()));
        }
        if let Answer::Error(text) = &answer {
            let (name, how) = (&self.name, how.word());
            log::warn(format_args!("table-proc: {name} {how} failed: {text}"));
        }
        // Whoever asked may have stopped waiting.
        let _ = promise.send(answer);
        Ok(())
    }
}

/// Reads an answer: `lookup-result|0f993c74|found|value`.
pub fn answer(line: &str) -> Result<(Operation, u32, Answer), String> {
    let failed = || format!("failed to parse reply: {}", shown(line));
    let mut fields = line.splitn(4, '|');
    let mut field = || fields.next().ok_or_else(failed);
    let how = match field()? {
        "update-result" => Operation::Update,
        "check-result" => Operation::Check,
        "lookup-result" => Operation::Lookup,
        "fetch-result" => Operation::Fetch,
        _ => return Err(failed()),
    };
    let id = field()?;
    let hex = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let id = hex.then(|| u32::from_str_radix(id, 16).ok()).flatten();
    let id = id.ok_or_else(failed)?;
    let (word, rest) = (field()?, fields.next());
    let answer = match (how, word) {
        (Operation::Update, "ok") if rest.is_none() => Answer::Found(String::new()),
        (_, "error") => {
            let text = Line::sanitize(rest.unwrap_or("no reason").as_bytes());
            Answer::Error(text.to_string())
        }
        (Operation::Update, _) => return Err(failed()),
        (_, "not-found") if rest.is_none() => Answer::NotFound,
        (Operation::Check, "found") => Answer::Found(String::new()),
        (_, "found") => {
            let value = rest.filter(|value| !value.contains(['\r', '\0']));
            Answer::Found(value.ok_or_else(failed)?.to_owned())
        }
        _ => return Err(failed()),
    };
    Ok((how, id, answer))
}

/// The start of a line, for the log.
fn shown(line: &str) -> Line {
    let start: String = line.chars().take(80).collect();
    Line::sanitize(start.as_bytes())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An entry for the fuzzer: what these lookups are answered by all that a program says.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz_program(said: &[u8], asked: &[(u32, Operation)]) -> Vec<Option<Answer>> {
    let waiting = Asked::default();
    let mut promised = Vec::new();
    for (id, how) in asked {
        let (promise, answer) = bounded(1);
        lock(&waiting).requests.insert(*id, (*how, promise));
        promised.push(answer);
    }
    let mut tongue = Tongue {
        name: Line::default(),
        asked: waiting,
        ready: false,
        registered: BTreeSet::new(),
    };
    let mut hear = |line: &[u8]| tongue.hear(line).map(drop);
    let _breach = Lines::default().push(said, &mut hear);
    tongue.gone();
    // Nobody is left to answer: whoever still waits knows it at once.
    promised.iter().map(|answer| answer.recv().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proc::tests::Scripts;

    const LONG: Duration = Duration::from_secs(20);

    fn started(scripts: &[&str]) -> Program {
        let scripts = scripts.iter().map(|s| s.to_string()).collect();
        let launcher = Arc::new(Scripts(scripts, Mutex::new(0)));
        let program = Program::start(&Line::new("devs").unwrap(), launcher).unwrap();
        program.wait_until_ready(Instant::now() + LONG);
        program
    }

    /// Answers what its key says: the id is put in, and `%` are line ends.
    const OBEDIENT: &str = r#"
        while read -r line; do [ "$line" = "config|ready" ] && break; done
        echo 'register|alias'; echo 'register|newer'; echo 'register|ready'
        while IFS='|' read -r t v s n op svc id key; do
            case $op in
            update) echo "update-result|$svc|ok" ;;
            fetch) echo "fetch-result|$id|found|192.0.2.1" ;;
            *) echo "$op-result|$id|$key" ;;
            esac
        done"#;

    // smtpd-tables(7): what each request and each answer looks like.
    #[test]
    fn requests_are_those_of_the_manual() {
        let line = |how, service, key| {
            request("1713795097.394049", "devs", how, service, 0x478f_f0d2, key)
        };
        assert_eq!(
            line(Operation::Update, "", ""),
            "table|0.1|1713795097.394049|devs|update|478ff0d2\n"
        );
        assert_eq!(
            line(Operation::Check, "netaddr", "192.168.0.7"),
            "table|0.1|1713795097.394049|devs|check|netaddr|478ff0d2|192.168.0.7\n"
        );
        assert_eq!(
            line(Operation::Lookup, "userinfo", "o|p"),
            "table|0.1|1713795097.394049|devs|lookup|userinfo|478ff0d2|o|p\n"
        );
        assert_eq!(
            line(Operation::Fetch, "source", ""),
            "table|0.1|1713795097.394049|devs|fetch|source|478ff0d2\n"
        );
    }

    #[test]
    fn answers_are_read_strictly() {
        let found = |value: &str| Answer::Found(value.to_owned());
        for (line, want) in [
            (
                "update-result|478ff0d2|ok",
                (Operation::Update, 0x478f_f0d2, found("")),
            ),
            ("check-result|1|found", (Operation::Check, 1, found(""))),
            (
                "check-result|1|not-found",
                (Operation::Check, 1, Answer::NotFound),
            ),
            (
                "lookup-result|1|found|a|b",
                (Operation::Lookup, 1, found("a|b")),
            ),
            ("fetch-result|1|found|", (Operation::Fetch, 1, found(""))),
            (
                "lookup-result|1|error|no|route",
                (Operation::Lookup, 1, Answer::Error("no|route".to_owned())),
            ),
        ] {
            assert_eq!(answer(line), Ok(want), "{line}");
        }
        for bad in [
            "",
            "lookup-result",
            "lookup-result|",
            "lookup-result||found|x",
            "lookup-result|1",
            "lookup-result|1|found",
            "lookup-result|+1|found|x",
            "lookup-result|123456789|found|x",
            "lookup-result|1|FOUND|x",
            "lookup-result|1|not-found|x",
            "lookup-result|1|found|x\ry",
            "update-result|1|found|x",
            "other-result|1|found|x",
        ] {
            assert!(answer(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_program_answers_for_its_table() {
        let program = started(&[OBEDIENT]);
        assert_eq!(program.serves("alias"), Some(true));
        assert_eq!(program.serves("newer"), Some(false));
        assert_eq!(
            program.lookup("alias", "found|bob"),
            Ok(Some("bob".to_owned()))
        );
        assert_eq!(program.lookup("alias", "not-found"), Ok(None));
        assert_eq!(program.lookup("alias", "error|no"), Err("no".to_owned()));
        assert_eq!(program.check("domain", "found"), Ok(true));
        assert_eq!(program.check("domain", "not-found"), Ok(false));
        assert_eq!(program.fetch("source"), Ok(Some("192.0.2.1".to_owned())));
        assert_eq!(program.update(), Ok(()));
        // A key cannot add a line.
        assert!(program.lookup("alias", "a\nb").is_err());
        assert_eq!(program.proc.status().restarts, 0);
    }

    #[test]
    fn answers_may_come_in_any_order() {
        let program = Arc::new(started(&[r#"
            while read -r line; do [ "$line" = "config|ready" ] && break; done
            echo 'register|alias'; echo 'register|ready'
            IFS='|' read -r t v s n op svc first key1
            IFS='|' read -r t v s n op svc second key2
            echo "lookup-result|$second|found|$key2"; echo "lookup-result|$first|found|$key1"
            cat >/dev/null"#]));
        let ask = |key: &'static str| {
            let program = program.clone();
            std::thread::spawn(move || program.lookup("alias", key))
        };
        let (a, b) = (ask("a"), ask("b"));
        assert_eq!(a.join().unwrap(), Ok(Some("a".to_owned())));
        assert_eq!(b.join().unwrap(), Ok(Some("b".to_owned())));
    }

    #[test]
    fn nonsense_ends_it_and_the_lookup_fails_for_now() {
        let program = started(&[OBEDIENT]);
        // The answer has no value.
        assert!(program.lookup("alias", "found").is_err());
        assert!(program.lookup("alias", "found|x").is_err());
        // Another one takes its place.
        let again = Instant::now() + LONG;
        while program.lookup("alias", "found|x") != Ok(Some("x".to_owned())) {
            assert!(Instant::now() < again);
            std::thread::yield_now();
        }
        assert_eq!(program.proc.status().restarts, 1);
    }

    #[test]
    fn what_it_serves_is_known_while_it_is_started_again() {
        // smtpd-tables(7): who judges passwords does so from its first start on.
        let once = r#"while read -r line; do [ "$line" = "config|ready" ] && break; done
            echo 'register|auth'; echo 'register|ready'; read -r question"#;
        let program = started(&[once, "echo 'register|alias'; cat >/dev/null"]);
        assert_eq!(program.serves("auth"), Some(true));
        assert!(program.check("auth", "joe:secret").is_err());
        let again = Instant::now() + LONG;
        while program.proc.life() < 2 {
            assert!(Instant::now() < again);
            std::thread::yield_now();
        }
        assert_eq!(program.serves("auth"), Some(true));
        assert_eq!(program.serves("alias"), Some(false));
    }

    #[test]
    fn one_that_registers_nothing_never_gets_ready() {
        for script in [
            "echo 'register|ready'; cat >/dev/null",
            "exit 0",
            "echo hello; cat",
        ] {
            let program = started(&[script]);
            assert_eq!(program.serves("alias"), None);
            assert!(program.lookup("alias", "x").is_err());
        }
    }
}
