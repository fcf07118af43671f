//! `metrics`: the counters in the text form that Prometheus reads, once or for whoever asks.
//!
//! Names are those of `show stats` with `smtpd_` in front. No label comes from mail, so there are
//! as many series after a year as on the first day. The endpoint is a program of its own that asks
//! the daemon: it listens on loopback or on a local socket, and answers one client at a time.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::cli::exit_error::ExitError;
use crate::config::paths::Paths;
use crate::control::Ask;
use crate::control::client::Client;
use crate::log::stat::{self, Kind};
use crate::sys::unix_connect;

use super::monitor::{Stats, counters};

/// How long a client may take for its whole request, and to read its answer.
const PATIENCE: Duration = Duration::from_secs(5);
const REQUEST_MAX: usize = 8 * 1024;

/// Prints them, or serves them at `place`: an address of loopback with a port, or the path of a
/// socket.
pub fn run(place: Option<&str>, paths: &Paths, out: &mut dyn Write) -> Result<i32, ExitError> {
    let Some(place) = place else {
        let text = text(paths)?;
        out.write_all(text.as_bytes())
            .map_err(|e| ExitError::output(&e))?;
        return Ok(0);
    };
    if place.starts_with('/') {
        let listener = bind_path(Path::new(place)).map_err(|e| ExitError::io(place, &e))?;
        serve(|| Ok(listener.accept()?.0), paths)
    } else {
        let not_ours = || {
            let text = format!("{place}: neither a path nor an address of loopback with a port");
            ExitError::new(text)
        };
        let addr: SocketAddr = place.parse().map_err(|_| not_ours())?;
        if !addr.ip().is_loopback() {
            return Err(not_ours());
        }
        let listener = TcpListener::bind(addr).map_err(|e| ExitError::io(place, &e))?;
        serve(|| Ok(listener.accept()?.0), paths)
    }
}

/// In place of a socket that nobody answers on.
fn bind_path(path: &Path) -> io::Result<UnixListener> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() && !unix_connect::answers(path)? => {
            std::fs::remove_file(path)?;
        }
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

fn serve<C: Peer>(accept: impl Fn() -> io::Result<C>, paths: &Paths) -> Result<i32, ExitError> {
    loop {
        match accept() {
            Ok(mut client) => {
                // Whoever goes away or is too slow has had his turn.
                let _ = answer(&mut client, &Instant::now, &|| text(paths));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Descriptors are short, or that client has gone.
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// A connection on which nobody waits for longer than was said last.
trait Peer: Read + Write {
    fn wait_at_most(&self, time: Duration) -> io::Result<()>;
}

impl Peer for TcpStream {
    fn wait_at_most(&self, time: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(time))?;
        self.set_write_timeout(Some(time))
    }
}

impl Peer for UnixStream {
    fn wait_at_most(&self, time: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(time))?;
        self.set_write_timeout(Some(time))
    }
}

/// A client with [`PATIENCE`] for all that it does, however small its steps are.
struct Hurried<'a, C> {
    client: &'a mut C,
    clock: &'a dyn Fn() -> Instant,
    deadline: Instant,
}

impl<'a, C: Peer> Hurried<'a, C> {
    fn new(client: &'a mut C, clock: &'a dyn Fn() -> Instant) -> Hurried<'a, C> {
        Hurried {
            client,
            clock,
            deadline: clock() + PATIENCE,
        }
    }

    fn in_time(&mut self) -> io::Result<&mut C> {
        let left = self.deadline.saturating_duration_since((self.clock)());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.client.wait_at_most(left)?;
        Ok(self.client)
    }
}

impl<C: Peer> Read for Hurried<'_, C> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.in_time()?.read(buffer)
    }
}

impl<C: Peer> Write for Hurried<'_, C> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.in_time()?.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.client.flush()
    }
}

