//! The client's half of the control socket: blocking, with a time-out on every step.
//!
//! Promises: no call waits longer than its time-out, an answer is bounded, and a daemon that is
//! not running is told apart from one that fails ([`Error::Down`]), because sendmail(8) then
//! stores the message instead.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::mail::{EvpId, MsgId};
use crate::sys::unix_connect::connect;

use super::message::{Answer, Ask, BadFrame, Listed, decode_answer, encode_ask, frame_length};

/// A connection to the daemon.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    /// Where the daemon is found again.
    path: Option<PathBuf>,
}

/// Why there was no answer.
#[derive(Debug)]
pub enum Error {
    /// Nobody listens: no socket, or nobody behind it.
    Down,
    /// The socket is there and cannot be reached.
    Connect(io::Error),
    /// Reading failed or took too long.
    Read(io::Error),
    /// Writing failed or took too long.
    Write(io::Error),
    /// The daemon closed the connection.
    Closed,
    /// The daemon said something that is no answer, or speaks another version.
    Bad(BadFrame),
    /// An answer, but not to this question.
    Unexpected,
    /// The daemon would not: its words, which may be empty.
    Refused(String),
}

impl Client {
    /// Connects to the daemon's socket.
    pub fn connect(path: &Path) -> Result<Client, Error> {
        let stream = connect(path, CONNECT_TIMEOUT).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Error::Down,
            _ => Error::Connect(error),
        })?;
        Ok(Client {
            path: Some(path.to_owned()),
            ..Client::over(stream)?
        })
    }

    /// A client on a connected stream.
    pub fn over(stream: UnixStream) -> Result<Client, Error> {
        stream
            .set_read_timeout(Some(ANSWER_TIMEOUT))
            .and_then(|()| stream.set_write_timeout(Some(ANSWER_TIMEOUT)))
            .map_err(Error::Connect)?;
        Ok(Client { stream, path: None })
    }

    /// Asks, and waits for the answer.
    pub fn ask(&mut self, ask: &Ask) -> Result<Answer, Error> {
        self.stream
            .write_all(&encode_ask(ask))
            .map_err(Error::Write)?;
        let mut head = [0; 4];
        self.read(&mut head)?;
        let length = frame_length(head).map_err(Error::Bad)?;
        let mut body = vec![0; length];
        self.read(&mut body)?;
        decode_answer(&body).map_err(Error::Bad)
    }

    /// The same for a question that may be asked twice, by one more connection if the daemon has
    /// hung up: it does when it was asked nothing for minutes.
    fn ask_still(&mut self, ask: &Ask) -> Result<Answer, Error> {
        match self.ask(ask) {
            Err(error) if error.is_hangup() => {
                let path = self.path.as_ref().ok_or(error)?;
                *self = Client::connect(path)?;
                self.ask(ask)
            }
            answer => answer,
        }
    }

    /// The lines of `show queue`, in order of their ids, fetched as they are wanted.
    pub fn list(&mut self, only: Option<MsgId>) -> List<'_> {
        List {
            pages: self.pages(only),
            ready: Vec::new().into_iter(),
        }
    }

    /// The same as they come, many at a time.
    pub fn pages(&mut self, only: Option<MsgId>) -> Pages<'_> {
        Pages {
            client: self,
            only,
            after: None,
            finished: false,
        }
    }

    /// Turns the connection into an SMTP session; the banner is the next thing to read. The
    /// time-outs of the stream are left to the caller.
    pub fn submit(mut self) -> Result<UnixStream, Error> {
        match self.ask(&Ask::Submit)? {
            Answer::Ok => Ok(self.stream),
            Answer::Fail(why) => Err(Error::Refused(why)),
            _ => Err(Error::Unexpected),
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        self.stream
            .read_exact(buffer)
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => Error::Closed,
                _ => Error::Read(error),
            })
    }
}

/// Lines of `show queue`. After an error there are no more.
#[derive(Debug)]
pub struct List<'a> {
    pages: Pages<'a>,
    ready: std::vec::IntoIter<Listed>,
}

/// Answers with lines of `show queue`; none is empty. After an error there are no more.
#[derive(Debug)]
pub struct Pages<'a> {
    client: &'a mut Client,
    only: Option<MsgId>,
    after: Option<EvpId>,
    finished: bool,
}

