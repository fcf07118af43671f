//! Clients that speak TLS, for `make bench`: what smtp-source(1) does not.
//!
//! tls_source messages PORT SESSIONS COUNT: sends COUNT messages of 4 KiB over SESSIONS kept sessions.
//! tls_source handshakes PORT SESSIONS COUNT: makes COUNT sessions, each with a whole handshake.
//! tls_source resumed PORT SESSIONS COUNT: the same with the ticket of the session before.
//!
//! Prints how many there were in a second.

#[path = "../support/anybody.rs"]
mod anybody;

use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use anybody::Anybody;

type Tls = BufReader<StreamOwned<ClientConnection, TcpStream>>;

fn config(resumes: bool) -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    if !resumes {
        config.resumption = Resumption::disabled();
    }
    Arc::new(config)
}

/// Reads a reply, which must begin so.
fn hear(wire: &mut impl BufRead, code: &str) -> io::Result<()> {
    loop {
        let mut line = String::new();
        if wire.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if !line.starts_with(code) {
            return Err(io::Error::other(line));
        }
        if line.as_bytes().get(3) != Some(&b'-') {
            return Ok(());
        }
    }
}

fn ask(wire: &mut Tls, command: &[u8], code: &str) -> io::Result<()> {
    wire.get_mut().write_all(command)?;
    wire.get_mut().flush()?;
    hear(wire, code)
}

/// A session up to the second EHLO.
fn session(port: u16, config: &Arc<ClientConfig>) -> io::Result<Tls> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    let mut wire = BufReader::new(stream);
    hear(&mut wire, "220")?;
    wire.get_mut().write_all(b"EHLO client.example.net\r\n")?;
    hear(&mut wire, "250")?;
    wire.get_mut().write_all(b"STARTTLS\r\n")?;
    hear(&mut wire, "220")?;
    let name = ServerName::try_from("mx.example.org").expect("a name");
    let session = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
    let mut wire = BufReader::new(StreamOwned::new(session, wire.into_inner()));
    ask(&mut wire, b"EHLO client.example.net\r\n", "250")?;
    Ok(wire)
}

fn message(wire: &mut Tls, text: &[u8]) -> io::Result<()> {
    ask(wire, b"MAIL FROM:<sender@example.net>\r\n", "250")?;
    ask(wire, b"RCPT TO:<benchmark@mx.example.org>\r\n", "250")?;
    ask(wire, b"DATA\r\n", "354")?;
    ask(wire, text, "250")
}

/// Runs `work` until it was done `count` times altogether; a session that it returns is kept.
fn many(
    sessions: u32,
    count: u32,
    work: impl Fn(Option<Tls>) -> io::Result<Option<Tls>> + Sync,
) -> f64 {
    let begun = AtomicU32::new(0);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..sessions {
            scope.spawn(|| {
                let mut kept = None;
                while begun.fetch_add(1, Ordering::Relaxed) < count {
                    kept = work(kept.take()).expect("a session");
                }
            });
        }
    });
    f64::from(count) / start.elapsed().as_secs_f64()
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [what, port, sessions, count] = arguments.as_slice() else {
        panic!("usage: tls_source messages|handshakes|resumed PORT SESSIONS COUNT");
    };
    let port: u16 = port.parse().expect("a port");
    let (sessions, count) = (
        sessions.parse().expect("a number"),
        count.parse().expect("a number"),
    );
    let config = config(what == "resumed");
    let text = format!(
        "Subject: x\r\n\r\n{}.\r\n",
        format!("{}\r\n", "x".repeat(78)).repeat(51)
    );
    let rate = match what.as_str() {
        "messages" => many(sessions, count, |kept| {
            let mut wire = kept.map_or_else(|| session(port, &config), Ok)?;
            message(&mut wire, text.as_bytes())?;
            Ok(Some(wire))
        }),
        _ => many(sessions, count, |_| {
            ask(&mut session(port, &config)?, b"QUIT\r\n", "221")?;
            Ok(None)
        }),
    };
    println!("{rate}");
}
