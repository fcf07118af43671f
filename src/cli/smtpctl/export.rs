//! `export`: the queue as OpenSMTPD has it, for the way back.
//!
//! Bodies are written plain and envelopes without the lines that only we write, into the layout of
//! a queue that nobody else uses now. A message is complete or not there.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::Path;

use crate::cli::exit_error::ExitError;
use crate::config::paths::{self, Paths};
use crate::control::client::{Client, Error};
use crate::mail::{EvpId, MsgId};
use crate::queue::Body;
use crate::queue::coding::Name;
use crate::queue::envelope_file::{self, foreign};
use crate::queue::fs::{body_path, envelope_path, layout};
use crate::sys::errno::strerror;
use crate::sys::{self, user};
use crate::util::Line;

use super::spool::{self, Files, Keys};
use super::{plural, with_keys};

/// Lines of an envelope file that OpenSMTPD does not know.
const OURS: &[&str] = &[
    "check",
    "remote",
    "suspended",
    "status",
    "bounce-arrival",
    "bounce-last-try",
    "bounce-relayed",
];

/// Where OpenSMTPD has its helpers: in OpenBSD, where it installs them itself, in FreeBSD's port.
const HELPERS: [&str; 3] = [
    "/usr/libexec",
    "/usr/libexec/opensmtpd",
    "/usr/local/libexec/opensmtpd",
];

/// What differs from one OpenSMTPD to the next.
struct Target {
    /// What delivers to files of aliases.
    to_file: String,
    /// Who runs commands of aliases.
    daemon: String,
}

impl Target {
    /// That of this machine, as far as it is there.
    fn find() -> Target {
        let own = match std::env::consts::OS {
            "openbsd" => 0,
            "freebsd" => 2,
            _ => 1,
        };
        let is_there = |dir: &&&str| Path::new(dir).join("mail.mboxfile").exists();
        let dir = HELPERS.iter().find(is_there).unwrap_or(&HELPERS[own]);
        let exists = |name: &&&str| matches!(user::by_name(name), Ok(Some(_)));
        let others = foreign::DAEMONS.iter().filter(|name| **name != paths::USER);
        Target {
            to_file: format!("{dir}{}", foreign::TO_FILE),
            daemon: others
                .clone()
                .find(exists)
                .unwrap_or(&paths::USER)
                .to_string(),
        }
    }
}

/// What has become of the messages.
#[derive(Default)]
struct Count {
    messages: u32,
    envelopes: u32,
    unreadable: u32,
}

/// Writes all that lies in the spool to `to`/queue, of which there must be none yet.
pub fn run(to: &str, paths: &Paths, out: &mut dyn Write) -> Result<i32, ExitError> {
    let _kept_out = keep_out(paths)?;
    let queue = Path::new(to).join(layout::QUEUE);
    let failed = |path: &Path, error: &io::Error| ExitError::io(path.display(), error);
    let owner = fs::metadata(paths.spool.join(layout::QUEUE))
        .map_err(|e| failed(&paths.spool.join(layout::QUEUE), &e))?;
    let owner = (user::effective_uid() == 0).then(|| (owner.uid(), owner.gid()));
    match fs::DirBuilder::new().mode(0o755).create(to) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            return Err(failed(Path::new(to), &e));
        }
        _ => {}
    }
    make_dir(&queue).map_err(|e| failed(&queue, &e))?;
    let count = with_keys(paths, |keys| {
        let files = Files::find(&paths.spool, None)?;
        let export = Export {
            files: &files,
            keys,
            queue: &queue,
            target: Target::find(),
        };
        export.all()
    })?;
    let synced = File::open(&queue).and_then(|dir| sys::fs::sync_file_system(&dir));
    synced
        .and_then(|synced| settle(&queue, owner, synced))
        .map_err(|e| failed(&queue, &e))?;
    let (envelopes, messages) = (plural(count.envelopes, "exported"), count.messages);
    writeln!(out, "{envelopes} in {messages} messages").map_err(|e| ExitError::output(&e))?;
    if count.unreadable > 0 {
        let text = format!(
            "{} files could not be read, and are not exported",
            count.unreadable
        );
        return Err(ExitError::new(text));
    }
    match waiting_offline(&paths.spool) {
        0 => Ok(0),
        waiting => Err(ExitError::new(format!(
            "{waiting} messages that sendmail(8) took while smtpd was down are not exported: \
             start smtpd once more, or send them again from {}",
            paths.spool.join(layout::OFFLINE).display()
        ))),
    }
}

