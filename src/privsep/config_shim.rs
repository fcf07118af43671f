//! The one place where parent, engine and command line meet `config`'s loader.
//!
//! Stands in until `config::Sources`, `config::load` and `config::Diagnostic` exist; then this file
//! is a line of `pub use`. It reads the main file and knows the built-in configuration only.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::config::{
    Action, Config, Criterion, Delivery, Listener, LocalAction, MdaLimits, Method, Paths, Place,
    QueueOptions, Rule, SchedulerLimits, Smtp, SocketListener, Test,
};
use crate::util::Line;

use super::frame::{Malformed, Reader, Writer};

/// Every byte that the configuration is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    /// smtpd.conf(5).
    pub main: PathBuf,
    /// It, its includes and file tables.
    pub files: BTreeMap<PathBuf, Vec<u8>>,
    /// `-D`.
    pub macros: Vec<(String, String)>,
}

/// One complaint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic(pub String);

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Sources {
    /// Reads what `paths.conf` names.
    pub fn collect(paths: &Paths, macros: &[(String, String)]) -> Result<Sources, Vec<Diagnostic>> {
        let text = std::fs::read(&paths.conf)
            .map_err(|error| vec![Diagnostic(format!("{}: {error}", paths.conf.display()))])?;
        Ok(Sources::of_text(&paths.conf, &text, macros))
    }

    /// A configuration that is not in a file.
    pub fn of_text(main: &Path, text: &[u8], macros: &[(String, String)]) -> Sources {
        Sources {
            main: main.to_owned(),
            files: BTreeMap::from([(main.to_owned(), text.to_vec())]),
            macros: macros.to_vec(),
        }
    }

    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.text(&self.main.to_string_lossy());
        w.u32(self.files.len() as u32);
        for (path, bytes) in &self.files {
            w.text(&path.to_string_lossy());
            w.bytes(bytes);
        }
        w.u32(self.macros.len() as u32);
        for (name, value) in &self.macros {
            w.text(name);
            w.text(value);
        }
        w.finish(usize::MAX).unwrap_or_default()
    }

    /// From bytes.
    pub fn decode(bytes: &[u8]) -> Option<Sources> {
        Sources::read(bytes).ok()
    }

    fn read(bytes: &[u8]) -> Result<Sources, Malformed> {
        let mut r = Reader::new(bytes)?;
        let main = r.text()?.into();
        let files = (0..r.u32()?)
            .map(|_| Ok((r.text()?.into(), r.bytes()?.to_vec())))
            .collect::<Result<_, Malformed>>()?;
        let macros = (0..r.u32()?)
            .map(|_| Ok((r.text()?.to_owned(), r.text()?.to_owned())))
            .collect::<Result<_, Malformed>>()?;
        r.end()?;
        Ok(Sources {
            main,
            files,
            macros,
        })
    }
}

/// The built-in configuration, whatever the sources say.
pub fn load(sources: &Sources, _paths: &Paths) -> Result<Config, Vec<Diagnostic>> {
    let place = Place {
        file: sources.main.display().to_string(),
        line: 1,
    };
    let port = sources.macros.iter().find(|(name, _)| name == "port");
    let port = port.map_or(Ok(2525), |(_, value)| value.parse());
    let port = port.map_err(|_| vec![Diagnostic(format!("{}:1: invalid port", place.file))])?;
    let localhost = Line::sanitize(b"localhost");
    let test = |test| Criterion {
        negated: false,
        test,
    };
    Ok(Config {
        server_name: localhost.clone(),
        listeners: vec![Listener {
            on: "127.0.0.1".into(),
            family: None,
            port,
            hostname: localhost,
            hostnames: None,
            tag: None,
            mask_src: false,
            no_dsn: false,
            received_auth: false,
            senders: None,
            at: place.clone(),
        }],
        socket: SocketListener::default(),
        tables: BTreeMap::new(),
        actions: BTreeMap::from([(
            "local".to_owned(),
            Action {
                name: Line::sanitize(b"local"),
                method: Method::Local(LocalAction {
                    delivery: Delivery::Maildir {
                        path: None,
                        junk: false,
                    },
                    user: None,
                    alias: None,
                    virtuals: None,
                    userbase: None,
                    wrapper: None,
                }),
                ttl_s: None,
                at: place.clone(),
            },
        )]),
        rules: vec![Rule {
            criteria: vec![test(Test::FromLocal), test(Test::ForLocal)],
            action: Some("local".into()),
            at: place,
        }],
        mda_wrappers: BTreeMap::new(),
        smtp: Smtp::default(),
        queue: QueueOptions::default(),
        mda: MdaLimits::default(),
        scheduler: SchedulerLimits::default(),
        bounce_warn_s: vec![14400],
    })
}
