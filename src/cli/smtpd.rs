//! smtpd(8): from a command line to a running daemon, or to one of the roles that it starts itself
//! in (`-x`).

mod asked;

use std::ffi::OsString;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;

use crate::config::{self, Config, Defaults, Diagnostic, Loaded, Paths, Sources, files};
use crate::control::client::Client;
use crate::control::{Answer, Ask, Which};
use crate::engine;
use crate::expansion::Context;
use crate::explain;
use crate::log::{self, Writer};
use crate::mail::{Peer, Supposed};
use crate::mda;
use crate::parent::{self, Options, OwnForwards, built_in};
use crate::privsep::identity::Rights;
use crate::privsep::keys::KEY_MAX;
use crate::privsep::{ChildJob, Handover};
use crate::queue::fs::layout;
use crate::sys::net::{self, InterfaceAddr};
use crate::sys::{exe, open, process, unix_connect, user};
use crate::table::Tables;
use crate::table::include::Disk;
use crate::tls::certificate;
use crate::tls::keys::agent;
use crate::util::{Line, Timestamp};

use super::queue_key;

use asked::{Asked, Role, Stop};

const EX_TEMPFAIL: i32 = 75;

/// The program; says what to exit with.
pub fn main() -> i32 {
    // Before anything of ours takes one of these numbers.
    if process::fill_standard_fds().is_err() {
        return 1;
    }
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let asked = match Asked::parse(&args) {
        Ok(asked) => asked,
        Err(Stop { text, code }) => {
            say(&text);
            return code;
        }
    };
    match &asked.role {
        Role::Daemon => {
            process::close_strays();
            log::set_verbose(asked.verbose);
            daemon(asked)
        }
        Role::Engine => {
            log::set_verbose(asked.verbose);
            log::set_trace(asked.trace_bits());
            engine::start::main(asked.paths(), asked.log())
        }
        Role::Keys => keys(&asked),
        Role::Auth => parent::auth::run(),
        Role::Forward(words) => parent::looks::run(words),
        Role::Mda => deliver(),
        Role::Purge => purge(&asked.paths()),
        Role::Chroot(words) => parent::helpers::shut_in(words),
    }
}

impl Asked {
    /// The configuration's bytes and what it needs to know of the machine, or complaints.
    fn handover(&self, paths: &Paths) -> Result<Handover, Vec<String>> {
        let found = config::server_name(&paths.mailname);
        let addresses = net::interface_addrs().unwrap_or_default();
        let addresses = addresses.iter().map(as_peer).collect();
        if self.conf.is_none() && self.root.is_some() && !paths.conf.exists() {
            let full = found.ok().filter(|name| name.contains('.'));
            let server_name = full.unwrap_or_else(|| Line::sanitize(b"localhost"));
            let sources = built_in::sources(paths, &self.macros)
                .map_err(|why| vec![format!("smtpd: {why}")])?;
            return Ok(Handover {
                sources,
                defaults: Defaults {
                    server_name,
                    addresses,
                },
            });
        }
        let sources = Sources::collect(&paths.conf, &self.dir, &self.macros).map_err(texts)?;
        let server_name = found.map_err(|error| vec![format!("smtpd: {error}")])?;
        Ok(Handover {
            sources,
            defaults: Defaults {
                server_name,
                addresses,
            },
        })
    }

    /// The configuration and what it was made of.
    fn load(&self, paths: &Paths) -> Result<(Handover, Loaded), Vec<String>> {
        self.load_from(self.handover(paths)?)
    }

    fn load_from(&self, handover: Handover) -> Result<(Handover, Loaded), Vec<String>> {
        let loaded = handover.load().map_err(texts)?;
        let mut refused = files::certificates(&loaded.config, &self.file_owners());
        if refused.is_empty() {
            refused.extend(key_pairs(&loaded.config, &handover.sources));
            refused.extend(texts(engine::check(&loaded.config, &handover.sources)));
        }
        if self.check {
            // A start finds out when it binds them.
            refused.extend(parent::check_listeners(&loaded.config.listeners));
        }
        if refused.is_empty() {
            Ok((handover, loaded))
        } else {
            Err(refused)
        }
    }

