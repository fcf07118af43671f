//! Where everything is: compiled-in paths, or all of them under one directory.

use std::env;
use std::path::{Path, PathBuf};

use crate::sys;

/// The user of commands of aliases, and of the process with the private keys.
pub const USER: &str = match option_env!("SMTPD_USER") {
    Some(name) => name,
    None => "_smtpd",
};

/// The unprivileged user that the engine runs as, and that owns the queue.
pub const QUEUE_USER: &str = match option_env!("SMTPD_QUEUE_USER") {
    Some(user) => user,
    None => "_smtpq",
};

/// The group that may put messages into the offline queue: sendmail's set-group-id.
pub const QUEUE_GROUP: &str = match option_env!("SMTPD_QUEUE_GROUP") {
    Some(name) => name,
    None => "_smtpq",
};

/// The environment variable with which front ends find an instance root.
pub const ROOT_VARIABLE: &str = "SMTPD_ROOT";

/// The files of one instance, and the programs it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// The instance root, if this is one.
    pub root: Option<PathBuf>,
    /// smtpd.conf(5).
    pub conf: PathBuf,
    /// The server name's file.
    pub mailname: PathBuf,
    pub spool: PathBuf,
    /// smtpctl(8)'s socket.
    pub socket: PathBuf,
    /// The parent's process id.
    pub pid: PathBuf,
    /// The mail.* helpers.
    pub libexec: PathBuf,
    /// smtpctl(8), which is sendmail(8), too.
    pub smtpctl: PathBuf,
}

impl Paths {
    /// The paths of the system's instance, as they were built in.
    pub fn system() -> Paths {
        let confdir = Path::new(SYSCONFDIR);
        let programs = Programs::find();
        Paths {
            root: None,
            conf: confdir.join("smtpd.conf"),
            mailname: confdir.join("mailname"),
            spool: SPOOL.into(),
            socket: SOCKET.into(),
            pid: PID.into(),
            libexec: programs.libexec,
            smtpctl: programs.smtpctl,
        }
    }

    /// The instance that lives in `root`. Programs are the installed ones.
    pub fn under(root: &Path) -> Paths {
        Paths {
            root: Some(root.to_owned()),
            conf: root.join("smtpd.conf"),
            mailname: root.join("mailname"),
            spool: root.join("spool"),
            socket: root.join("smtpd.sock"),
            pid: root.join("smtpd.pid"),
            ..Paths::system()
        }
    }

    /// The instance that a front end talks to: the one in [`ROOT_VARIABLE`], else the system's.
    /// `trusted` is false for a set-id program, which must not believe its environment.
    pub fn of_environment(trusted: bool) -> Paths {
        match env::var_os(ROOT_VARIABLE).filter(|root| trusted && !root.is_empty()) {
            Some(root) => Paths::under(Path::new(&root)),
            None => Paths::system(),
        }
    }
}

/// Where the helper `name` is: in `libexec`, with the dots of its name, or with underscores where
/// a build has left it.
pub fn find_helper(libexec: &Path, name: &str) -> PathBuf {
    let installed = libexec.join(name);
    let built = libexec.join(name.replace('.', "_"));
    if !installed.exists() && built.exists() {
        return built;
    }
    installed
}

const SYSCONFDIR: &str = match option_env!("SMTPD_SYSCONFDIR") {
    Some(path) => path,
    None => "/etc/mail",
};
const SPOOL: &str = match option_env!("SMTPD_SPOOL") {
    Some(path) => path,
    None => "/var/spool/smtpd",
};
const SOCKET: &str = match option_env!("SMTPD_SOCKET") {
    Some(path) => path,
    None => "/var/run/smtpd.sock",
};
const PID: &str = match option_env!("SMTPD_PID") {
    Some(path) => path,
    None => "/var/run/smtpd.pid",
};
const LIBEXEC: &str = match option_env!("SMTPD_LIBEXEC") {
    Some(path) => path,
    None => "/usr/local/libexec/smtpd",
};
const SBIN: &str = match option_env!("SMTPD_SBIN") {
    Some(path) => path,
    None => "/usr/local/sbin",
};

