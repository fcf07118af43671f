//! Every byte a configuration is made of: the main file, included files and file tables, and
//! whether the databases that it names can be used.
//!
//! The parent collects them once, as root, and hands the engine the same bytes, so both see the
//! same configuration whatever happens to the files in between. A file that cannot be read is
//! remembered with the reason; [`load`](super::load) then complains at the place that names it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::sys::errno::strerror;
use crate::sys::open;
use crate::util::cdb;
use crate::util::wire::wire;

use super::ast::{Ast, Body, ListenKind, PkiOption, TableValue};
use super::diagnostic::{Diagnostic, Diagnostics};
use super::{Paths, TableProgram, limits, parse, services};

/// The main file, every file it leads to, and the macros of the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    main: PathBuf,
    /// What relative paths start from. A daemon is elsewhere when it reads them again.
    dir: PathBuf,
    files: BTreeMap<PathBuf, Vec<u8>>,
    unreadable: BTreeMap<PathBuf, String>,
    macros: Vec<(String, String)>,
}

impl Sources {
    /// Reads `main` and whatever it leads to. Relative paths start from `dir`; an empty one is the
    /// directory we are in. `macros` are those of `-D`, in their order.
    pub fn collect(
        main: &Path,
        dir: &Path,
        macros: &[(String, String)],
    ) -> Result<Sources, Vec<Diagnostic>> {
        let text = read_main(main).map_err(|error| {
            vec![Diagnostic {
                file: main.display().to_string(),
                line: 0,
                column: 0,
                text: format!("cannot read it: {}", strerror(&error)),
            }]
        })?;
        Ok(Sources::empty(main, dir, macros).follow(text))
    }

    /// Takes `text` for the main file and calls it `name`; files that it names are read.
    pub fn from_text(name: &str, text: &str, macros: &[(String, String)]) -> Sources {
        Sources::empty(Path::new(name), Path::new(""), macros).follow(text.as_bytes().to_vec())
    }

