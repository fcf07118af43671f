//! From a text to a database.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use crate::cli::exit_error::ExitError;
use crate::config::limits;
use crate::config::table_text::{Entries, Entry, Shape};
use crate::expansion;
use crate::sys::{fs as sys_fs, lock, open, random, user};
use crate::util::cdb::Writer;

/// What the lines of a text are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Map,
    /// `-t aliases`: the values are items of aliases(5).
    Aliases,
    /// `-t set`: keys alone.
    Set,
}

/// Makes `target` out of a file and says how many entries it has.
pub fn from_file(source: &Path, target: &Path, kind: Kind) -> Result<usize, ExitError> {
    let name = source.display();
    let missing = |error| ExitError::io(format_args!("stat: {name}"), &error);
    let facts = fs::metadata(source).map_err(missing)?;
    let file = open::plain(source).map_err(|e| ExitError::io(&name, &e))?;
    if !lock::try_flock_shared(&file)
        .map_err(|e| ExitError::io(format_args!("{name}: flock"), &e))?
    {
        return Err(ExitError::new(format!("{name} is locked")));
    }
    let text = open::read_within(
        file.try_clone().map_err(|e| ExitError::io(&name, &e))?,
        LONGEST,
    )
    .map_err(|e| ExitError::io(&name, &e))?;
    let owner = Owner {
        uid: facts.uid(),
        gid: facts.gid(),
        mode: facts.mode() & 0o777,
    };
    make(&name.to_string(), &text, target, kind, Some(owner))
}

/// Makes `target` out of what is left of `input` and says how many entries it has.
pub fn from_stdin(
    input: Box<dyn Read + Send>,
    target: &Path,
    kind: Kind,
) -> Result<usize, ExitError> {
    make("<stdin>", &all_of(input, LONGEST)?, target, kind, None)
}

/// A text that goes on behind the limit is none: half of it would be another table.
pub(super) fn all_of(input: impl Read, limit_bytes: u64) -> Result<Vec<u8>, ExitError> {
    open::read_within(input, limit_bytes).map_err(|e| ExitError::io("standard input", &e))
}

/// Longest text, in bytes.
const LONGEST: u64 = limits::TABLE_BYTES;

/// Whose a file is, and who may do what with it.
#[derive(Clone, Copy)]
struct Owner {
    uid: u32,
    gid: u32,
    mode: u32,
}

fn make(
    name: &str,
    text: &[u8],
    target: &Path,
    kind: Kind,
    owner: Option<Owner>,
) -> Result<usize, ExitError> {
    let failed = |error| ExitError::io(target.display(), &error);
    let temporary = Temporary::beside(target).map_err(failed)?;
    let out = BufWriter::with_capacity(1 << 20, &temporary.file);
    let mut writer = Writer::new(out).map_err(failed)?;
    let count = copy(name, text, kind, &mut |key, value| {
        writer.add(key, value).map_err(failed)
    })?;
    drop(writer.finish().map_err(failed)?);
    if let Some(owner) = owner {
        give(&temporary.file, owner).map_err(failed)?;
    }
    temporary.rename(target).map_err(failed)?;
    Ok(count)
}

/// Where each record of the source goes: key and value.
type Add<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> Result<(), ExitError>;

/// Every entry of a text, checked, as a record.
fn copy(name: &str, text: &[u8], kind: Kind, add: Add<'_>) -> Result<usize, ExitError> {
    let shape = match kind {
        Kind::Set => Shape::List,
        Kind::Map | Kind::Aliases => Shape::Map,
    };
    let mut known = HashSet::new();
    for entry in Entries::new(text, Some(shape)) {
        let entry = entry.map_err(|bad| invalid(name, bad.line, bad.text))?;
        check(name, &entry, kind)?;
        let key = entry.key.to_ascii_lowercase();
        add(key.as_bytes(), value(&entry, kind).as_bytes())?;
        if !known.insert(key.into_boxed_str()) {
            let (line, key) = (entry.line, entry.key);
            return Err(ExitError::new(format!(
                "{name}:{line}: duplicate entry for {key}"
            )));
        }
    }
    Ok(known.len())
}

fn check(name: &str, entry: &Entry<'_>, kind: Kind) -> Result<(), ExitError> {
    if entry.key.len() >= limits::KEY_BYTES {
        return Err(invalid(name, entry.line, "the key is too long"));
    }
    match kind {
        Kind::Aliases => {
            expansion::check_value(&entry.value).map_err(|why| invalid(name, entry.line, &why))
        }
        Kind::Map | Kind::Set => Ok(()),
    }
}

/// The value of a list's entry says that it is one. A regular expression whose meaning is lost in
/// lower case (`\S` is not `\s`) stands there as it was written.
fn value<'e>(entry: &'e Entry<'_>, kind: Kind) -> &'e str {
    if kind != Kind::Set {
        return &entry.value;
    }
    let escapes = entry.key.as_bytes().windows(2);
    let mut upper = escapes.filter(|pair| matches!(pair, [b'\\', b'A'..=b'Z']));
    match upper.next() {
        Some(_) => entry.key,
        None => "<set>",
    }
}

fn invalid(name: &str, line: u32, why: &str) -> ExitError {
    let why = why.strip_prefix("invalid map entry: ").unwrap_or(why);
    ExitError::new(format!("{name}:{line}: invalid entry: {why}"))
}

/// Gives a file the owner and mode of another. Who may not give files away keeps it, and lets no
/// other group in on its account.
fn give(file: &File, owner: Owner) -> io::Result<()> {
    let own = file.metadata()?;
    let same = (own.uid(), own.gid()) == (owner.uid, owner.gid);
    let mode = if same {
        owner.mode
    } else {
        match fchown(file, Some(owner.uid), Some(owner.gid)) {
            Ok(()) => owner.mode,
            Err(_) if user::effective_uid() != 0 => owner.mode & 0o707,
            Err(error) => return Err(error),
        }
    };
    file.set_permissions(fs::Permissions::from_mode(mode))
}

/// A new file beside the one it is to replace; it goes away if it does not.
struct Temporary {
    path: PathBuf,
    file: File,
    kept: bool,
}

impl Temporary {
    fn beside(target: &Path) -> io::Result<Temporary> {
        const TRIES: usize = 10;
        let mut last = io::ErrorKind::AlreadyExists.into();
        for _ in 0..TRIES {
            let mut name = target.as_os_str().to_owned();
            name.push(format!(".{:011}", random::number_u32()));
            let path = PathBuf::from(name);
            match open::create_new(&path) {
                Ok(file) => {
                    return Ok(Temporary {
                        path,
                        file,
                        kept: false,
                    });
                }
                Err(error) => last = error,
            }
            if last.kind() != io::ErrorKind::AlreadyExists {
                break;
            }
        }
        Err(last)
    }

    /// Makes it durable under its name.
    fn rename(mut self, target: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.path, target)?;
        self.kept = true;
        let dir = match target.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        // The directory may be reached by a link; what counts is that it is synced.
        sys_fs::sync_dir(&fs::canonicalize(dir)?)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::remove_file(&self.path);
        }
    }
}
