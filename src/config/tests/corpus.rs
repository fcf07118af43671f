//! The files of tests/configs: what must be accepted, what must be refused, and with which words.
//!
//! A file starts with lines that say what is expected of the rest, which is the configuration; its
//! lines are counted from there. `# expect: ` is an error, `# warn: ` a warning, each as it is
//! printed but for the name of the file.
//!
//! What the language has and this version cannot do yet is accepted here: these files are about
//! the language.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::config::{Diagnostic, Sources, load, print};

use super::defaults;

/// One file.
#[derive(Clone)]
pub struct Case {
    pub path: PathBuf,
    pub errors: Vec<String>,
    pub warnings: Vec<String>,
    pub text: String,
}

impl Case {
    fn read(path: PathBuf) -> Case {
        let whole = fs::read_to_string(&path).unwrap();
        let mut rest = whole.as_str();
        let (mut errors, mut warnings) = (Vec::new(), Vec::new());
        loop {
            let (line, after) = rest.split_once('\n').unwrap_or((rest, ""));
            if let Some(error) = line.strip_prefix("# expect: ") {
                errors.push(error.to_owned());
            } else if let Some(warning) = line.strip_prefix("# warn: ") {
                warnings.push(warning.to_owned());
            } else {
                break;
            }
            rest = after;
        }
        let text = rest.to_owned();
        Case {
            path,
            errors,
            warnings,
            text,
        }
    }

    /// The files of tests/configs/files are `/files/…` to it, and `/etc/mail/…`.
    fn sources(&self) -> Sources {
        let mut sources = Sources::from_text("f", &self.text, &[]);
        for path in files("files") {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            for dir in ["/files", "/etc/mail"] {
                sources.insert(&Path::new(dir).join(&name), fs::read(&path).unwrap());
            }
        }
        sources
    }
}

/// The files of a directory of tests/configs.
pub fn cases(kind: &str) -> Vec<Case> {
    files(kind).into_iter().map(Case::read).collect()
}

fn files(kind: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/configs");
    let mut found: Vec<PathBuf> = fs::read_dir(dir.join(kind))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    found.sort();
    found
}

fn texts(found: &[Diagnostic]) -> Vec<String> {
    let text = |one: &Diagnostic| one.to_string();
    let shorten = |text: String| text.trim_start_matches("f:").trim_start().to_owned();
    found.iter().map(text).map(shorten).collect()
}

// Every file of tests/configs/good is accepted with the warnings it announces, and what was
// understood reads back the same.
#[test]
fn good_configurations_are_accepted() {
    let all = cases("good");
    let mut wrong = BTreeMap::new();
    for case in all {
        let sources = case.sources();
        let name = case.path.display();
        assert!(case.errors.is_empty(), "{name}");
        match load(&sources, &defaults()) {
            Ok(loaded) => {
                let warnings = texts(&loaded.warnings);
                if warnings != case.warnings {
                    wrong.insert(name.to_string(), warnings);
                }
            }
            Err(errors) => {
                wrong.insert(name.to_string(), texts(&errors));
                continue;
            }
        }
        let printed = print(&sources).unwrap();
        let again = print(&Sources::from_text("f", &printed, &[])).unwrap();
        assert_eq!(printed, again, "{name}");
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

// Every file of tests/configs/bad gives exactly the complaints it announces.
#[test]
fn bad_configurations_are_explained() {
    let all = cases("bad");
    let mut wrong = BTreeMap::new();
    for case in all {
        let name = case.path.display().to_string();
        assert!(!case.errors.is_empty(), "{name}");
        let found = match load(&case.sources(), &defaults()) {
            Ok(_) => Vec::new(),
            Err(errors) => texts(&errors),
        };
        if found != case.errors {
            wrong.insert(name, found);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
