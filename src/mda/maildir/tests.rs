use std::os::unix::fs::PermissionsExt;
use std::sync::Mutex;

use super::settle::settle_on;
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
