//! mail.maildir(8): a message into a maildir.
//!
//! A [`Draft`] is written under `tmp/`; [`settle`] syncs it, renames it into `new/` and syncs
//! `new/`, for any number of messages at once. So what shows in `new/` is whole and on disk, and
//! what [`settle`] says is delivered stays so through a power cut. A draft that is dropped is
//! removed. Directories that exist keep their modes.

use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::rfc5322::header_end;
use crate::sys;
use crate::util::sysexits::{FAILURE, TEMPFAIL};

use super::MdaError;

/// Where a message goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub root: PathBuf,
    /// Whether marked messages go to `.Junk`.
    pub junk: Junk,
    /// The sub-address: a folder, if there is one of that name.
    pub extension: Option<String>,
}

/// What becomes of messages marked as spam.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Junk {
    /// As any other.
    Ignore,
    /// They go to `.Junk`.
    Folder,
}

/// A message being written.
pub struct Draft {
    folder: PathBuf,
    /// Header bytes kept back until it is known which folder the message belongs to.
    header: Option<Vec<u8>>,
    junk_folder: PathBuf,
    file: Option<Temporary>,
    buffer: Vec<u8>,
    last: u8,
}

/// A message that is whole but neither synced nor visible.
pub struct Written(Temporary);

/// A file under `tmp/`; removed with this value unless it was renamed.
struct Temporary {
    file: File,
    folder: PathBuf,
    name: String,
    visible: bool,
}

/// The file operations whose order is the promise.
trait Disk: Sync {
    fn sync_file(&self, file: &File, path: &Path) -> io::Result<()>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn open_dir(&self, path: &Path) -> io::Result<File>;
    fn sync_dir(&self, dir: &File, path: &Path) -> io::Result<()>;
}

const BUFFER: usize = 64 * 1024;
/// A header longer than this is not searched further for a spam mark.
const HEADER_MAX: usize = 64 * 1024;
/// File systems commit syncs that arrive together as one: this many wait at a time.
const SYNC_THREADS: usize = 8;

impl Target {
    /// The maildir this message goes to unless it is junk.
    fn folder(&self) -> PathBuf {
        let Some(extension) = self.extension.as_deref().filter(|text| !text.is_empty()) else {
            return self.root.clone();
        };
        let name: String = extension
            .chars()
            .map(|c| match c {
                '!' | '#' | '$' | '%' | '&' | '\'' | '*' | '/' | '?' | '^' | '`' | '{' | '|'
                | '}' | '~' | '\0' => ':',
                c => c,
            })
            .collect();
        let folder = self.root.join(format!(".{name}"));
        // "+." would name the directory above.
        if name != "." && folder.is_dir() {
            folder
        } else {
            self.root.clone()
        }
    }
}

impl Draft {
    /// Starts a message. Its file is made once it is known which folder it goes to.
    pub fn new(target: &Target) -> Result<Draft, MdaError> {
        let junk_folder = target.root.join(".Junk");
        let mut draft = Draft {
            folder: target.folder(),
            header: None,
            junk_folder,
            file: None,
            buffer: Vec::new(),
            last: b'\n',
        };
        match target.junk {
            Junk::Ignore => draft.open()?,
            Junk::Folder => {
                make_maildir(&target.root)?;
                make_maildir(&draft.junk_folder)?;
                draft.header = Some(Vec::new());
            }
        }
        Ok(draft)
    }

