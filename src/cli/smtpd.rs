//! smtpd(8)'s command line, and the roles that the daemon starts itself in (`-x`).

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf, absolute};

use getopts::{Fail, Matches, ParsingStyle};

use crate::config::{self, Config, Defaults, Diagnostic, Loaded, Paths, Sources, files};
use crate::control::client::Client;
use crate::control::{Answer, Ask, Which};
use crate::engine;
use crate::expansion::Context;
use crate::explain;
use crate::log::{self, Target, Writer};
use crate::mail::Supposed;
use crate::mda;
use crate::parent::{self, Ground, Options, OwnForwards, built_in};
use crate::privsep::identity::Rights;
use crate::privsep::keys::KEY_MAX;
use crate::privsep::{ChildJob, Handover};
use crate::queue::fs::layout;
use crate::sys::{exe, net, open, process, unix_connect, user};
use crate::table::Tables;
use crate::table::include::Disk;
use crate::tls::certificate;
use crate::tls::keys::agent;
use crate::util::{Line, Timestamp};

use super::queue_key;
use super::supposed::{self, Misfit};

const USAGE: &str = "usage: smtpd [-dFhnqv] [-D macro=value] [-E session] [-f file] [-L form] [-P system] \
                     [-R directory] [-T trace]";
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
        Role::Mda => deliver(),
        Role::Purge => purge(&asked.paths()),
        Role::Chroot(words) => parent::helpers::shut_in(words),
    }
}

/// The command line, understood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Asked {
    role: Role,
    debug: bool,
    foreground: bool,
    check: bool,
    /// What is to be explained, with `-E`.
    supposed: Option<Supposed>,
    run_once: bool,
    verbose: bool,
    conf: Option<PathBuf>,
    root: Option<PathBuf>,
    macros: Vec<(String, String)>,
    pause: BTreeSet<String>,
    traces: Vec<String>,
    /// What is wrong but stops nobody.
    complaints: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Role {
    #[default]
    Daemon,
    Engine,
    Keys,
    Auth,
    Mda,
    Purge,
    /// What runs in a root directory of its own.
    Chroot(Vec<String>),
}

/// The program ends with this text on standard error, and this code.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stop {
    text: String,
    code: i32,
}

impl Stop {
    fn new(text: impl Into<String>) -> Stop {
        Stop {
            text: text.into(),
            code: 1,
        }
    }
}

impl Asked {
    fn parse(args: &[OsString]) -> Result<Asked, Stop> {
        let found = options()
            .parse(args)
            .map_err(|fail| Stop::new(format!("smtpd: {}\n{USAGE}", getopt_text(&fail))))?;
        if found.opt_present("h") {
            let version = env!("CARGO_PKG_VERSION");
            return Err(Stop::new(format!("version: smtpd-rs {version}\n{USAGE}")));
        }
        let role = role(&found)?;
        if !found.free.is_empty() && !matches!(role, Role::Chroot(_)) {
            return Err(Stop::new(USAGE));
        }
        let mut asked = Asked {
            role,
            debug: found.opt_present("d"),
            foreground: found.opt_present("F"),
            check: found.opt_present("n"),
            supposed: supposed(&found)?,
            run_once: found.opt_present("q"),
            verbose: found.opt_present("v"),
            conf: last_path(&found, "f")?,
            root: last_path(&found, "R")?,
            pause: found.opt_strs("P").into_iter().collect(),
            ..Asked::default()
        };
        asked.add_macros(&found.opt_strs("D"));
        asked.add_traces(found.opt_strs("T"));
        asked.judge_back_ends(&found.opt_strs("B"));
        log::set_json(is_json(&found)?);
        Ok(asked)
    }

    /// smtpd(8), -D: split at the last `=`; the first definition of a name stays.
    fn add_macros(&mut self, words: &[String]) {
        for word in words {
            match word.rsplit_once('=') {
                Some((name, value)) if !name.is_empty() => {
                    if !self.macros.iter().any(|(known, _)| known == name) {
                        self.macros.push((name.to_owned(), value.to_owned()));
                    }
                }
                _ => {
                    let text = format!("warn: could not parse macro definition {word}");
                    self.complaints.push(text);
                }
            }
        }
    }

    fn add_traces(&mut self, words: Vec<String>) {
        for word in words {
            match log::trace_bits(&word) {
                Some(_) => self.traces.push(word),
                None => {
                    let text = format!("warn: unknown trace flag \"{word}\"");
                    self.complaints.push(text);
                }
            }
        }
    }

