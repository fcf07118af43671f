//! Tables under `make bench`: how large ones are loaded, what they weigh, how fast they answer.
//!
//! tables DIR ENTRIES: builds a file and a database of so many entries in DIR for each kind of
//! table, and prints a line for each: how long it took to load, memory per entry, lookups a second.

use std::fs::{self, File};
use std::hint::black_box;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use smtpd::config::{Config, Defaults, Sources, load};
use smtpd::mail::{MailAddr, Peer};
use smtpd::table::Tables;
use smtpd::util::Line;
use smtpd::util::cdb::Writer;

/// A kind of table: its entries, the use of it in smtpd.conf(5), and one lookup that finds and one
/// that does not.
struct Kind {
    name: &'static str,
    entry: fn(u32) -> (String, String),
    usage: &'static str,
    hit: fn(&Tables, u32) -> bool,
    miss: fn(&Tables, u32) -> bool,
}

const KINDS: &[Kind] = &[
    Kind {
        name: "aliases",
        entry: |n| (format!("user{n}@example.org"), format!("box{n}")),
        usage: "action b mbox alias <t>\nmatch for any action b",
        hit: |t, n| {
            t.alias("t", &format!("user{n}@example.org"))
                .unwrap()
                .is_some()
        },
        miss: |t, n| {
            t.alias("t", &format!("nobody{n}@example.org"))
                .unwrap()
                .is_none()
        },
    },
    Kind {
        name: "domains",
        entry: |n| match n % 2 {
            0 => (format!("host{n}.example.org"), String::new()),
            _ => (format!("*.sub{n}.example.org"), String::new()),
        },
        usage: "action b mbox\nmatch for domain <t> action b",
        hit: |t, n| match n % 2 {
            0 => t.domain("t", &format!("host{n}.example.org")).unwrap(),
            _ => t.domain("t", &format!("a.sub{n}.example.org")).unwrap(),
        },
        miss: |t, n| !t.domain("t", &format!("a.host{n}.example.net")).unwrap(),
    },
    Kind {
        name: "addresses",
        entry: |n| (format!("user{n}@example.org"), String::new()),
        usage: "action b mbox\nmatch mail-from <t> for any action b",
        hit: |t, n| {
            let user = format!("user{n}+tag");
            t.mailaddr("t", &MailAddr::new(&user, "example.org").unwrap())
                .unwrap()
        },
        miss: |t, n| {
            let user = format!("user{n}");
            !t.mailaddr("t", &MailAddr::new(&user, "example.net").unwrap())
                .unwrap()
        },
    },
    Kind {
        name: "networks",
        entry: |n| {
            let addr = std::net::Ipv4Addr::from(n.wrapping_mul(512));
            (format!("{addr}/{}", 23 + n % 3), String::new())
        },
        usage: "action b mbox\nmatch from src <t> for any action b",
        hit: |t, n| {
            let addr = std::net::Ipv4Addr::from(n.wrapping_mul(512) + 1);
            t.netaddr("t", &Peer::inet(addr.into())).unwrap()
        },
        miss: |t, n| {
            let addr = std::net::Ipv4Addr::from(u32::MAX - n);
            !t.netaddr("t", &Peer::inet(addr.into())).unwrap()
        },
    },
];

fn main() -> io::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let [_, dir, entries] = args.as_slice() else {
        eprintln!("usage: tables DIR ENTRIES");
        std::process::exit(1);
    };
    let (dir, entries) = (
        PathBuf::from(dir),
        entries.parse::<u32>().map_err(io::Error::other)?,
    );
    fs::create_dir_all(&dir)?;
    for kind in KINDS {
        let (text, database) = (dir.join(kind.name), dir.join(format!("{}.db", kind.name)));
        write_both(kind, entries, &text, &database)?;
        for (backend, path) in [("file", &text), ("db", &database)] {
            measure(kind, entries, backend, path)?;
        }
    }
    Ok(())
}

fn write_both(kind: &Kind, entries: u32, text: &Path, database: &Path) -> io::Result<()> {
    let mut lines = BufWriter::new(File::create(text)?);
    let mut records = Writer::new(BufWriter::new(File::create(database)?))?;
    for n in 0..entries {
        let (key, value) = (kind.entry)(n);
        writeln!(lines, "{key} {value}")?;
        records.add(key.as_bytes(), value.as_bytes())?;
    }
    lines.flush()?;
    records.finish().map(drop)
}

fn measure(kind: &Kind, entries: u32, backend: &str, path: &Path) -> io::Result<()> {
    let conf = format!("table t {backend}:{}\n{}\n", path.display(), kind.usage);
    let start = Instant::now();
    let sources = Sources::from_text("bench", &conf, &[]);
    let config = config(&sources)?;
    let checked_s = start.elapsed().as_secs_f64();
    let before = resident_bytes();
    let start = Instant::now();
    let tables = Tables::load(&config, &sources)
        .map_err(|found| io::Error::other(found.first().map_or("", |d| &d.text).to_owned()))?;
    let loaded_s = start.elapsed().as_secs_f64();
    let bytes = resident_bytes().saturating_sub(before) as f64;
    println!(
        "  {:9} {backend:4}  read and checked {checked_s:5.2} s, loaded {loaded_s:5.2} s, \
         {:5.1} bytes per entry, {:9.0} hits/s, {:9.0} misses/s",
        kind.name,
        bytes / f64::from(entries),
        per_second(&tables, entries, kind.hit),
        per_second(&tables, entries, kind.miss),
    );
    Ok(())
}

fn config(sources: &Sources) -> io::Result<Config> {
    let defaults = Defaults {
        server_name: Line::sanitize(b"mx.example.org"),
        addresses: Vec::new(),
    };
    let loaded = load(sources, &defaults);
    let first = |found: Vec<smtpd::config::Diagnostic>| found.first().map(ToString::to_string);
    loaded
        .map(|loaded| loaded.config)
        .map_err(|found| io::Error::other(first(found).unwrap_or_default()))
}

fn per_second(tables: &Tables, entries: u32, ask: fn(&Tables, u32) -> bool) -> f64 {
    const LOOKUPS: u32 = 300_000;
    // Coprime to anything that is likely to be measured: all over the table, never in its order.
    const STEP: u32 = 7_368_787;
    let start = Instant::now();
    let mut n = 0;
    for _ in 0..LOOKUPS {
        assert!(black_box(ask(tables, n)), "a wrong answer for entry {n}");
        n = (n + STEP) % entries;
    }
    f64::from(LOOKUPS) / start.elapsed().as_secs_f64()
}

/// Memory of this process, where the system tells.
fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = status
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096
}
