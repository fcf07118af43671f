//! Which daemon a front end belongs to, and what it must know of it.
//!
//! The one place where front ends meet other rooms' notions of paths, names and files.

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::config::paths::Paths;
use crate::mail::Envelope;
use crate::queue::envelope_file;
use crate::sys::caller::{canonical_name, host_name};

/// The paths of the instance under `root`, or of the system.
pub fn paths(root: Option<&Path>) -> Paths {
    match root {
        Some(root) => Paths::under(root),
        None => Paths::system(),
    }
}

/// Whether this user may do more than submit: root, or whoever runs the instance.
pub fn may_control(paths: &Paths, uid: u32) -> bool {
    let owner = |path: &Path| fs::symlink_metadata(path).map(|found| found.uid()).ok();
    uid == 0 || owner(&paths.socket).or_else(|| owner(&paths.spool)) == Some(uid)
}

/// The name that stands behind the `@` of addresses without one: the first line of the mailname
/// file, else the host's name, completed by the resolver when it has no dot. `None`: the host
/// has no name that could stand in an address.
pub fn server_name(paths: &Paths) -> Option<String> {
    let usable = |name: &String| {
        !name.is_empty()
            && name.len() <= LONGEST_NAME
            && !name.chars().any(|c| c.is_control() || c.is_whitespace())
    };
    if let Some(name) = first_line(&paths.mailname).filter(usable) {
        return Some(name);
    }
    let name = host_name().ok().filter(usable)?;
    if name.contains('.') {
        return Some(name);
    }
    canonical_name(&name).filter(usable).or(Some(name))
}

/// An envelope file's contents, or why they make none.
pub fn decode_envelope(bytes: &[u8]) -> Result<Envelope, String> {
    envelope_file::decode(bytes).map_err(|error| error.to_string())
}

/// The directory of a message in the spool; its files are `message` and one per envelope.
pub fn message_dir(spool: &Path, msgid: &str) -> PathBuf {
    let bucket = msgid.get(..2).unwrap_or_default();
    spool.join("queue").join(bucket).join(msgid)
}

const LONGEST_NAME: usize = 255;

fn first_line(path: &Path) -> Option<String> {
    let mut text = Vec::new();
    let file = fs::File::open(path).ok()?;
    file.take(2 * LONGEST_NAME as u64)
        .read_to_end(&mut text)
        .ok()?;
    let line = text.split(|byte| *byte == b'\n').next()?;
    std::str::from_utf8(line).ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mailname_files_first_line_is_the_servers_name() {
        // smtpd(8), mailname: the first line names the server; an unusable one is ignored.
        let dir = tempfile::tempdir().unwrap();
        let paths = paths(Some(dir.path()));
        fs::create_dir_all(paths.mailname.parent().unwrap()).unwrap();
        fs::write(&paths.mailname, "mx.example.org\nrest\n").unwrap();
        assert_eq!(server_name(&paths).as_deref(), Some("mx.example.org"));
        for bad in ["", "\n", "a b\n", "a\tb", &"x".repeat(300)] {
            fs::write(&paths.mailname, bad).unwrap();
            let name = server_name(&paths).unwrap_or_default();
            assert!(!name.contains(char::is_whitespace) && !name.starts_with("xxx"));
        }
    }

    #[test]
    fn the_owner_of_an_instance_controls_it_and_a_stranger_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let paths = paths(Some(dir.path()));
        fs::create_dir_all(&paths.spool).unwrap();
        let owner = fs::metadata(&paths.spool).unwrap().uid();
        assert!(may_control(&paths, owner));
        assert!(may_control(&paths, 0));
        assert!(!may_control(&paths, owner + 1));
    }

    #[test]
    fn a_message_lies_in_the_bucket_of_its_first_two_digits() {
        let dir = message_dir(Path::new("/s"), "1a2b3c4d");
        assert_eq!(dir, Path::new("/s/queue/1a/1a2b3c4d"));
    }
}
