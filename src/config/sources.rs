//! Every byte a configuration is made of: the main file, included files and file tables.
//!
//! The parent collects them once, as root, and hands the engine the same bytes, so both see the
//! same configuration whatever happens to the files in between. A file that cannot be read is
//! remembered with the reason; [`load`](super::load) then complains at the place that names it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::sys::errno::strerror;
use crate::sys::open;

use super::ast::{Ast, Body, ListenKind, TableValue};
use super::diagnostic::{Diagnostic, Diagnostics};
use super::{limits, parse, services};

/// The main file, every file it leads to, and the macros of the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    main: PathBuf,
    files: BTreeMap<PathBuf, Vec<u8>>,
    unreadable: BTreeMap<PathBuf, String>,
    macros: Vec<(String, String)>,
}

impl Sources {
    /// Reads `main` and whatever it leads to. `macros` are those of `-D`, in their order.
    pub fn collect(main: &Path, macros: &[(String, String)]) -> Result<Sources, Vec<Diagnostic>> {
        let text = read_main(main).map_err(|error| {
            vec![Diagnostic {
                file: main.display().to_string(),
                line: 0,
                column: 0,
                text: format!("cannot read it: {}", strerror(&error)),
            }]
        })?;
        Ok(Sources::follow(main.to_owned(), text, macros))
    }

    /// Takes `text` for the main file and calls it `name`; files that it names are read.
    pub fn from_text(name: &str, text: &str, macros: &[(String, String)]) -> Sources {
        Sources::follow(PathBuf::from(name), text.as_bytes().to_vec(), macros)
    }

    /// Puts a file in, as if it had been read.
    pub fn insert(&mut self, path: &Path, bytes: Vec<u8>) {
        self.unreadable.remove(path);
        self.files.insert(path.to_owned(), bytes);
    }

    /// The name of the main file.
    pub fn main(&self) -> &Path {
        &self.main
    }

    /// The bytes of a file, or why there are none.
    pub fn file(&self, path: &Path) -> Result<&[u8], &str> {
        if let Some(bytes) = self.files.get(path) {
            return Ok(bytes);
        }
        let reason = self.unreadable.get(path);
        Err(reason.map_or("it was not read at the start", String::as_str))
    }

    /// Macros of the command line.
    pub fn macros(&self) -> &[(String, String)] {
        &self.macros
    }

    /// A form for [`Sources::decode`].
    pub fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        put(&mut out, path_bytes(&self.main));
        put_count(&mut out, self.macros.len());
        for (name, value) in &self.macros {
            put(&mut out, name.as_bytes());
            put(&mut out, value.as_bytes());
        }
        put_count(&mut out, self.unreadable.len());
        for (path, reason) in &self.unreadable {
            put(&mut out, path_bytes(path));
            put(&mut out, reason.as_bytes());
        }
        put_count(&mut out, self.files.len());
        for (path, bytes) in &self.files {
            put(&mut out, path_bytes(path));
            put(&mut out, bytes);
        }
        out
    }

    /// Reads what [`Sources::encode`] wrote; `None` for anything else.
    pub fn decode(bytes: &[u8]) -> Option<Sources> {
        let mut rest = bytes.strip_prefix(MAGIC)?;
        let main = take_path(&mut rest)?;
        let mut sources = Sources {
            main,
            files: BTreeMap::new(),
            unreadable: BTreeMap::new(),
            macros: Vec::new(),
        };
        for _ in 0..take_count(&mut rest)? {
            let name = take_string(&mut rest)?;
            sources.macros.push((name, take_string(&mut rest)?));
        }
        for _ in 0..take_count(&mut rest)? {
            let path = take_path(&mut rest)?;
            sources.unreadable.insert(path, take_string(&mut rest)?);
        }
        for _ in 0..take_count(&mut rest)? {
            let path = take_path(&mut rest)?;
            sources.files.insert(path, take(&mut rest)?.to_vec());
        }
        rest.is_empty().then_some(sources)
    }

    /// Parses while it reads; complaints are left to `load`, which parses the same bytes again.
    fn follow(main: PathBuf, text: Vec<u8>, macros: &[(String, String)]) -> Sources {
        let mut sources = Sources {
            main: main.clone(),
            files: BTreeMap::new(),
            unreadable: BTreeMap::new(),
            macros: macros.to_vec(),
        };
        let mut unheard = Diagnostics::default();
        let mut fetch = |path: &str| {
            let path = Path::new(path);
            sources.read(path, limits::TEXT_BYTES);
            sources
                .file(path)
                .map(<[u8]>::to_vec)
                .map_err(str::to_owned)
        };
        let name = main.display().to_string();
        let ast = parse::parse(&name, &text, macros, &mut fetch, &mut unheard);
        for path in files_named(&ast) {
            sources.read(&path, limits::TABLE_BYTES);
        }
        sources.files.insert(main, text);
        sources
    }

    fn read(&mut self, path: &Path, limit_bytes: u64) {
        if self.files.contains_key(path) || self.unreadable.contains_key(path) {
            return;
        }
        match open::read_plain(path, limit_bytes) {
            Ok(bytes) => {
                self.files.insert(path.to_owned(), bytes);
            }
            Err(error) => {
                self.unreadable.insert(path.to_owned(), strerror(&error));
            }
        }
    }
}