    /// Takes `text` for the main file and reads nothing.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn alone(text: &[u8]) -> Sources {
        let main = Path::new("smtpd.conf");
        let mut sources = Sources::empty(main, Path::new(""), &[]);
        sources.insert(main, text.to_vec());
        sources
    }

    fn empty(main: &Path, dir: &Path, macros: &[(String, String)]) -> Sources {
        Sources {
            main: main.to_owned(),
            dir: dir.to_owned(),
            files: BTreeMap::new(),
            unreadable: BTreeMap::new(),
            macros: macros.to_vec(),
        }
    }

    /// Where a file is that the text names.
    pub fn path(&self, named: impl AsRef<Path>) -> PathBuf {
        self.dir.join(named)
    }

    /// Puts a file in, as if it had been read.
    pub fn insert(&mut self, path: &Path, bytes: Vec<u8>) {
        let path = self.path(path);
        self.unreadable.remove(&path);
        self.unreadable.remove(&database_name(&path));
        self.files.insert(path, bytes);
    }

    /// The name of the main file.
    pub fn main(&self) -> &Path {
        &self.main
    }

    /// The bytes of a file, or why there are none.
    pub fn file(&self, path: &Path) -> Result<&[u8], &str> {
        let path = self.path(path);
        if let Some(bytes) = self.files.get(&path) {
            return Ok(bytes);
        }
        let reason = self.unreadable.get(&path);
        Err(reason.map_or("it was not read at the start", String::as_str))
    }

    /// Whether a database could be used at the start, or why not. Its records are no part of the
    /// sources: whoever answers from it opens it.
    pub fn database(&self, path: &Path) -> Result<(), &str> {
        match self.unreadable.get(&database_name(path)) {
            Some(reason) => Err(reason),
            None => Ok(()),
        }
    }

    /// Whether the program of a table was there at the start, or why not. `table` is what the
    /// configuration says of it.
    pub fn program(&self, table: &str) -> Result<(), &str> {
        match self.unreadable.get(&program_name(table)) {
            Some(reason) => Err(reason),
            None => Ok(()),
        }
    }

    /// Takes every database for one that can be used: the caller is about to make it.
    pub fn trust_databases(&mut self) {
        let database = |path: &PathBuf| path_bytes(path).starts_with(DATABASE.as_bytes());
        self.unreadable.retain(|path, _| !database(path));
    }

    /// Macros of the command line.
    pub fn macros(&self) -> &[(String, String)] {
        &self.macros
    }

    /// Parses while it reads; complaints are left to `load`, which parses the same bytes again.
    fn follow(mut self, text: Vec<u8>) -> Sources {
        let mut unheard = Diagnostics::default();
        let macros = self.macros.clone();
        let main = self.main.clone();
        let mut fetch = |path: &str| {
            let path = Path::new(path);
            self.read(path, limits::TEXT_BYTES);
            let file = self.file(path);
            file.map(<[u8]>::to_vec).map_err(str::to_owned)
        };
        let name = main.display().to_string();
        let ast = parse::parse(&name, &text, &macros, &mut fetch, &mut unheard);
        for path in files_named(&ast) {
            self.read(&path, limits::TABLE_BYTES);
        }
        for path in databases_named(&ast) {
            self.try_database(&path);
        }
        for table in programs_named(&ast) {
            self.try_program(&table);
        }
        self.files.insert(self.path(&main), text);
        self
    }

    fn read(&mut self, named: &Path, limit_bytes: u64) {
        let path = self.path(named);
        if self.files.contains_key(&path) || self.unreadable.contains_key(&path) {
            return;
        }
        match open::read_plain(&path, limit_bytes) {
            Ok(bytes) => {
                self.files.insert(path, bytes);
            }
            Err(error) => {
                self.unreadable.insert(path, strerror(&error));
            }
        }
    }

    fn try_program(&mut self, table: &str) {
        let Some(program) = TableProgram::parse(table) else {
            return;
        };
        let file = program.file(&Paths::system().libexec);
        let found = std::fs::metadata(&file).map_err(|error| strerror(&error));
        let runs = |found: &std::fs::Metadata| found.is_file() && found.mode() & 0o111 != 0;
        let reason = match found {
            Ok(found) if runs(&found) => return,
            Ok(_) => "it is no program".to_owned(),
            Err(reason) => reason,
        };
        self.unreadable.insert(program_name(table), reason);
    }

    fn try_database(&mut self, path: &Path) {
        let opened = open::plain(path).map_err(|error| strerror(&error));
        let opened = opened.and_then(|file| cdb::Reader::open(file).map_err(|e| e.to_string()));
        if let Err(reason) = opened {
            self.unreadable.insert(database_name(path), reason);
        }
    }
}

/// In front of the path of a database among the files that are unreadable: the same file may be a
/// table of text as well.
const DATABASE: &str = "db:";

fn database_name(path: &Path) -> PathBuf {
    let mut name = OsString::from(DATABASE);
    name.push(path);
    PathBuf::from(name)
}

