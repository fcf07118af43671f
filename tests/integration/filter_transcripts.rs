//! smtpd-filters(7): what a filter is told of whole sessions, line by line, in the files of
//! `tests/transcripts`.
//!
//! A file begins with comments that say what it is about, and where a filter is told something else
//! than OpenSMTPD tells it. `[answers]` has the filter's decisions, `phase|parameter|decision`;
//! `[client]` what clients do: `1> line` sends, `1< 250` is the reply, `1! hangup` and `1! starttls`
//! do that, and a session begins where its number comes first; `[told]` is what the filter reads.
//! Sessions are S1 and S2 there, one after the other, messages M1 and M2, tokens letters, one for
//! each phase, times T, ports P. OpenSMTPD's tokens are of a phase, too; ours are of one request or
//! message.
//!
//! Two differences are in all of them, for the reasons that `accept.transcript` has: PIPELINING among
//! the extensions, and the head of a message behind tx-data.
//!
//! SMTPD_WRITE_GOLDEN=1 writes `[told]` anew.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::filters::{ALL, heard, prepare};
use crate::submission::hash;
use crate::support::tls_client::{self, TlsClient};
use crate::support::tls_host::Authority;
use crate::support::{Instance, Setup, give, wait_for};

/// A transcript's parts, as they are written.
struct Transcript {
    head: String,
    answers: String,
    client: String,
    told: String,
}

impl Transcript {
    fn read(path: &Path) -> Transcript {
        let text = fs::read_to_string(path).unwrap();
        let mut parts = text.splitn(2, "[answers]\n");
        let head = parts.next().unwrap().to_owned();
        let (answers, rest) = parts.next().unwrap().split_once("[client]\n").unwrap();
        let (client, told) = rest.split_once("[told]\n").unwrap();
        Transcript {
            head,
            answers: answers.to_owned(),
            client: client.to_owned(),
            told: told.to_owned(),
        }
    }

    fn write(&self, path: &Path) {
        let Transcript {
            head,
            answers,
            client,
            told,
        } = self;
        let text = format!("{head}[answers]\n{answers}[client]\n{client}[told]\n{told}");
        fs::write(path, text).unwrap();
    }
}

fn files() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let mut files: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
}

fn daemon() -> Instance {
    let mut daemon = Setup::new("").prepare();
    let pair = Authority::new().certify("mx.example.org");
    let at = |name: &str| daemon.path().join(name);
    fs::write(at("p.crt"), &pair.pem).unwrap();
    fs::write(at("p.key"), pair.key_pem()).unwrap();
    fs::set_permissions(at("p.key"), fs::Permissions::from_mode(0o600)).unwrap();
    give(&at("p.key"), fs::metadata(daemon.path()).unwrap().uid());
    let register = format!("{ALL}register|filter|smtp-in|starttls\nregister|filter|smtp-in|auth\n");
    prepare(daemon.path(), "f", &register, "");
    daemon.configure(&format!(
        "pki p cert \"$dir/p.crt\" key \"$dir/p.key\"\n\
         table creds {{ ann = \"{}\" }}\n\
         filter \"f\" proc-exec \"$dir/f/filter $dir/f one\"\n\
         listen on 127.0.0.1 port $port tls pki p auth-optional <creds> filter \"f\"\n\
         action \"in\" maildir \"$dir/mail\" virtual $all\n\
         match from any for domain example.com action \"in\"\n",
        hash("secret")
    ));
    daemon.start();
    daemon
}

/// Does what the clients do; says how the filter calls them.
fn act(daemon: &Instance, client: &str, name: &str) {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, daemon.port));
    let mut clients: BTreeMap<&str, TlsClient> = BTreeMap::new();
    for line in client.lines().filter(|line| !line.is_empty()) {
        let (number, rest) = line.split_at(1);
        let (what, text) = rest.split_at(1);
        let text = text.strip_prefix(' ').unwrap_or(text);
        let mut known = clients.remove(number);
        match (what, text) {
            ("!", "hangup") => {
                drop(known.take());
                continue;
            }
            ("!", "starttls") => {
                let secured = known
                    .take()
                    .unwrap()
                    .secure(&tls_client::config(None), "mx.example.org");
                known = Some(secured.unwrap());
            }
            (">", text) => known
                .as_mut()
                .unwrap()
                .send(format!("{text}\r\n").as_bytes()),
            ("<", code) => {
                let client = known.get_or_insert_with(|| TlsClient::connect(address));
                let reply = client.reply();
                assert!(reply.starts_with(code), "{name}: {line}: {reply}");
            }
            _ => panic!("{name}: {line}"),
        }
        clients.insert(number, known.unwrap());
    }
}

/// Puts names in the place of what is different each time.
#[derive(Default)]
struct Names {
    sessions: Vec<String>,
    messages: Vec<String>,
    phases: Vec<String>,
    /// Of the message whose lines come.
    open: Option<String>,
    tokens: Vec<String>,
}