impl Pages<'_> {
    fn fetch(&mut self) -> Result<Vec<Listed>, Error> {
        let ask = Ask::List {
            after: self.after,
            only: self.only,
        };
        match self.client.ask_still(&ask)? {
            Answer::Envelopes(list) => {
                // Ids that do not rise would keep us asking for ever.
                let rising = list.iter().try_fold(self.after, |last, listed| {
                    (last < Some(listed.id)).then_some(Some(listed.id))
                });
                self.after = rising.ok_or(Error::Unexpected)?;
                Ok(list)
            }
            Answer::Fail(why) => Err(Error::Refused(why)),
            _ => Err(Error::Unexpected),
        }
    }
}

impl Iterator for List<'_> {
    type Item = Result<Listed, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ready.len() == 0 {
            match self.pages.next()? {
                Ok(page) => self.ready = page.into_iter(),
                Err(error) => return Some(Err(error)),
            }
        }
        self.ready.next().map(Ok)
    }
}

impl Iterator for Pages<'_> {
    type Item = Result<Vec<Listed>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.finished {
            return None;
        }
        let page = self.fetch();
        self.finished = page.as_ref().map_or(true, Vec::is_empty);
        match page {
            Ok(page) if page.is_empty() => None,
            page => Some(page),
        }
    }
}

impl Error {
    fn is_hangup(&self) -> bool {
        match self {
            Error::Closed => true,
            Error::Write(error) => matches!(
                error.kind(),
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
            ),
            _ => false,
        }
    }
}

