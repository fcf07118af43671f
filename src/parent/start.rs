//! From a configuration to a running parent: everything that can go wrong does so here, before
//! the daemon leaves its terminal.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};
use std::os::unix::fs::{
    DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown,
};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::config::{Config, Family, Listener, Paths};
use crate::log::{self, Writer};
use crate::privsep::Handover;
use crate::privsep::identity::Rights;
use crate::queue::fs::layout;
use crate::sys::errno::strerror;
use crate::sys::fs::sync_dir;
use crate::sys::net::{self, InterfaceAddr};
use crate::sys::sandbox::{self, Role};
use crate::sys::signal::Signals;
use crate::sys::{lock, open, process, random, unix_connect, user};

use super::keys::Keeper;
use super::reload::InUse;
use super::serve::Parent;
use super::takeover::take_over;
use super::{Ground, Options, Reread, built_in};

/// Makes ready all that a running daemon holds.
pub fn start(
    options: Options,
    handover: &Handover,
    config: Config,
    reread: Reread,
) -> Result<Parent, String> {
    process::set_umask(0o022);
    let rights = Rights::find(&options.paths)?;
    let trial = built_in::is(&handover.sources);
    let keys = Keeper::load(&config)?;
    let in_use = InUse::new(handover, config)?;
    prepare_spool(&options.paths, &rights)?;
    let spool_lock = lock_spool(&options.paths)?;
    if trial {
        let owner = built_in::recipient()?;
        make_room(
            &built_in::maildir(&options.paths),
            (owner.uid, owner.gid),
            0o700,
        )?;
    }
    let control = ControlSocket::bind(&options.paths.socket)?;
    // A queue run takes no mail from the network, and disturbs no one who does.
    let listeners = match options.run_once {
        true => Vec::new(),
        false => bind_all(&in_use.config.listeners, &[])?,
    };
    let advice =
        (trial && !options.run_once).then(|| built_in::advice(&options.paths, &in_use.config));
    log::info(format_args!(
        "info: smtpd-rs {} starting",
        env!("CARGO_PKG_VERSION")
    ));
    if options.ground == Ground::Back {
        process::daemonize().map_err(|error| format!("daemon: {}", strerror(&error)))?;
    }
    log::start("smtpd", options.log, Writer::Caller);
    let signals = Signals::catch().map_err(|error| format!("signals: {}", strerror(&error)))?;
    let pid_file = PidFile::write(&options.paths.pid)?;
    sandbox::enter(Role::Parent).map_err(|error| format!("sandbox: {}", strerror(&error)))?;
    Ok(Parent::new(
        options,
        rights,
        in_use,
        reread,
        Held {
            listeners,
            control,
            advice,
            keys,
            _pid_file: pid_file,
            _spool_lock: spool_lock,
        },
        signals,
    ))
}

/// What every engine gets, and what goes when the parent does.
pub struct Held {
    /// What listens.
    pub listeners: Vec<Bound>,
    /// smtpctl(8)'s.
    pub control: ControlSocket,
    /// To be said on standard error when the first engine serves.
    pub advice: Option<String>,
    /// Private keys, and the process that has them too.
    pub keys: Keeper,
    _pid_file: PidFile,
    _spool_lock: Option<File>,
}

/// A socket of a listener.
#[derive(Debug)]
pub struct Bound {
    /// Position of the listener in `Config::listeners`.
    pub index: u32,
    /// What was asked for; port 0 became another one.
    wanted: SocketAddr,
    /// The socket.
    pub socket: TcpListener,
}

/// Another daemon on its way out may still hold the spool, and the engine of a parent that was
/// killed the socket, but not for long.
const ORPHAN_TIME: Duration = Duration::from_secs(1);

