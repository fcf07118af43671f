//! A client of SMTP that says what a test wants, and messages as they are on the wire and in a
//! maildir.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::PATIENCE;

/// A scripted SMTP client.
pub struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    /// Connects to a port on loopback.
    pub fn connect(port: u16) -> Client {
        Client::over(TcpStream::connect(("127.0.0.1", port)).expect("connect"))
    }

    /// A session that has said EHLO, or nothing when the daemon is not there.
    pub fn try_hello(port: u16) -> Option<Client> {
        let mut client = Client::over(TcpStream::connect(("127.0.0.1", port)).ok()?);
        client
            .try_reply()
            .filter(|reply| reply.starts_with("220 "))?;
        client.try_send(b"EHLO client.example.net\r\n").ok()?;
        client
            .try_reply()
            .filter(|reply| reply.starts_with("250"))?;
        Some(client)
    }

    /// Connects to `to` with the address `from`, which may be any on loopback.
    pub fn connect_from(from: IpAddr, to: SocketAddr) -> io::Result<Client> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(from, 0).into())?;
        socket.connect(&to.into())?;
        Ok(Client::over(socket.into()))
    }

    /// The connection alone; nothing that has come may be unread.
    pub fn into_stream(self) -> TcpStream {
        assert!(self.stream.buffer().is_empty());
        self.stream.into_inner()
    }

    pub fn over(stream: TcpStream) -> Client {
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        stream.set_nodelay(true).expect("nodelay");
        Client {
            stream: BufReader::new(stream),
        }
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream
            .get_mut()
            .write_all(bytes)
            .expect("write to the daemon");
    }

    /// Sends bytes as they are; the daemon may have gone.
    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// One whole reply, its lines joined by LF; empty when the connection is closed.
    pub fn reply(&mut self) -> String {
        self.try_reply().unwrap_or_default()
    }

    /// One whole reply, or `None` when the connection is closed or broken.
    pub fn try_reply(&mut self) -> Option<String> {
        let mut all = String::new();
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line).ok()? == 0 {
                return None;
            }
            assert!(
                line.ends_with("\r\n"),
                "a reply line without CRLF: {line:?}"
            );
            all.push_str(line.trim_end_matches("\r\n"));
            if line.as_bytes().get(3) != Some(&b'-') {
                return Some(all);
            }
            all.push('\n');
        }
    }

    /// Sends a command and returns the reply.
    pub fn ask(&mut self, command: &str) -> String {
        self.send(format!("{command}\r\n").as_bytes());
        self.reply()
    }

    /// Sends a command and checks the reply's code.
    pub fn say(&mut self, command: &str, code: u16) -> String {
        let reply = self.ask(command);
        assert!(reply.starts_with(&code.to_string()), "{command}: {reply}");
        reply
    }

    /// A whole transaction; returns the last reply. `None`: the connection broke before it came.
    pub fn try_mail(&mut self, from: &str, rcpts: &[&str], message: &[u8]) -> Option<String> {
        self.try_send(format!("MAIL FROM:<{from}>\r\n").as_bytes())
            .ok()?;
        let mut reply = self.try_reply()?;
        for rcpt in rcpts {
            if !reply.starts_with("250") {
                return Some(reply);
            }
            self.try_send(format!("RCPT TO:<{rcpt}>\r\n").as_bytes())
                .ok()?;
            reply = self.try_reply()?;
        }
        if !reply.starts_with("250") {
            return Some(reply);
        }
        self.try_send(b"DATA\r\n").ok()?;
        reply = self.try_reply()?;
        if !reply.starts_with("354") {
            return Some(reply);
        }
        self.try_send(&on_the_wire(message)).ok()?;
        self.try_reply()
    }

    /// A whole transaction that must succeed; returns the message's id.
    pub fn mail(&mut self, from: &str, rcpts: &[&str], message: &[u8]) -> String {
        let reply = self.try_mail(from, rcpts, message).unwrap_or_default();
        assert!(reply.starts_with("250 2.0.0 "), "{reply}");
        reply.split(' ').nth(2).unwrap_or_default().to_string()
    }

    /// Gives the daemon time to see what was sent as a piece of its own: it has nothing to answer.
    pub fn say_nothing(&mut self) {
        let stream = self.stream.get_ref();
        let _ = stream.set_read_timeout(Some(Duration::from_millis(1)));
        let quiet = self.stream.fill_buf().is_err();
        let _ = self.stream.get_ref().set_read_timeout(Some(PATIENCE));
        assert!(
            quiet,
            "the daemon answered half a message: {:?}",
            self.stream.buffer()
        );
    }

    /// Whether the daemon has closed the connection.
    pub fn closed(&mut self) -> bool {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).is_ok()
    }
}

/// A message with LF line ends as DATA carries it: CRLF, dots doubled, final dot.
fn on_the_wire(message: &[u8]) -> Vec<u8> {
    let mut wire = Vec::with_capacity(message.len() + message.len() / 40 + 16);
    for line in message.split_inclusive(|&b| b == b'\n') {
        if line.starts_with(b".") {
            wire.push(b'.');
        }
        wire.extend_from_slice(line.strip_suffix(b"\n").unwrap_or(line));
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(b".\r\n");
    wire
}

/// The part of a delivered message behind its header.
pub fn body(message: &[u8]) -> &[u8] {
    message
        .windows(2)
        .position(|w| w == b"\n\n")
        .map_or(b"", |at| &message[at + 2..])
}

/// A header field's value in a delivered message.
pub fn field(message: &[u8], name: &str) -> Option<String> {
    let header = message
        .split(|&b| b == b'\n')
        .take_while(|line| !line.is_empty());
    let prefix = format!("{}:", name.to_lowercase());
    header
        .map(String::from_utf8_lossy)
        .find(|line| line.to_lowercase().starts_with(&prefix))
        .map(|line| line[prefix.len()..].trim().to_string())
}