/// The main file may be a pipe: `-f /dev/stdin` checks what a script has generated.
fn read_main(path: &Path) -> io::Result<Vec<u8>> {
    open::read_within(File::open(path)?, limits::TEXT_BYTES)
}

fn files_named(ast: &Ast) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for statement in &ast.statements {
        match &statement.body {
            Body::Table(_, TableValue::One(text)) => {
                files.extend(file_of_table(&text.value).map(PathBuf::from));
            }
            Body::Listen(_, options) => {
                let named = |kind: &ListenKind| matches!(kind, ListenKind::PortName(name) if services::well_known(&name.value).is_none());
                if options.iter().any(|option| named(&option.kind)) {
                    files.push(PathBuf::from(services::FILE));
                }
            }
            _ => {}
        }
    }
    files
}

/// The path in `/path`, `file:/path` and `static:/path`.
pub fn file_of_table(text: &str) -> Option<&str> {
    if text.starts_with('/') {
        return Some(text);
    }
    let (backend, path) = text.split_once(':')?;
    (matches!(backend, "file" | "static") && path.starts_with('/')).then_some(path)
}

const MAGIC: &[u8] = b"smtpd.conf sources 1\n";

fn put_count(out: &mut Vec<u8>, count: usize) {
    out.extend_from_slice(&(count as u64).to_le_bytes());
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    put_count(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn take_count(rest: &mut &[u8]) -> Option<usize> {
    let (count, after) = rest.split_first_chunk::<8>()?;
    *rest = after;
    usize::try_from(u64::from_le_bytes(*count)).ok()
}

fn take<'b>(rest: &mut &'b [u8]) -> Option<&'b [u8]> {
    let length = take_count(rest)?;
    let (bytes, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(bytes)
}

fn take_string(rest: &mut &[u8]) -> Option<String> {
    String::from_utf8(take(rest)?.to_vec()).ok()
}

fn take_path(rest: &mut &[u8]) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    let bytes = take(rest)?;
    Some(PathBuf::from(std::ffi::OsStr::from_bytes(bytes)))
}

fn path_bytes(path: &Path) -> &[u8] {
    use std::os::unix::ffi::OsStrExt;
    path.as_os_str().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collects_includes_and_tables_and_remembers_what_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("aliases"), "root: bob\n").unwrap();
        let text = format!("table aliases file:{}\n", at("aliases").display());
        std::fs::write(at("more.conf"), text).unwrap();
        let text = format!(
            "include \"{}\"\ninclude \"{}\"\n",
            at("more.conf").display(),
            at("gone.conf").display()
        );
        std::fs::write(at("smtpd.conf"), text).unwrap();

        let sources = Sources::collect(&at("smtpd.conf"), &[]).unwrap();
        assert_eq!(sources.file(&at("aliases")), Ok(&b"root: bob\n"[..]));
        assert_eq!(
            sources.file(&at("gone.conf")),
            Err("No such file or directory")
        );
        assert_eq!(Sources::decode(&sources.encode()), Some(sources));
        let error = Sources::collect(&at("none"), &[]).unwrap_err();
        assert!(
            error[0]
                .to_string()
                .ends_with("none: cannot read it: No such file or directory")
        );
    }

    #[test]
    fn only_whole_encodings_decode() {
        let sources = Sources::from_text("x", "a = b\n", &[("m".into(), "v".into())]);
        let bytes = sources.encode();
        for end in 0..bytes.len() {
            assert_eq!(Sources::decode(&bytes[..end]), None);
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert_eq!(Sources::decode(&longer), None);
        let mut lying = bytes;
        let at = MAGIC.len();
        lying[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(Sources::decode(&lying), None);
    }
}
