//! What a daemon of a test's own is started with: a configuration, arguments, rights.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::instance::Instance;
use super::{free_port, give, is_root};

/// The uid that stands for an ordinary user when the tests run as root (nobody).
const ORDINARY: u32 = 65534;

/// What a daemon is started with.
pub struct Setup {
    config: String,
    args: Vec<String>,
    envs: Vec<(String, String)>,
    root: bool,
    descriptors: Option<u32>,
    users: bool,
    network: bool,
    input: Option<String>,
}

impl Setup {
    /// A daemon with this configuration. `$port` is its port, `$dir` its instance root, `$user`
    /// the user it runs as and `$all` a virtual table that gives that user everybody's mail.
    pub fn new(config: &str) -> Setup {
        Setup {
            config: config.to_string(),
            args: Vec::new(),
            envs: Vec::new(),
            root: false,
            descriptors: None,
            users: false,
            network: false,
            input: None,
        }
    }

    /// The configuration that most tests use: everything local goes to the maildir `mail`.
    pub fn maildir() -> Setup {
        Setup::new(
            "listen on 127.0.0.1 port $port\n\
             action \"in\" maildir \"$dir/mail\" virtual $all\n\
             match from any for any action \"in\"\n",
        )
    }

    /// The same, with a maildir for each address, named for its local part.
    pub fn maildirs() -> Setup {
        Setup::new(
            "listen on 127.0.0.1 port $port\n\
             action \"in\" maildir \"$dir/%{dest.user}\" virtual $all\n\
             match from any for any action \"in\"\n",
        )
    }

    /// No configuration: the one that is built in, on a port of the test's own.
    pub fn built_in() -> Setup {
        Setup::new("").arg("-D").arg("port=$port")
    }

    /// One more argument for smtpd.
    pub fn arg(mut self, arg: &str) -> Setup {
        self.args.push(arg.to_string());
        self
    }

    /// One more variable for smtpd and everything it starts.
    pub fn env(mut self, key: &str, value: &str) -> Setup {
        self.envs.push((key.to_string(), value.to_string()));
        self
    }

    /// Keep root's rights.
    pub fn with_root(mut self) -> Setup {
        self.root = true;
        self
    }

    /// Keep root's rights, and let only this daemon see the users of the files `passwd` and `group`
    /// in its instance root.
    pub fn with_users(mut self) -> Setup {
        self.users = true;
        self.with_root()
    }

    /// The same, in a network of its own; see [`Instance::command_inside`].
    pub fn with_network(mut self) -> Setup {
        self.network = true;
        self.with_users()
    }

    /// No more descriptors than this for the daemon.
    pub fn limit_descriptors(mut self, count: u32) -> Setup {
        self.descriptors = Some(count);
        self
    }

    /// What smtpd reads on its standard input.
    pub fn input(mut self, text: &str) -> Setup {
        self.input = Some(text.to_string());
        self
    }

    /// Starts it and waits until it serves.
    pub fn start(self) -> Instance {
        self.start_in(TempDir::new().expect("a temporary directory"))
    }

    /// The same, with an instance root that the test has filled.
    pub fn start_in(self, dir: TempDir) -> Instance {
        let mut instance = self.prepare_in(dir);
        instance.start();
        instance
    }

    /// Everything but the start.
    pub fn prepare(self) -> Instance {
        self.prepare_in(TempDir::new().expect("a temporary directory"))
    }

    /// The same, with an instance root that the test has filled.
    pub fn prepare_in(self, dir: TempDir) -> Instance {
        let port = free_port();
        let path = dir.path();
        let config = self
            .config
            .replace("$dir", path.to_str().expect("a UTF-8 path"))
            .replace("$port", &port.to_string())
            .replace("$all", "{ \"@\" = \"$user\" }")
            .replace("$user", &ordinary_name());
        if !config.is_empty() {
            fs::write(path.join("smtpd.conf"), config).expect("smtpd.conf");
        }
        if !path.join("mailname").exists() {
            fs::write(path.join("mailname"), "mx.example.org\n").expect("mailname");
        }
        let uid = (is_root() && !self.root).then_some(ORDINARY);
        if let Some(uid) = uid {
            give(path, uid);
        } else {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("chmod");
        }
        let programs = is_root().then(|| reachable_programs(path)).flatten();
        let mut args: Vec<String> = self
            .args
            .iter()
            .map(|arg| arg.replace("$port", &port.to_string()))
            .collect();
        args.splice(
            0..0,
            ["-d".into(), "-R".into(), path.to_str().unwrap_or("").into()],
        );
        Instance {
            dir,
            port,
            daemon: None,
            uid,
            args,
            envs: self.envs,
            programs,
            descriptors: self.descriptors,
            users: self.users,
            network: self.network,
            input: self.input,
        }
    }
}

/// The name of the user that an ordinary test's daemon runs as.
pub fn ordinary_name() -> String {
    let mut command = Command::new("id");
    command.arg("-un");
    if is_root() {
        command.arg(ORDINARY.to_string());
    }
    let output = command.output().expect("id");
    String::from_utf8(output.stdout)
        .expect("a name")
        .trim()
        .to_string()
}

/// Links the programs into the instance root when others cannot reach them where they were built.
fn reachable_programs(root: &Path) -> Option<PathBuf> {
    let built = Path::new(env!("CARGO_BIN_EXE_smtpd")).parent()?;
    let open =
        |dir: &Path| fs::metadata(dir).is_ok_and(|m| m.permissions().mode() & 0o005 == 0o005);
    if built.ancestors().all(open) {
        return None;
    }
    let dir = root.join("bin");
    fs::create_dir_all(&dir).expect("bin");
    for name in [
        "smtpd",
        "smtp",
        "smtpctl",
        "mail_lmtp",
        "mail_local",
        "mail_maildir",
        "mail_mboxfile",
        "mail_mda",
    ] {
        let (from, to) = (built.join(name), dir.join(name));
        fs::hard_link(&from, &to)
            .or_else(|_| fs::copy(&from, &to).map(drop))
            .expect("a program");
    }
    Some(dir)
}