    /// Appends bytes of the message.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), MdaError> {
        if let Some(last) = bytes.last() {
            self.last = *last;
        }
        if let Some(header) = &mut self.header {
            header.extend_from_slice(bytes);
            if header_end(header).is_none() && header.len() < HEADER_MAX {
                return Ok(());
            }
            return self.judge();
        }
        self.append(bytes)
    }

    /// The message is complete; supplies a missing final line end.
    pub fn finish(mut self) -> Result<Written, MdaError> {
        if self.last != b'\n' {
            self.write(b"\n")?;
        }
        self.judge()?;
        self.flush()?;
        match self.file.take() {
            Some(file) => Ok(Written(file)),
            None => Err(MdaError::new(TEMPFAIL, "no file was opened")),
        }
    }

    /// Chooses between the folder and `.Junk` by the header so far, and lets the bytes go.
    fn judge(&mut self) -> Result<(), MdaError> {
        let Some(header) = self.header.take() else {
            return Ok(());
        };
        let end = header_end(&header).unwrap_or(header.len());
        if is_spam(header.get(..end).unwrap_or(&header)) {
            self.folder = self.junk_folder.clone();
        }
        self.open()?;
        self.append(&header)
    }

    fn open(&mut self) -> Result<(), MdaError> {
        let file = match Temporary::create(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_maildir(&self.folder)?;
                Temporary::create(&self.folder)
            }
            result => result,
        };
        self.file = Some(file.map_err(|error| failed(&self.folder.join("tmp"), &error))?);
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), MdaError> {
        if self.buffer.len() + bytes.len() > BUFFER {
            self.flush()?;
        }
        if bytes.len() > BUFFER {
            return self.put(bytes);
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), MdaError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let result = self.put(&buffer);
        buffer.clear();
        self.buffer = buffer;
        result
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), MdaError> {
        let Some(temporary) = &mut self.file else {
            return Err(MdaError::new(TEMPFAIL, "no file was opened"));
        };
        temporary
            .file
            .write_all(bytes)
            .map_err(|error| failed(&temporary.path(), &error))
    }
}

impl Temporary {
    fn create(folder: &Path) -> io::Result<Temporary> {
        let mut tries = 0;
        loop {
            let name = unique_name();
            let created = File::options()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(folder.join("tmp").join(&name));
            match created {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && tries < 10 => {
                    tries += 1;
                }
                created => {
                    return Ok(Temporary {
                        file: created?,
                        folder: folder.to_path_buf(),
                        name,
                        visible: false,
                    });
                }
            }
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.join("tmp").join(&self.name)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.visible {
            // What cannot be removed here is what maildir(5) lets readers sweep after 36 hours.
            let _ = std::fs::remove_file(self.path());
        }
    }
}

/// Delivers messages that are written: one result for each, in order. Messages for one folder
/// share the sync of its `new/`.
pub fn settle(messages: Vec<Written>) -> Vec<Result<(), MdaError>> {
    settle_on(&Real, messages)
}

fn settle_on(disk: &impl Disk, mut messages: Vec<Written>) -> Vec<Result<(), MdaError>> {
    let mut results = sync_files(disk, &messages);
    // Open before anything shows: what cannot be synced afterwards would be delivered twice.
    let mut folders: Vec<Folder> = Vec::new();
    for (Written(message), result) in messages.iter_mut().zip(&mut results) {
        if result.is_ok() {
            *result =
                folder(disk, &mut folders, &message.folder).and_then(|()| show(disk, message));
        }
    }
    let synced: Vec<Result<(), MdaError>> = folders.iter().map(|f| f.sync(disk)).collect();
    for (Written(message), result) in messages.iter().zip(&mut results) {
        let at = folders.iter().position(|f| f.path == message.folder);
        if result.is_ok()
            && let Some(synced) = at.and_then(|at| synced.get(at))
        {
            *result = synced.clone();
        }
    }
    results
}

/// A maildir with its `new/` open.
struct Folder {
    path: PathBuf,
    new: File,
}

impl Folder {
    fn sync(&self, disk: &impl Disk) -> Result<(), MdaError> {
        let path = self.path.join("new");
        disk.sync_dir(&self.new, &path)
            .map_err(|error| failed(&path, &error))
    }
}

/// Sees to it that `path` is among `folders`.
fn folder(disk: &impl Disk, folders: &mut Vec<Folder>, path: &Path) -> Result<(), MdaError> {
    if folders.iter().any(|folder| folder.path == path) {
        return Ok(());
    }
    let new = path.join("new");
    let opened = match disk.open_dir(&new) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_maildir(path)?;
            disk.open_dir(&new)
        }
        opened => opened,
    };
    folders.push(Folder {
        path: path.to_path_buf(),
        new: opened.map_err(|error| failed(&new, &error))?,
    });
    Ok(())
}

