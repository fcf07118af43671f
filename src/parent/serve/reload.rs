//! The configuration in use, and one that may take its place: SIGHUP, `smtpctl reload`.
//!
//! The files are read and checked as at the start. A configuration that is good is handed to the
//! engine, with a way to its private keys; once the engine has it in use it is used here too. What
//! is wrong, or takes a restart, is said, and nothing changes. A table that smtpctl(8) has read again
//! is read here as well: it stays when certificates are renewed and when an engine is started anew.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::config::{Config, TableSource, limits, needs_restart};
use crate::log;
use crate::parent::keys::Keeper;
use crate::parent::listeners::{Bound, bind_all};
use crate::parent::userbase::{Userbases, is_userbase};
use crate::privsep::handover::MAX_HANDOVER;
use crate::privsep::{Extent, Handover, Reply};
use crate::sys::errno::strerror;
use crate::sys::open;
use crate::table::Tables;
use crate::util::cut;

use super::Parent;

/// A configuration, for us and for every engine.
pub struct InUse {
    /// The hand-over, as it was read first.
    encoded: Vec<u8>,
    /// How long files of tables are in it.
    lengths: BTreeMap<PathBuf, usize>,
    /// Files of tables that were read since, until an engine gets them.
    fresh: BTreeMap<PathBuf, Vec<u8>>,
    pub config: Config,
    pub users: Userbases,
    /// The files of certificates and authorities, as they were read.
    certificates: BTreeMap<PathBuf, Vec<u8>>,
}

impl InUse {
    /// Reads the tables in which users are found.
    pub fn new(handover: &Handover, config: Config) -> Result<InUse, String> {
        let users = Userbases::load(&config, &handover.sources)?;
        let certificates = certificate_files(&config).filter_map(|path| {
            let bytes = handover.sources.file(path).ok()?;
            Some((path.to_owned(), bytes.to_vec()))
        });
        let certificates = certificates.collect();
        let lengths = config.tables.values().filter_map(|source| {
            let TableSource::File(path) = source else {
                return None;
            };
            let bytes = handover.sources.file(path).ok()?;
            Some((path.clone(), bytes.len()))
        });
        let lengths = lengths.collect();
        let encoded = handover
            .encode()
            .map_err(|error| format!("configuration: {error}"))?;
        Ok(InUse {
            encoded,
            lengths,
            fresh: BTreeMap::new(),
            config,
            users,
            certificates,
        })
    }

    /// The handover with the certificates that are on the disk now; `None` if none has changed.
    fn renewed(&self) -> Result<Option<Handover>, String> {
        let mut changed = Vec::new();
        for (path, before) in &self.certificates {
            let now = open::read_plain(path, limits::TABLE_BYTES)
                .map_err(|error| format!("{}: {}", path.display(), strerror(&error)))?;
            if now != *before {
                changed.push((path, now));
            }
        }
        if changed.is_empty() {
            return Ok(None);
        }
        let mut handover = self.decoded()?;
        for (path, bytes) in changed {
            handover.sources.insert(path, bytes);
        }
        Ok(Some(handover))
    }

    /// With all that was read since.
    fn decoded(&self) -> Result<Handover, String> {
        let mut handover =
            Handover::decode(&self.encoded).map_err(|error| format!("configuration: {error}"))?;
        for (path, bytes) in &self.fresh {
            handover.sources.insert(path, bytes.clone());
        }
        Ok(handover)
    }

    /// What an engine gets. It may hold every table there is, so tables that were read again are put
    /// in here, all at once, and not at each update.
    pub(super) fn handover(&mut self) -> &[u8] {
        if !self.fresh.is_empty() {
            let encoded = self
                .decoded()
                .and_then(|handover| handover.encode().map_err(|error| error.to_string()));
            match encoded {
                Ok(encoded) => {
                    self.encoded = encoded;
                    for (path, bytes) in &self.fresh {
                        self.lengths.insert(path.clone(), bytes.len());
                    }
                }
                Err(why) => log::warn(format_args!(
                    "updated tables: {why}: the engine starts with the old entries"
                )),
            }
            self.fresh.clear();
        }
        &self.encoded
    }

