//! Which daemon a front end belongs to, and what it must know of it.
//!
//! The one place where front ends meet the configuration and the spool's files.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::config::paths::Paths;
use crate::config::{self, Defaults, Diagnostic, QueueKey, QueueOptions, Sources, TableSource};
use crate::mail::{Envelope, EvpId};
use crate::queue::coding::Key;
use crate::queue::envelope_file;
use crate::queue::fs::layout;
use crate::util::Line;

use super::exit_error::ExitError;

/// Whether this user may do more than submit: root, or whoever runs the instance.
pub fn may_control(paths: &Paths, uid: u32) -> bool {
    let owner = |path: &Path| fs::symlink_metadata(path).map(|found| found.uid()).ok();
    let found = owner(&paths.socket).or_else(|| owner(&paths.spool));
    // An instance that was never started belongs to whoever has made its root.
    let found = found.or_else(|| paths.root.as_deref().and_then(owner));
    uid == 0 || found == Some(uid)
}

/// The name that stands behind the `@` of addresses without one.
pub fn server_name(paths: &Paths) -> Option<Line> {
    config::server_name(&paths.mailname).ok()
}

/// An envelope file's contents, or why they make none.
pub fn decode_envelope(id: EvpId, bytes: &[u8]) -> Result<Envelope, String> {
    envelope_file::decode(id, bytes)
}

/// The key of `queue encryption`, where the configuration can be read and holds it.
pub fn configured_key(paths: &Paths) -> Option<Key> {
    match configured_queue(paths)?.encryption? {
        QueueKey::Text(key) => Key::new(key.reveal()),
        QueueKey::Stdin | QueueKey::Terminal => None,
    }
}

/// `queue ttl` in seconds: that of the configuration, where it can be read.
pub fn configured_ttl_s(paths: &Paths) -> u32 {
    configured_queue(paths).unwrap_or_default().ttl_s
}

fn configured_queue(paths: &Paths) -> Option<QueueOptions> {
    let sources = Sources::collect(&paths.conf, Path::new(""), &[]).ok()?;
    let defaults = Defaults {
        server_name: server_name(paths).unwrap_or_default(),
        addresses: Vec::new(),
    };
    let loaded = config::load(&sources, &defaults).ok()?;
    Some(loaded.config.queue)
}

/// Where sendmail(8) stores mail while the daemon is down.
pub fn offline_dir(paths: &Paths) -> PathBuf {
    paths.spool.join(layout::OFFLINE)
}

/// The aliases that newaliases(8) makes a database of.
#[derive(Debug, PartialEq, Eq)]
pub enum Aliases {
    Text(PathBuf),
    /// Nothing: there is neither a configuration nor a file.
    None,
}

/// The source of the table `aliases` of the configuration, or `aliases` beside it.
pub fn aliases(paths: &Paths, conf: &Path) -> Result<Aliases, ExitError> {
    let beside = conf.with_file_name("aliases");
    if paths.root.is_some() && conf == paths.conf && !conf.exists() {
        return Ok(if beside.exists() {
            Aliases::Text(beside)
        } else {
            Aliases::None
        });
    }
    let mut sources = Sources::collect(conf, Path::new(""), &[]).map_err(|all| complaints(&all))?;
    // The database that is about to be made may be one of those that the configuration misses.
    sources.trust_databases();
    let defaults = Defaults {
        server_name: server_name(paths).unwrap_or_default(),
        addresses: Vec::new(),
    };
    let loaded = config::load(&sources, &defaults).map_err(|all| complaints(&all))?;
    match loaded.config.tables.get("aliases") {
        Some(TableSource::File(path)) => Ok(Aliases::Text(without_db(path))),
        Some(TableSource::Db(path)) => Ok(Aliases::Text(without_db(path))),
        Some(_) => Err(ExitError::new(format!(
            "{}: table \"aliases\" has no file",
            conf.display()
        ))),
        None => Ok(Aliases::Text(beside)),
    }
}

fn complaints(all: &[Diagnostic]) -> ExitError {
    let lines: String = all.iter().map(|one| format!("{one}\n")).collect();
    ExitError::verbatim(1, lines)
}

fn without_db(path: &Path) -> PathBuf {
    match path.extension() {
        Some(extension) if extension == "db" => path.with_extension(""),
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fake_daemon::CONF;

    fn root() -> (tempfile::TempDir, Paths) {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::under(dir.path());
        fs::create_dir_all(&paths.spool).unwrap();
        (dir, paths)
    }

    #[test]
    fn the_owner_of_an_instance_controls_it_and_a_stranger_does_not() {
        let (_dir, paths) = root();
        let owner = fs::metadata(&paths.spool).unwrap().uid();
        assert!(may_control(&paths, owner));
        assert!(may_control(&paths, 0));
        assert!(!may_control(&paths, owner + 1));
    }

    #[test]
    fn the_aliases_file_is_that_of_the_table_aliases_or_lies_beside_the_configuration() {
        // newaliases(8): the table `aliases` names the file.
        let (_dir, paths) = root();
        let found = |text: &str| {
            fs::write(&paths.conf, format!("{text}{CONF}")).unwrap();
            aliases(&paths, &paths.conf)
        };
        let beside = paths.conf.with_file_name("aliases");
        fs::write(&beside, "root: bob\n").unwrap();
        let named = format!("table aliases file:{}\n", beside.display());
        assert_eq!(found(&named).unwrap(), Aliases::Text(beside.clone()));
        assert_eq!(found("").unwrap(), Aliases::Text(beside));
        assert_eq!(
            without_db(Path::new("/e/aliases.db")),
            Path::new("/e/aliases")
        );
        assert_eq!(without_db(Path::new("/e/aliases")), Path::new("/e/aliases"));
        let failure = found("table aliases { a = b }\n").unwrap_err();
        assert!(failure.text.ends_with("has no file"), "{failure:?}");
        assert!(found("nonsense\n").is_err());
        fs::remove_file(&paths.conf).unwrap();
        assert!(aliases(&Paths::system(), &paths.conf).is_err());
    }
}
