//! Many mail hosts in one process, for the relaying part of `make bench`.
//!
//! sink STATS DELAY_MS PORT=MANNER...: listens on every loopback address, so that each of them is a
//! host. A manner is how the hosts on that port behave: `good`, or silent from then on at `banner`,
//! `mail` or `dot`. Each reply comes DELAY_MS after its command. `dns` is a name server over UDP: the
//! exchangers of N.TAG.example are m1, m2 and m3 of that name, at addresses of their own; all of
//! N.shared.example have the same one, and those of N.ten.example one of ten.
//!
//! STATS holds what was counted, written anew every 50 ms: messages, connections, connections on
//! which no mail came, the most of these on one host in one minute, and the most connections at a time.

use std::collections::{BinaryHeap, HashMap};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream, UdpSocket};
use mio::{Events, Interest, Poll, Token};

#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Good,
    Banner,
    Mail,
    Dot,
}

struct Conn {
    stream: TcpStream,
    host: IpAddr,
    manner: Manner,
    input: Vec<u8>,
    in_data: bool,
    mails: u32,
    silent: bool,
    closing: bool,
}

#[derive(Default)]
struct Counts {
    messages: u64,
    connections: u64,
    empty: u64,
    open: u64,
    most_open: u64,
    empty_by_host: HashMap<(IpAddr, u64), u64>,
}

/// What is to be sent, and when; the earliest is the greatest.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Late(std::cmp::Reverse<(Instant, u64)>, usize, &'static str);

struct Sink {
    poll: Poll,
    listeners: Vec<(TcpListener, Manner)>,
    dns: Option<UdpSocket>,
    conns: HashMap<usize, Conn>,
    late: BinaryHeap<Late>,
    delay: Duration,
    counts: Counts,
    start: Instant,
    next: usize,
    turn: u64,
}

const DNS: usize = 99;
const FIRST: usize = 100;

fn main() -> io::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let [_, stats, delay, ports @ ..] = args.as_slice() else {
        eprintln!("usage: sink STATS DELAY_MS PORT=MANNER...");
        std::process::exit(1);
    };
    let mut sink = Sink {
        poll: Poll::new()?,
        listeners: Vec::new(),
        dns: None,
        conns: HashMap::new(),
        late: BinaryHeap::new(),
        delay: Duration::from_millis(delay.parse().map_err(io::Error::other)?),
        counts: Counts::default(),
        start: Instant::now(),
        next: FIRST,
        turn: 0,
    };
    for word in ports {
        let (port, manner) = word.split_once('=').ok_or(io::ErrorKind::InvalidInput)?;
        let port: u16 = port.parse().map_err(io::Error::other)?;
        sink.listen(port, manner)?;
    }
    sink.run(stats)
}

impl Sink {
    fn listen(&mut self, port: u16, manner: &str) -> io::Result<()> {
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let manner = match manner {
            "good" => Manner::Good,
            "banner" => Manner::Banner,
            "mail" => Manner::Mail,
            "dot" => Manner::Dot,
            _ => {
                let mut socket = UdpSocket::bind(any)?;
                let token = Token(DNS);
                self.poll
                    .registry()
                    .register(&mut socket, token, Interest::READABLE)?;
                self.dns = Some(socket);
                return Ok(());
            }
        };
        let mut listener = TcpListener::bind(any)?;
        let token = Token(self.listeners.len());
        self.poll
            .registry()
            .register(&mut listener, token, Interest::READABLE)?;
        self.listeners.push((listener, manner));
        Ok(())
    }

