//! How an engine begins: it becomes its user, takes what the parent hands over, shuts itself in,
//! and only then starts threads.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};

use crate::accept::secure as listeners;
use crate::config::table_text::Entries;
use crate::config::{Config, Paths, Sources, TableSource};
use crate::deliver::relay::secure;
use crate::expansion;
use crate::log::{self, Target, Writer};
use crate::privsep::frame::Malformed;
use crate::privsep::handover;
use crate::privsep::identity::Rights;
use crate::privsep::{Channel, Client, Event, Extent, Handover, Reply};
use crate::queue::fs::layout;
use crate::sys::fdpass::Wait;
use crate::sys::poll::{Interest, PollFd, poll};
use crate::sys::sandbox::{self, Role};
use crate::sys::{descriptors, localtime, process, signal, title, user};
use crate::table::db;
use crate::tls::Trust;
use crate::util::Secret;

/// Everything an engine starts with.
pub struct Startup {
    /// Where its files are.
    pub paths: Paths,
    /// What the configuration was made from, the contents of file tables included.
    pub sources: Sources,
    /// The configuration.
    pub config: Config,
    /// Listening sockets, not blocking, with their position in `config.listeners`. One listener
    /// may have several.
    pub listeners: Vec<(u32, TcpListener)>,
    /// The control socket, not blocking.
    pub control: UnixListener,
    /// The key of `queue encryption`, where the configuration does not hold it.
    pub queue_key: Option<Secret>,
    /// The system's list of authorities; nobody where no action asks for it.
    pub roots: Trust,
    /// How it was asked to run.
    pub flags: Flags,
    /// The wire to the parent. When the parent goes, the process ends by itself.
    pub client: Client,
    /// Who started the instance: 0 for the system's, whatever the engine runs as.
    pub owner_uid: u32,
    /// The directories that it can read, if it is shut in.
    pub reach: Option<BTreeSet<PathBuf>>,
    /// What of the configuration is to be read anew.
    pub hangups: Receiver<Extent>,
    /// A message, or its end, means: finish what is being answered, record outcomes, and return.
    pub shutdown: Receiver<()>,
}

/// How the engine was asked to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags {
    /// `-P mda`.
    pub pause_mda: bool,
    /// `-P mta`.
    pub pause_mta: bool,
    /// `-P smtp`.
    pub pause_smtp: bool,
    /// `-q`: run the queue once, then say `Client::finished`.
    pub run_once: bool,
}

/// The engine's `main`: what to exit with.
pub fn main(paths: Paths, target: Target) -> i32 {
    log::start("engine", target, Writer::Caller);
    title::set("smtpd: engine");
    match start(paths, target) {
        Ok(startup) => {
            let code = super::run(startup);
            log::flush();
            code
        }
        Err(why) => {
            log::fatal(format_args!("{why}"));
            1
        }
    }
}

/// SIGHUPs that may wait: certificates alone never take all the room, they come once an hour.
const HANGUPS: usize = 4;
/// How long the parent may take to hand everything over.
const HANDOVER: Duration = Duration::from_secs(30);