    /// Reads the file of a table again. What no engine could start with changes nothing: neither does
    /// what makes the hand-over longer than `most` bytes.
    fn update(&mut self, table: &str, most: usize) -> Result<(), String> {
        let Some(TableSource::File(path)) = self.config.tables.get(table) else {
            return Ok(());
        };
        let bytes = open::read_plain(path, limits::TABLE_BYTES)
            .map_err(|error| format!("{}: {}", path.display(), strerror(&error)))?;
        // Other tables may be in the same file.
        for (name, source) in &self.config.tables {
            if matches!(source, TableSource::File(other) if other == path) {
                Tables::check_file(&self.config, name, &bytes)?;
            }
        }
        let others = self.fresh.iter().filter(|(other, _)| *other != path);
        let fresh = others.chain([(path, &bytes)]);
        let length = fresh.fold(self.encoded.len(), |sum, (path, bytes)| {
            let before = self.lengths.get(path).copied().unwrap_or(0);
            sum.saturating_sub(before) + bytes.len()
        });
        if length > most {
            return Err("all tables together are too long".to_owned());
        }
        if is_userbase(&self.config, table) {
            self.users.replace(table, &bytes)?;
        }
        self.fresh.insert(path.clone(), bytes);
        Ok(())
    }
}

fn certificate_files(config: &Config) -> impl Iterator<Item = &Path> {
    let certs = config.pki.values().filter_map(|pki| pki.cert.as_deref());
    certs.chain(config.ca.values().map(PathBuf::as_path))
}

/// What will be in use once the engine says that it is.
pub struct Next {
    in_use: InUse,
    /// Its private keys, if they differ.
    pub(super) keys: Option<Keeper>,
    /// What listens then.
    listeners: Vec<Bound>,
}

impl Parent {
    /// SIGHUP. An engine asks for what it will have to take over; without one there is nothing
    /// that could go wrong behind our back.
    pub(super) fn hangup(&mut self) {
        if self.link().is_some() {
            return self.tell(&Reply::Hangup(Extent::All));
        }
        match self.read_anew(Extent::All) {
            Ok(next) => {
                self.use_next(next);
                log::info(format_args!("info: configuration reloaded"));
            }
            Err(why) => {
                for line in why.lines() {
                    log::warn(format_args!("reload: {line}"));
                }
                log::warn(format_args!("reload: the old configuration stays"));
            }
        }
    }

    /// A table that the engine has read again.
    pub(super) fn update_table(&mut self, name: &str) {
        if let Err(why) = self.in_use.update(name, MAX_HANDOVER) {
            log::warn(format_args!(
                "table {name}: {why}: the next engine starts with the old entries"
            ));
        }
    }

    /// Certificates that have been renewed are used, whatever else of the configuration may have
    /// been changed and not yet put to use.
    pub(super) fn look_at_certificates(&mut self) {
        let keys = Keeper::load(&self.in_use.config);
        let changed = self.in_use.renewed().and_then(|renewed| {
            let keys = keys.map(|keys| !self.held.keys.has_those_of(&keys));
            Ok(renewed.is_some() || keys?)
        });
        match changed {
            Ok(true) => {
                log::info(format_args!(
                    "info: certificates have changed: reading them"
                ));
                self.tell(&Reply::Hangup(Extent::Certificates));
            }
            Ok(false) => {}
            Err(why) => log::warn(format_args!("certificates: {why}")),
        }
    }

    /// The engine asks for a new configuration.
    pub(super) fn reload(&mut self, id: u32, extent: Extent) {
        self.reloaded(false);
        let frames = self.read_anew(extent).and_then(|next| {
            let frames = self.for_engine(id, &next);
            self.next = Some(next);
            frames.map_err(|error| strerror(&error))
        });
        match frames {
            Ok(frames) => {
                for (reply, fds) in frames {
                    self.hand_over(&reply, fds);
                }
            }
            Err(text) => self.tell(&Reply::BadConfig {
                id,
                text: cut(&text, TEXT_MAX).to_owned(),
            }),
        }
    }

    /// What the engine made of it.
    pub(super) fn reloaded(&mut self, used: bool) {
        match self.next.take() {
            Some(next) if used => self.use_next(next),
            Some(next) => self.discard(next),
            None => {}
        }
    }