fn sync_files(disk: &impl Disk, messages: &[Written]) -> Vec<Result<(), MdaError>> {
    let sync = |Written(message): &Written| {
        disk.sync_file(&message.file, &message.path())
            .map_err(|error| failed(&message.path(), &error))
    };
    if messages.len() < 2 {
        return messages.iter().map(sync).collect();
    }
    let share = messages.len().div_ceil(SYNC_THREADS);
    std::thread::scope(|scope| {
        let work = |chunk: &'_ [Written]| chunk.iter().map(sync).collect::<Vec<_>>();
        let threads: Vec<_> = messages
            .chunks(share)
            .map(|chunk| {
                let thread = std::thread::Builder::new();
                (chunk, thread.spawn_scoped(scope, move || work(chunk)))
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|(chunk, thread)| match thread.map(|thread| thread.join()) {
                Ok(Ok(results)) => results,
                // No thread to be had (a user's limit on processes): sync here.
                _ => work(chunk),
            })
            .collect()
    })
}

fn show(disk: &impl Disk, message: &mut Temporary) -> Result<(), MdaError> {
    let new = message.folder.join("new");
    let target = new.join(&message.name);
    disk.rename(&message.path(), &target)
        .map_err(|error| failed(&new, &error))?;
    message.visible = true;
    Ok(())
}

/// Makes what is missing of a maildir, with mode 0700. What exists is left as it is.
fn make_maildir(root: &Path) -> Result<(), MdaError> {
    for part in ["tmp", "new", "cur"] {
        make_dir(&root.join(part))?;
    }
    Ok(())
}

/// Makes a directory and those above it, and syncs the directory that got the new name.
fn make_dir(path: &Path) -> Result<(), MdaError> {
    if path.is_dir() {
        return Ok(());
    }
    let above = match path.parent() {
        Some(above) if above.as_os_str().is_empty() => Path::new("."),
        Some(above) => above,
        None => return Ok(()),
    };
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // The path gets shorter with each call and a path has at most PATH_MAX bytes.
            make_dir(above)?;
            match DirBuilder::new().mode(0o700).create(path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(failed(path, &error));
                }
                _ => {}
            }
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        Err(error) => return Err(failed(path, &error)),
    }
    Real.open_dir(above)
        .and_then(|dir| Real.sync_dir(&dir, above))
        .map_err(|error| failed(above, &error))
}

fn failed(path: &Path, error: &io::Error) -> MdaError {
    let code = match error.kind() {
        io::ErrorKind::InvalidFilename => FAILURE,
        _ => TEMPFAIL,
    };
    MdaError::on(code, path, error)
}

struct Real;

impl Disk for Real {
    fn sync_file(&self, file: &File, _path: &Path) -> io::Result<()> {
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn open_dir(&self, path: &Path) -> io::Result<File> {
        File::open(path)
    }

    fn sync_dir(&self, dir: &File, _path: &Path) -> io::Result<()> {
        match dir.sync_all() {
            // Some file systems cannot sync a directory, and then need not.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
            result => result,
        }
    }
}

/// `seconds.M…P…Q…R….host`: unique by time, process, count and chance.
fn unique_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    static HOST: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    let host = HOST.get_or_init(|| host_name().replace('/', "\\057").replace(':', "\\072"));
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    format!(
        "{}.M{}P{}Q{}R{:08x}.{host}",
        now.as_secs(),
        now.subsec_micros(),
        std::process::id(),
        COUNT.fetch_add(1, Relaxed),
        sys::random::number_u32(),
    )
}

fn host_name() -> String {
    let name = sys::hostname::get().unwrap_or_default();
    match name.is_empty() {
        true => "localhost".to_owned(),
        false => name,
    }
}