/// One request and its answer (RFC 9112).
fn answer<C: Peer>(
    client: &mut C,
    clock: &dyn Fn() -> Instant,
    text: &dyn Fn() -> Result<String, ExitError>,
) -> io::Result<()> {
    let mut request = Vec::new();
    let mut buffer = [0; 1024];
    let mut asking = Hurried::new(client, clock);
    while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < REQUEST_MAX {
        match asking.read(&mut buffer)? {
            0 => break,
            count => request.extend_from_slice(buffer.get(..count).unwrap_or_default()),
        }
    }
    let is_for = |start: &str| request.starts_with(start.as_bytes());
    let (status, body) = if is_for("GET /metrics ") || is_for("GET / ") {
        match text() {
            Ok(text) => ("200 OK", text),
            Err(failure) => ("503 Service Unavailable", format!("{}\n", failure.text)),
        }
    } else {
        ("404 Not Found", "there is /metrics\n".to_owned())
    };
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    Hurried::new(client, clock).write_all(answer.as_bytes())
}

fn text(paths: &Paths) -> Result<String, ExitError> {
    let mut client = Client::connect(&paths.socket)?;
    Ok(exposition(&counters(client.ask(&Ask::Stats)?)?))
}

/// The text form, version 0.0.4.
fn exposition(stats: &Stats) -> String {
    let mut out = String::new();
    let mut told = BTreeSet::new();
    for known in stat::all() {
        let Some(value) = stats.get(known.key()) else {
            continue;
        };
        let (kind, end) = match known.kind() {
            Kind::Counter => ("counter", "_total"),
            Kind::Gauge => ("gauge", ""),
        };
        let name = format!("smtpd_{}{end}", name(known.key()));
        out.push_str(&format!(
            "# HELP {name} {}\n# TYPE {name} {kind}\n",
            known.doc()
        ));
        out.push_str(&format!("{name} {value}\n"));
        told.insert(known.key());
    }
    for histogram in stat::histograms() {
        let name = format!("smtpd_{}_seconds", name(histogram.key()));
        let value = |end: &str| stats.get(&format!("{}.{end}", histogram.key())).copied();
        let (Some(count), Some(sum_ms)) = (value("count"), value("msec")) else {
            continue;
        };
        out.push_str(&format!(
            "# HELP {name} {}\n# TYPE {name} histogram\n",
            histogram.doc()
        ));
        for limit_ms in histogram.limits_ms() {
            if let Some(below) = value(&format!("le.{limit_ms}")) {
                let limit = seconds(*limit_ms);
                out.push_str(&format!("{name}_bucket{{le=\"{limit}\"}} {below}\n"));
            }
        }
        let sum = seconds(u64::try_from(sum_ms).unwrap_or(0));
        out.push_str(&format!("{name}_bucket{{le=\"+Inf\"}} {count}\n"));
        out.push_str(&format!("{name}_sum {sum}\n{name}_count {count}\n"));
    }
    if let Some(uptime_s) = stats.get("uptime") {
        out.push_str("# HELP smtpd_uptime_seconds Since the engine started.\n");
        out.push_str(&format!(
            "# TYPE smtpd_uptime_seconds gauge\nsmtpd_uptime_seconds {uptime_s}\n"
        ));
    }
    out
}

fn name(key: &str) -> String {
    key.replace(['.', '-'], "_")
}