impl Names {
    fn of(seen: &mut Vec<String>, what: &str) -> usize {
        match seen.iter().position(|known| known == what) {
            Some(at) => at,
            None => {
                seen.push(what.to_owned());
                seen.len() - 1
            }
        }
    }

    fn line(&mut self, line: &str) -> String {
        let mut fields: Vec<String> = line.split('|').map(str::to_owned).collect();
        let micros = fields[2].split_once('.').map(|(_, micros)| micros.len());
        assert_eq!(micros, Some(6), "{line}");
        fields[2] = "T".to_owned();
        fields[5] = format!("S{}", Names::of(&mut self.sessions, &fields[5]) + 1);
        if fields[0] == "filter" {
            let token = std::mem::take(&mut fields[6]);
            let known = self.tokens.contains(&token);
            // A message has one for all its lines.
            let goes_on = self.open.as_ref() == Some(&token);
            assert_eq!(known, goes_on, "{line}");
            let lines = fields[4] == "data-line" && fields[7] != ".";
            self.open = lines.then(|| token.clone());
            if !known {
                self.tokens.push(token);
            }
            let phase = Names::of(&mut self.phases, &fields[4]);
            fields[6] = char::from(b'A' + u8::try_from(phase).unwrap()).to_string();
        }
        match fields[4].as_str() {
            "tx-begin" => drop(Names::of(&mut self.messages, &fields[6])),
            "link-connect" => {
                for at in [8, 9] {
                    let host = fields[at].split(':').next().unwrap();
                    fields[at] = format!("{host}:P");
                }
            }
            "tx-envelope" => fields[7] = "E".to_owned(),
            "tx-commit" => {
                assert!(fields[7].parse::<u64>().is_ok(), "{line}");
                fields[7] = "N".to_owned();
            }
            // The date of our own field: a day of the week and a comma.
            "data-line" if fields[7].starts_with('\t') && fields[7].get(4..6) == Some(", ") => {
                fields[7] = "\tDATE".to_owned();
            }
            _ => {}
        }
        let mut line = fields.join("|");
        for (at, message) in self.messages.iter().enumerate() {
            line = line.replace(message, &format!("M{}", at + 1));
        }
        line
    }
}

fn session_of(line: &str) -> Option<&str> {
    let told = line.starts_with("report|") || line.starts_with("filter|");
    line.split('|').nth(5).filter(|_| told)
}

/// Session after session in the order in which they began: what is told of one session has an order,
/// what is told of two, that are served by different threads, has none.
fn by_session(lines: &[String]) -> Vec<&String> {
    let mut begun = Vec::new();
    let mut told = Vec::new();
    for line in lines {
        if let Some(session) = session_of(line) {
            told.push((Names::of(&mut begun, session), line));
        }
    }
    told.sort_by_key(|(session, _)| *session);
    told.into_iter().map(|(_, line)| line).collect()
}

/// Lines of sessions that have ended, all of them; `None` while one goes on.
fn ended(text: &str) -> Option<Vec<String>> {
    let whole = text.is_empty() || text.ends_with('\n');
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let count = |event: &str| lines.iter().filter(|line| line.contains(event)).count();
    let over = count("|link-connect|") == count("|link-disconnect|");
    (whole && over).then_some(lines)
}

#[test]
fn a_filter_is_told_what_the_transcripts_say() {
    let daemon = daemon();
    // Whoever looked whether the daemon serves has gone.
    wait_for("the filter to have heard of nobody", || {
        heard(&daemon, "f").contains("|link-disconnect|") && ended(&heard(&daemon, "f")).is_some()
    });
    let mut wrong = Vec::new();
    let mut count = 0;
    for path in files() {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let mut transcript = Transcript::read(&path);
        count += 1;
        // Time passes in memory only: `session::tests` has this one.
        if transcript.client.contains("! timeout") {
            continue;
        }
        fs::write(daemon.path().join("f/answers"), &transcript.answers).unwrap();
        let before = heard(&daemon, "f").len();
        act(&daemon, &transcript.client, &name);
        let since = || {
            heard(&daemon, "f")
                .get(before..)
                .unwrap_or_default()
                .to_owned()
        };
        wait_for("the sessions to end", || {
            since().contains("|link-connect|") && ended(&since()).is_some()
        });
        let mut names = Names::default();
        let lines = ended(&since()).unwrap();
        let told: String = by_session(&lines)
            .into_iter()
            .map(|line| names.line(line) + "\n")
            .collect();
        if std::env::var_os("SMTPD_WRITE_GOLDEN").is_some() {
            transcript.told = told;
            transcript.write(&path);
        } else if told != transcript.told {
            wrong.push(format!("{name}:\n{told}instead of\n{}", transcript.told));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count >= 30, "{count} transcripts");
}