/// Makes sure that no daemon runs, nor starts before what is given back is closed.
fn keep_out(paths: &Paths) -> Result<File, ExitError> {
    let spool =
        sys::open::dir(&paths.spool).map_err(|e| ExitError::io(paths.spool.display(), &e))?;
    // Some network file systems lock no directory.
    let is_free = sys::lock::try_flock(&spool).unwrap_or(true);
    match Client::connect(&paths.socket) {
        Err(Error::Down) if is_free => Ok(spool),
        _ => Err(ExitError::new(
            "smtpd is running: stop it first, or mail is there twice",
        )),
    }
}

/// Messages of local users that no daemon has taken in yet.
fn waiting_offline(spool: &Path) -> usize {
    let entries = fs::read_dir(spool.join(layout::OFFLINE))
        .into_iter()
        .flatten();
    let names = entries.filter_map(|entry| Some(entry.ok()?.file_name()));
    names
        .filter(|name| !name.as_encoded_bytes().starts_with(b"."))
        .count()
}

/// From where to where.
struct Export<'a> {
    files: &'a Files<'a>,
    keys: &'a Keys<'a>,
    queue: &'a Path,
    target: Target,
}

impl Export<'_> {
    fn all(&self) -> Result<Count, ExitError> {
        let mut count = Count::default();
        for msgid in self.files.messages(None)? {
            let envelopes = self.envelopes(msgid, &mut count);
            if envelopes.is_empty() {
                continue;
            }
            match self
                .keys
                .open(self.files, &body_path(msgid), Name::body(msgid))
            {
                Ok(body) => self.message(msgid, body, &envelopes, &mut count)?,
                Err(why) => count.pass_over(&body_path(msgid), &why.text),
            }
        }
        Ok(count)
    }

    /// The envelopes of a message that can be read, in OpenSMTPD's words.
    fn envelopes(&self, msgid: MsgId, count: &mut Count) -> Vec<(EvpId, String)> {
        let mut found = Vec::new();
        for id in self.files.envelopes(msgid) {
            let path = envelope_path(id);
            let read = self.keys.open(self.files, &path, Name::envelope(id));
            let text = read.map_err(|why| why.text).and_then(|text| {
                let mut bytes = Vec::new();
                let read = text.take(spool::LONGEST_ENVELOPE).read_to_end(&mut bytes);
                read.map_err(|error| strerror(&error))?;
                let daemon = Line::sanitize(paths::USER.as_bytes());
                let envelope = envelope_file::decode_for(id, &bytes, Some(&daemon))?;
                self.target.translated(&envelope_file::encode(&envelope)?)
            });
            match text {
                Ok(text) => found.push((id, text)),
                Err(why) => count.pass_over(&path, &why),
            }
        }
        found
    }

    fn message(
        &self,
        msgid: MsgId,
        mut body: Body,
        envelopes: &[(EvpId, String)],
        count: &mut Count,
    ) -> Result<(), ExitError> {
        let id = msgid.to_string();
        let bucket = self.queue.join(id.get(..2).unwrap_or_default());
        let dir = bucket.join(&id);
        let failed = |error: io::Error| ExitError::io(dir.display(), &error);
        match make_dir(&bucket) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed(error));
            }
            _ => {}
        }
        make_dir(&dir).map_err(failed)?;
        let mut file = new_file(&dir.join(layout::BODY)).map_err(failed)?;
        match copy(&mut body, &mut file).map_err(failed)? {
            Ok(()) => {}
            Err(unreadable) => {
                count.pass_over(&body_path(msgid), &strerror(&unreadable));
                return fs::remove_dir_all(&dir).map_err(failed);
            }
        }
        for (id, text) in envelopes {
            let mut file = new_file(&dir.join(id.to_string())).map_err(failed)?;
            file.write_all(text.as_bytes()).map_err(failed)?;
            count.envelopes += 1;
        }
        count.messages += 1;
        Ok(())
    }
}

impl Count {
    /// One file that cannot be read stops nothing else.
    fn pass_over(&mut self, path: &Path, why: &str) {
        self.unreadable += 1;
        spool::eprintln_quietly(&format!("{}: {why}", path.display()));
    }
}

/// Fails if the copy cannot be written; says if the body cannot be read.
fn copy(body: &mut Body, to: &mut File) -> io::Result<Result<(), io::Error>> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match body.read(&mut buffer) {
            Ok(0) => return Ok(Ok(())),
            Ok(count) => to.write_all(buffer.get(..count).unwrap_or_default())?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Ok(Err(error)),
        }
    }
}