    /// Nobody will say any more whether it is to be used.
    pub(super) fn discard(&mut self, next: Next) {
        if let Some(keys) = next.keys {
            self.held.keys.retire(keys, Instant::now());
        }
    }

    fn use_next(&mut self, next: Next) {
        self.close_user_programs();
        self.in_use = next.in_use;
        self.held.listeners = next.listeners;
        if let Some(keys) = next.keys {
            self.held.keys.replace(keys, Instant::now());
            // The old process may have been started again meanwhile: the last socket is the right one.
            self.connect_keys();
        }
    }

    fn read_anew(&mut self, extent: Extent) -> Result<Next, String> {
        let handover = match extent {
            Extent::All => None,
            Extent::Certificates => Some(match self.in_use.renewed()? {
                Some(renewed) => renewed,
                // A key alone.
                None => self.in_use.decoded()?,
            }),
        };
        let (handover, config) = (self.reread)(handover).map_err(|lines| lines.join("\n"))?;
        let restart = needs_restart(&self.in_use.config, &config);
        if !restart.is_empty() {
            return Err(restart.join("\n"));
        }
        let mut keys = Keeper::load(&config)?;
        // A queue run takes no mail from the network.
        let listeners = if self.options.run_once {
            Vec::new()
        } else {
            bind_all(&config.listeners, &self.held.listeners)?
        };
        let in_use = InUse::new(&handover, config)?;
        let keys = if self.held.keys.has_those_of(&keys) {
            None
        } else if let Err(why) = keys.start_now(&self.options) {
            self.held.keys.retire(keys, Instant::now());
            return Err(why);
        } else {
            Some(keys)
        };
        Ok(Next {
            in_use,
            keys,
            listeners,
        })
    }

    /// What the engine is told of it: the sockets first.
    fn for_engine(&mut self, id: u32, next: &Next) -> io::Result<Vec<(Reply, Vec<OwnedFd>)>> {
        let mut frames = Vec::new();
        for bound in &next.listeners {
            let copy = OwnedFd::from(bound.socket.try_clone()?);
            frames.push((Reply::Listener { index: bound.index }, vec![copy]));
        }
        let file = open::to_pass_on(&self.options.paths.spool, &next.in_use.encoded)?;
        let mut fds = vec![OwnedFd::from(file)];
        fds.extend(match &next.keys {
            Some(keys) => keys.socket()?,
            None => None,
        });
        let reply = Reply::NewConfig {
            id,
            keys: fds.len() > 1,
            listeners: u32::try_from(next.listeners.len()).unwrap_or(u32::MAX),
        };
        frames.push((reply, fds));
        Ok(frames)
    }
}

