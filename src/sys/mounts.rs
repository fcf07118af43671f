//! Which file systems are mounted where, as the system has it in memory.
//!
//! A look at a file system of another machine, or of another process, may never return when that
//! one does not answer. What is asked here touches none of these.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Component, Path, PathBuf};

/// What is mounted, as this process sees it.
#[derive(Debug, Default)]
pub struct Mounts {
    all: Vec<Mount>,
    #[cfg(target_os = "linux")]
    file: Option<std::fs::File>,
}

#[derive(Debug, PartialEq, Eq)]
struct Mount {
    place: PathBuf,
    /// Whether its files are on a disk of this machine, or in its memory.
    is_local: bool,
}

impl Mounts {
    /// Whether whoever opens `path`, through whatever symbolic links, waits for this system alone.
    /// False also where nobody can say.
    pub fn lead_locally_to(&mut self, path: &Path) -> bool {
        self.refresh();
        lead_locally(&self.all, path)
    }
}

/// Follows `path` name by name; none is looked at that lies on, or under, what is not local.
fn lead_locally(all: &[Mount], path: &Path) -> bool {
    let is_local = |place: &Path| {
        let mut above = all.iter().filter(|mount| place.starts_with(&mount.place));
        // One may be hidden behind another that is mounted above it: all of them count.
        above.clone().count() > 0 && above.all(|mount| mount.is_local)
    };
    let mut place = PathBuf::from("/");
    let mut ahead = names(path);
    let mut links = 0;
    if !path.is_absolute() || !is_local(&place) {
        return false;
    }
    while let Some(name) = ahead.pop_front() {
        if name == ".." {
            place.pop();
            continue;
        }
        place.push(name);
        if !is_local(&place) {
            return false;
        }
        match std::fs::read_link(&place) {
            Ok(target) => {
                links += 1;
                if links > MOST_LINKS {
                    return false;
                }
                place.pop();
                if target.is_absolute() {
                    place = PathBuf::from("/");
                }
                for name in names(&target).into_iter().rev() {
                    ahead.push_front(name);
                }
            }
            Err(error) => match error.kind() {
                // It is no link.
                io::ErrorKind::InvalidInput => {}
                // Nobody gets further.
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => return true,
                _ => return false,
            },
        }
    }
    true
}

/// The names in a path; `..` is one.
fn names(path: &Path) -> VecDeque<OsString> {
    let name = |part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsStr::new("..").to_owned()),
        _ => None,
    };
    path.components().filter_map(name).collect()
}

/// As many as systems follow.
const MOST_LINKS: usize = 40;

#[cfg(target_os = "linux")]
mod platform {
    use std::collections::HashSet;
    use std::ffi::OsString;
    use std::fs::File;
    use std::io::{self, Read, Seek};
    use std::os::fd::AsFd;
    use std::os::unix::ffi::OsStringExt;
    use std::time::Duration;

    use super::super::poll::{Interest, PollFd, poll};
    use super::{Mount, Mounts};

    impl Mounts {
        /// The list is read again when it has changed, which a poll(2) tells once.
        pub(super) fn refresh(&mut self) {
            let is_new = |file: &File| {
                let mut fds = [PollFd::new(file.as_fd(), Interest::Nothing)];
                !matches!(poll(&mut fds, Some(Duration::ZERO)), Ok(0))
            };
            if self.file.as_ref().is_none_or(is_new) {
                // Where there is no list, nothing is known to be local.
                self.all = self.read().unwrap_or_default();
            }
        }

        fn read(&mut self) -> io::Result<Vec<Mount>> {
            let mut file = match self.file.take() {
                Some(file) => file,
                None => File::open("/proc/self/mountinfo")?,
            };
            file.rewind()?;
            let mut bytes = Vec::new();
            file.by_ref().take(MOST_BYTES).read_to_end(&mut bytes)?;
            let whole = bytes.len() < MOST_BYTES as usize;
            let all = parse(&bytes).filter(|_| whole);
            let all = all.ok_or(io::ErrorKind::InvalidData)?;
            self.file = Some(file);
            Ok(all)
        }
    }

    /// A list of mounts is taken to be shorter than this.
    const MOST_BYTES: u64 = 16 * 1024 * 1024;