    /// Whose certificates and keys are used: root's, and in an instance of one's own one's own.
    fn file_owners(&self) -> Vec<u32> {
        let mut owners = vec![0];
        match user::effective_uid() {
            uid if uid != 0 && self.root.is_some() => owners.push(uid),
            _ => {}
        }
        owners
    }
}

/// This host, as a connection from one of its own addresses shows it.
fn as_peer(own: &InterfaceAddr) -> Peer {
    match own.addr {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => Peer::Inet {
            addr: own.addr.ip(),
            scope: Some(own.interface.as_str().into()),
        },
        _ => Peer::inet(own.addr.ip()),
    }
}

/// What is wrong with keys, or with a key and the certificate it should belong to.
fn key_pairs(config: &Config, sources: &Sources) -> Vec<String> {
    let wrong = config.pki.iter().filter_map(|(name, pki)| {
        let (cert, key) = (pki.cert.as_ref()?, pki.key.as_ref()?);
        let pem = sources.file(cert).ok()?;
        let read = open::plain(key).and_then(|file| open::read_within(file, KEY_MAX as u64));
        // What cannot be read has been complained of.
        let key = read.ok()?;
        let why = certificate::check_pair(pem, &key).err()?;
        Some(format!("pki {name}: {why}"))
    });
    wrong.collect()
}

fn texts(found: Vec<Diagnostic>) -> Vec<String> {
    found.iter().map(ToString::to_string).collect()
}

fn daemon(asked: Asked) -> i32 {
    for complaint in &asked.complaints {
        say(complaint);
    }
    let paths = asked.paths();
    let (handover, loaded) = match asked.load(&paths) {
        Ok(found) => found,
        Err(complaints) => {
            for complaint in complaints {
                say(&complaint);
            }
            return 1;
        }
    };
    let Loaded {
        config,
        warnings,
        files,
    } = loaded;
    tell_warnings(&asked, &paths, &handover, &config, (&files, warnings));
    if let Some(supposed) = &asked.supposed {
        return explain(&paths, &handover, &config, supposed);
    }
    if asked.check {
        say("configuration OK");
        return 0;
    }
    if asked.root.is_none() && user::effective_uid() != 0 {
        say("smtpd: need root privileges; with -R directory, other users run one of their own");
        return 1;
    }
    if asked.run_once && unix_connect::answers(&paths.socket).unwrap_or(false) {
        return flush_through_daemon(&paths);
    }
    let exe = match exe::path() {
        Ok(exe) => exe,
        Err(error) => {
            say(&format!("smtpd: own program: {error}"));
            return 1;
        }
    };
    let queue_key = match queue_key::get(config.queue.encryption.as_ref()) {
        Ok(key) => key,
        Err(why) => {
            say(&format!("smtpd: {why}"));
            return 1;
        }
    };
    log::set_trace(asked.trace_bits());
    let options = Options {
        exe,
        queue_key,
        ground: asked.ground(),
        log: asked.log(),
        pause_mda: asked.pause.contains("mda"),
        pause_mta: asked.pause.contains("mta"),
        pause_smtp: asked.pause.contains("smtp"),
        traces: asked.traces.clone(),
        run_once: asked.run_once,
        paths,
    };
    let reread = Box::new(move |handover: Option<Handover>| {
        let (handover, loaded) = match handover {
            Some(handover) => asked.load_from(handover)?,
            None => asked.load(&asked.paths())?,
        };
        Ok((handover, loaded.config))
    });
    parent::run(options, &handover, config, reread)
}

