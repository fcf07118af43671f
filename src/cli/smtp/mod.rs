//! smtp(1): sends one message to one server and says what came of it.
//!
//! Every address of the server is tried in turn until one takes the session. Certificates are
//! verified wherever there is TLS, unless `-T noverify` says otherwise: an administrator who tests
//! wants to know.

mod options;
mod stages;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Seek, SeekFrom, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use crate::client::{
    Content, Hello, Message, Opening, Recipient, Secure, Session, SessionError, Socket, Stage,
    Timeouts, Upgrade,
};
use crate::mail::{EvpId, MsgId, Notify, Verdict, literal};
use crate::sys::errno::strerror;
use crate::sys::{open, process};
use crate::tls::client::{Connector, Settings, Verify};
use crate::tls::{Choice, Trust, Version};
use crate::util::Line;

use options::Asked;
use stages::Stages;

/// The longest wait in any phase.
const PATIENCE: Duration = Duration::from_secs(100);
/// Largest CA file, in bytes.
const CA_MAX: u64 = 16 * 1024 * 1024;

/// The program; says what to exit with.
pub fn main() -> i32 {
    if process::fill_standard_fds().is_err() {
        return 1;
    }
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let asked = match Asked::parse(&args) {
        Ok(asked) => asked,
        Err(text) => {
            say(&text);
            return 1;
        }
    };
    match run(&asked) {
        Ok(true) => 0,
        Ok(false) => 1,
        Err(text) => {
            say(&format!("smtp: {text}"));
            1
        }
    }
}

/// Whether everybody got the message.
fn run(asked: &Asked) -> Result<bool, String> {
    let connector = connector(asked)?;
    let message = if asked.only_connect {
        None
    } else {
        Some(text(&mut BufReader::new(io::stdin().lock()))?)
    };
    let mut all = true;
    let mut left = recipients(asked);
    for addr in addresses(asked)? {
        if asked.verbose > 0 {
            say(&format!(
                "trying host {} port {}...",
                addr.ip(),
                addr.port()
            ));
        }
        let (session, stages) = match session(asked, &connector, addr) {
            Ok(made) => made,
            Err(failure) => {
                say(&failed(&failure));
                continue;
            }
        };
        if asked.verbose > 0 {
            say("connection ready...");
        }
        let Some(message) = &message else {
            end(asked, session);
            continue;
        };
        let (done, untried) = send(asked, session, &stages, message, left);
        all &= done;
        left = untried;
        if left.is_empty() {
            return Ok(all);
        }
    }
    if asked.only_connect {
        Ok(true)
    } else {
        Err(String::from("no more host"))
    }
}

fn connector(asked: &Asked) -> Result<Connector, String> {
    let trust = match &asked.ca {
        None => Trust::system().0,
        Some(path) => {
            let wrong = |error: io::Error| format!("{}: {}", path.display(), strerror(&error));
            let file = open::plain(path).map_err(wrong)?;
            Trust::from_pem(&open::read_within(file, CA_MAX).map_err(wrong)?)?
        }
    };
    Connector::new(&Settings {
        verify: if asked.verify {
            Verify::Always
        } else {
            Verify::Never
        },
        trust,
        choice: Choice::parse(asked.protocols.as_deref(), asked.ciphers.as_deref())?,
        identity: None,
        oldest: Version::Tls12,
    })
}

fn addresses(asked: &Asked) -> Result<Vec<SocketAddr>, String> {
    let host = asked.server.host.as_str();
    if let Some(address) = literal::parse(host) {
        return Ok(vec![SocketAddr::new(address, asked.server.port)]);
    }
    let found = (host, asked.server.port).to_socket_addrs();
    let found: Vec<SocketAddr> = found.map_err(|error| format!("{host}: {error}"))?.collect();
    if found.is_empty() {
        Err(format!("{host}: no address"))
    } else {
        Ok(found)
    }
}

/// Standard input with LF line ends, in a file without a name: each address may want it.
fn text(input: &mut dyn BufRead) -> Result<File, String> {
    let wrong = |error: io::Error| format!("standard input: {}", strerror(&error));
    let file = open::nameless(&std::env::temp_dir()).map_err(wrong)?;
    let mut writer = BufWriter::new(&file);
    let mut line = Vec::new();
    loop {
        line.clear();
        // A line of any length is copied in pieces of it.
        let read = io::Read::take(&mut *input, 64 * 1024).read_until(b'\n', &mut line);
        if read.map_err(wrong)? == 0 {
            break;
        }
        if line.ends_with(b"\r\n") {
            line.truncate(line.len() - 2);
            line.push(b'\n');
        }
        writer.write_all(&line).map_err(wrong)?;
    }
    writer.flush().map_err(wrong)?;
    drop(writer);
    Ok(file)
}