/// Under which name the command of a table's program is kept.
fn program_name(table: &str) -> PathBuf {
    PathBuf::from(format!("program:{table}"))
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
            // Certificates are for everybody; keys are not, and are not among these.
            Body::Ca(_, file) => files.push(PathBuf::from(&file.value)),
            Body::Pki(_, options) => {
                let cert = |option: &PkiOption| match option {
                    PkiOption::Cert(file) => Some(PathBuf::from(&file.value)),
                    PkiOption::Key(_) | PkiOption::Dhe(_) => None,
                };
                files.extend(options.iter().filter_map(cert));
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

fn databases_named(ast: &Ast) -> Vec<PathBuf> {
    let path = |body: &Body| match body {
        Body::Table(_, TableValue::One(text)) => database_of_table(&text.value).map(PathBuf::from),
        _ => None,
    };
    ast.statements
        .iter()
        .filter_map(|found| path(&found.body))
        .collect()
}

/// What tables say that are neither files nor databases, nor built in.
fn programs_named(ast: &Ast) -> Vec<String> {
    let text = |body: &Body| match body {
        Body::Table(_, TableValue::One(text)) if !text.value.starts_with('/') => {
            Some(text.value.clone())
        }
        _ => None,
    };
    let texts = ast.statements.iter().filter_map(|found| text(&found.body));
    texts.collect()
}

/// The path in `db:/path`.
pub fn database_of_table(text: &str) -> Option<&str> {
    text.strip_prefix(DATABASE)
        .filter(|path| path.starts_with('/'))
}

/// The path in `/path`, `file:/path` and `static:/path`.
pub fn file_of_table(text: &str) -> Option<&str> {
    if text.starts_with('/') {
        return Some(text);
    }
    let (backend, path) = text.split_once(':')?;
    (matches!(backend, "file" | "static") && path.starts_with('/')).then_some(path)
}

wire! { struct Sources { main, dir, macros, unreadable, files } }

fn path_bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::util::frame::Bad;
    use crate::util::wire::Wire;

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

        let here = Path::new("");
        let sources = Sources::collect(&at("smtpd.conf"), here, &[]).unwrap();
        assert_eq!(sources.file(&at("aliases")), Ok(&b"root: bob\n"[..]));
        assert_eq!(
            sources.file(&at("gone.conf")),
            Err("No such file or directory")
        );
        assert_eq!(Sources::from_bytes(&sources.to_bytes()), Ok(sources));
        let error = Sources::collect(&at("none"), here, &[]).unwrap_err();
        assert!(
            error[0]
                .to_string()
                .ends_with("none: cannot read it: No such file or directory")
        );
    }

    // smtpd.conf(5), include: a relative path is looked up from the directory of the start.
    #[test]
    fn relative_paths_start_from_the_directory_that_is_given() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("ca.pem"), "CERT").unwrap();
        std::fs::write(at("more.conf"), "ca c cert \"ca.pem\"\n").unwrap();
        let text = "include \"more.conf\"\nmatch reject\n";
        std::fs::write(at("smtpd.conf"), text).unwrap();
        let sources = Sources::collect(&at("smtpd.conf"), dir.path(), &[]).unwrap();
        let defaults = crate::config::Defaults {
            server_name: crate::util::Line::new("mx.example.org").unwrap(),
            addresses: Vec::new(),
        };
        let loaded = crate::config::load(&sources, &defaults).unwrap();
        assert_eq!(loaded.config.ca["c"], at("ca.pem"));
        assert_eq!(sources.file(&at("ca.pem")), Ok(&b"CERT"[..]));
        assert_eq!(loaded.files[1], "more.conf");
    }

    // smtpd.conf(5), table: a database must be there and be one.
    #[test]
    fn a_database_that_cannot_be_used_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let mut empty = cdb::Writer::new(std::io::Cursor::new(Vec::new())).unwrap();
        empty.add(b"key", b"value").unwrap();
        std::fs::write(at("good"), empty.finish().unwrap().into_inner()).unwrap();
        std::fs::write(at("bad"), "root: bob\n").unwrap();
        let text: String = ["good", "bad", "gone"]
            .map(|name| format!("table {name} db:{}\n", at(name).display()))
            .concat();
        let mut sources = Sources::from_text("x", &text, &[]);
        assert_eq!(sources.database(&at("good")), Ok(()));
        let reason = sources.database(&at("bad")).unwrap_err();
        assert_eq!(reason, "damaged, or no database of makemap(8)");
        let reason = sources.database(&at("gone"));
        assert_eq!(reason, Err("No such file or directory"));
        assert_eq!(
            Sources::from_bytes(&sources.to_bytes()),
            Ok(sources.clone())
        );
        sources.trust_databases();
        assert_eq!(sources.database(&at("gone")), Ok(()));
    }

    #[test]
    fn only_whole_encodings_decode() {
        let sources = Sources::from_text("x", "a = b\n", &[("m".into(), "v".into())]);
        let bytes = sources.to_bytes();
        for end in 0..bytes.len() {
            assert_eq!(Sources::from_bytes(&bytes[..end]), Err(Bad::Short));
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert_eq!(Sources::from_bytes(&longer), Err(Bad::Trailing));
        let mut lying = bytes;
        lying[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(Sources::from_bytes(&lying), Err(Bad::Short));
    }
}