/// What is odd about a configuration that can be used: on standard error, or in the log.
fn tell_warnings(
    asked: &Asked,
    paths: &Paths,
    handover: &Handover,
    config: &Config,
    (files, warnings): (&[String], Vec<Diagnostic>),
) {
    let open = files::open_to_others(files.iter().map(Path::new));
    // What parses the answer of -n knows it as it is.
    let name = if asked.check || built_in::is(&handover.sources) {
        None
    } else {
        config::name_warning(&paths.mailname)
    };
    let of_rooms = engine::warnings(config, &handover.sources, Timestamp::now());
    let of_text = texts(warnings).into_iter().chain(of_rooms);
    // cron(8) mails what a queue run prints, and that mail would be in the next one.
    let quiet = asked.run_once && !asked.debug && !asked.check && asked.supposed.is_none();
    if quiet {
        log::start("smtpd", asked.log(), Writer::Caller);
    }
    for warning in open.into_iter().chain(of_text).chain(name) {
        if quiet {
            log::warn(format_args!("{warning}"))
        } else {
            say(&format!("warn: {warning}"))
        }
    }
}

/// `-E`: nothing is started, and only files that the caller can read are read.
fn explain(paths: &Paths, handover: &Handover, config: &Config, supposed: &Supposed) -> i32 {
    let tables = match Tables::load(config, &handover.sources) {
        Ok(tables) => tables,
        Err(complaints) => {
            texts(complaints).iter().for_each(|text| say(text));
            return 1;
        }
    };
    let uid = match paths.root {
        None => 0,
        Some(_) => user::effective_uid(),
    };
    let forwards = match OwnForwards::new(config, &handover.sources, paths) {
        Ok(forwards) => forwards,
        Err(why) => {
            say(&format!("smtpd: {why}"));
            return 1;
        }
    };
    let context = Context {
        config,
        tables: &tables,
        includes: &Disk,
        forwards: &forwards,
        daemon_user: &engine::daemon_user(uid),
        now: Timestamp::now(),
        recent: None,
        watch: None,
    };
    let text = explain::explain(&context, &paths.libexec, supposed);
    // Nobody reading any more is no fault of ours.
    let _ = std::io::stdout().write_all(text.as_bytes());
    0
}

/// `-q` where a daemon runs: it is asked to try everything now.
fn flush_through_daemon(paths: &Paths) -> i32 {
    let answer = Client::connect(&paths.socket)
        .and_then(|mut client| client.ask(&Ask::Schedule(Which::All)));
    match answer {
        Ok(Answer::Ok | Answer::Count(_)) => 0,
        Ok(_) => {
            say("smtpd: the running daemon refused to run the queue");
            1
        }
        Err(error) => {
            say(&format!("smtpd: {error}"));
            1
        }
    }
}

/// `-x keys`.
fn keys(asked: &Asked) -> i32 {
    let paths = asked.paths();
    let identity = match Rights::find(&paths) {
        Ok(Rights::Root { daemon, .. }) => Some(daemon),
        Ok(Rights::User { .. }) => None,
        Err(why) => {
            say(&format!("smtpd: keys: {why}"));
            return 1;
        }
    };
    agent::main(asked.log(), identity.as_ref(), &paths.spool)
}

/// `-x mda`: we have become the recipient; what is to be done is on descriptor 3.
fn deliver() -> i32 {
    match ChildJob::read_from_fd3() {
        Ok(job) => mda::exec::run(&job),
        Err(error) => {
            say(&format!("smtpd: no delivery: {error}"));
            EX_TEMPFAIL
        }
    }
}

/// `-x purge`.
fn purge(paths: &Paths) -> i32 {
    match Rights::find(paths) {
        Ok(rights) => parent::purge::run(&rights, &paths.spool.join(layout::PURGE)),
        Err(why) => {
            say(&format!("smtpd: {why}"));
            1
        }
    }
}

/// Standard error may be closed; then there is nobody to tell.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
