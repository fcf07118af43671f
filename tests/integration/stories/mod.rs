//! Stories: who gets a message, and what its sender hears, told in `tests/stories/*.story`.
//!
//! Each file is one configuration with users, their homes and tables, and many messages. The real
//! daemon is started once for a file, as root, with the users of the file and no others; every
//! message is handed in over SMTP, and everything that comes of it is compared with the story:
//! the reply to each recipient, every mailbox, file, command and queued envelope. What a story
//! does not name must not happen.
//!
//! `script.rs` describes the format of the files.

mod script;
mod stage;
mod trail;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::support::{can_have_network, can_have_users, files, not_run};

use script::Script;
use stage::Stage;

/// Daemons at a time.
const TOGETHER: usize = 3;

#[test]
fn every_story_ends_as_it_is_told() {
    // smtpd.conf(5), aliases(5), forward(5), table(5): see the head of each file.
    let mut scripts: Vec<Script> = paths().iter().map(|path| read(path)).collect();
    scripts.retain(can_happen);
    let count: usize = scripts.iter().map(|script| script.stories.len()).sum();
    assert!(count > 0, "no stories");
    let names: Vec<&str> = scripts.iter().map(|script| script.name.as_str()).collect();
    if !can_have_users(&format!("{count} stories of {}", names.join(", "))) {
        return;
    }
    let waiting = Mutex::new(scripts.into_iter());
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..TOGETHER {
            scope.spawn(|| {
                while let Some(script) = next(&waiting) {
                    let failed = tell(&script);
                    failures.lock().expect("the failures").extend(failed);
                }
            });
        }
    });
    let failures = failures.into_inner().expect("the failures");
    assert!(
        failures.is_empty(),
        "{} of {count} stories end otherwise\n\n{}",
        failures.len(),
        failures.join("\n\n")
    );
}

fn next(waiting: &Mutex<std::vec::IntoIter<Script>>) -> Option<Script> {
    waiting.lock().expect("the scripts").next()
}

/// The files, or those whose names hold what `STORIES` says.
fn paths() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stories");
    let wanted = std::env::var("STORIES").unwrap_or_default();
    let mut all = files(&folder);
    all.retain(|path| {
        path.extension().is_some_and(|end| end == "story")
            && path
                .file_stem()
                .is_some_and(|name| name.to_string_lossy().contains(&wanted))
    });
    all.sort();
    all
}

fn read(path: &Path) -> Script {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    Script::parse(&name, &text).unwrap_or_else(|bad| panic!("{}{bad}", path.display()))
}

/// Whether the programs of a file are here; says its name when they are not.
fn can_happen(script: &Script) -> bool {
    let missing = script.needs.iter().find(|path| !Path::new(path).exists());
    if let Some(path) = missing {
        let test = format!("{} stories of {}", script.stories.len(), script.name);
        not_run(&test, &format!("needs {path}"));
    }
    let name = format!("{} stories of {}", script.stories.len(), script.name);
    missing.is_none() && (!script.network || can_have_network(&name))
}

/// Lets every story of a file happen; returns what is otherwise than it says.
fn tell(script: &Script) -> Vec<String> {
    let told = catch_unwind(AssertUnwindSafe(|| {
        let stage = Stage::build(script);
        let played = stage.play(script);
        let wrong = stage.compare(script, &played);
        if !wrong.is_empty() && std::env::var_os("STORIES").is_some() {
            eprintln!("{}", stage.log());
        }
        wrong
    }));
    told.unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().cloned();
        let said = said.or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string()));
        vec![format!("{}: {}", script.name, said.unwrap_or_default())]
    })
}