/// Makes sure that of several daemons started at once only one goes on to the socket and the
/// listeners. It goes when it is closed. Where a directory cannot be locked (some network file
/// systems), the socket and the engine's lock of the queue have to do.
fn lock_spool(paths: &Paths) -> Result<Option<File>, String> {
    let failed = |error: io::Error| format!("{}: {}", paths.spool.display(), strerror(&error));
    let spool = open::dir(&paths.spool).map_err(failed)?;
    let patience = Instant::now() + ORPHAN_TIME;
    loop {
        match lock::try_flock(&spool) {
            Ok(true) => return Ok(Some(spool)),
            Ok(false) if Instant::now() < patience => std::thread::sleep(ORPHAN_TIME / 20),
            Ok(false) => return Err(running(&paths.socket)),
            Err(_) => return Ok(None),
        }
    }
}

/// The first words are those that tools know.
fn running(socket: &Path) -> String {
    let socket = socket.display();
    format!("control socket already listening: {socket}: another smtpd is running")
}

/// The control socket; dropped, its file goes.
pub struct ControlSocket {
    /// The socket.
    pub listener: UnixListener,
    path: PathBuf,
}

impl ControlSocket {
    /// Binds it, and replaces one that nobody answers on. Whoever calls holds the spool.
    fn bind(path: &Path) -> Result<ControlSocket, String> {
        let failed = |error: io::Error| format!("{}: {}", path.display(), strerror(&error));
        let patience = Instant::now() + ORPHAN_TIME;
        while unix_connect::answers(path).map_err(failed)? {
            if Instant::now() < patience {
                std::thread::sleep(ORPHAN_TIME / 20);
                continue;
            }
            return Err(running(path));
        }
        match fs::symlink_metadata(path) {
            Ok(found) if found.file_type().is_socket() => fs::remove_file(path).map_err(failed)?,
            Ok(_) => return Err(format!("{}: not a socket", path.display())),
            Err(_) => {}
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        fs::set_permissions(path, Permissions::from_mode(0o666)).map_err(failed)?;
        Ok(ControlSocket {
            listener,
            path: path.to_owned(),
        })
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// The pid file; dropped, it goes.
pub struct PidFile(PathBuf);

impl PidFile {
    fn write(path: &Path) -> Result<PidFile, String> {
        let failed = |error: io::Error| format!("{}: {}", path.display(), strerror(&error));
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        // Made anew, so that nobody else's link is written through.
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(path)
            .map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(PidFile(path.to_owned()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// An unlinked file in the spool that holds `bytes`, to be passed on.
pub fn scratch_file(spool: &Path, bytes: &[u8]) -> io::Result<File> {
    let path = spool.join(format!(".scratch.{:016x}", random::number_u64()));
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?;
    fs::remove_file(&path)?;
    file.write_all(bytes)?;
    Ok(file)
}

fn prepare_spool(paths: &Paths, rights: &Rights) -> Result<(), String> {
    if let Some(root) = &paths.root {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(root)
            .map_err(|error| format!("cannot make {}: {}", root.display(), strerror(&error)))?;
    }
    let (top, inner, drop_box) = match rights {
        Rights::Root {
            engine, queue_gid, ..
        } => ((0, 0), (engine.uid, 0), (0, *queue_gid)),
        Rights::User { uid, gid } => ((*uid, *gid), (*uid, *gid), (*uid, *gid)),
    };
    if rights.is_root() {
        leave_to_owner(&paths.spool)?;
    }
    make_room(&paths.spool, top, layout::ROOT_MODE)?;
    make_room(
        &paths.spool.join(layout::OFFLINE),
        drop_box,
        layout::OFFLINE_MODE,
    )?;
    for name in layout::PRIVATE {
        make_room(&paths.spool.join(name), inner, layout::PRIVATE_MODE)?;
    }
    if let Rights::Root { engine, .. } = rights {
        take_over(&paths.spool.join(layout::QUEUE), engine.uid);
    }
    // What the engine makes durable lies in these rooms, and it may not sync the spool itself.
    sync_dir(&paths.spool)
        .map_err(|error| format!("{}: {}", paths.spool.display(), strerror(&error)))?;
    if let Some(outer) = paths.spool.parent() {
        // New only at the very first start; not everybody may open it.
        let _ = File::open(outer).and_then(|outer| outer.sync_all());
    }
    Ok(())
}

/// The spool of an ordinary user's instance stays that user's: were it given to root's, neither
/// could go on.
fn leave_to_owner(spool: &Path) -> Result<(), String> {
    let uid = match fs::symlink_metadata(spool) {
        Ok(found) if found.uid() != 0 => found.uid(),
        _ => return Ok(()),
    };
    let owner = match user::by_uid(uid) {
        Ok(Some(user)) => user.name,
        _ => format!("uid {uid}"),
    };
    Err(format!(
        "{} belongs to {owner}: start smtpd as that user, or choose another directory with -R \
         (make run RUNDIR=DIR)",
        spool.display()
    ))
}

/// A directory with this owner, group and mode: made if it is missing, set right if it is not so.
fn make_room(path: &Path, (uid, gid): (u32, u32), mode: u32) -> Result<(), String> {
    let failed = |error: io::Error| format!("{}: {}", path.display(), strerror(&error));
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    // From here on by descriptor: what is checked is what is changed.
    let dir = match fs::symlink_metadata(path) {
        Ok(found) if !found.is_dir() => Err(format!("{} is not a directory", path.display())),
        _ => open::dir(path).map_err(failed),
    };
    let dir = dir.map_err(|text| hint_of_owner(path, text, uid))?;
    let found = dir.metadata().map_err(failed)?;
    if found.uid() != uid {
        fchown(&dir, Some(uid), Some(gid)).map_err(|error| {
            let text = strerror(&error);
            format!(
                "{} is not owned by uid {uid}: {text}: give it to that user, or start smtpd as \
                 the user it belongs to",
                path.display()
            )
        })?;
    } else if found.gid() != gid {
        // An ordinary user's directory keeps the group that the file system gave it.
        let _ = fchown(&dir, None, Some(gid));
    }
    if found.mode() & 0o7777 != mode {
        dir.set_permissions(Permissions::from_mode(mode))
            .map_err(failed)?;
    }
    Ok(())
}

/// Adds whose it is, where that is why it cannot be had.
fn hint_of_owner(path: &Path, text: String, uid: u32) -> String {
    match fs::symlink_metadata(path) {
        Ok(found) if found.uid() != uid => format!(
            "{text}: it belongs to uid {}: start smtpd as that user, or choose another directory \
             with -R (make run RUNDIR=DIR)",
            found.uid()
        ),
        _ => text,
    }
}

/// How many connections may wait to be accepted; the system may allow fewer.
const BACKLOG: i32 = 4096;

/// What is wrong with the listeners, as far as that can be said without binding them.
pub fn check_listeners(listeners: &[Listener]) -> Vec<String> {
    let interfaces = match interfaces() {
        Ok(interfaces) => interfaces,
        Err(why) => return vec![format!("smtpd: {why}")],
    };
    let world = Names::of_this_host(&interfaces);
    let wrong = listeners.iter().filter_map(|listener| {
        let why = world.resolve(listener).err()?;
        Some(format!("{}: {why}", listener.at))
    });
    wrong.collect()
}

fn interfaces() -> Result<Vec<InterfaceAddr>, String> {
    net::interface_addrs().map_err(|error| format!("interface addresses: {}", strerror(&error)))
}

/// Binds what `held` has not bound: a socket of the same address goes on, with all who wait at it.
pub fn bind_all(listeners: &[Listener], held: &[Bound]) -> Result<Vec<Bound>, String> {
    let interfaces = interfaces()?;
    let world = Names::of_this_host(&interfaces);
    let mut left: Vec<&Bound> = held.iter().collect();
    let mut bound = Vec::new();
    for (index, listener) in (0u32..).zip(listeners) {
        let addrs = world
            .resolve(listener)
            .map_err(|why| format!("{}: {why}", listener.at))?;
        for wanted in addrs {
            let same = left.iter().position(|known| known.wanted == wanted);
            let socket = match same.map(|at| left.swap_remove(at)) {
                Some(known) => known.socket.try_clone(),
                None => net::listen_tcp(wanted, BACKLOG),
            };
            let socket = socket.map_err(|error| {
                let (why, at) = (strerror(&error), &listener.at);
                let hint = way_out(&error, listener, held);
                format!("bind: {why} ({wanted}, {}:{}){hint}", at.file, at.line)
            })?;
            bound.push(Bound {
                index,
                wanted,
                socket,
            });
        }
    }
    Ok(bound)
}

/// What can be done about an address that cannot be had.
fn way_out(error: &io::Error, listener: &Listener, held: &[Bound]) -> &'static str {
    let is_ours = held
        .iter()
        .any(|known| known.wanted.port() == listener.port);
    let trial = listener.at.file == built_in::NAME;
    match error.kind() {
        io::ErrorKind::AddrInUse if is_ours => {
            ": a listener of the present configuration is in its place: restart smtpd for that"
        }
        io::ErrorKind::AddrInUse if trial => ": -D port=N chooses another port",
        io::ErrorKind::AddrInUse => ": another program listens there",
        io::ErrorKind::PermissionDenied if listener.port < 1024 => {
            ": ports below 1024 are for root"
        }
        _ => "",
    }
}

/// What the word after `listen on` may stand for.
struct Names<'a> {
    interfaces: &'a [InterfaceAddr],
    members: &'a dyn Fn(&str) -> Vec<String>,
    host: &'a dyn Fn(&str) -> Vec<IpAddr>,
}

impl<'a> Names<'a> {
    fn of_this_host(interfaces: &'a [InterfaceAddr]) -> Names<'a> {
        Names {
            interfaces,
            members: &|group| net::group_members(group).unwrap_or_default(),
            host: &|name| match (name, 0).to_socket_addrs() {
                Ok(addrs) => addrs.map(|addr| addr.ip()).collect(),
                Err(_) => Vec::new(),
            },
        }
    }

    /// smtpd.conf(5), listen on: an interface or a group of them, else an address, else a host
    /// name; the first that is one ends the search.
    fn resolve(&self, listener: &Listener) -> Result<Vec<SocketAddr>, String> {
        let on = listener.on.as_str();
        let mut found = self.of_interfaces(&|name| name == on);
        if found.is_empty() {
            let members = (self.members)(on);
            found = self.of_interfaces(&|name| members.iter().any(|member| member == name));
        }
        if found.is_empty() {
            found = literal(on).into_iter().collect();
        }
        if found.is_empty() {
            let ips = (self.host)(on)
                .into_iter()
                .filter(|ip| self.may_be_ours(ip));
            found = ips.map(|ip| SocketAddr::new(ip, 0)).collect();
        }
        let mut seen = BTreeSet::new();
        found.retain(|addr| is_of(listener.family, addr) && seen.insert(*addr));
        if found.is_empty() {
            let hint = match on {
                "all" | "any" => "; for every address, listen on 0.0.0.0 and on ::",
                _ => "",
            };
            return Err(format!("invalid virtual ip or interface: {on}{hint}"));
        }
        for addr in &mut found {
            addr.set_port(listener.port);
        }
        Ok(found)
    }

    /// hosts(5) often has `::1` for localhost where IPv6 is switched off.
    fn may_be_ours(&self, ip: &IpAddr) -> bool {
        ip.is_ipv4() || self.interfaces.iter().any(|known| known.addr.ip() == *ip)
    }

    fn of_interfaces(&self, wanted: &dyn Fn(&str) -> bool) -> Vec<SocketAddr> {
        self.interfaces
            .iter()
            .filter(|i| wanted(&i.interface))
            .map(|i| i.addr)
            .collect()
    }
}

fn literal(on: &str) -> Option<SocketAddr> {
    let bare = on
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(on);
    bare.parse().ok().map(|ip| SocketAddr::new(ip, 0))
}

fn is_of(family: Option<Family>, addr: &SocketAddr) -> bool {
    match family {
        None => true,
        Some(Family::Inet4) => addr.is_ipv4(),
        Some(Family::Inet6) => addr.is_ipv6(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Place;
    use crate::sys::user;

    fn listener(on: &str, family: Option<Family>) -> Listener {
        Listener {
            on: on.into(),
            family,
            port: 25,
            ..Listener::default()
        }
    }

    fn resolve(on: &str, family: Option<Family>) -> Result<Vec<String>, String> {
        let interface = |name: &str, addr: &str| InterfaceAddr {
            interface: name.into(),
            addr: SocketAddr::new(addr.parse().unwrap(), 0),
        };
        let interfaces = [
            interface("lo0", "127.0.0.1"),
            interface("lo0", "::1"),
            interface("em0", "192.0.2.1"),
        ];
        let names = Names {
            interfaces: &interfaces,
            members: &|group| match group {
                "egress" => vec!["em0".into()],
                _ => Vec::new(),
            },
            host: &|name| match name {
                "mail.example.org" => {
                    vec!["192.0.2.1".parse().unwrap(), "192.0.2.1".parse().unwrap()]
                }
                "localhost" => vec!["127.0.0.1".parse().unwrap(), "::2".parse().unwrap()],
                _ => Vec::new(),
            },
        };
        let found = names.resolve(&listener(on, family))?;
        Ok(found.iter().map(SocketAddr::to_string).collect())
    }

    #[test]
    fn a_listener_is_an_interface_a_group_an_address_or_a_host() {
        // smtpd.conf(5), listen on interface.
        assert_eq!(resolve("lo0", None).unwrap(), ["127.0.0.1:25", "[::1]:25"]);
        assert_eq!(resolve("lo0", Some(Family::Inet6)).unwrap(), ["[::1]:25"]);
        assert_eq!(resolve("egress", None).unwrap(), ["192.0.2.1:25"]);
        assert_eq!(resolve("0.0.0.0", None).unwrap(), ["0.0.0.0:25"]);
        assert_eq!(resolve("::", None).unwrap(), ["[::]:25"]);
        assert_eq!(resolve("mail.example.org", None).unwrap(), ["192.0.2.1:25"]);
        // A name may stand for an IPv6 address that the machine does not have.
        assert_eq!(resolve("localhost", None).unwrap(), ["127.0.0.1:25"]);
    }

    #[test]
    fn what_is_none_of_these_stops_the_start() {
        let every = "; for every address, listen on 0.0.0.0 and on ::";
        for (on, family, hint) in [
            ("all", None, every),
            ("*", None, ""),
            ("127.0.0.1", Some(Family::Inet6), ""),
        ] {
            let error = resolve(on, family).unwrap_err();
            assert_eq!(
                error,
                format!("invalid virtual ip or interface: {on}{hint}")
            );
        }
    }

    #[test]
    fn an_address_in_use_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut again = listener("127.0.0.1", None);
        again.port = taken.local_addr().unwrap().port();
        again.at = Place {
            column: 0,
            file: "smtpd.conf".into(),
            line: 3,
        };
        let error = bind_all(&[again.clone()], &[]).unwrap_err();
        let text = format!("bind: Address already in use (127.0.0.1:{}, ", again.port);
        assert_eq!(
            error,
            format!("{text}smtpd.conf:3): another program listens there")
        );
        again.at.file = built_in::NAME.into();
        let error = bind_all(&[again], &[]).unwrap_err();
        assert_eq!(
            error,
            format!("{text}built-in:3): -D port=N chooses another port")
        );
    }

    #[test]
    fn a_listener_that_is_bound_goes_on_wherever_it_stands_now() {
        // smtpctl(8), reload.
        let mut any = listener("127.0.0.1", None);
        any.port = 0;
        let first = bind_all(&[any.clone()], &[]).unwrap();
        let address = |bound: &Bound| bound.socket.local_addr().unwrap();
        let mut new = any.clone();
        new.on = "127.0.0.2".into();
        let next = bind_all(&[new, any], &first).unwrap();
        assert_eq!(next[1].index, 1);
        assert_eq!(address(&next[1]), address(&first[0]));
        assert_ne!(address(&next[0]), address(&first[0]));
    }

    #[test]
    fn a_living_control_socket_is_left_alone_and_a_dead_one_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("smtpd.sock");
        let first = ControlSocket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o666);
        let error = ControlSocket::bind(&path).map(drop).unwrap_err();
        assert!(
            error.starts_with("control socket already listening"),
            "{error}"
        );
        drop(first);
        assert!(!path.exists());
        drop(UnixListener::bind(&path).unwrap());
        // A child that another test is just starting may hold the dead one for a moment.
        while unix_connect::answers(&path).unwrap() {
            std::thread::yield_now();
        }
        drop(ControlSocket::bind(&path).unwrap());
        fs::write(&path, "precious").unwrap();
        assert!(ControlSocket::bind(&path).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn of_two_daemons_one_gets_the_spool() {
        // smtpd(8): two daemons cannot share a spool.
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::under(dir.path());
        prepare_spool(&paths, &Rights::find(&paths).unwrap()).unwrap();
        let first = lock_spool(&paths).unwrap();
        assert!(first.is_some());
        let error = lock_spool(&paths).unwrap_err();
        assert!(
            error.starts_with("control socket already listening"),
            "{error}"
        );
        drop(first);
        assert!(lock_spool(&paths).unwrap().is_some());
    }

    #[test]
    fn the_pid_file_holds_our_number_and_goes_with_us() {
        // smtpd(8), files: decimal pid of the parent and newline.
        let dir = tempfile::tempdir().unwrap();
        let (path, victim) = (dir.path().join("pid"), dir.path().join("victim"));
        fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        let pid_file = PidFile::write(&path).unwrap();
        let text = format!("{}\n", std::process::id());
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
        drop(pid_file);
        assert!(!path.exists());
    }

    #[test]
    fn the_spool_has_its_rooms_with_their_modes() {
        // spool-layout.md, Directories: 0711, offline 0770, the rest 0700.
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::under(&dir.path().join("instance"));
        let rights = Rights::find(&paths).unwrap();
        prepare_spool(&paths, &rights).unwrap();
        let mode = |name: &str| {
            let found = fs::metadata(paths.spool.join(name)).unwrap();
            (found.mode() & 0o7777, found.uid())
        };
        let us = user::effective_uid();
        let engine = match &rights {
            Rights::Root { engine, .. } => engine.uid,
            Rights::User { uid, .. } => *uid,
        };
        assert_eq!(mode(""), (0o711, us));
        assert_eq!(mode("offline"), (0o770, us));
        for name in layout::PRIVATE {
            assert_eq!(mode(name), (0o700, engine));
        }
        // Once more over what is there, with a mode gone wrong.
        fs::set_permissions(paths.spool.join("queue"), Permissions::from_mode(0o777)).unwrap();
        prepare_spool(&paths, &rights).unwrap();
        assert_eq!(mode("queue"), (0o700, engine));
        fs::remove_dir(paths.spool.join("purge")).unwrap();
        fs::write(paths.spool.join("purge"), "").unwrap();
        assert!(
            prepare_spool(&paths, &rights)
                .unwrap_err()
                .contains("is not a directory")
        );
    }

    #[test]
    fn a_scratch_file_has_no_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = scratch_file(dir.path(), b"text").unwrap();
        assert_eq!(file.metadata().unwrap().len(), 4);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