    /// The mounts of the whole list. One that has another at the very same place on top of it is
    /// left out, since nobody gets there: an automounter's has, once it has mounted something.
    pub(super) fn parse(list: &[u8]) -> Option<Vec<Mount>> {
        let lines = list.split(|byte| *byte == b'\n');
        let lines = lines.filter(|line| !line.is_empty());
        let all: Vec<Line<'_>> = lines.map(parse_line).collect::<Option<_>>()?;
        let on_top = all
            .iter()
            .map(|line| (line.parent, line.mount.place.clone()));
        let on_top: HashSet<_> = on_top.collect();
        let is_seen = |line: &Line<'_>| !on_top.contains(&(line.id, line.mount.place.clone()));
        let seen = all.into_iter().filter(is_seen);
        Some(seen.map(|line| line.mount).collect())
    }

    struct Line<'l> {
        id: &'l [u8],
        /// What it is mounted on.
        parent: &'l [u8],
        mount: Mount,
    }

    /// proc_pid_mountinfo(5): the fifth field is the place, the first after the hyphen the type.
    fn parse_line(line: &[u8]) -> Option<Line<'_>> {
        let mut fields = line.split(|byte| *byte == b' ');
        let (id, parent) = (fields.next()?, fields.next()?);
        let place = unescaped(fields.nth(2)?);
        let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
        Some(Line {
            id,
            parent,
            mount: Mount {
                place: OsString::from_vec(place).into(),
                is_local: LOCAL_TYPES.contains(&kind),
            },
        })
    }

    /// White space and backslashes are written as three octal digits.
    fn unescaped(field: &[u8]) -> Vec<u8> {
        let (mut bytes, mut rest) = (Vec::new(), field);
        while let [first, more @ ..] = rest {
            match (first, more) {
                (
                    b'\\',
                    [
                        a @ b'0'..=b'3',
                        b @ b'0'..=b'7',
                        c @ b'0'..=b'7',
                        after @ ..,
                    ],
                ) => {
                    bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                    rest = after;
                }
                _ => {
                    bytes.push(*first);
                    rest = more;
                }
            }
        }
        bytes
    }

    /// What is known to be on a disk of this machine, or in its memory.
    const LOCAL_TYPES: &[&[u8]] = &[
        b"ext2",
        b"ext3",
        b"ext4",
        b"xfs",
        b"btrfs",
        b"zfs",
        b"f2fs",
        b"bcachefs",
        b"tmpfs",
        b"overlay",
    ];
}

#[cfg(not(target_os = "linux"))]
mod platform {
    use std::ffi::{CStr, OsStr};
    use std::io;
    use std::os::unix::ffi::OsStrExt;

    use super::super::errno::cvt;
    use super::{Mount, Mounts};

    impl Mounts {
        pub(super) fn refresh(&mut self) {
            // Where there is no list, nothing is known to be local.
            self.all = read().unwrap_or_default();
        }
    }

    #[allow(clippy::unnecessary_cast)] // The fields' types differ between systems.
    fn read() -> io::Result<Vec<Mount>> {
        // SAFETY: without room for them, getfsstat(2) says how many there are.
        let count = cvt(unsafe { libc::getfsstat(std::ptr::null_mut(), 0, libc::MNT_NOWAIT) })?;
        // Room for one more shows that there are no more.
        let mut found: Vec<libc::statfs> = Vec::with_capacity(count as usize + 1);
        let bytes = found.capacity() * size_of::<libc::statfs>();
        // SAFETY: `found` is writable for so many bytes.
        let count =
            cvt(unsafe { libc::getfsstat(found.as_mut_ptr(), bytes as _, libc::MNT_NOWAIT) })?
                as usize;
        if count >= found.capacity() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        // SAFETY: the call has filled as many as it says.
        unsafe { found.set_len(count) };
        let mount = |one: &libc::statfs| {
            // SAFETY: the kernel ends the name with a zero byte.
            let place = unsafe { CStr::from_ptr(one.f_mntonname.as_ptr()) };
            Mount {
                place: OsStr::from_bytes(place.to_bytes()).into(),
                is_local: one.f_flags as u64 & MNT_LOCAL != 0,
            }
        };
        Ok(found.iter().map(mount).collect())
    }

