//! `export`: the queue as OpenSMTPD has it, for the way back.
//!
//! Bodies are written plain and envelopes without the lines that only we write, into the layout of
//! a queue that nobody else uses now. A message is complete or not there.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, chown};
use std::path::Path;

use crate::cli::failure::Failure;
use crate::config::paths::Paths;
use crate::control::client::{Client, Error};
use crate::mail::MsgId;
use crate::queue::coding::Name;
use crate::queue::fs::{body_path, envelope_path, layout};
use crate::sys::user;

use super::{plural, spool, with_keys};

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

/// Writes all that lies in the spool to `to`/queue, of which there must be none yet.
pub fn run(to: &str, paths: &Paths, out: &mut dyn Write) -> Result<i32, Failure> {
    match Client::connect(&paths.socket) {
        Err(Error::Down) => {}
        _ => {
            return Err(Failure::new(
                "smtpd is running: stop it first, or mail is there twice",
            ));
        }
    }
    let queue = Path::new(to).join(layout::QUEUE);
    let failed = |path: &Path, error: &io::Error| Failure::io(path.display(), error);
    let owner = fs::metadata(paths.spool.join(layout::QUEUE))
        .map_err(|e| failed(&paths.spool.join(layout::QUEUE), &e))?;
    let owner = (user::effective_uid() == 0).then(|| (owner.uid(), owner.gid()));
    match fs::DirBuilder::new().mode(0o755).create(to) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            return Err(failed(Path::new(to), &e));
        }
        _ => {}
    }
    make_dir(&queue, owner).map_err(|e| failed(&queue, &e))?;
    let (mut count, mut messages) = (0, 0);
    for msgid in spool::message_ids(&paths.spool)? {
        match export(msgid, paths, &queue, owner)? {
            0 => {}
            envelopes => {
                count += envelopes;
                messages += 1;
            }
        }
    }
    writeln!(out, "{} in {messages} messages", plural(count, "exported"))
        .map_err(|e| Failure::output(&e))?;
    Ok(0)
}

fn export(
    msgid: MsgId,
    paths: &Paths,
    queue: &Path,
    owner: Option<(u32, u32)>,
) -> Result<u32, Failure> {
    let id = msgid.to_string();
    let bucket = queue.join(id.get(..2).unwrap_or_default());
    let dir = bucket.join(&id);
    let failed = |error: io::Error| Failure::io(dir.display(), &error);
    let ids = spool::envelope_ids(&paths.spool, msgid)?;
    if ids.is_empty() {
        return Ok(0);
    }
    match make_dir(&bucket, owner) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    make_dir(&dir, owner).map_err(failed)?;
    let body = body_path(msgid);
    let mut file = new_file(&dir.join("message"), owner).map_err(failed)?;
    copy(&paths.spool, &body, Name::body(msgid), paths, &mut file)?;
    file.sync_all().map_err(failed)?;
    for id in &ids {
        let mut text = Vec::new();
        let path = envelope_path(*id);
        copy(&paths.spool, &path, Name::envelope(*id), paths, &mut text)?;
        let text =
            translated(&text).map_err(|why| Failure::new(format!("envelope {id}: {why}")))?;
        let mut file = new_file(&dir.join(id.to_string()), owner).map_err(failed)?;
        file.write_all(text.as_bytes()).map_err(failed)?;
        file.sync_all().map_err(failed)?;
    }
    Ok(u32::try_from(ids.len()).unwrap_or(u32::MAX))
}

fn copy(
    root: &Path,
    path: &Path,
    name: Name,
    paths: &Paths,
    out: &mut dyn Write,
) -> Result<i32, Failure> {
    with_keys(paths, |keys| spool::copy(root, path, name, keys, out))
}

/// An envelope in OpenSMTPD's words.
fn translated(text: &[u8]) -> Result<String, String> {
    let text = std::str::from_utf8(text).map_err(|_| "it is no text".to_owned())?;
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        let (name, value) = line.split_once(": ").ok_or("a line is no field")?;
        let name = name.to_ascii_lowercase();
        if OURS.contains(&name.as_str()) {
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
            None if name == "mda-file" => {
                format!("mda-exec: /usr/libexec/mail.mboxfile -f %{{mbox.from}} {value}")
            }
            None => line.to_owned(),
        };
        out.push_str(&line);
        out.push('\n');
    }
    Ok(out)
}

fn make_dir(path: &Path, owner: Option<(u32, u32)>) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(path)?;
    give(path, owner)
}

fn new_file(path: &Path, owner: Option<(u32, u32)>) -> io::Result<File> {
    let mut options = File::options();
    let file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    give(path, owner)?;
    Ok(file)
}

fn give(path: &Path, owner: Option<(u32, u32)>) -> io::Result<()> {
    match owner {
        Some((uid, gid)) => chown(path, Some(uid), Some(gid)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::listing::tests::envelope;
    use crate::mail::{Command, EvpId, Kind, Local};
    use crate::queue::envelope_file;
    use crate::util::Line;

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
        let text = translated(file.as_bytes()).unwrap();
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
        // It is still one of ours.
        assert!(envelope_file::decode(id, text.as_bytes()).is_ok());
    }
}
