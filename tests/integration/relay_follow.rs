//! Messages that follow each other in one go (RFC 2920), to hosts that cope with that and to others.

use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::relay::instance_with;
use crate::support::{Instance, wait_for};

/// What a host does when more has come with the end of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// It goes on with it.
    Copes,
    /// It takes the message, and refuses the MAIL that came with it.
    Refuses,
    /// It takes the message, and closes.
    Closes,
    /// It takes nothing, and closes.
    Drops,
    /// It puts the message off, and says that it closes.
    Says421,
}

const MANNERS: [Manner; 5] = [
    Manner::Copes,
    Manner::Refuses,
    Manner::Closes,
    Manner::Drops,
    Manner::Says421,
];

#[derive(Default)]
struct Seen {
    /// The subjects of the messages that were taken.
    taken: Vec<String>,
    /// How often something came with the end of a message.
    followed: usize,
    /// Connections that had MAIL, and all.
    used: usize,
    connections: usize,
}

struct Host {
    manner: Manner,
    port: u16,
    seen: Arc<Mutex<Seen>>,
}

impl Host {
    fn start(manner: Manner) -> Host {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("bind");
        let port = listener.local_addr().expect("address").port();
        let seen = Arc::<Mutex<Seen>>::default();
        let shared = Arc::clone(&seen);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let seen = Arc::clone(&shared);
                thread::spawn(move || drop(serve(stream, manner, &seen)));
            }
        });
        Host { manner, port, seen }
    }

    fn domain(&self) -> String {
        format!("{:?}.example", self.manner).to_lowercase()
    }

    fn seen<T>(&self, what: impl Fn(&Seen) -> T) -> T {
        what(&self.seen.lock().expect("seen"))
    }
}

fn serve(stream: TcpStream, manner: Manner, seen: &Mutex<Seen>) -> io::Result<()> {
    let note = |what: &dyn Fn(&mut Seen)| what(&mut seen.lock().expect("seen"));
    let mut input = BufReader::new(stream.try_clone()?);
    let mut output = stream;
    note(&|seen| seen.connections += 1);
    output.write_all(b"220 fake\r\n")?;
    let (mut followed, mut in_mail, mut used) = (false, false, false);
    loop {
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let reply: &[u8] = match line.get(..4).unwrap_or_default() {
            "EHLO" => b"250-fake\r\n250 PIPELINING\r\n",
            "MAIL" => {
                note(&|seen| seen.used += usize::from(!used));
                used = true;
                in_mail = !followed || manner != Manner::Refuses;
                followed = false;
                if in_mail {
                    b"250 ok\r\n"
                } else {
                    b"503 5.5.1 not now\r\n"
                }
            }
            "RCPT" | "DATA" if !in_mail => b"503 5.5.1 MAIL first\r\n",
            "DATA" => b"354 go on\r\n",
            "QUIT" => return output.write_all(b"221 bye\r\n"),
            _ => b"250 ok\r\n",
        };
        output.write_all(reply)?;
        if !reply.starts_with(b"354") {
            continue;
        }
        let subject = read_message(&mut input)?;
        followed = !input.buffer().is_empty();
        note(&|seen| seen.followed += usize::from(followed));
        match (followed, manner) {
            (true, Manner::Drops) => return Ok(()),
            (true, Manner::Says421) => return output.write_all(b"421 4.3.2 later\r\n"),
            _ => {}
        }
        note(&|seen| seen.taken.push(subject.clone()));
        output.write_all(b"250 2.0.0 taken\r\n")?;
        if followed && manner == Manner::Closes {
            return Ok(());
        }
    }
}

fn read_message(input: &mut impl BufRead) -> io::Result<String> {
    let mut subject = String::new();
    loop {
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if line == ".\r\n" {
            return Ok(subject);
        }
        if let Some(text) = line.strip_prefix("Subject: ") {
            subject = text.trim_end().to_owned();
        }
    }
}

/// Messages for each host.
const COUNT: usize = 25;

fn queued(daemon: &Instance, host: &Host) -> usize {
    let domain = format!("@{}|", host.domain());
    let queue = daemon.queue();
    queue.iter().filter(|line| line.contains(&domain)).count()
}

#[test]
fn no_message_is_lost_or_doubled_when_one_follows_another_in_one_go() {
    let hosts = MANNERS.map(Host::start);
    let routes = hosts.iter().map(|host| {
        let (domain, port) = (host.domain(), host.port);
        format!("\"{domain}\" = \"smtp://127.0.0.1:{port}\"")
    });
    let routes: Vec<String> = routes.collect();
    let limits = "mta limit reconn-delay-route 0\n";
    let daemon = instance_with(limits, &format!("domain {{ {} }}", routes.join(", ")));
    assert!(daemon.ctl(["pause", "mta"]).status.success());
    for number in 0..COUNT {
        for host in &hosts {
            let rcpt = format!("bob@{}", host.domain());
            let text = format!("Subject: {number}\n\nhi\n");
            daemon
                .hello()
                .mail("ann@example.net", &[&rcpt], text.as_bytes());
        }
    }
    assert!(daemon.ctl(["resume", "mta"]).status.success());
    for host in &hosts {
        // What was put off waits, with another try; all else has gone.
        let put_off = || match host.manner {
            Manner::Drops | Manner::Says421 => host.seen(|seen| seen.followed),
            Manner::Copes | Manner::Refuses | Manner::Closes => 0,
        };
        wait_for("what a host takes to be there", || {
            host.seen(|seen| seen.taken.len()) + put_off() == COUNT
                && queued(&daemon, host) == put_off()
        });
        let manner = host.manner;
        let taken = host.seen(|seen| seen.taken.clone());
        let once: BTreeSet<&String> = taken.iter().collect();
        assert_eq!(once.len(), taken.len(), "{manner:?}: {taken:?}");
        let followed = host.seen(|seen| seen.followed);
        assert!(followed > 0, "{manner:?}");
        if !matches!(manner, Manner::Copes | Manner::Says421) {
            // One session has tried it, once.
            assert_eq!(followed, 1, "{manner:?}");
        }
        let (used, connections) = host.seen(|seen| (seen.used, seen.connections));
        assert!(
            connections <= used + 1,
            "{manner:?}: {used} of {connections}"
        );
    }
}
