//! mail.maildir(8): a message into a maildir.
//!
//! A [`Draft`] is written under `tmp/`; [`settle()`] syncs it, renames it into `new/` and syncs
//! `new/`, for any number of messages at once. So what shows in `new/` is whole and on disk, and
//! what [`settle()`] says is delivered stays so through a power cut. A draft that is dropped is
//! removed. Directories that exist keep their modes.

mod settle;

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

pub use settle::settle;

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
    if name.is_empty() {
        "localhost".to_owned()
    } else {
        name
    }
}

/// Whether a header has the line `X-Spam: Yes` or `X-Spam-Flag: Yes`.
fn is_spam(header: &[u8]) -> bool {
    header.split(|byte| *byte == b'\n').any(|line| {
        line.eq_ignore_ascii_case(b"x-spam: yes") || line.eq_ignore_ascii_case(b"x-spam-flag: yes")
    })
}

#[cfg(test)]
mod tests;
