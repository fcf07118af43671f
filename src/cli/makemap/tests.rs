//! makemap(8) as a command line.

use std::fs;
use std::io::Cursor;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use crate::cli::exit_error::ExitError;
use crate::sys::lock;

use super::{Done, build, run};

fn makemap(words: &[&str], input: &str) -> (Result<Done, ExitError>, String) {
    let words = words.iter().map(|word| word.as_bytes().to_vec()).collect();
    let mut out = Vec::new();
    let input = Box::new(Cursor::new(input.as_bytes().to_vec()));
    let result = run(words, input, &mut out);
    (result, String::from_utf8(out).unwrap())
}

struct Place(tempfile::TempDir);

impl Place {
    fn new(text: &str) -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        fs::write(place.at("map"), text).unwrap();
        place
    }

    fn at(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    /// Makes `map.db` and says what is in it.
    fn made(&self, options: &[&str]) -> Result<String, ExitError> {
        let source = self.at("map");
        let mut words = options.to_vec();
        words.push(&source);
        makemap(&words, "").0?;
        let (result, out) = makemap(&["-U", &self.at("map.db")], "");
        result.map(|_| out)
    }

    fn complaint(&self, options: &[&str]) -> String {
        let failure = self.made(options).unwrap_err();
        assert_eq!(failure.code, 1, "{failure:?}");
        let left = fs::read_dir(self.0.path()).unwrap().count();
        assert_eq!(left, 1, "something is left behind");
        failure.text.replace(&self.at("map"), "F")
    }
}

#[test]
fn keys_are_lower_case_and_values_verbatim() {
    // makemap(8): a map, printed with -U as key, tab, value.
    let place = Place::new("# people\nBob: Bob@Example.org # note\n\nAl\tx y\n");
    assert_eq!(place.made(&[]).unwrap(), "bob\tBob@Example.org\nal\tx y\n");
    for kind in ["hash", "btree"] {
        assert!(place.made(&["-d", kind, "-C", "x", "-bx"]).is_ok());
    }
}

#[test]
fn standard_input_is_read_to_its_end_or_not_taken() {
    // makemap(8): the database appears whole or not at all.
    assert_eq!(build::all_of(&b"a: b\n"[..], 5).unwrap(), b"a: b\n");
    let failure = build::all_of(&b"a: b\n"[..], 4).unwrap_err();
    assert_eq!(failure.text, "standard input: file too large");
}

#[test]
fn a_set_has_lines_for_keys() {
    // makemap(8), -t set.
    let place = Place::new("Example.org\n*.Example.com\na b\n^\\S+\\w$\n^[\\S]\n");
    let made = place.made(&["-t", "set"]).unwrap();
    let lines: Vec<&str> = made.lines().collect();
    assert_eq!(
        lines[..3],
        ["example.org\t<set>", "*.example.com\t<set>", "a b\t<set>"]
    );
    assert_eq!(lines[3..], ["^\\s+\\w$\t^\\S+\\w$", "^[\\s]\t^[\\S]"]);
}

#[test]
fn aliases_must_be_what_the_daemon_can_read() {
    // makemap(8), -t aliases; aliases(5): quotes protect commas.
    let place = Place::new("staff: bob, \"|prog a, b\", :include:/x\n");
    let made = place.made(&["-t", "aliases"]).unwrap();
    assert_eq!(made, "staff\tbob, \"|prog a, b\", :include:/x\n");
    let place = Place::new("root: bob\nstaff: bob, <al@x.org\n");
    let text = place.complaint(&["-t", "aliases"]);
    assert!(
        text.starts_with("F:2: invalid entry: \"<al@x.org\""),
        "{text}"
    );
}