/// Most bytes of what is said about a configuration: some dozen lines.
const TEXT_MAX: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Defaults, Method, Sources};
    use crate::parent::userbase::Users;
    use crate::util::Line;

    fn in_use(dir: &Path) -> InUse {
        let handover = Handover {
            sources: Sources::collect(&dir.join("smtpd.conf"), dir, &[]).unwrap(),
            defaults: Defaults {
                server_name: Line::new("mx.example.org").unwrap(),
                addresses: Vec::new(),
            },
        };
        let config = handover.load().unwrap().config;
        InUse::new(&handover, config).unwrap()
    }

    // smtpctl(8), update table: what was read holds for the parent, for new certificates and for the
    // next engine, and a broken file leaves the old entries.
    #[test]
    fn an_updated_table_stays_and_one_that_no_engine_could_use_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let (cert, conf, people) = (at("cert"), at("smtpd.conf"), at("people"));
        std::fs::write(&cert, "old").unwrap();
        std::fs::write(&people, "bob 1:1:/a\n").unwrap();
        let text = format!(
            "pki a cert \"{0}\"\npki a key \"{0}\"\ntable people file:{1}\n\
             action v maildir userbase <people>\nmatch for any action v\n",
            cert.display(),
            people.display()
        );
        std::fs::write(&conf, text).unwrap();
        let mut in_use = in_use(dir.path());
        let uid = |in_use: &InUse, name| {
            let Method::Local(action) = &in_use.config.actions["v"].method else {
                panic!("the action is local");
            };
            let found = in_use.users.recipient(action, name).unwrap();
            found.map(|user| user.uid)
        };
        let good = "bob 2:2:/a\nalice 3:3:/b\n";
        std::fs::write(&people, good).unwrap();
        assert_eq!(uid(&in_use, "alice"), None);
        in_use.update("people", MAX_HANDOVER).unwrap();
        // A line that is no entry, a list where users are wanted.
        for broken in ["bob 4:4:/\n[\n", "bob\n"] {
            std::fs::write(&people, broken).unwrap();
            assert!(in_use.update("people", MAX_HANDOVER).is_err(), "{broken}");
        }
        std::fs::remove_file(&people).unwrap();
        assert!(in_use.update("people", MAX_HANDOVER).is_err());
        in_use.update("no such table", MAX_HANDOVER).unwrap();
        assert_eq!(uid(&in_use, "bob"), Some(2));
        assert_eq!(uid(&in_use, "alice"), Some(3));
        std::fs::write(&cert, "new").unwrap();
        // An update costs what the table does: the rest is put together when an engine starts.
        assert_eq!(in_use.fresh.len(), 1);
        let renewed = in_use.renewed().unwrap().unwrap();
        let next = Handover::decode(in_use.handover()).unwrap();
        assert!(in_use.fresh.is_empty());
        for handover in [renewed, next, in_use.decoded().unwrap()] {
            assert_eq!(handover.sources.file(&people), Ok(good.as_bytes()));
        }
    }

    // What does not fit a hand-over would be lost with all other updates when an engine starts.
    #[test]
    fn an_update_is_refused_where_all_tables_together_become_too_long() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let text = format!(
            "table a file:{}\ntable b file:{}\nmatch from src <a> for domain <b> reject\n",
            at("a").display(),
            at("b").display()
        );
        std::fs::write(at("smtpd.conf"), text).unwrap();
        std::fs::write(at("a"), "192.0.2.1\n").unwrap();
        std::fs::write(at("b"), "example.org\n").unwrap();
        let mut in_use = in_use(dir.path());
        let (long, longer) = ("192.0.2.1\n".repeat(2), "192.0.2.1\n".repeat(3));
        let most = in_use.encoded.len() + long.len();
        // Twice, with what was read before still to be put in, and with all of it in its place.
        for _ in 0..2 {
            std::fs::write(at("a"), &longer).unwrap();
            in_use.update("a", most).unwrap();
            std::fs::write(at("b"), "example.com\n").unwrap();
            in_use.update("b", most).unwrap();
            std::fs::write(at("b"), "example.com.\n").unwrap();
            let why = in_use.update("b", most).unwrap_err();
            assert_eq!(why, "all tables together are too long");
            assert_eq!(in_use.handover().len(), most);
            let kept = in_use.decoded().unwrap();
            assert_eq!(kept.sources.file(&at("a")), Ok(longer.as_bytes()));
            assert_eq!(kept.sources.file(&at("b")), Ok(&b"example.com\n"[..]));
        }
    }

    #[test]
    fn renewed_certificates_are_noticed_and_nothing_else_is_taken_over() {
        // smtpd.conf(5), pki: files are looked at once an hour.
        let dir = tempfile::tempdir().unwrap();
        let (cert, conf) = (dir.path().join("cert"), dir.path().join("smtpd.conf"));
        std::fs::write(&cert, "old").unwrap();
        let text = format!(
            "pki a cert \"{0}\"\npki a key \"{0}\"\naction x maildir\nmatch for local action x\n",
            cert.display()
        );
        std::fs::write(&conf, &text).unwrap();
        let in_use = in_use(dir.path());
        assert!(in_use.renewed().unwrap().is_none());
        std::fs::write(&conf, "nonsense").unwrap();
        std::fs::write(&cert, "new").unwrap();
        let renewed = in_use.renewed().unwrap().unwrap();
        assert_eq!(renewed.sources.file(&cert), Ok(&b"new"[..]));
        assert_eq!(renewed.sources.file(&conf), Ok(text.as_bytes()));
        std::fs::remove_file(&cert).unwrap();
        assert!(in_use.renewed().is_err());
    }
}
