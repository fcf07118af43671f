//! A daemon for tests of the front ends: control frames by a closure, SMTP by a few rules.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use crate::config::paths::Paths;
use crate::control::client::Client;
use crate::control::message::{decode_ask, encode_answer, frame_length};
use crate::control::{Answer, Ask};

/// The least that smtpd.conf(5) must say.
pub const CONF: &str = "action \"local\" mbox\nmatch for local action \"local\"\n";

/// An instance root with a spool, and no daemon.
pub struct Root {
    pub dir: tempfile::TempDir,
    pub paths: Paths,
}

impl Root {
    /// A temporary directory that is laid out like an instance.
    pub fn new() -> Root {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::under(dir.path());
        for path in [&paths.mailname, &paths.socket] {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        }
        std::fs::create_dir_all(paths.spool.join("offline")).unwrap();
        std::fs::write(&paths.mailname, "mx.example.org\n").unwrap();
        Root { dir, paths }
    }

    /// What sendmail(8) has left for a daemon that is not there.
    pub fn offline_files(&self) -> Vec<PathBuf> {
        let dir = std::fs::read_dir(self.paths.spool.join("offline")).unwrap();
        dir.map(|entry| entry.unwrap().path()).collect()
    }
}

/// What was said in one SMTP session: the commands, and the message between DATA and the dot
/// exactly as it came over the wire.
#[derive(Clone, Debug, Default)]
pub struct Said {
    pub commands: Vec<String>,
    pub message: Vec<u8>,
}

/// A running fake. It stops when dropped.
pub struct Daemon {
    pub asked: Arc<Mutex<Vec<Ask>>>,
    pub sessions: Receiver<Said>,
    socket: PathBuf,
    thread: Option<JoinHandle<()>>,
    stop: Arc<Mutex<bool>>,
}

impl Daemon {
    /// Answers asks with `answer`; to an SMTP line that contains the first of one of these pairs,
    /// replies with the second.
    pub fn start(
        socket: &Path,
        refuse: &'static [(&'static str, &'static str)],
        answer: impl Fn(&Ask) -> Answer + Send + 'static,
    ) -> Daemon {
        let _ = std::fs::remove_file(socket);
        let listener = UnixListener::bind(socket).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(Mutex::new(false));
        let (sender, sessions) = channel();
        let thread = thread::spawn({
            let (asked, stop) = (asked.clone(), stop.clone());
            move || {
                for stream in listener.incoming() {
                    if *stop.lock().unwrap() {
                        return;
                    }
                    let mut stream = stream.unwrap();
                    while let Some(ask) = read_ask(&mut stream) {
                        let reply = answer(&ask);
                        let mut frame = Vec::new();
                        encode_answer(&reply, &mut frame);
                        let submit = ask == Ask::Submit && reply == Answer::Ok;
                        asked.lock().unwrap().push(ask);
                        if stream.write_all(&frame).is_err() {
                            break;
                        }
                        if submit {
                            let _ = sender.send(serve_smtp(&stream, refuse));
                            break;
                        }
                    }
                }
            }
        });
        Daemon {
            asked,
            sessions,
            socket: socket.to_owned(),
            thread: Some(thread),
            stop,
        }
    }

    /// What has been said in the sessions since this was last asked.
    pub fn heard(&self) -> Vec<Said> {
        // They are served one after the other, so those before this one are over.
        let answer = Client::connect(&self.socket).unwrap().ask(&Ask::Status);
        assert!(answer.is_ok());
        self.sessions.try_iter().collect()
    }

    /// A daemon that takes every message.
    pub fn accepting(socket: &Path) -> Daemon {
        Daemon::start(socket, &[], |_| Answer::Ok)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        *self.stop.lock().unwrap() = true;
        let _ = UnixStream::connect(&self.socket);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&self.socket);
    }
}

fn read_ask(stream: &mut UnixStream) -> Option<Ask> {
    let mut head = [0; 4];
    stream.read_exact(&mut head).ok()?;
    let mut body = vec![0; frame_length(head).unwrap()];
    stream.read_exact(&mut body).unwrap();
    Some(decode_ask(&body).unwrap())
}

fn serve_smtp(stream: &UnixStream, refuse: &[(&str, &str)]) -> Said {
    let mut said = Said::default();
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    let refused = |text: &str| refuse.iter().find(|(what, _)| text.contains(what));
    let banner = refused("BANNER").map_or("220 mx.example.org ESMTP", |(_, reply)| reply);
    let _ = write!(writer, "{banner}\r\n");
    loop {
        let mut line = Vec::new();
        if reader.read_until(b'\n', &mut line).unwrap_or(0) == 0 {
            return said;
        }
        let line = String::from_utf8_lossy(&line).into_owned();
        let line = line.strip_suffix("\r\n").expect("a line ends in CRLF");
        said.commands.push(line.to_owned());
        let mut reply = match line.get(..4).unwrap_or_default() {
            "EHLO" => "250-mx.example.org Hello\r\n250-8BITMIME\r\n250 HELP",
            "DATA" => "354 Enter mail",
            "QUIT" => "221 2.0.0 Bye",
            _ => "250 2.0.0 Ok",
        };
        if let Some((_, refusal)) = refused(line) {
            reply = refusal;
        }
        if reply.is_empty() {
            return said;
        }
        let _ = write!(writer, "{reply}\r\n");
        if line == "QUIT" {
            return said;
        }
        if line == "DATA" && reply.starts_with("354") {
            loop {
                let mut line = Vec::new();
                if reader.read_until(b'\n', &mut line).unwrap_or(0) == 0 {
                    return said;
                }
                if line == b".\r\n" {
                    break;
                }
                said.message.extend_from_slice(&line);
            }
            let reply = refused("<dot>").map_or("250 2.0.0 queued", |(_, reply)| reply);
            let _ = write!(writer, "{reply}\r\n");
        }
    }
}