    /// mount(2): "stored locally".
    const MNT_LOCAL: u64 = 0x1000;
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_path_is_local_as_far_as_all_that_it_passes_is() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        let mount = |place: PathBuf, is_local| Mount { place, is_local };
        let mut all = vec![
            mount("/".into(), true),
            mount(top.join("near/disk"), true),
            mount(top.join("far"), false),
            // Hidden by what is mounted over its parent, or not: who knows.
            mount(top.join("far/disk"), true),
        ];
        for place in ["near/disk/bob", "far/disk/bob", "links"] {
            std::fs::create_dir_all(top.join(place)).unwrap();
        }
        let link =
            |target: &str, name: &str| symlink(target, top.join("links").join(name)).unwrap();
        link("../near", "relative");
        link(top.join("near").to_str().unwrap(), "absolute");
        link("../far/bob", "away");
        link("../near/../far", "around");
        link("loop", "loop");
        link("relative", "two");
        for (path, is_local) in [
            ("near/disk/bob/.forward", true),
            ("near/nobody/.forward", true),
            ("links/relative/disk/bob", true),
            ("links/absolute/disk", true),
            ("links/two/disk", true),
            ("far/../near", false),
            ("far", false),
            ("far/disk/bob", false),
            ("fare", true),
            ("links/away", false),
            ("links/around/bob", false),
            ("links/loop", false),
        ] {
            assert_eq!(lead_locally(&all, &top.join(path)), is_local, "{path}");
        }
        assert!(!lead_locally(&all, Path::new("relative")));
        assert!(!lead_locally(&[], &top));
        all[0].is_local = false;
        assert!(!lead_locally(&all, &top.join("near")));
    }

    #[test]
    fn what_the_kernel_makes_up_is_not_local() {
        let mut mounts = Mounts::default();
        if cfg!(target_os = "linux") {
            assert!(!mounts.lead_locally_to(Path::new("/proc/self/status")));
        }
        assert!(!mounts.all.is_empty());
        assert!(!mounts.lead_locally_to(Path::new("relative")));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_line_of_the_system_is_understood() {
        let read = |line: &str| platform::parse(line.as_bytes());
        let mount = |place: &str, is_local| {
            Some(vec![Mount {
                place: place.into(),
                is_local,
            }])
        };
        let line = "36 35 98:0 /a /home rw,noatime shared:1 master:2 - ext4 /dev/root rw";
        assert_eq!(read(line), mount("/home", true));
        let line = r"37 35 0:44 / /my\040home\134 rw - nfs4 server:/ext4 rw,vers=4.2";
        assert_eq!(read(line), mount(r"/my home\", false));
        assert_eq!(
            read("38 35 0:45 / /net rw - autofs /etc/auto.net rw"),
            mount("/net", false)
        );
        assert_eq!(read("36 35 98:0 / /home rw ext4"), None);
        assert_eq!(read("36 35"), None);
        assert_eq!(read(""), Some(Vec::new()));
    }

    // With x-systemd.automount both stay mounted; what is below is not seen any more.
    #[cfg(target_os = "linux")]
    #[test]
    fn of_mounts_at_one_place_the_one_on_top_counts() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().canonicalize().unwrap();
        std::fs::create_dir(home.join("bob")).unwrap();
        let root = "28 1 8:1 / / rw - ext4 /dev/a rw";
        let below = "40 28 0:39 / /home rw shared:1 - autofs systemd-1 rw,fd=60";
        let disk = "95 40 8:2 / /home rw shared:2 - ext4 /dev/b rw";
        let net = "95 40 0:50 / /home rw - nfs4 server:/home rw";
        let over = "96 95 0:51 / /home rw - autofs systemd-1 rw";
        let inside = "97 95 0:52 / /home/bob rw - nfs4 server:/bob rw";
        let hidden = "41 40 0:53 / /home/bob rw - fuse.sshfs far rw";
        for (lines, is_local) in [
            (vec![root, below, disk], true),
            (vec![disk, below, root], true),
            (vec![root, below], false),
            (vec![root, below, net], false),
            (vec![root, below, disk, over], false),
            (vec![root, below, disk, inside], false),
            // Elsewhere than at the same place all count.
            (vec![root, below, hidden, disk], false),
        ] {
            let list = lines.join("\n").replace("/home", home.to_str().unwrap());
            let all = platform::parse(list.as_bytes()).unwrap();
            let found = lead_locally(&all, &home.join("bob/.forward"));
            assert_eq!(found, is_local, "{lines:?}");
        }
    }
}