/// The system's mailboxes.
pub const MAILDIR: &str = match option_env!("SMTPD_MAILDIR") {
    Some(path) => path,
    None => "/var/mail",
};

/// The system's own mail.local(8), if it has one that is to be used.
pub const MAIL_LOCAL: Option<&str> = match option_env!("SMTPD_MAIL_LOCAL") {
    Some(path) if !path.is_empty() => Some(path),
    _ => sys::base::MAIL_LOCAL,
};

/// The programs that belong to the one running now.
struct Programs {
    libexec: PathBuf,
    smtpctl: PathBuf,
}

impl Programs {
    fn find() -> Programs {
        match sys::exe::path() {
            Ok(exe) => Programs::beside(&exe),
            Err(_) => Programs::compiled_in(),
        }
    }

    fn compiled_in() -> Programs {
        Programs {
            libexec: LIBEXEC.into(),
            smtpctl: Path::new(SBIN).join("smtpctl"),
        }
    }

    /// An installed or staged tree has `sbin/smtpd` and `libexec/smtpd/`, a build has all of it in
    /// one directory (tests run one further down, in `deps`).
    fn beside(exe: &Path) -> Programs {
        let mut programs = Programs::compiled_in();
        let Some(dir) = exe.parent() else {
            return programs;
        };
        let build = if dir.ends_with("deps") {
            dir.parent().unwrap_or(dir)
        } else {
            dir
        };
        for tree in [
            dir.join("../libexec/smtpd"),
            dir.join("../../libexec/smtpd"),
        ] {
            if let Ok(libexec) = tree.canonicalize() {
                programs.libexec = libexec;
                break;
            }
        }
        if build.join("mail_maildir").exists() {
            programs.libexec = build.to_owned();
        }
        for sbin in [build.to_owned(), dir.join("../sbin")] {
            let smtpctl = sbin.join("smtpctl");
            if let (true, Ok(smtpctl)) = (smtpctl.exists(), smtpctl.canonicalize()) {
                programs.smtpctl = smtpctl;
                break;
            }
        }
        programs
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn an_instance_root_holds_every_file() {
        let root = Path::new("/some/where");
        let paths = Paths::under(root);
        for path in [
            &paths.conf,
            &paths.mailname,
            &paths.spool,
            &paths.socket,
            &paths.pid,
        ] {
            assert!(path.starts_with(root), "{path:?}");
        }
        assert_eq!(paths.libexec, Paths::system().libexec);
    }

    #[test]
    fn programs_are_found_where_they_were_staged_or_built() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        for sub in ["stage/sbin", "stage/libexec/smtpd", "target/debug/deps"] {
            fs::create_dir_all(top.join(sub)).unwrap();
        }
        for file in [
            "stage/sbin/smtpctl",
            "target/debug/smtpctl",
            "target/debug/mail_maildir",
        ] {
            fs::write(top.join(file), "").unwrap();
        }
        let staged = Programs::beside(&top.join("stage/sbin/smtpd"));
        assert_eq!(staged.libexec, top.join("stage/libexec/smtpd"));
        assert_eq!(staged.smtpctl, top.join("stage/sbin/smtpctl"));
        for exe in ["target/debug/smtpd", "target/debug/deps/smtpd-0"] {
            let built = Programs::beside(&top.join(exe));
            assert_eq!(built.libexec, top.join("target/debug"), "{exe}");
            assert_eq!(built.smtpctl, top.join("target/debug/smtpctl"), "{exe}");
        }
        let alone = Programs::beside(Path::new("/nonexistent/sbin/smtpd"));
        assert_eq!(alone.libexec, Path::new(LIBEXEC));
    }

    #[test]
    fn a_helper_has_dots_when_installed_and_underscores_when_built() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("mail_mda"), "").unwrap();
        assert_eq!(
            find_helper(dir.path(), "mail.mda"),
            dir.path().join("mail_mda")
        );
        fs::write(dir.path().join("mail.mda"), "").unwrap();
        assert_eq!(
            find_helper(dir.path(), "mail.mda"),
            dir.path().join("mail.mda")
        );
        assert_eq!(
            find_helper(dir.path(), "mail.lmtp"),
            dir.path().join("mail.lmtp")
        );
    }
}