fn start(paths: Paths, target: Target) -> Result<Startup, String> {
    let said = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    let wire = process::inherited().map_err(said("not started by smtpd"))?;
    // The parent kills an engine whose wire closes. Open until the process ends, it leaves time to
    // say what went wrong, and the exit code is seen.
    std::mem::forget(wire.try_clone().map_err(said("descriptors"))?);
    let channel = Channel::from(wire);
    signal::ignore_all().map_err(said("signals"))?;
    process::set_umask(0o077);
    localtime::load();
    let exe = std::env::current_exe().map_err(said("own program"))?;
    let rights = Rights::find(&paths)?;
    let owner_uid = match &rights {
        Rights::Root { .. } => 0,
        Rights::User { uid, .. } => *uid,
    };
    rights.drop_privileges().map_err(said("change of user"))?;
    descriptors::raise_limit().map_err(said("descriptors"))?;
    let handed = take_over(&channel).map_err(said("hand-over"))?;
    let handover =
        Handover::decode(&handed.config).map_err(|error| format!("hand-over: {error}"))?;
    let loaded = handover.load().map_err(|found| {
        let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
        lines.join("; ")
    })?;
    check_reach(&paths, &exe)?;
    let roots = roots(&loaded.config);
    let reach = shut_in(&paths, &handover.sources, &loaded.config)?;
    log::set_verbose(handed.verbose);
    log::start("engine", target, Writer::Thread);
    let (stop, shutdown) = bounded(1);
    // Those that wait stand for all that come meanwhile.
    let (hangup, hangups) = bounded(HANGUPS);
    let client = Client::start(channel, move |event| match event {
        Event::Shutdown => {
            let _ = stop.try_send(());
        }
        Event::Hangup(extent) => drop(hangup.try_send(extent)),
        Event::ParentGone => {
            log::fatal(format_args!("parent is gone"));
            std::process::exit(1);
        }
    })
    .map_err(said("thread"))?;
    Ok(Startup {
        paths,
        sources: handover.sources,
        config: loaded.config,
        listeners: handed.listeners,
        control: handed.control,
        queue_key: handed.queue_key,
        roots,
        flags: handed.flags,
        client,
        owner_uid,
        reach,
        hangups,
        shutdown,
    })
}

/// The system's list of authorities, read while we may. That there is none matters only where a
/// certificate must verify.
pub fn roots(config: &Config) -> Trust {
    if !secure::wants_roots(config) && !listeners::wants_roots(config) {
        return Trust::nobody();
    }
    let (roots, complaints) = Trust::system();
    if secure::needs_roots(config) {
        for complaint in complaints {
            log::warn(format_args!("certificate authorities: {complaint}"));
        }
        if roots.is_empty() {
            log::warn(format_args!(
                "this system lists no certificate authorities: where \"tls\" is required, no host \
                 can be verified without \"ca\""
            ));
        }
    }
    roots
}

/// What the parent has handed over.
struct Handed {
    config: Vec<u8>,
    listeners: Vec<(u32, TcpListener)>,
    control: UnixListener,
    queue_key: Option<Secret>,
    flags: Flags,
    verbose: bool,
}

/// Takes frames until `Start`.
fn take_over(channel: &Channel) -> io::Result<Handed> {
    let deadline = Instant::now() + HANDOVER;
    let (mut config, mut listeners, mut control) = (None, Vec::new(), None);
    let mut queue_key = None;
    loop {
        let (reply, fd) = next(channel, deadline)?;
        match (reply, fd) {
            (Reply::Config, Some(fd)) => config = Some(handover::read(&File::from(fd))?),
            (Reply::Listener { index }, Some(fd)) => {
                let listener = TcpListener::from(fd);
                listener.set_nonblocking(true)?;
                listeners.push((index, listener));
            }
            (Reply::Control, Some(fd)) => {
                let listener = UnixListener::from(fd);
                listener.set_nonblocking(true)?;
                control = Some(listener);
            }
            (Reply::QueueKey(key), None) => queue_key = Some(key),
            (
                Reply::Start {
                    verbose,
                    pause_mda,
                    pause_mta,
                    pause_smtp,
                    run_once,
                },
                None,
            ) => {
                return Ok(Handed {
                    config: config.ok_or(Malformed)?,
                    listeners,
                    control: control.ok_or(Malformed)?,
                    queue_key,
                    flags: Flags {
                        pause_mda,
                        pause_mta,
                        pause_smtp,
                        run_once,
                    },
                    verbose,
                });
            }
            // The parent was told to stop before we were up.
            (Reply::Shutdown, None) => return Err(io::ErrorKind::Interrupted.into()),
            _ => return Err(Malformed.into()),
        }
    }
}

