//! A user's .forward: where it is, and when it is to be believed.
//!
//! The parent opens it for the engine, which reads it; a delivery that has become the user opens
//! it again, to see for itself that the user wants a command run. What is there and cannot be
//! used is never taken for nothing: the mail would go where its recipient does not want it.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::sys;
use crate::sys::errno::strerror;

/// The file's name in a home directory.
pub const NAME: &str = ".forward";
/// A file has fewer bytes than this.
pub const FILE_BYTES: u64 = 4096;

/// Whether a .forward may be used.
#[derive(Debug)]
pub enum Verdict {
    /// No such file.
    None,
    /// Not even a home directory; why.
    NoHome(String),
    /// The file; nobody but its owner can have written it.
    File(File),
}

/// Opens the .forward in the home directory `home` of the user `uid`, whose rights we have.
pub fn open(home: &Path, uid: u32) -> Result<Verdict, String> {
    const STICKY: u32 = 0o1000;
    let path = home.join(NAME);
    let failed =
        |path: &Path, error: io::Error| format!("{}: {}", path.display(), strerror(&error));
    if !home.is_absolute() {
        return Ok(Verdict::NoHome("not an absolute path".to_owned()));
    }
    let facts = match fs::metadata(home) {
        Ok(facts) if facts.is_dir() => facts,
        Ok(_) => return Ok(Verdict::NoHome("not a directory".to_owned())),
        Err(error) if is_missing(&error) => return Ok(Verdict::NoHome(strerror(&error))),
        Err(error) => return Err(failed(home, error)),
    };
    if facts.mode() & STICKY != 0 {
        let home = home.display();
        return Err(format!("parent_forward_open: {home} is sticky"));
    }
    // Neither a FIFO nor a device is waited for.
    let file = match sys::open::foreign(&path) {
        Ok(file) => file,
        Err(error) if is_missing(&error) => return Ok(Verdict::None),
        Err(_) if is_link(&path) => {
            let path = path.display();
            return Err(format!("{path}: cannot follow symbolic links"));
        }
        Err(error) => return Err(failed(&path, error)),
    };
    let found = file.metadata().map_err(|error| failed(&path, error))?;
    let safe = found.is_file() && found.uid() == uid && only_owner_writes(&found);
    let in_safety = [0, uid].contains(&facts.uid()) && only_owner_writes(&facts);
    if safe && in_safety {
        Ok(Verdict::File(file))
    } else {
        Err(format!("{}: insecure file", path.display()))
    }
}

fn only_owner_writes(found: &Metadata) -> bool {
    const OTHERS_WRITE: u32 = 0o022;
    found.mode() & OTHERS_WRITE == 0
}

fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// Systems have different errors for a link that is not to be followed.
fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink())
}
