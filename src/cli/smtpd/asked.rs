//! What the command line of smtpd(8) asks for.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{PathBuf, absolute};

use getopts::{Fail, Matches, ParsingStyle};

use crate::cli::supposed::{self, Misfit};
use crate::config::Paths;
use crate::log::{self, Target};
use crate::mail::Supposed;
use crate::parent::Ground;

const USAGE: &str = "usage: smtpd [-dFhnqv] [-D macro=value] [-E session] [-f file] [-L form] [-P system] \
                     [-R directory] [-T trace]";

/// The command line, understood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) role: Role,
    pub(super) debug: bool,
    pub(super) foreground: bool,
    pub(super) check: bool,
    /// What is to be explained, with `-E`.
    pub(super) supposed: Option<Supposed>,
    pub(super) run_once: bool,
    pub(super) verbose: bool,
    pub(super) conf: Option<PathBuf>,
    pub(super) root: Option<PathBuf>,
    /// The directory we were started in, which we may leave. Empty if it is gone.
    pub(super) dir: PathBuf,
    pub(super) macros: Vec<(String, String)>,
    pub(super) pause: BTreeSet<String>,
    pub(super) traces: Vec<String>,
    /// What is wrong but stops nobody.
    pub(super) complaints: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Role {
    #[default]
    Daemon,
    Engine,
    Keys,
    Auth,
    /// Looks for a .forward in this home.
    Forward(Vec<String>),
    Mda,
    Purge,
    /// What runs in a root directory of its own.
    Chroot(Vec<String>),
}

/// The program ends with this text on standard error, and this code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stop {
    pub(super) text: String,
    pub(super) code: i32,
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
    pub(super) fn parse(args: &[OsString]) -> Result<Asked, Stop> {
        let found = options()
            .parse(args)
            .map_err(|fail| Stop::new(format!("smtpd: {}\n{USAGE}", getopt_text(&fail))))?;
        if found.opt_present("h") {
            let version = env!("CARGO_PKG_VERSION");
            return Err(Stop::new(format!("version: smtpd-rs {version}\n{USAGE}")));
        }
        let role = role(&found)?;
        let takes_operands = matches!(role, Role::Chroot(_) | Role::Forward(_));
        if !found.free.is_empty() && !takes_operands {
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
            dir: std::env::current_dir().unwrap_or_default(),
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

    pub(super) fn trace_bits(&self) -> u32 {
        self.traces
            .iter()
            .filter_map(|word| log::trace_bits(word))
            .fold(0, |bits, more| bits | more)
    }

    pub(super) fn log(&self) -> Target {
        if self.debug {
            Target::Stderr
        } else {
            Target::Syslog
        }
    }

    pub(super) fn ground(&self) -> Ground {
        if self.debug || self.foreground || self.run_once {
            Ground::Fore
        } else {
            Ground::Back
        }
    }

    pub(super) fn paths(&self) -> Paths {
        let mut paths = match &self.root {
            Some(root) => Paths::under(root),
            None => Paths::system(),
        };
        if let Some(conf) = &self.conf {
            paths.conf = conf.clone();
        }
        paths
    }
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
        Some("forward") => Ok(Role::Forward(found.free.clone())),
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