/// A daemon whose backlog is full this long is not well.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// The slowest answers are `discover` and `remove all` of a long queue.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(300);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Down => f.write_str("smtpd doesn't seem to be running"),
            Error::Connect(error) => write!(f, "connect: {error}"),
            Error::Read(error) => write!(f, "read error: {error}"),
            Error::Write(error) => write!(f, "write error: {error}"),
            Error::Closed => f.write_str("pipe closed"),
            Error::Bad(bad) => bad.fmt(f),
            Error::Unexpected => f.write_str("bad message type"),
            Error::Refused(why) if why.is_empty() => f.write_str("command failed"),
            Error::Refused(why) => write!(f, "command failed: {why}"),
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;
    use crate::control::message::{VERSION, decode_ask, encode_answer};
    use crate::control::server::farewell;

    fn read_ask(stream: &mut UnixStream) -> Ask {
        let mut head = [0; 4];
        stream.read_exact(&mut head).unwrap();
        let mut body = vec![0; frame_length(head).unwrap()];
        stream.read_exact(&mut body).unwrap();
        decode_ask(&body).unwrap()
    }

    /// A client whose daemon sends `answers`, one per question, and returns the questions.
    fn scripted(answers: Vec<Vec<u8>>) -> (Client, thread::JoinHandle<Vec<Ask>>) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let daemon = thread::spawn(move || {
            let mut asked = Vec::new();
            for answer in answers {
                asked.push(read_ask(&mut theirs));
                theirs.write_all(&answer).unwrap();
            }
            asked
        });
        (Client::over(ours).unwrap(), daemon)
    }

    fn frame(answer: &Answer) -> Vec<u8> {
        let mut out = Vec::new();
        encode_answer(answer, &mut out);
        out
    }

    fn listed(id: &str) -> Listed {
        Listed {
            id: id.parse().unwrap(),
            text: "x".to_owned(),
            action: String::new(),
            remote: String::new(),
        }
    }

    #[test]
    fn a_daemon_that_is_not_there_is_down_whether_or_not_its_socket_is() {
        // sendmail(8): a message for a daemon that is not running is stored offline.
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sock");
        assert!(matches!(Client::connect(&path), Err(Error::Down)));
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let error = Client::connect(&path).unwrap_err();
        assert_eq!(error.to_string(), "smtpd doesn't seem to be running");
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "").unwrap();
        assert!(Client::connect(&path).is_err());
        let _listener = UnixListener::bind(dir.path().join("two")).unwrap();
        assert!(Client::connect(&dir.path().join("two")).is_ok());
        let long = dir.path().join("x".repeat(200));
        assert!(matches!(Client::connect(&long), Err(Error::Connect(_))));
    }

    #[test]
    fn a_list_is_fetched_until_an_empty_answer() {
        let one = listed("0000000100000001");
        let two = listed("0000000100000002");
        let three = listed("0000000200000001");
        let (mut client, daemon) = scripted(vec![
            frame(&Answer::Envelopes(vec![one.clone(), two.clone()])),
            frame(&Answer::Envelopes(vec![three.clone()])),
            frame(&Answer::Envelopes(vec![])),
        ]);
        let all: Vec<Listed> = client.list(None).map(Result::unwrap).collect();
        assert_eq!(all, [one, two.clone(), three.clone()]);
        let afters = [None, Some(two.id), Some(three.id)];
        let asked: Vec<Ask> = afters.map(|after| Ask::List { after, only: None }).to_vec();
        assert_eq!(daemon.join().unwrap(), asked);
    }

    #[test]
    fn a_list_goes_on_where_it_was_when_the_daemon_hangs_up() {
        // smtpctl(8), show queue: whoever pages through it slowly gets all of it.
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sock");
        let listener = UnixListener::bind(&path).unwrap();
        let lines = ["0000000100000001", "0000000100000002"].map(listed);
        let pages = [vec![lines[0].clone()], vec![lines[1].clone()]];
        let daemon = thread::spawn(move || {
            let asked = pages.map(|page| {
                let (mut stream, _) = listener.accept().unwrap();
                let ask = read_ask(&mut stream);
                stream.write_all(&frame(&Answer::Envelopes(page))).unwrap();
                ask
            });
            // It takes no question any more.
            drop(listener.accept().unwrap());
            asked
        });
        let mut client = Client::connect(&path).unwrap();
        let mut list = client.list(None);
        let first: Vec<Listed> = list.by_ref().take(2).map(Result::unwrap).collect();
        assert_eq!(first, lines);
        // Once: a daemon that hangs up on every question is no daemon.
        assert!(matches!(list.next(), Some(Err(error)) if error.is_hangup()));
        assert!(list.next().is_none());
        let afters = [None, Some(lines[0].id)];
        let asked = afters.map(|after| Ask::List { after, only: None });
        assert_eq!(daemon.join().unwrap(), asked);
    }

    #[test]
    fn a_list_that_does_not_advance_ends_in_an_error() {
        let again = frame(&Answer::Envelopes(vec![listed("0000000100000001")]));
        let (mut client, daemon) = scripted(vec![again.clone(), again]);
        let all: Vec<_> = client.list(None).collect();
        assert_eq!(all.len(), 2);
        assert!(all[0].is_ok() && matches!(all[1], Err(Error::Unexpected)));
        daemon.join().unwrap();
    }

    #[test]
    fn another_version_is_named_as_such() {
        let mut other = frame(&Answer::Ok);
        other[4] = VERSION + 1;
        let (mut client, daemon) = scripted(vec![other]);
        let error = client.ask(&Ask::Stats).unwrap_err();
        assert_eq!(error.to_string(), "incompatible smtpctl and smtpd");
        daemon.join().unwrap();
        // The daemon's last words to an old client carry the daemon's version.
        assert_eq!(farewell(BadFrame::Version(9))[4], VERSION);
    }

    #[test]
    fn garbage_a_close_and_a_refusal_are_told_apart() {
        let (mut client, daemon) = scripted(vec![vec![0xff; 8]]);
        let error = client.ask(&Ask::Stats).unwrap_err();
        assert!(matches!(error, Error::Bad(BadFrame::TooLong)));
        daemon.join().unwrap();
        let (mut client, daemon) = scripted(vec![vec![]]);
        assert!(matches!(client.ask(&Ask::Stats), Err(Error::Closed)));
        daemon.join().unwrap();
        let (client, daemon) = scripted(vec![frame(&Answer::Fail("paused".to_owned()))]);
        assert!(matches!(client.submit(), Err(Error::Refused(why)) if why == "paused"));
        daemon.join().unwrap();
        let (client, daemon) = scripted(vec![frame(&Answer::Count(1))]);
        assert!(matches!(client.submit(), Err(Error::Unexpected)));
        daemon.join().unwrap();
    }
}