    fn run(mut self, stats: &str) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        let mut written = Instant::now();
        loop {
            let now = Instant::now();
            let soon = Duration::from_millis(50);
            let wait = self.late.peek().map_or(soon, |Late(at, ..)| {
                at.0.0.saturating_duration_since(now).min(soon)
            });
            match self.poll.poll(&mut events, Some(wait)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                polled => polled?,
            }
            for event in &events {
                match event.token().0 {
                    DNS => self.name_server(),
                    n if n < DNS => self.accept(n),
                    n => self.talk(n),
                }
            }
            let now = Instant::now();
            while self.late.peek().is_some_and(|Late(at, ..)| at.0.0 <= now) {
                if let Some(Late(_, conn, text)) = self.late.pop() {
                    self.send(conn, text);
                }
            }
            if now.duration_since(written) >= soon {
                written = now;
                self.write(stats)?;
            }
        }
    }

    fn write(&self, stats: &str) -> io::Result<()> {
        let c = &self.counts;
        let worst = c.empty_by_host.values().max().unwrap_or(&0);
        let text = format!(
            "{} {} {} {worst} {}\n",
            c.messages, c.connections, c.empty, c.most_open
        );
        std::fs::write(format!("{stats}.new"), text)?;
        std::fs::rename(format!("{stats}.new"), stats)
    }

    fn accept(&mut self, n: usize) {
        while let Ok((mut stream, _)) = self.listeners[n].0.accept() {
            let manner = self.listeners[n].1;
            let id = self.next;
            self.next += 1;
            let _ = stream.set_nodelay(true);
            let host = stream.local_addr().map_or(any(), |addr| addr.ip());
            let token = Token(id);
            let registry = self.poll.registry();
            if let Err(error) = registry.register(&mut stream, token, Interest::READABLE) {
                eprintln!("sink: {error}");
                continue;
            }
            self.counts.connections += 1;
            self.counts.open += 1;
            self.counts.most_open = self.counts.most_open.max(self.counts.open);
            let conn = Conn {
                stream,
                host,
                manner,
                input: Vec::new(),
                in_data: false,
                mails: 0,
                silent: manner == Manner::Banner,
                closing: false,
            };
            self.conns.insert(id, conn);
            self.reply(id, "220 sink ESMTP\r\n");
        }
    }

    fn talk(&mut self, id: usize) {
        let mut buffer = [0; 65536];
        loop {
            let Some(conn) = self.conns.get_mut(&id) else {
                return;
            };
            match conn.stream.read(&mut buffer) {
                Ok(0) => return self.close(id),
                Ok(n) => conn.input.extend_from_slice(&buffer[..n]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return self.lines(id),
                Err(_) => return self.close(id),
            }
        }
    }

    fn lines(&mut self, id: usize) {
        loop {
            let Some(conn) = self.conns.get_mut(&id) else {
                return;
            };
            let Some(end) = conn.input.iter().position(|b| *b == b'\n') else {
                return;
            };
            let line: Vec<u8> = conn.input.drain(..=end).collect();
            let line = line.strip_suffix(b"\r\n").unwrap_or(&line);
            if conn.in_data {
                if line == b"." {
                    conn.in_data = false;
                    conn.silent |= conn.manner == Manner::Dot;
                    if !conn.silent {
                        self.counts.messages += 1;
                    }
                    self.reply(id, "250 2.0.0 taken\r\n");
                }
                continue;
            }
            let verb = line.get(..4).unwrap_or_default().to_ascii_uppercase();
            let text = match verb.as_slice() {
                b"EHLO" => "250-sink\r\n250 PIPELINING\r\n",
                b"MAIL" => {
                    conn.mails += 1;
                    conn.silent |= conn.manner == Manner::Mail;
                    "250 2.1.0 ok\r\n"
                }
                b"DATA" => {
                    conn.in_data = true;
                    "354 go on\r\n"
                }
                b"QUIT" => {
                    conn.closing = true;
                    "221 bye\r\n"
                }
                _ => "250 2.0.0 ok\r\n",
            };
            self.reply(id, text);
        }
    }

    fn reply(&mut self, id: usize, text: &'static str) {
        if self.conns.get(&id).is_none_or(|conn| conn.silent) {
            return;
        }
        if self.delay.is_zero() {
            return self.send(id, text);
        }
        self.turn += 1;
        let at = std::cmp::Reverse((Instant::now() + self.delay, self.turn));
        self.late.push(Late(at, id, text));
    }

    fn send(&mut self, id: usize, text: &str) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        let sent = conn.stream.write_all(text.as_bytes());
        if sent.is_err() || conn.closing && text.starts_with("221") {
            self.close(id);
        }
    }

    fn close(&mut self, id: usize) {
        let Some(conn) = self.conns.remove(&id) else {
            return;
        };
        self.counts.open -= 1;
        if conn.mails == 0 && !conn.silent {
            self.counts.empty += 1;
            let minute = self.start.elapsed().as_secs() / 60;
            *self
                .counts
                .empty_by_host
                .entry((conn.host, minute))
                .or_default() += 1;
        }
    }

    fn name_server(&self) {
        let Some(socket) = &self.dns else {
            return;
        };
        let mut buffer = [0; 1500];
        while let Ok((n, from)) = socket.recv_from(&mut buffer) {
            if let Some(answer) = answer(&buffer[..n]) {
                let _ = socket.send_to(&answer, from);
            }
        }
    }
}

fn any() -> IpAddr {
    IpAddr::from(Ipv4Addr::UNSPECIFIED)
}

/// The answer to a question (RFC 1035 §4): exchangers for MX, an address for A of an exchanger, and
/// nothing else.
fn answer(query: &[u8]) -> Option<Vec<u8>> {
    let mut labels = Vec::new();
    let mut at = 12;
    while *query.get(at)? != 0 {
        let length = usize::from(query[at]);
        labels.push(String::from_utf8_lossy(query.get(at + 1..at + 1 + length)?).into_owned());
        at += 1 + length;
    }
    let end = at + 5;
    let kind = u16::from_be_bytes([*query.get(at + 1)?, *query.get(at + 2)?]);
    let mut records: Vec<Vec<u8>> = Vec::new();
    let record = |kind: u16, data: &[u8]| {
        let mut record = vec![0xc0, 12, 0, kind as u8, 0, 1, 0, 0, 0, 60];
        record.extend((data.len() as u16).to_be_bytes());
        record.extend(data);
        record
    };
    match (kind, labels.first()?.strip_prefix('m'), labels.get(1)) {
        (15, None, Some(tag)) if tag == "shared" || tag == "ten" => {
            let name = labels.first()?;
            let which = match tag.as_str() {
                "ten" => name.parse::<u32>().ok()? % 10,
                _ => 0,
            };
            let (which, rest) = (b'0' + which as u8, 12 + 1 + name.len() as u8);
            records.push(record(15, &[0, 1, 2, b'm', b'1', 1, which, 0xc0, rest]));
        }
        (15, None, _) => {
            for n in 1..=3 {
                records.push(record(15, &[0, n, 2, b'm', b'0' + n, 0xc0, 12]));
            }
        }
        (1, Some(n), Some(host)) => {
            let (n, host): (u8, u16) = (n.parse().ok()?, host.parse().ok()?);
            let data = [127, 10 + n, (host / 250) as u8, (host % 250) as u8 + 1];
            records.push(record(1, &data));
        }
        _ => {}
    }
    let mut answer = query.get(..2)?.to_vec();
    answer.extend([0x84, 0, 0, 1, 0, records.len() as u8, 0, 0, 0, 0]);
    answer.extend(query.get(12..end)?);
    answer.extend(records.concat());
    Some(answer)
}
