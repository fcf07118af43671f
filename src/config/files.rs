//! Files that a configuration names and that only some may write or read.
//!
//! Certificates and keys are looked at before the daemon starts: one that others may change, or a
//! key that others may read, is refused rather than used.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::sys::errno::strerror;
use crate::sys::open;

use super::{Config, limits};

/// What a file holds, and how open it may be.
struct Kind {
    what: &'static str,
    mode: u32,
    mode_text: &'static str,
    /// How the line that announces the contents ends.
    begins: &'static [&'static str],
    holds: &'static str,
}

const CERTIFICATE: Kind = Kind {
    what: "certificate",
    mode: 0o755,
    mode_text: "rwxr-xr-x",
    begins: &["CERTIFICATE-----"],
    holds: "a certificate",
};

const CA: Kind = Kind {
    what: "CA",
    ..CERTIFICATE
};

const KEY: Kind = Kind {
    what: "key",
    mode: 0o740,
    mode_text: "rwxr-----",
    begins: &["PRIVATE KEY-----"],
    holds: "a private key",
};

/// What is wrong with the files of `pki` and `ca`. They must belong to one of `owners`.
pub fn certificates(config: &Config, owners: &[u32]) -> Vec<String> {
    let mut found = Vec::new();
    let mut look = |directive: &str, name: &str, path: &Path, kind: &Kind| {
        if let Err(why) = check(path, kind, owners) {
            let what = kind.what;
            let path = path.display();
            let text = format!("{directive} {name}: failed to load {what} file {path}: {why}");
            found.push(text);
        }
    };
    for (name, pki) in &config.pki {
        for (file, kind) in [(&pki.cert, &CERTIFICATE), (&pki.key, &KEY)] {
            if let Some(path) = file {
                look("pki", name, path, kind);
            }
        }
    }
    for (name, path) in &config.ca {
        look("ca", name, path, &CA);
    }
    found
}

/// Files of configuration text that others than their owner may change.
pub fn open_to_others<'f>(files: impl Iterator<Item = &'f Path>) -> Vec<String> {
    let suspect = |path: &&Path| {
        let found = open::plain(path).and_then(|file| file.metadata());
        found.is_ok_and(|found| found.mode() & 0o022 != 0)
    };
    let text = |path: &Path| {
        let path = path.display();
        format!("{path}: insecure permissions: others than its owner may write to it")
    };
    files.filter(suspect).map(text).collect()
}

fn check(path: &Path, kind: &Kind, owners: &[u32]) -> Result<(), String> {
    let said = |error: io::Error| strerror(&error);
    let file = open::plain(path).map_err(said)?;
    let found = file.metadata().map_err(said)?;
    permissions(&found, kind, owners)?;
    let bytes = open::read_within(file, limits::TEXT_BYTES).map_err(said)?;
    let text = String::from_utf8_lossy(&bytes);
    let mut lines = text.lines().map(str::trim_end);
    let announced = |line: &str| {
        line.starts_with("-----BEGIN ") && kind.begins.iter().any(|end| line.ends_with(end))
    };
    if lines.any(announced) {
        Ok(())
    } else {
        Err(format!("it does not hold {} in PEM form", kind.holds))
    }
}

fn permissions(found: &Metadata, kind: &Kind, owners: &[u32]) -> Result<(), String> {
    if !owners.contains(&found.uid()) {
        let owners: Vec<String> = owners.iter().map(u32::to_string).collect();
        return Err(format!("not owned by uid {}", owners.join(" or ")));
    }
    if found.mode() & 0o7777 & !kind.mode != 0 {
        return Err(format!(
            "insecure permissions: must be at most {}",
            kind.mode_text
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use crate::config::Pki;
    use crate::sys::user;

    use super::*;

    fn file(path: &Path, text: &str, mode: u32) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    fn config(dir: &Path) -> Config {
        let sources = crate::config::Sources::from_text("t", "match reject\n", &[]);
        let defaults = crate::config::Defaults {
            server_name: crate::util::Line::new("mx.example.org").unwrap(),
            addresses: Vec::new(),
        };
        let mut config = crate::config::load(&sources, &defaults).unwrap().config;
        let file = |name: &str| -> Option<PathBuf> { Some(dir.join(name)) };
        let pki = Pki {
            cert: file("crt"),
            key: file("key"),
            ..Pki::default()
        };
        config.pki.insert("mx".to_owned(), pki);
        config.ca.insert("all".to_owned(), dir.join("ca"));
        config
    }

    // smtpd.conf(5), pki and ca: who may own, write and read the files.
    #[test]
    fn certificates_belong_to_root_and_keys_are_not_for_everybody() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        let cert = "-----BEGIN CERTIFICATE-----\n";
        file(&dir.path().join("crt"), cert, 0o644);
        file(&dir.path().join("ca"), cert, 0o755);
        let key = dir.path().join("key");
        file(&key, "-----BEGIN EC PRIVATE KEY-----\r\n", 0o640);
        let me = user::effective_uid();
        assert_eq!(certificates(&config, &[0, me]), Vec::<String>::new());

        let strangers = certificates(&config, &[me + 1]);
        assert_eq!(strangers.len(), 3);
        assert!(strangers[0].ends_with(&format!("crt: not owned by uid {}", me + 1)));

        file(&dir.path().join("crt"), cert, 0o664);
        file(&key, cert, 0o640);
        fs::remove_file(dir.path().join("ca")).unwrap();
        let wrong = certificates(&config, &[me]);
        assert!(wrong[0].starts_with("pki mx: failed to load certificate file "));
        assert!(wrong[0].ends_with("crt: insecure permissions: must be at most rwxr-xr-x"));
        assert!(wrong[1].ends_with("key: it does not hold a private key in PEM form"));
        assert!(wrong[2].starts_with("ca all: failed to load CA file "));
        assert!(wrong[2].ends_with("ca: No such file or directory"));

        file(&key, "-----BEGIN PRIVATE KEY-----\n", 0o644);
        let wrong = certificates(&config, &[me]);
        assert!(wrong[1].ends_with("key: insecure permissions: must be at most rwxr-----"));
    }

    // smtpd(8): whoever may write the configuration is root.
    #[test]
    fn text_that_others_may_write_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let (own, group) = (dir.path().join("own"), dir.path().join("group"));
        file(&own, "", 0o644);
        file(&group, "", 0o664);
        let gone = dir.path().join("gone");
        let all = [own.as_path(), group.as_path(), gone.as_path()];
        let found = open_to_others(all.into_iter());
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("group: insecure permissions"));
    }
}