    /// `-B` chose among back ends; here there is one of each, which its usual names mean.
    fn judge_back_ends(&mut self, words: &[String]) {
        for word in words {
            if !["queue=fs", "scheduler=ramqueue", "stat=ram"].contains(&word.as_str()) {
                let text = format!("warn: invalid backend specifier {word}");
                self.complaints.push(text);
            }
        }
    }

    fn trace_bits(&self) -> u32 {
        self.traces
            .iter()
            .filter_map(|word| log::trace_bits(word))
            .fold(0, |bits, more| bits | more)
    }

    fn log(&self) -> Target {
        match self.debug {
            true => Target::Stderr,
            false => Target::Syslog,
        }
    }

    fn ground(&self) -> Ground {
        match self.debug || self.foreground || self.run_once {
            true => Ground::Fore,
            false => Ground::Back,
        }
    }

    fn paths(&self) -> Paths {
        let mut paths = match &self.root {
            Some(root) => Paths::under(root),
            None => Paths::system(),
        };
        if let Some(conf) = &self.conf {
            paths.conf = conf.clone();
        }
        paths
    }

    /// The configuration's bytes and what it needs to know of the machine, or complaints.
    fn handover(&self, paths: &Paths) -> Result<Handover, Vec<String>> {
        let found = config::server_name(&paths.mailname);
        let addresses = net::interface_addrs().unwrap_or_default();
        let addresses = addresses.iter().map(|found| found.addr.ip()).collect();
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
        let sources = Sources::collect(&paths.conf, &self.macros).map_err(texts)?;
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
        match refused.is_empty() {
            true => Ok((handover, loaded)),
            false => Err(refused),
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

fn options() -> getopts::Options {
    let mut options = getopts::Options::new();
    options.parsing_style(ParsingStyle::StopAtFirstFree);
    for flag in ["d", "F", "h", "n", "q", "v"] {
        options.optflagmulti(flag, "", "");
    }
    for option in ["B", "D", "E", "L", "P", "f", "T", "x", "R"] {
        options.optmulti(option, "", "", "");
    }
    options
}

/// What getopt(3) would have said.
fn getopt_text(fail: &Fail) -> String {
    match fail {
        Fail::ArgumentMissing(letter) => format!("option requires an argument -- {letter}"),
        Fail::UnrecognizedOption(letter) => format!("unknown option -- {letter}"),
        other => other.to_string(),
    }
}

fn role(found: &Matches) -> Result<Role, Stop> {
    match found.opt_strs("x").pop().as_deref() {
        None => Ok(Role::Daemon),
        Some("engine") => Ok(Role::Engine),
        Some("keys") => Ok(Role::Keys),
        Some("auth") => Ok(Role::Auth),
        Some("mda") => Ok(Role::Mda),
        Some("purge") => Ok(Role::Purge),
        Some("chroot") => Ok(Role::Chroot(found.free.clone())),
        Some(other) => Err(Stop::new(format!("smtpd: bad rexec: {other}"))),
    }
}

/// `-L`: the form of lines in the log.
fn is_json(found: &Matches) -> Result<bool, Stop> {
    match found.opt_strs("L").pop().as_deref() {
        None | Some("text") => Ok(false),
        Some("json") => Ok(true),
        Some(other) => Err(Stop::new(format!(
            "smtpd: -L {other}: the forms are text and json"
        ))),
    }
}

/// What all `-E` together suppose.
fn supposed(found: &Matches) -> Result<Option<Supposed>, Stop> {
    let words = found.opt_strs("E");
    if words.is_empty() {
        return Ok(None);
    }
    match supposed::parse(&supposed::words(&words)) {
        Ok(supposed) => Ok(Some(supposed)),
        Err(Misfit { said, possible }) => {
            let (said, possible) = (said.join(" "), possible.join(" "));
            let text = format!("smtpd: -E {said}: possibilities are: {possible}");
            Err(Stop::new(format!("{text}\n{USAGE}")))
        }
    }
}

/// The last one given, made absolute while we are still where the caller was.
fn last_path(found: &Matches, letter: &str) -> Result<Option<PathBuf>, Stop> {
    let Some(word) = found.opt_strs(letter).pop() else {
        return Ok(None);
    };
    match absolute(&word) {
        Ok(path) => Ok(Some(path)),
        Err(error) => Err(Stop::new(format!("smtpd: -{letter} {word}: {error}"))),
    }
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
    let name = match asked.check || built_in::is(&handover.sources) {
        true => None,
        false => config::name_warning(&paths.mailname),
    };
    let of_rooms = engine::warnings(config, &handover.sources, Timestamp::now());
    let of_text = texts(warnings).into_iter().chain(of_rooms);
    // cron(8) mails what a queue run prints, and that mail would be in the next one.
    let quiet = asked.run_once && !asked.debug && !asked.check && asked.supposed.is_none();
    if quiet {
        log::start("smtpd", asked.log(), Writer::Caller);
    }
    for warning in open.into_iter().chain(of_text).chain(name) {
        match quiet {
            true => log::warn(format_args!("{warning}")),
            false => say(&format!("warn: {warning}")),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Asked, Stop> {
        let args: Vec<OsString> = words.iter().map(OsString::from).collect();
        Asked::parse(&args)
    }

    #[test]
    fn what_is_no_command_line_of_ours_gets_the_usage_and_1() {
        // smtpd(8): any operand left over is a usage error.
        let unknown = parse(&["-Z"]).unwrap_err();
        assert_eq!(unknown.code, 1);
        assert_eq!(unknown.text, format!("smtpd: unknown option -- Z\n{USAGE}"));
        let missing = parse(&["-f"]).unwrap_err().text;
        let text = "smtpd: option requires an argument -- f";
        assert_eq!(missing, format!("{text}\n{USAGE}"));
        assert_eq!(parse(&["-d", "start"]).unwrap_err().text, USAGE);
        let help = parse(&["-h"]).unwrap_err();
        assert!(help.text.starts_with("version: ") && help.text.ends_with(USAGE));
        assert_eq!(help.code, 1);
        let text = "smtpd: bad rexec: lka";
        assert_eq!(parse(&["-x", "lka"]).unwrap_err().text, text);
    }

    #[test]
    fn letters_may_be_joined_and_repeated() {
        let asked = parse(&[
            "-dvvF", "-Pmda", "-P", "smtp", "-P", "nonsense", "-f", "a", "-f/b",
        ]);
        let asked = asked.unwrap();
        assert!(asked.debug && asked.verbose && asked.foreground && !asked.check);
        assert!(asked.pause.contains("mda") && asked.pause.contains("smtp"));
        assert_eq!(asked.conf, Some("/b".into()));
        assert_eq!(asked.log(), Target::Stderr);
        assert!(asked.complaints.is_empty());
    }

    #[test]
    fn macros_split_at_the_last_equals_sign_and_the_first_stays() {
        // smtpd(8), -D: whatever the configuration file says. OpenSMTPD splits at the last `=`.
        let asked = parse(&["-D", "a=b=c", "-Dport=25", "-D", "port=26", "-D", "none"]).unwrap();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(asked.macros, [pair("a=b", "c"), pair("port", "25")]);
        assert_eq!(
            asked.complaints,
            ["warn: could not parse macro definition none"]
        );
    }

    #[test]
    fn unknown_trace_words_are_told_and_stop_nobody() {
        let asked = parse(&[
            "-T",
            "smtp",
            "-T",
            "nope",
            "-B",
            "queue=ram",
            "-B",
            "queue=fs",
        ]);
        let asked = asked.unwrap();
        assert_eq!(asked.trace_bits(), log::Trace::Smtp as u32);
        assert_eq!(
            asked.complaints,
            [
                "warn: unknown trace flag \"nope\"",
                "warn: invalid backend specifier queue=ram"
            ]
        );
    }

    #[test]
    fn a_daemon_leaves_its_terminal_unless_told_otherwise() {
        for (words, ground, log) in [
            (&[][..], Ground::Back, Target::Syslog),
            (&["-F"], Ground::Fore, Target::Syslog),
            (&["-d"], Ground::Fore, Target::Stderr),
            (&["-q"], Ground::Fore, Target::Syslog),
            (&["-qd"], Ground::Fore, Target::Stderr),
            (&["-qF"], Ground::Fore, Target::Syslog),
        ] {
            let asked = parse(words).unwrap();
            assert_eq!((asked.ground(), asked.log()), (ground, log), "{words:?}");
        }
    }

    #[test]
    fn only_an_instance_root_has_a_built_in_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_str().unwrap();
        let asked = parse(&["-R", root]).unwrap();
        let paths = asked.paths();
        assert_eq!(paths.conf, dir.path().join("smtpd.conf"));
        assert!(asked.load(&paths).is_ok());
        let missing = dir.path().join("other.conf");
        let asked = parse(&["-R", root, "-f", missing.to_str().unwrap()]).unwrap();
        let complaints = asked.load(&asked.paths()).map(drop).unwrap_err();
        assert!(complaints[0].contains("other.conf"));
    }
}
