//! smtpd.conf(5), relay: where a domain's mail goes when its name servers misbehave.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::relay::submit;
use crate::support::{Instance, Setup, wait_for};

const CNAME: u16 = 5;
const MX: u16 = 15;

/// What the server does with a question.
pub enum Does {
    /// Sends this.
    Says(Vec<u8>),
    /// Sends this, from another port.
    SaysElsewhere(Vec<u8>),
    /// Nothing.
    Nothing,
}

/// A question's way: over TCP there is more room.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Over {
    Udp,
    Tcp,
}

/// What it does with a question.
pub type Script = fn(&[u8], &str, Over) -> Does;

/// A name server that a test scripts, over UDP and TCP.
pub struct NameServer {
    pub port: u16,
    /// How often each name was asked for.
    asked: Arc<Mutex<HashMap<String, usize>>>,
}

impl NameServer {
    pub fn start(script: Script) -> NameServer {
        let (udp, tcp) = sockets();
        let port = udp.local_addr().expect("address").port();
        let asked: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
        let seen = Arc::clone(&asked);
        let hear = move |query: &[u8], over| {
            let name = name_of(query);
            *seen.lock().expect("names").entry(name.clone()).or_default() += 1;
            script(query, &name, over)
        };
        let heard = hear.clone();
        thread::spawn(move || {
            let elsewhere = UdpSocket::bind(("127.0.0.1", 0)).expect("bind");
            let mut buffer = [0; 1500];
            while let Ok((length, from)) = udp.recv_from(&mut buffer) {
                // A client that has gone is no concern of the server's.
                let _ = match heard(&buffer[..length], Over::Udp) {
                    Does::Says(answer) => udp.send_to(&answer, from),
                    Does::SaysElsewhere(answer) => elsewhere.send_to(&answer, from),
                    Does::Nothing => Ok(0),
                };
            }
        });
        thread::spawn(move || {
            for stream in tcp.incoming().flatten() {
                let hear = hear.clone();
                thread::spawn(move || drop(serve(stream, hear)));
            }
        });
        NameServer { port, asked }
    }

    fn asked(&self) -> usize {
        self.asked.lock().expect("names").values().sum()
    }
}

/// Of the same port.
fn sockets() -> (UdpSocket, TcpListener) {
    loop {
        let udp = UdpSocket::bind(("127.0.0.1", 0)).expect("bind");
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().expect("address")) {
            return (udp, tcp);
        }
    }
}

fn serve(mut stream: TcpStream, hear: impl Fn(&[u8], Over) -> Does) -> io::Result<()> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut query)?;
    match hear(&query, Over::Tcp) {
        Does::Says(answer) | Does::SaysElsewhere(answer) => {
            let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
            stream.write_all(&length.to_be_bytes())?;
            stream.write_all(&answer)
        }
        Does::Nothing => stream.read_exact(&mut length),
    }
}

/// The name a query asks for, without its last dot.
fn name_of(query: &[u8]) -> String {
    let mut name = String::new();
    let mut at = 12;
    while let Some(length) = query.get(at).copied().filter(|n| *n > 0) {
        let end = at + 1 + usize::from(length);
        name.push_str(&String::from_utf8_lossy(
            query.get(at + 1..end).unwrap_or_default(),
        ));
        name.push('.');
        at = end;
    }
    name.trim_end_matches('.').to_string()
}

/// An answer with this code, flags and records, each with the question's name: type and data.
pub fn reply(query: &[u8], flags: u16, records: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let end = 12 + query[12..].iter().position(|b| *b == 0).unwrap_or(0) + 5;
    let mut answer = query[..2].to_vec();
    answer.extend((0x8180 | flags).to_be_bytes());
    answer.extend([0, 1]);
    answer.extend((records.len() as u16).to_be_bytes());
    answer.extend([0, 0, 0, 0]);
    answer.extend(&query[12..end]);
    for (kind, data) in records {
        answer.extend([0xc0, 12]);
        answer.extend(kind.to_be_bytes());
        answer.extend([0, 1, 0, 0, 0, 60]);
        answer.extend((data.len() as u16).to_be_bytes());
        answer.extend(data);
    }
    answer
}

fn null_mx(query: &[u8]) -> Vec<u8> {
    reply(query, 0, &[(MX, vec![0, 0, 0])])
}

/// Exchangers with names of their own in the domain that is asked for; as many as fit.
fn exchangers(query: &[u8], count: u16) -> Vec<u8> {
    let exchanger = |n: u16| {
        let letter = |n: u16| b'a' + (n % 26) as u8;
        let name = [3, letter(n), letter(n / 26), letter(n / 676), 0xc0, 12];
        (MX, [&n.to_be_bytes()[..], &name].concat())
    };
    reply(query, 0, &(0..count).map(exchanger).collect::<Vec<_>>())
}

/// An alias of a name in itself: `alias.` and the question's name.
fn longer_alias(query: &[u8]) -> Vec<u8> {
    reply(query, 0, &[(CNAME, vec![1, b'a', 0xc0, 12])])
}

/// An alias of what follows the first label.
fn alias_of_the_rest(query: &[u8]) -> Vec<u8> {
    let first = query.get(12).copied().unwrap_or(0);
    reply(query, 0, &[(CNAME, vec![0xc0, 13 + first])])
}

