//! Lines to syslogd(8), over its local socket.

use std::io::{self, BufWriter, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use syslog::{LogFormat, Logger, LoggerBackend, Severity};

use crate::sys::unix_connect;

use super::sink::{Level, PATIENCE, Sink, Writer};

/// syslogd(8) by its local socket, facility mail; syslogd puts the time.
pub struct Syslog {
    sockets: Vec<PathBuf>,
    logger: Option<Logger<LoggerBackend, Tag>>,
    tag: Tag,
    /// How long a write to a stream may take.
    patience: Option<Duration>,
}

/// Where syslogd(8) listens on one system or another.
const SOCKETS: [&str; 3] = ["/dev/log", "/var/run/syslog", "/var/run/log"];

impl Syslog {
    /// Lines will be tagged `program[pid]`. When syslogd is not there now, each line tries again.
    pub fn open(program: &'static str, writer: Writer) -> Syslog {
        let sockets = SOCKETS.map(PathBuf::from).into();
        Syslog::open_at(sockets, program, writer)
    }

    fn open_at(sockets: Vec<PathBuf>, program: &'static str, writer: Writer) -> Syslog {
        let mut syslog = Syslog {
            sockets,
            logger: None,
            tag: Tag {
                program,
                pid: std::process::id(),
            },
            patience: match writer {
                Writer::Caller => Some(PATIENCE),
                Writer::Thread => None,
            },
        };
        syslog.logger = syslog.connect();
        syslog
    }

    fn connect(&self) -> Option<Logger<LoggerBackend, Tag>> {
        let mut sockets = self.sockets.iter();
        let backend = sockets.find_map(|path| self.connect_to(path).ok())?;
        Some(Logger::new(backend, self.tag))
    }

    fn connect_to(&self, path: &Path) -> io::Result<LoggerBackend> {
        let letters = UnixDatagram::unbound()?;
        match letters.connect(path) {
            Ok(()) => {
                letters.set_nonblocking(true)?;
                Ok(LoggerBackend::Unix(letters))
            }
            // As syslog-ng may be set up.
            Err(error) if unix_connect::is_of_another_kind(&error) => {
                let stream = unix_connect::connect_at_once(path)?;
                stream.set_write_timeout(self.patience)?;
                Ok(LoggerBackend::UnixStream(BufWriter::new(stream)))
            }
            Err(error) => Err(error),
        }
    }
}

impl Sink for Syslog {
    fn write(&mut self, level: Level, line: &str) -> io::Result<()> {
        for _ in 0..2 {
            let mut logger = match self.logger.take().or_else(|| self.connect()) {
                Some(logger) => logger,
                None => return Err(io::Error::from(io::ErrorKind::NotConnected)),
            };
            let sent = match level {
                Level::Crit => logger.crit(line),
                Level::Err => logger.err(line),
                Level::Info => logger.info(line),
                Level::Debug => logger.debug(line),
            };
            match sent {
                Ok(()) => {
                    self.logger = Some(logger);
                    return Ok(());
                }
                Err(syslog::Error::Io(error)) | Err(syslog::Error::Write(error))
                    if error.kind() == io::ErrorKind::WouldBlock =>
                {
                    self.logger = without_streams(logger);
                    return Err(error);
                }
                // syslogd was restarted: its old socket is gone.
                Err(_) => drop(without_streams(logger)),
            }
        }
        Err(io::Error::from(io::ErrorKind::NotConnected))
    }
}

/// A stream that has taken a part of a line is of no use any more. Dropped as it is, the logger would
/// try to write the rest.
fn without_streams(logger: Logger<LoggerBackend, Tag>) -> Option<Logger<LoggerBackend, Tag>> {
    let Logger { backend, formatter } = logger;
    match backend {
        LoggerBackend::UnixStream(stream) => {
            drop(stream.into_parts());
            None
        }
        backend => Some(Logger::new(backend, formatter)),
    }
}

/// `<priority>program[pid]: line`, as syslog(3) sends it, without a time.
#[derive(Clone, Copy, Debug)]
struct Tag {
    program: &'static str,
    pid: u32,
}

impl LogFormat<&str> for Tag {
    fn format<W: Write>(&self, w: &mut W, severity: Severity, line: &str) -> syslog::Result<()> {
        const FACILITY_MAIL: u8 = 2 << 3;
        let priority = FACILITY_MAIL | severity as u8;
        write!(w, "<{priority}>{}[{}]: {line}", self.program, self.pid)
            .map_err(syslog::Error::Write)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_caller_does_not_wait_for_a_syslogd_that_reads_no_stream() {
        let dir = tempfile::tempdir().unwrap();
        let (nobody, path) = (dir.path().join("nobody"), dir.path().join("log"));
        let listener = UnixListener::bind(&path).unwrap();
        let mut syslog = Syslog::open_at(vec![nobody, path], "smtpd", Writer::Caller);
        let line = "x".repeat(5000);
        let mut put = || syslog.write(Level::Info, &line).is_ok();
        let taken = (0..10_000).take_while(|_| put()).count();
        assert!(taken < 10_000);
        // Over a new stream.
        assert!(put());
        drop(syslog);
        let record = format!("<22>smtpd[{}]: {line}\0", std::process::id());
        let whole = |stream: &mut dyn Read| {
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).unwrap();
            let records = bytes.split_inclusive(|byte| *byte == 0);
            records.filter(|one| *one == record.as_bytes()).count()
        };
        let (mut first, _) = listener.accept().unwrap();
        let (mut second, _) = listener.accept().unwrap();
        assert_eq!(whole(&mut first), taken);
        assert_eq!(whole(&mut second), 1);
    }

    #[test]
    fn syslog_lines_carry_facility_tag_and_no_time() {
        let tag = Tag {
            program: "smtpd",
            pid: 7,
        };
        let mut bytes = Vec::new();
        tag.format(&mut bytes, Severity::LOG_ERR, "warn: x")
            .unwrap();
        assert_eq!(bytes, b"<19>smtpd[7]: warn: x");
        bytes.clear();
        tag.format(&mut bytes, Severity::LOG_INFO, "info: x")
            .unwrap();
        assert_eq!(bytes, b"<22>smtpd[7]: info: x");
    }
}