/// The same file, to be read from its first byte.
fn from_start(file: &File) -> io::Result<File> {
    let mut file = file.try_clone()?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}

/// The numbers mean nothing but tell one from the other.
fn recipients(asked: &Asked) -> Vec<Recipient> {
    let numbered = (1..).zip(&asked.recipients);
    let recipient = |(number, to): (u32, &Line)| {
        Some(Recipient {
            id: EvpId::new(MsgId::new(1)?, number)?,
            to: to.clone(),
            notify: Notify::default(),
            orcpt: None,
        })
    };
    numbered.filter_map(recipient).collect()
}

fn session(
    asked: &Asked,
    connector: &Connector,
    addr: SocketAddr,
) -> Result<(Session, Stages), SessionError> {
    let mut secure = Secure::new(connector, asked.server_name());
    loop {
        let failure = match open_session(asked, secure.as_ref(), addr) {
            Ok((session, stages)) => {
                if asked.verbose > 0
                    && let Some(facts) = secure.as_ref().and_then(Secure::facts)
                {
                    say(&format!("tls ciphers={}", facts.ciphers));
                }
                return Ok((session, stages));
            }
            Err(failure) => failure,
        };
        secure = match secure.as_ref().and_then(Secure::next) {
            Some(next) => Some(next),
            None => return Err(failure),
        };
    }
}

fn open_session(
    asked: &Asked,
    secure: Option<&Secure>,
    addr: SocketAddr,
) -> Result<(Session, Stages), SessionError> {
    let timeouts = Timeouts::default().at_most(PATIENCE);
    let socket = Socket::tcp(addr, None, timeouts.connect)?;
    let hello = Hello {
        tls: asked.server.tls,
        auth: asked.credentials.clone(),
        max_failures: 0,
        timeouts,
        ..Hello::new(asked.server.protocol, asked.helo.clone())
    };
    let stages = Stages::default();
    let opening = Opening {
        hello,
        name: asked.server.host.clone(),
        upgrade: secure.map(|secure| secure as &dyn Upgrade),
        tap: Some(stages.tap(asked.verbose > 1)),
    };
    Session::open(Box::new(socket), opening).map(|session| (session, stages))
}

/// Sends, and says what came of each recipient; true if all got it. Second, who was not tried.
fn send(
    asked: &Asked,
    mut session: Session,
    stages: &Stages,
    content: &File,
    to: Vec<Recipient>,
) -> (bool, Vec<Recipient>) {
    let names: Vec<(EvpId, Line)> = to.iter().map(|one| (one.id, one.to.clone())).collect();
    let content = || from_start(content);
    let message = Message {
        sender: asked.sender.clone(),
        size_bytes: content()
            .and_then(|file| file.metadata())
            .ok()
            .map(|data| data.len()),
        eight_bit: content.is_eight_bit(),
        ret: None,
        envid: None,
        content: &content as &dyn Content,
    };
    let transacted = session.transaction(&message, to);
    let mut all = true;
    for (id, outcome) in &transacted.settled {
        let name = names
            .iter()
            .find(|(of, _)| of == id)
            .map(|(_, name)| name.as_str());
        let delivered = outcome.verdict == Verdict::Delivered;
        all &= delivered;
        let stage = if delivered {
            "EOM"
        } else {
            stages.of(&outcome.text)
        };
        say(&format!(
            "{}: {stage}: {}",
            name.unwrap_or_default(),
            outcome.text
        ));
    }
    if asked.verbose > 0 {
        say("mail done...");
    }
    match session.failure() {
        Some(failure) => say(&failed(failure)),
        None => end(asked, session),
    }
    (all, transacted.untried)
}

fn end(asked: &Asked, session: Session) {
    session.quit();
    if asked.verbose > 0 {
        say("connection closed...");
    }
}

/// A failure in the words of this program.
fn failed(failure: &SessionError) -> String {
    let kind = match (failure.stage, &failure.reply) {
        (_, Some(_)) => "rejected by server",
        (Stage::StartTls, None) => "missing feature",
        (Stage::Auth, None) => "missing feature",
        (Stage::Source | Stage::NoWay | Stage::Connect | Stage::Handshake, None) => {
            "connection error"
        }
        (Stage::Banner | Stage::Hello | Stage::Session, None) => "protocol error",
    };
    match &failure.reply {
        Some(reply) => format!("{kind}: {reply}"),
        None => format!("{kind}: {}", failure.text),
    }
}

fn say(text: &str) {
    // Standard error may be closed; then there is nobody to tell.
    let _ = writeln!(io::stderr(), "{text}");
}
