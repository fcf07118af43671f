//! What the messages of a file have left behind: mailboxes, files, notes of commands, envelopes in
//! the queue, failed deliveries in the log.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::lmtp::Seen;
use crate::support::{Instance, files};

use super::script::{Expected, Story};
use super::stage::{Played, owner_name};

/// Everything at one moment.
pub struct Trail {
    /// Whether no local delivery is under way or due.
    pub quiet: bool,
    left: Vec<Left>,
    queue: Vec<String>,
    log: String,
    root: String,
}

/// A file that a delivery has written.
struct Left {
    head: String,
    text: String,
    /// It is only of the story whose token it is named after.
    note_of: Option<String>,
}

/// What one story's message has come to: a head as in the story, and the lines of it.
struct Found<'t> {
    head: String,
    text: &'t str,
}

impl Trail {
    /// Looks at everything.
    pub fn read(daemon: &Instance, users: &[String], servers: &[(String, Seen)]) -> Trail {
        // The queue first: what has left it is in its file by then.
        let queue = daemon.queue();
        let root = daemon.path();
        let mut left = Vec::new();
        for path in below(root) {
            left.extend(read_left(root, &path, users));
        }
        for (path, seen) in servers {
            left.extend(seen.messages().into_iter().map(|(rcpts, text)| Left {
                head: format!("lmtp {path} {}", rcpts.join(",")),
                text,
                note_of: None,
            }));
        }
        Trail {
            quiet: queue.iter().all(|line| is_quiet(line)),
            left,
            queue,
            log: daemon.log(),
            root: root.display().to_string(),
        }
    }

    /// What is otherwise than a story says.
    pub fn differences(&self, story: &Story, played: &Played, number: usize) -> Vec<String> {
        let mut wrong = Vec::new();
        for ((rcpt, wanted), heard) in story.rcpts.iter().zip(&played.replies) {
            if wanted != heard {
                wrong.push(format!("<{rcpt}> is told {heard}\n\t\tinstead of {wanted}"));
            }
        }
        for text in &story.said {
            let text = text.replace("$dir", &self.root);
            if !self.log.contains(&text) {
                wrong.push(format!("not in the log: {text}"));
            }
        }
        let mut found = self.found(played, number);
        for wanted in &story.expected {
            let head = wanted.head.replace("$dir", &self.root);
            let same = |found: &Found<'_>| found.head == head && self.holds(found, wanted);
            match found.iter().position(same) {
                Some(at) => drop(found.remove(at)),
                None => wrong.push(format!("missing: {head} {}", wanted.lines.join(" | "))),
            }
        }
        for extra in found {
            let about = if extra.head.starts_with("ran") {
                extra.text.replace('\n', "\n\t\t")
            } else {
                String::new()
            };
            wrong.push(format!("unexpected: {} {about}", extra.head));
        }
        wrong
    }

    fn holds(&self, found: &Found<'_>, wanted: &Expected) -> bool {
        wanted.lines.iter().all(|line| {
            let line = line.replace("$dir", &self.root);
            match line.strip_prefix('!') {
                Some(name) => !found.text.lines().any(|there| there.starts_with(name)),
                None => found.text.lines().any(|there| there == line),
            }
        })
    }

    fn found(&self, played: &Played, number: usize) -> Vec<Found<'_>> {
        let token = format!("{number};");
        let line = format!("X-Story: {token}");
        let mut found = Vec::new();
        for left in &self.left {
            let times = match &left.note_of {
                Some(of) => usize::from(*of == token),
                None => left.text.lines().filter(|there| *there == line).count(),
            };
            found.extend((0..times).map(|_| Found {
                head: left.head.clone(),
                text: &left.text,
            }));
        }
        let Some(msgid) = &played.msgid else {
            return found;
        };
        let of_message = |line: &&String| line.starts_with(msgid.as_str());
        for line in self.queue.iter().filter(of_message) {
            found.extend(relayed(line).map(|head| Found { head, text: "" }));
        }
        let needle = format!("evpid={msgid}");
        for line in self.log.lines().filter(|line| line.contains(&needle)) {
            found.extend(failed(line).map(|head| Found { head, text: "" }));
        }
        found
    }
}

/// Whether an envelope waits for something else than its first attempt.
fn is_quiet(line: &str) -> bool {
    let fields: Vec<&str> = line.split('|').collect();
    let field = |at: usize| fields.get(at).copied().unwrap_or_default();
    let due = field(12).parse::<i64>().is_ok_and(|in_s| in_s <= 0);
    field(2) == "mta" || (field(11) == "pending" && !due)
}

/// An envelope for another host.
fn relayed(line: &str) -> Option<String> {
    let fields: Vec<&str> = line.split('|').collect();
    let (agent, flags, dest) = (fields.get(2)?, fields.get(3)?, fields.get(6)?);
    let head = format!("relay {dest} {flags}");
    (*agent == "mta").then(|| head.trim_end().to_owned())
}

/// A delivery that did not end well.
fn failed(line: &str) -> Option<String> {
    let (_, rest) = line.split_once(" mda delivery ")?;
    let (_, user) = rest.split_once(" user=")?;
    let (_, result) = rest.split_once(" result=")?;
    let (result, text) = result.split_once(" stat=")?;
    let user = user.split(' ').next()?;
    (result != "Ok").then(|| format!("fails {user} {result} {text}"))
}

/// Every file that a delivery may have written.
fn below(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = ["home", "mailboxes", "out", "ran"]
        .iter()
        .map(|name| root.join(name))
        .collect();
    while let Some(folder) = folders.pop() {
        for path in files(&folder) {
            match fs::symlink_metadata(&path) {
                Ok(meta) if meta.is_dir() => folders.push(path),
                Ok(meta) if meta.is_file() => found.push(path),
                _ => {}
            }
        }
    }
    found
}

fn read_left(root: &Path, path: &Path, users: &[String]) -> Option<Left> {
    let owner = owner_name(users, fs::metadata(path).ok()?.uid());
    let text = String::from_utf8_lossy(&fs::read(path).ok()?).into_owned();
    let short = path.strip_prefix(root).ok()?.display().to_string();
    if let Some(note) = short.strip_prefix("ran/") {
        let (token, rest) = note.split_once('.')?;
        return (!rest.ends_with("new")).then(|| Left {
            head: text.lines().next().unwrap_or_default().to_owned(),
            note_of: Some(token.to_owned()),
            text,
        });
    }
    let maildir = short.rsplit_once("/new/").map(|(dir, _)| dir);
    Some(Left {
        head: match maildir {
            Some(dir) => format!("maildir {owner} {dir}"),
            None => format!("append {owner} {short}"),
        },
        text,
        note_of: None,
    })
}