fn hostile(query: &[u8], name: &str, over: Over) -> Does {
    const TRUNCATED: u16 = 0x200;
    let udp = over == Over::Udp;
    Does::Says(match name {
        "gone.example" => reply(query, 3, &[]),
        "broken.example" => reply(query, 2, &[]),
        "refused.example" => reply(query, 5, &[]),
        "null.example" => null_mx(query),
        "loop.example" => reply(query, 0, &[(CNAME, vec![0xc0, 12])]),
        // Two names, each an alias of the other.
        "pair.example" => longer_alias(query),
        "a.pair.example" => alias_of_the_rest(query),
        // Ever new ones.
        name if name.ends_with("chain.example") => longer_alias(query),
        "truncated.example" if udp => reply(query, TRUNCATED, &[]),
        "truncated.example" => null_mx(query),
        "truncated-twice.example" => reply(query, TRUNCATED, &[]),
        "truncated-alone.example" if udp => reply(query, TRUNCATED, &[]),
        "truncated-alone.example" => return Does::Nothing,
        "wrong-id.example" => {
            let mut answer = null_mx(query);
            answer[0] ^= 0x55;
            answer
        }
        "wrong-question.example" => {
            let mut answer = null_mx(query);
            answer[13] ^= 0x01;
            answer
        }
        "wrong-type.example" => reply(query, 0, &[(1, vec![0, 0, 0])]),
        "garbage.example" => (0..200).map(|n: u8| n.wrapping_mul(151)).collect(),
        "cut.example" => {
            let mut answer = null_mx(query);
            answer.truncate(answer.len() - 2);
            answer
        }
        "question.example" => query.to_vec(),
        "elsewhere.example" => return Does::SaysElsewhere(null_mx(query)),
        "many.example" if udp => reply(query, TRUNCATED, &[]),
        // There is no room for more in a message.
        "many.example" => exchangers(query, 3200),
        "silent.example" => return Does::Nothing,
        _ => reply(query, 3, &[]),
    })
}

/// A daemon that relays everything by what this name server says.
fn instance(server: &NameServer) -> Instance {
    let dir = tempfile::TempDir::new().expect("a temporary directory");
    let conf = format!(
        "nameserver [127.0.0.1]:{}\noptions timeout:1 attempts:1\n",
        server.port
    );
    std::fs::write(dir.path().join("resolv.conf"), conf).expect("resolv.conf");
    Setup::new(
        "listen on 127.0.0.1 port $port\naction \"out\" relay\n\
         match from any for any action \"out\"\n",
    )
    .start_in(dir)
}

const NO_ANSWER: &str = "Temporary failure in MX lookup";

/// Questions that one domain may cost: exchangers that are looked up, in both families, and the
/// aliases.
const QUESTIONS_MAX: usize = 2 * 48 + 10;

#[test]
fn whatever_a_name_server_says_has_the_outcome_that_the_manual_names() {
    let server = NameServer::start(hostile);
    let daemon = instance(&server);
    let cases = [
        ("gone", "PermFail", "Domain does not exist"),
        ("null", "PermFail", "Domain does not accept mail"),
        ("broken", "TempFail", NO_ANSWER),
        ("refused", "TempFail", NO_ANSWER),
        ("loop", "TempFail", NO_ANSWER),
        ("pair", "TempFail", NO_ANSWER),
        ("chain", "TempFail", NO_ANSWER),
        ("truncated", "PermFail", "Domain does not accept mail"),
        ("truncated-twice", "TempFail", NO_ANSWER),
        ("truncated-alone", "TempFail", NO_ANSWER),
        ("wrong-id", "TempFail", NO_ANSWER),
        ("wrong-question", "TempFail", NO_ANSWER),
        ("garbage", "TempFail", NO_ANSWER),
        ("cut", "TempFail", NO_ANSWER),
        ("question", "TempFail", NO_ANSWER),
        ("elsewhere", "TempFail", NO_ANSWER),
        ("silent", "TempFail", NO_ANSWER),
        ("many", "TempFail", "No MX found for domain"),
    ];
    let begun = Instant::now();
    for (name, _, _) in cases {
        let rcpt = format!("bob@{name}.example");
        submit(&daemon, &[&rcpt], "Subject: x\r\n\r\nhi");
    }
    let mut wrong = Vec::new();
    for (name, result, text) in cases {
        let start =
            format!(" to=<bob@{name}.example> rcpt=<-> source=\"-\" relay=\"{name}.example\" ");
        let mut found = String::new();
        wait_for("the delivery line", || {
            let log = daemon.log();
            let line = log.lines().find(|line| line.contains(&start));
            found = line.unwrap_or_default().to_owned();
            !found.is_empty()
        });
        if !found.ends_with(&format!("result=\"{result}\" stat=\"{text}\"")) {
            wrong.push(found);
        }
        daemon.wait_log(&format!(
            "smtp-out: Failed to resolve MX for [relay:{name}.example,smtp]: {text}"
        ));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let passing = cases.iter().filter(|(_, r, _)| *r == "TempFail").count();
    wait_for("what passes to wait", || daemon.queue().len() == passing);
    // Nobody is asked without end, and nobody is waited for longer than resolv.conf(5) says.
    let asked = server.asked();
    assert!(asked < QUESTIONS_MAX + 4 * cases.len(), "{asked} questions");
    assert!(begun.elapsed() < Duration::from_secs(30));
}
