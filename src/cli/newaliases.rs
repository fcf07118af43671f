//! newaliases(8): makes the database of the aliases and has a running daemon read them again.

use std::io::Write;
use std::path::Path;

use crate::config::paths::Paths;
use crate::control::Ask;
use crate::control::client::Client;

use super::exit_error::ExitError;
use super::instance::{Aliases, aliases, may_control};
use super::makemap::{self, Kind};

/// The command line of newaliases(8): `-f conffile`.
pub fn run(
    words: &[String],
    paths: &Paths,
    uid: u32,
    out: &mut dyn Write,
) -> Result<i32, ExitError> {
    let mut options = getopts::Options::new();
    options.optopt("f", "", "", "");
    let usage = || ExitError::verbatim(1, "usage: newaliases [-f file]\n");
    let matches = options.parse(words).map_err(|_| usage())?;
    if !matches.free.is_empty() {
        return Err(usage());
    }
    need_root(paths, uid)?;
    let conf = matches.opt_str("f");
    let conf = conf.as_deref().map_or(paths.conf.as_path(), Path::new);
    rebuild_configured(paths, conf, out)
}

/// `sendmail -bi`, perhaps with a file of its own.
pub fn init(
    source: Option<&Path>,
    paths: &Paths,
    uid: u32,
    out: &mut dyn Write,
) -> Result<i32, ExitError> {
    need_root(paths, uid)?;
    match source {
        Some(source) => rebuild(source, paths, out),
        None => rebuild_configured(paths, &paths.conf, out),
    }
}

fn need_root(paths: &Paths, uid: u32) -> Result<(), ExitError> {
    if may_control(paths, uid) {
        return Ok(());
    }
    Err(ExitError::new("need root privileges"))
}

fn rebuild_configured(paths: &Paths, conf: &Path, out: &mut dyn Write) -> Result<i32, ExitError> {
    match aliases(paths, conf)? {
        Aliases::Text(source) => rebuild(&source, paths, out),
        Aliases::None => {
            let text = "the built-in configuration has no aliases";
            writeln!(out, "{text}").map_err(|e| ExitError::output(&e))?;
            Ok(0)
        }
    }
}

fn rebuild(source: &Path, paths: &Paths, out: &mut dyn Write) -> Result<i32, ExitError> {
    let count = makemap::from_file(source, &makemap::with_db(source), Kind::Aliases)?;
    writeln!(out, "{}: {count} aliases", source.display()).map_err(|e| ExitError::output(&e))?;
    // A daemon that is down reads the aliases when it starts; one without such a table need not.
    if let Ok(mut client) = Client::connect(&paths.socket) {
        let _ = client.ask(&Ask::UpdateTable("aliases".to_owned()));
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::cli::fake_daemon::{CONF, Daemon, Root};
    use crate::util::cdb;

    fn newaliases(root: &Root, words: &[&str]) -> (Result<i32, ExitError>, String) {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let mut out = Vec::new();
        let result = run(&words, &root.paths, 0, &mut out);
        (result, String::from_utf8(out).unwrap())
    }

    fn with_aliases(text: &str) -> Root {
        let root = Root::new();
        fs::write(&root.paths.conf, CONF).unwrap();
        fs::write(root.paths.conf.with_file_name("aliases"), text).unwrap();
        root
    }

    #[test]
    fn aliases_are_counted_and_a_running_daemon_is_told() {
        // newaliases(8): makes `PATH.db`, prints `PATH: N aliases` and has the daemon update the
        // table.
        let root = with_aliases("# comment\nroot: bob\nstaff: bob,\"|cmd a, b\"\n");
        let path = root.paths.conf.with_file_name("aliases");
        let expected = format!("{}: 2 aliases\n", path.display());
        assert_eq!(newaliases(&root, &[]), (Ok(0), expected.clone()));
        let file = fs::File::open(makemap::with_db(&path)).unwrap();
        let value = cdb::Reader::open(file).unwrap().get(b"staff").unwrap();
        assert_eq!(value.as_deref(), Some(&b"bob,\"|cmd a, b\""[..]));
        let daemon = Daemon::start(&root.paths.socket, &[], |_| {
            crate::control::Answer::Fail(String::new())
        });
        let conf = root.paths.conf.display().to_string();
        assert_eq!(newaliases(&root, &["-f", &conf]), (Ok(0), expected));
        let mut out = Vec::new();
        assert_eq!(init(Some(&path), &root.paths, 0, &mut out), Ok(0));
        let asked = daemon.asked.lock().unwrap().clone();
        let ask = Ask::UpdateTable("aliases".to_owned());
        assert_eq!(asked, [ask.clone(), ask]);
    }

    #[test]
    fn a_bad_line_is_named_and_the_daemon_is_left_alone() {
        let root = with_aliases("root: bob\nnobody\n");
        let daemon = Daemon::accepting(&root.paths.socket);
        let (result, out) = newaliases(&root, &[]);
        let failure = result.unwrap_err();
        assert!(failure.text.contains("aliases:2: "), "{failure:?}");
        assert_eq!((failure.code, out.as_str()), (1, ""));
        let path = root.paths.conf.with_file_name("aliases.db");
        assert!(!path.exists());
        assert!(daemon.asked.lock().unwrap().is_empty());
    }

    // smtpd(8), -R: an instance root without configuration has a built-in one.
    #[test]
    fn the_built_in_configuration_has_no_aliases_unless_somebody_writes_them() {
        let root = Root::new();
        let (result, out) = newaliases(&root, &[]);
        assert_eq!(result, Ok(0));
        assert_eq!(out, "the built-in configuration has no aliases\n");
        let path = root.paths.conf.with_file_name("aliases");
        fs::write(&path, "root: bob\n").unwrap();
        let expected = format!("{}: 1 aliases\n", path.display());
        assert_eq!(newaliases(&root, &[]), (Ok(0), expected));
        let failure = newaliases(&root, &["-f", "/none"]).0.unwrap_err();
        assert!(
            failure.text.starts_with("/none: cannot read it"),
            "{failure:?}"
        );
    }

    // newaliases(8): the database of a `db` table is made where there is none yet.
    #[test]
    fn the_first_database_is_made_before_the_configuration_can_be_used() {
        let root = with_aliases("root: bob\n");
        let path = root.paths.conf.with_file_name("aliases");
        let text = format!("table aliases db:{}.db\n{CONF}", path.display());
        fs::write(&root.paths.conf, text).unwrap();
        let expected = format!("{}: 1 aliases\n", path.display());
        assert_eq!(newaliases(&root, &[]), (Ok(0), expected));
        assert!(makemap::with_db(&path).exists());
    }

    #[test]
    fn operands_unknown_flags_and_strangers_are_refused() {
        let root = with_aliases("");
        for words in [&["-h"][..], &["x"], &["-f"], &["--file"]] {
            let failure = newaliases(&root, words).0.unwrap_err();
            assert_eq!(failure.text, "usage: newaliases [-f file]\n");
        }
        let stranger = crate::sys::user::effective_uid() + 1;
        let failure = run(&[], &root.paths, stranger, &mut Vec::new()).unwrap_err();
        assert_eq!(failure, ExitError::new("need root privileges"));
    }
}