fn seconds(ms: u64) -> String {
    let text = format!("{}.{:03}", ms / 1000, ms % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::BTreeMap;

    use super::*;

    /// The daemon's own keys, each with a value.
    fn stats() -> Stats {
        let keys = stat::snapshot().into_iter().map(|(key, _)| (key, 7));
        keys.chain([("uptime".to_owned(), 60)]).collect()
    }

    #[test]
    fn the_text_is_what_prometheus_reads() {
        // Exposition formats, text format: HELP, TYPE, then the samples of that name; names of
        // letters, digits and `_`; each name once; a counter ends in _total.
        let text = exposition(&stats());
        let mut kinds: BTreeMap<&str, &str> = BTreeMap::new();
        let (mut samples, mut current) = (BTreeSet::new(), "");
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                current = help.split_once(' ').unwrap().0;
                assert!(!kinds.contains_key(current), "{line}");
                continue;
            }
            if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap();
                assert_eq!(name, current);
                kinds.insert(name, kind);
                continue;
            }
            let (series, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
            let (name, label) = series.split_once('{').unwrap_or((series, ""));
            assert!(
                name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'),
                "{line}"
            );
            assert!(name.starts_with(current), "{line}");
            assert!(label.is_empty() || label.starts_with("le=\""), "{line}");
            assert!(samples.insert(series), "{line} twice");
            assert_eq!(
                kinds[current] == "counter",
                name.ends_with("_total"),
                "{line}"
            );
        }
        for line in [
            "smtpd_scheduler_delivery_ok_total 7",
            "smtpd_scheduler_envelope 7",
            "smtpd_smtp_commit_seconds_bucket{le=\"0.005\"} 7",
            "smtpd_smtp_commit_seconds_bucket{le=\"+Inf\"} 7",
            "smtpd_smtp_commit_seconds_sum 0.007",
            "smtpd_uptime_seconds 60",
        ] {
            assert!(text.lines().any(|known| known == line), "{line}\n{text}");
        }
        let all = stat::all().count() + stat::histograms().count() + 1;
        assert_eq!(kinds.len(), all);
    }

    /// What a client sends, and what it gets.
    struct Talk(io::Cursor<Vec<u8>>, Vec<u8>);

    impl Read for Talk {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.read(buffer)
        }
    }

    impl Write for Talk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Peer for Talk {
        fn wait_at_most(&self, _: Duration) -> io::Result<()> {
            Ok(())
        }
    }

    /// A client that comes with a byte, or takes one, whenever it is almost given up.
    struct Dribble<'a> {
        request: io::Cursor<&'static [u8]>,
        now: &'a Cell<Instant>,
        steps: usize,
    }

    impl Dribble<'_> {
        fn step(&mut self) {
            self.steps += 1;
            self.now.set(self.now.get() + PATIENCE * 4 / 5);
        }
    }

    impl Read for Dribble<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.step();
            self.request.read(buffer.get_mut(..1).unwrap_or_default())
        }
    }

    impl Write for Dribble<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.step();
            Ok(bytes.len().min(1))
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Peer for Dribble<'_> {
        fn wait_at_most(&self, _: Duration) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nobody_keeps_others_waiting_byte_by_byte() {
        // smtpctl(8), metrics: one client at a time.
        let now = Cell::new(Instant::now());
        let good = || Ok("a 1\n".to_owned());
        for request in [&b"GET /metrics HTTP/1.1\r\n\r\n"[..], b""] {
            let request = io::Cursor::new(request);
            let mut client = Dribble {
                request,
                now: &now,
                steps: 0,
            };
            let failure = answer(&mut client, &|| now.get(), &good).unwrap_err();
            assert_eq!(failure.kind(), io::ErrorKind::TimedOut);
            // The end of an empty request is one step of its own.
            assert!(client.steps <= 3, "{}", client.steps);
        }
    }

    #[test]
    fn whoever_asks_for_metrics_gets_them_and_nothing_else() {
        let ask = |request: &[u8], text: &dyn Fn() -> Result<String, ExitError>| {
            let mut talk = Talk(io::Cursor::new(request.to_vec()), Vec::new());
            answer(&mut talk, &Instant::now, text).unwrap();
            String::from_utf8(talk.1).unwrap()
        };
        let good = || Ok("a 1\n".to_owned());
        let said = ask(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", &good);
        assert!(said.starts_with("HTTP/1.1 200 OK\r\n") && said.ends_with("\r\n\r\na 1\n"));
        let down = || Err(ExitError::new("down"));
        assert!(ask(b"GET /metrics HTTP/1.0\r\n\r\n", &down).starts_with("HTTP/1.1 503 "));
        for other in [&b"GET /etc HTTP/1.1\r\n\r\n"[..], b"", &[b'x'; 20_000]] {
            assert!(ask(other, &good).starts_with("HTTP/1.1 404 "));
        }
    }

    #[test]
    fn only_loopback_is_served() {
        let paths = Paths::system();
        for place in ["0.0.0.0:9", "192.0.2.1:9147", "localhost", "9147"] {
            let failure = run(Some(place), &paths, &mut Vec::new()).unwrap_err();
            assert!(failure.text.contains("loopback"), "{place}");
        }
    }
}