#[test]
fn mistakes_are_named_and_nothing_is_left_behind() {
    // makemap(8), diagnostics.
    for (text, complaint) in [
        ("a: b\nA: c\n", "F:2: duplicate entry for A"),
        ("a: b\nc\n", "F:2: invalid entry"),
        ("[::1 x\n", "F:1: invalid entry"),
    ] {
        let found = Place::new(text).complaint(&[]);
        assert!(found.starts_with(complaint), "{found}");
    }
    let long = format!("{}: x\n", "k".repeat(1024));
    assert!(Place::new(&long).complaint(&[]).contains("invalid entry"));
    let place = Place::new("a: b\n");
    assert_eq!(place.complaint(&["-d", "dbm"]), "unsupported DB type 'dbm'");
    assert_eq!(place.complaint(&["-t", "x"]), "unsupported type 'x'");
    let gone = makemap(&["/none/map"], "").0.unwrap_err();
    assert_eq!(gone.text, "stat: /none/map: No such file or directory");
    for words in [
        &[][..],
        &["-h"],
        &["-x", "f"],
        &["a", "b", "c"],
        &["-o", "x", "hash", "y"],
    ] {
        let failure = makemap(words, "").0.unwrap_err();
        let usage = "usage: makemap [-U] [-d dbtype] [-o dbfile] [-t type] file\n";
        assert_eq!(
            (failure.code, failure.text.as_str()),
            (1, usage),
            "{words:?}"
        );
    }
}

#[test]
fn an_empty_map_is_made_with_a_warning() {
    let place = Place::new("# nothing\n");
    let failure = place.made(&[]).unwrap_err();
    let text = format!("warning: empty map created: {}", place.at("map.db"));
    assert_eq!(failure, ExitError::with(0, text));
    let (result, out) = makemap(&["-U", &place.at("map.db")], "");
    assert_eq!((result, out.as_str()), (Ok(Done::Made), ""));
}

#[test]
fn standard_input_and_the_command_line_of_sendmail_are_understood() {
    // makemap(8): `makemap hash NAME < file`.
    let place = Place::new("");
    let (map, out) = (place.at("map"), place.at("out"));
    assert_eq!(makemap(&["hash", &map], "a: b\n").0, Ok(Done::Made));
    assert_eq!(makemap(&["-U", &place.at("map.db")], "").1, "a\tb\n");
    let mode = fs::metadata(place.at("map.db")).unwrap().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(makemap(&["-o", &out, "-"], "c: d\n").0, Ok(Done::Made));
    assert_eq!(makemap(&["-U", &out], "").1, "c\td\n");
    let failure = makemap(&["-o", &out, "-"], "c\n").0.unwrap_err();
    assert!(failure.text.starts_with("<stdin>:1: invalid entry"));
    assert_eq!(makemap(&["-U", &out], "").1, "c\td\n");
    assert!(makemap(&["-"], "a: b\n").0.is_err());
    assert!(makemap(&["dbm", &map], "a: b\n").0.is_err());
    assert_eq!(makemap(&["-bi"], "").0, Ok(Done::NewAliases(None)));
    let named = makemap(&["-bi", "-OAliasFile=/x"], "").0;
    assert_eq!(named, Ok(Done::NewAliases(Some("/x".into()))));
}

#[test]
fn the_database_has_the_mode_and_owner_of_its_source() {
    let place = Place::new("a: b\n");
    let (map, db) = (place.at("map"), place.at("map.db"));
    fs::set_permissions(&map, fs::Permissions::from_mode(0o640)).unwrap();
    if crate::sys::user::effective_uid() == 0 {
        std::os::unix::fs::chown(&map, Some(65534), Some(65533)).unwrap();
    }
    place.made(&[]).unwrap();
    let (source, made) = (fs::metadata(&map).unwrap(), fs::metadata(&db).unwrap());
    assert_eq!(made.mode() & 0o777, 0o640);
    assert_eq!((made.uid(), made.gid()), (source.uid(), source.gid()));
}

#[test]
fn a_source_that_somebody_has_locked_is_left_alone() {
    let place = Place::new("a: b\n");
    let file = fs::File::open(place.at("map")).unwrap();
    assert!(lock::try_flock(&file).unwrap());
    assert_eq!(place.complaint(&[]), "F is locked");
    drop(file);
    assert!(place.made(&[]).is_ok());
}

#[test]
fn what_is_no_database_is_not_printed() {
    let place = Place::new("a: b\n");
    let failure = makemap(&["-U", &place.at("map")], "").0.unwrap_err();
    assert!(
        failure.text.ends_with("no database of makemap(8)"),
        "{failure:?}"
    );
    assert!(makemap(&["-U", "/none"], "").0.is_err());
    assert!(makemap(&["-o", "/none/x", &place.at("map")], "").0.is_err());
    assert!(!Path::new("/none").exists());
}