/// Whether a header has the line `X-Spam: Yes` or `X-Spam-Flag: Yes`.
fn is_spam(header: &[u8]) -> bool {
    header.split(|byte| *byte == b'\n').any(|line| {
        line.eq_ignore_ascii_case(b"x-spam: yes") || line.eq_ignore_ascii_case(b"x-spam-flag: yes")
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Mutex;

    use super::*;

    fn target(root: &Path) -> Target {
        Target {
            root: root.to_path_buf(),
            junk: Junk::Ignore,
            extension: None,
        }
    }

    fn deliver(target: &Target, body: &[u8]) -> Result<(), MdaError> {
        let mut draft = Draft::new(target)?;
        for chunk in body.chunks(7) {
            draft.write(chunk)?;
        }
        settle(vec![draft.finish()?]).remove(0)
    }

    fn only(folder: &Path) -> Vec<u8> {
        let files: Vec<_> = std::fs::read_dir(folder.join("new")).unwrap().collect();
        assert_eq!(files.len(), 1);
        std::fs::read(files[0].as_ref().unwrap().path()).unwrap()
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_body_arrives_byte_for_byte_with_a_final_line_end() {
        // mail.maildir(8).
        for (body, stored) in [
            (
                &b"a: b\n\n.\n\xff\0\r\nx"[..],
                &b"a: b\n\n.\n\xff\0\r\nx\n"[..],
            ),
            (b"", b""),
            (b"\n", b"\n"),
        ] {
            for junk in [Junk::Ignore, Junk::Folder] {
                let dir = tempfile::tempdir().unwrap();
                let root = dir.path().join("deep/Maildir");
                let target = Target {
                    junk,
                    ..target(&root)
                };
                deliver(&target, body).unwrap();
                assert_eq!(only(&root), stored);
                assert_eq!(std::fs::read_dir(root.join("tmp")).unwrap().count(), 0);
                assert_eq!(mode(&root.join("cur")), 0o700);
            }
        }
    }

    #[test]
    fn what_exists_keeps_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("Maildir");
        std::fs::create_dir(&root).unwrap();
        std::fs::set_permissions(&root, PermissionsExt::from_mode(0o750)).unwrap();
        deliver(&target(&root), b"x\n").unwrap();
        deliver(&target(&root), b"x\n").unwrap();
        assert_eq!(mode(&root), 0o750);
        let names: Vec<_> = std::fs::read_dir(root.join("new"))
            .unwrap()
            .map(|entry| entry.unwrap())
            .collect();
        assert_eq!(names.len(), 2);
        for name in names {
            assert_eq!(mode(&name.path()), 0o600);
            let name = name.file_name().into_string().unwrap();
            let (seconds, rest) = name.split_once('.').unwrap();
            assert!(seconds.parse::<u64>().unwrap() > 1_600_000_000);
            assert!(rest.split_once('.').unwrap().1 == host_name());
        }
    }

    #[test]
    fn junk_wins_over_the_sub_folder_and_only_in_the_header() {
        // mail.maildir(8): a positive X-Spam header moves the message to Junk.
        for (body, folder) in [
            (&b"X-Spam: Yes\n\nhi\n"[..], ".Junk"),
            (b"A: b\nx-spam-FLAG: yES\n\nhi\n", ".Junk"),
            (b"X-Spam:  Yes\n\nhi\n", ".lists"),
            (b"X-Spam: Yes, 9.1\n\nhi\n", ".lists"),
            (b"A: b\n\nX-Spam: Yes\n", ".lists"),
            (b"\nX-Spam: Yes\n\n", ".lists"),
            (b"X-Spam: Yes", ".Junk"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            std::fs::create_dir(dir.path().join(".lists")).unwrap();
            let target = Target {
                junk: Junk::Folder,
                extension: Some("lists".into()),
                ..target(dir.path())
            };
            deliver(&target, body).unwrap();
            assert!(!only(&dir.path().join(folder)).is_empty(), "{folder}");
        }
        let dir = tempfile::tempdir().unwrap();
        let mut long = b"A: ".to_vec();
        long.resize(HEADER_MAX * 3, b'x');
        let target = Target {
            junk: Junk::Folder,
            ..target(dir.path())
        };
        deliver(&target, &long).unwrap();
        assert_eq!(only(dir.path()).len(), HEADER_MAX * 3 + 1);
    }

    #[test]
    fn a_sub_address_names_an_existing_folder_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("box");
        for made in [".a.b", ".x:y", ".new"] {
            std::fs::create_dir_all(root.join(made)).unwrap();
        }
        let folder = |extension: &str| {
            Target {
                extension: Some(extension.into()),
                ..target(&root)
            }
            .folder()
        };
        assert_eq!(folder("a.b"), root.join(".a.b"));
        assert_eq!(folder("x/y"), root.join(".x:y"));
        for other in [
            "",
            "none",
            ".",
            "./../../etc",
            "../box",
            "/",
            &"n".repeat(300),
        ] {
            assert_eq!(folder(other), root, "{other}");
        }
    }

    #[derive(Default)]
    struct Recorder {
        log: Mutex<Vec<String>>,
        fail: Option<&'static str>,
    }

    impl Recorder {
        fn note(&self, what: &str, path: &Path) -> io::Result<()> {
            let tail: Vec<_> = path.iter().rev().take(2).collect();
            let line = format!(
                "{what} {}",
                tail[usize::from(what != "dir")].to_string_lossy()
            );
            self.log.lock().unwrap().push(what.to_string());
            match self.fail {
                Some(fail) if line.starts_with(fail) => Err(io::ErrorKind::StorageFull.into()),
                _ => Ok(()),
            }
        }
    }

    impl Disk for Recorder {
        fn sync_file(&self, _file: &File, path: &Path) -> io::Result<()> {
            assert!(path.exists());
            self.note("file", path)
        }
        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            self.note("rename", to)?;
            std::fs::rename(from, to)
        }
        fn open_dir(&self, path: &Path) -> io::Result<File> {
            self.note("open", path)?;
            File::open(path)
        }
        fn sync_dir(&self, _dir: &File, path: &Path) -> io::Result<()> {
            self.note("dir", path)
        }
    }

    fn drafts(root: &Path, count: usize) -> Vec<Written> {
        (0..count)
            .map(|_| {
                let mut draft = Draft::new(&target(root)).unwrap();
                draft.write(b"x").unwrap();
                draft.finish().unwrap()
            })
            .collect()
    }

    #[test]
    fn a_file_is_synced_before_it_appears_and_new_is_synced_before_success() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Recorder::default();
        let results = settle_on(&disk, drafts(dir.path(), 3));
        assert!(results.iter().all(Result::is_ok) && results.len() == 3);
        assert_eq!(
            *disk.log.lock().unwrap(),
            [
                "file", "file", "file", "open", "rename", "rename", "rename", "dir"
            ]
        );
    }

    #[test]
    fn a_failed_sync_shows_nothing_and_leaves_nothing() {
        for fail in ["file", "open", "rename"] {
            let dir = tempfile::tempdir().unwrap();
            let disk = Recorder {
                fail: Some(fail),
                ..Recorder::default()
            };
            let results = settle_on(&disk, drafts(dir.path(), 2));
            assert!(results.iter().all(|r| r.as_ref().unwrap_err().code == 75));
            for part in ["tmp", "new"] {
                assert_eq!(std::fs::read_dir(dir.path().join(part)).unwrap().count(), 0);
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let disk = Recorder {
            fail: Some("dir"),
            ..Recorder::default()
        };
        let results = settle_on(&disk, drafts(dir.path(), 2));
        assert!(results.iter().all(Result::is_err));
        drop(Draft::new(&target(dir.path())).unwrap());
        assert_eq!(
            std::fs::read_dir(dir.path().join("tmp")).unwrap().count(),
            0
        );
    }

    #[test]
    fn what_cannot_be_made_is_temporary_and_a_name_too_long_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, b"").unwrap();
        let failure = deliver(&target(&file), b"x").unwrap_err();
        assert_eq!(failure.code, 75);
        assert!(
            failure.text.ends_with("/file/tmp: Not a directory"),
            "{failure:?}"
        );
        let long = dir.path().join("n".repeat(300));
        assert_eq!(deliver(&target(&long), b"x").unwrap_err().code, 1);
    }
}