fn next(channel: &Channel, deadline: Instant) -> io::Result<(Reply, Option<OwnedFd>)> {
    let left = deadline.saturating_duration_since(Instant::now());
    if poll(
        &mut [PollFd::new(channel.as_fd(), Interest::Read)],
        Some(left),
    )? == 0
    {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let Some(packet) = channel.receive(Wait::Yes)? else {
        return Err(io::ErrorKind::UnexpectedEof.into());
    };
    let reply = Reply::decode(&packet.frame)?;
    if packet.fds.len() != reply.descriptors() {
        return Err(Malformed.into());
    }
    Ok((reply, packet.fds.into_iter().next()))
}

/// Better said now, with the path, than at the first message: recipients reach no more than we do.
fn check_reach(paths: &Paths, exe: &Path) -> Result<(), String> {
    let queue = paths.spool.join(layout::QUEUE);
    std::fs::read_dir(&queue).map(drop).map_err(|error| {
        let (path, who) = (queue.display(), who_we_are());
        format!(
            "{path}: {error}: {who} has to reach it; -R chooses a directory that is open to all"
        )
    })?;
    std::fs::metadata(exe).map(drop).map_err(|error| {
        let (path, who) = (exe.display(), who_we_are());
        format!(
            "{path}: {error}: {who} has to reach it to deliver; install it where everybody can \
             run it, or start smtpd as an ordinary user"
        )
    })
}

fn who_we_are() -> String {
    let uid = user::effective_uid();
    match user::by_uid(uid) {
        Ok(Some(user)) => format!("user {}", user.name),
        _ => format!("uid {uid}"),
    }
}

fn shut_in(
    paths: &Paths,
    sources: &Sources,
    config: &Config,
) -> Result<Option<BTreeSet<PathBuf>>, String> {
    let read = readable(paths, sources, config);
    let active = sandbox::enter(Role::Engine {
        read: &read,
        write: std::slice::from_ref(&paths.spool),
    })
    .map_err(|error| format!("sandbox: {error}"))?;
    log::info(format_args!(
        "info: engine sandbox: {}",
        sandbox::list(&active)
    ));
    let confines_reading = active
        .iter()
        .any(|what| ["landlock", "unveil"].contains(what));
    Ok(confines_reading.then(|| read.into_iter().collect()))
}

/// What the engine reads besides the system's files: the configuration, its tables, and what they
/// include. A table is replaced by renaming a new file over it, so it is the directories that
/// count; where a link leads out of one, the directory counts that it leads to now.
pub fn readable(paths: &Paths, sources: &Sources, config: &Config) -> Vec<PathBuf> {
    let mut dirs: BTreeSet<PathBuf> = [paths.conf.parent(), paths.root.as_deref()]
        .into_iter()
        .flatten()
        .map(PathBuf::from)
        .collect();
    let mut add = |path: &Path| {
        dirs.extend(path.parent().map(PathBuf::from));
        let found = path.canonicalize().ok();
        dirs.extend(found.and_then(|file| file.parent().map(PathBuf::from)));
    };
    for table in config.tables.values() {
        if let TableSource::File(path) | TableSource::Db(path) = table {
            add(path);
        }
        for path in values(table, sources).flat_map(|v| expansion::included_files(&v)) {
            add(&path);
        }
    }
    dirs.into_iter().collect()
}

fn values<'s>(
    table: &'s TableSource,
    sources: &'s Sources,
) -> Box<dyn Iterator<Item = Cow<'s, str>> + 's> {
    match table {
        TableSource::Map(pairs) => Box::new(pairs.iter().map(|(_, value)| value.into())),
        TableSource::File(path) => {
            let entries = Entries::new(sources.file(path).unwrap_or_default(), None);
            Box::new(entries.flatten().map(|entry| entry.value))
        }
        TableSource::Db(path) => Box::new(db::including_values(path).into_iter().map(Cow::Owned)),
        _ => Box::new(std::iter::empty()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::config::Defaults;
    use crate::util::Line;
    use crate::util::again::{again, inside};

    fn say(parent: &Channel, reply: &Reply, fds: &[OwnedFd]) {
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        parent
            .send(&reply.encode().unwrap(), &fds, Wait::Yes)
            .unwrap();
    }

    const START: Reply = Reply::Start {
        verbose: true,
        pause_mda: false,
        pause_mta: true,
        pause_smtp: false,
        run_once: false,
    };

    #[test]
    fn what_the_parent_hands_over_is_taken() {
        let (parent, engine) = Channel::pair().unwrap();
        let mut config = tempfile::tempfile().unwrap();
        config.write_all(b"sources").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let control = UnixListener::bind(dir.path().join("socket")).unwrap();
        let addr = listener.local_addr().unwrap();
        say(&parent, &Reply::Config, &[config.into()]);
        say(&parent, &Reply::Listener { index: 3 }, &[listener.into()]);
        say(&parent, &Reply::Control, &[control.into()]);
        let key = Secret::new(Line::new("of the queue").unwrap());
        say(&parent, &Reply::QueueKey(key.clone()), &[]);
        say(&parent, &START, &[]);
        let handed = take_over(&engine).unwrap();
        assert_eq!(handed.config, b"sources");
        let [(3, listener)] = &handed.listeners[..] else {
            panic!("{:?}", handed.listeners);
        };
        assert_eq!(listener.local_addr().unwrap(), addr);
        assert_eq!(
            listener.accept().unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        assert!(handed.flags.pause_mta && handed.verbose);
        assert_eq!(handed.queue_key, Some(key));
    }

    // table(5), file and db: what a link leads to is read as what lies there. A sandbox cannot be
    // left, so the test runs in a process of its own.
    #[test]
    fn tables_and_included_files_may_be_links_out_of_their_directories() {
        let Some(dir) = inside().map(PathBuf::from) else {
            let dir = tempfile::tempdir().unwrap();
            let path = |name: &str| dir.path().join(name);
            for name in ["conf", "tables", "lists", "other"] {
                std::fs::create_dir(path(name)).unwrap();
                std::fs::write(path(name).join("x"), "bob\n").unwrap();
            }
            std::os::unix::fs::symlink("../tables/x", path("conf/table")).unwrap();
            std::os::unix::fs::symlink(path("lists/x"), path("conf/list")).unwrap();
            let name = "engine::start::tests::tables_and_included_files_may_be_links_out_of_their_directories";
            assert!(again(name, dir.path()).success());
            return;
        };
        let path = |name: &str| dir.join(name);
        let text = format!(
            "table t file:{0}/table\ntable a {{ all = \":include:{0}/list\" }}\n\
             action x maildir alias <a>\nmatch for domain <t> action x\n",
            path("conf").display()
        );
        let paths = Paths {
            conf: path("conf/smtpd.conf"),
            ..Paths::system()
        };
        let handover = Handover {
            sources: Sources::from_text("smtpd.conf", &text, &[]),
            defaults: Defaults {
                server_name: Line::new("localhost").unwrap(),
                addresses: Vec::new(),
            },
        };
        let config = handover.load().unwrap().config;
        let read = readable(&paths, &handover.sources, &config);
        let active = sandbox::enter(Role::Engine {
            read: &read,
            write: &[],
        });
        let active = active.unwrap();
        for name in ["conf/table", "conf/list", "conf/x"] {
            assert_eq!(std::fs::read(path(name)).unwrap(), b"bob\n", "{name}");
        }
        if active.contains(&"landlock") || active.contains(&"unveil") {
            assert!(std::fs::read(path("other/x")).is_err());
        }
        // A reload finds out the same from within.
        assert_eq!(readable(&paths, &handover.sources, &config), read);
    }

    #[test]
    fn an_incomplete_or_strange_handover_is_an_error() {
        let (parent, engine) = Channel::pair().unwrap();
        say(&parent, &START, &[]);
        assert!(take_over(&engine).is_err());
        let file = tempfile::tempfile().unwrap();
        say(&parent, &Reply::Shutdown, &[file.into()]);
        assert!(take_over(&engine).is_err());
        drop(parent);
        let error = take_over(&engine).map(drop).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