/// Brings to the disk what is not there yet, and gives everything away, what is inside first: where
/// root goes nobody else can put a link.
fn settle(path: &Path, owner: Option<(u32, u32)>, is_synced: bool) -> io::Result<()> {
    let file = File::open(path)?;
    if file.metadata()?.is_dir() {
        for entry in fs::read_dir(path)? {
            settle(&entry?.path(), owner, is_synced)?;
        }
    }
    if !is_synced {
        file.sync_all()?;
    }
    match owner {
        Some((uid, gid)) => fchown(&file, Some(uid), Some(gid)),
        None => Ok(()),
    }
}

impl Target {
    /// An envelope in OpenSMTPD's words.
    fn translated(&self, text: &str) -> Result<String, String> {
        let has_command = ["mda-exec", "mda-file"]
            .iter()
            .any(|name| text.lines().any(|line| line.starts_with(name)));
        let mut out = String::with_capacity(text.len());
        for line in text.lines() {
            let (name, value) = line.split_once(": ").ok_or("a line is no field")?;
            if OURS.contains(&name) {
                continue;
            }
            let line = match name.strip_suffix("-quoted") {
                // What it cannot hold as it is, it holds without the blanks around it.
                Some(name) => match value.trim_matches('"').trim() {
                    "" if ["helo", "hostname", "smtpname"].contains(&name) => {
                        format!("{name}: unknown")
                    }
                    "" => continue,
                    value => format!("{name}: {value}"),
                },
                None if name == "mda-file" => format!("mda-exec: {}{value}", self.to_file),
                None if name == "mda-user" && has_command && value == paths::USER => {
                    format!("mda-user: {}", self.daemon)
                }
                None => line.to_owned(),
            };
            out.push_str(&line);
            out.push('\n');
        }
        Ok(out)
    }
}

fn make_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(path)
}

fn new_file(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.write(true).create_new(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::listing::tests::envelope;
    use crate::mail::{Command, Kind, Local};

    #[test]
    fn nothing_is_exported_while_a_daemon_has_the_spool_or_takes_it() {
        // smtpd-migration(7), Back to OpenSMTPD: with the daemon stopped.
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::under(dir.path());
        fs::create_dir_all(&paths.spool).unwrap();
        let ours = keep_out(&paths).unwrap();
        let theirs = sys::open::dir(&paths.spool).unwrap();
        assert!(!sys::lock::try_flock(&theirs).unwrap());
        drop(ours);
        assert!(sys::lock::try_flock(&theirs).unwrap());
        assert!(keep_out(&paths).is_err());
    }

    #[test]
    fn an_envelope_is_told_in_words_that_opensmtpd_knows() {
        // smtpd-migration(7), Back to OpenSMTPD.
        let id: EvpId = "1a2b3c4d7f3e9a10".parse().unwrap();
        let mut evp = envelope(id);
        evp.flags.suspended = true;
        evp.past.remote = Some(Line::new("mx [192.0.2.1]").unwrap());
        evp.helo = Line::new("").unwrap();
        evp.kind = Kind::Local(Local {
            user: Line::new("bob").unwrap(),
            subaddress: None,
            command: Some(Command::File(Line::new("/home/bob/box").unwrap())),
        });
        let file = envelope_file::encode(&evp).unwrap();
        let target = Target {
            to_file: "/usr/libexec/mail.mboxfile -f %{mbox.from} ".to_owned(),
            daemon: "opensmtpd".to_owned(),
        };
        let text = target.translated(&file).unwrap();
        let names: Vec<&str> = text
            .lines()
            .map(|line| line.split_once(": ").unwrap().0)
            .collect();
        assert_eq!(
            names,
            [
                "version",
                "dispatcher",
                "type",
                "smtpname",
                "helo",
                "hostname",
                "sockaddr",
                "sender",
                "rcpt",
                "dest",
                "ctime",
                "last-try",
                "last-bounce",
                "ttl",
                "retry",
                "dsn-notify",
                "mda-exec",
                "mda-user"
            ]
        );
        assert!(
            text.contains("mda-exec: /usr/libexec/mail.mboxfile -f %{mbox.from} /home/bob/box\n")
        );
        assert!(text.contains("\nhelo: unknown\n"));
        // Commands of aliases are for the user of that system's.
        if let Kind::Local(local) = &mut evp.kind {
            local.user = Line::new(paths::USER).unwrap();
        }
        let file = envelope_file::encode(&evp).unwrap();
        let theirs = target.translated(&file).unwrap();
        assert!(theirs.ends_with("\nmda-user: opensmtpd\n"), "{theirs}");
        // It is still one of ours.
        assert!(envelope_file::decode(id, text.as_bytes()).is_ok());
    }
}
