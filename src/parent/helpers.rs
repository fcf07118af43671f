//! The programs behind tables and filters: what is started, as whom, and for which engine.
//!
//! The engine asks for one by its name in the configuration; the command, the user, the group and
//! the new root are the configuration's. A program belongs to the engine that asked for it. When
//! that is gone it reads the end of its input, and has a moment to go before it is killed.

use std::collections::BTreeMap;
use std::ffi::{CString, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::config::{Config, Proc, TableProgram, TableSource};
use crate::log;
use crate::privsep::identity::Rights;
use crate::privsep::{Helper, MdaEnd};
use crate::sys::creds::{self, Identity};
use crate::sys::errno::strerror;
use crate::sys::process::{self, Ended, Pid, Spawn};
use crate::sys::sandbox;
use crate::sys::user;

use super::children::Delivery;

/// The helpers that run now.
#[derive(Debug, Default)]
pub struct Helpers {
    running: BTreeMap<Pid, Running>,
}

#[derive(Debug)]
struct Running {
    /// Which request of which engine.
    request: Delivery,
    /// When it is killed, now that its engine is gone.
    until: Option<Instant>,
}

/// How long a helper may take to end once its engine has.
const GRACE: Duration = Duration::from_secs(2);

impl Helpers {
    /// A helper has been started.
    pub fn started(&mut self, pid: Pid, request: Delivery) {
        let until = None;
        self.running.insert(pid, Running { request, until });
    }

    /// The helper of this request.
    pub fn find(&self, request: Delivery) -> Option<Pid> {
        let mut running = self.running.iter();
        let found = running.find(|(_, other)| other.request == request);
        found.map(|(pid, _)| *pid)
    }

    /// A helper has ended: the reply to the engine that asked for it, if it still runs.
    pub fn ended(&mut self, pid: Pid, how: Ended) -> Option<(Delivery, MdaEnd)> {
        let running = self.running.remove(&pid)?;
        let end = match how {
            Ended::Exited(code) => MdaEnd::Exited(code),
            Ended::Signaled(signal) => MdaEnd::Signaled(signal),
        };
        Some((running.request, end))
    }

    /// An engine has ended: its helpers are to follow.
    pub fn orphan(&mut self, engine: u64, now: Instant) {
        self.give_up(|request| request.engine == engine, now);
    }

    /// Notes that these helpers are no longer wanted: the end of their input has told them.
    pub fn give_up(&mut self, which: impl Fn(Delivery) -> bool, now: Instant) {
        for running in self.running.values_mut() {
            if which(running.request) {
                running.until.get_or_insert(now + GRACE);
            }
        }
    }

    /// The helpers whose time is over: kill them. They stay until they have ended.
    pub fn overdue(&mut self, now: Instant) -> Vec<Pid> {
        let mut pids = Vec::new();
        for (pid, running) in &mut self.running {
            if running.until.is_some_and(|until| until <= now) {
                running.until = Some(now + GRACE);
                pids.push(*pid);
            }
        }
        pids
    }

    /// When the next one's time is over.
    pub fn deadline(&self) -> Option<Instant> {
        self.running
            .values()
            .filter_map(|running| running.until)
            .min()
    }

    /// The processes of all programs that run.
    pub fn pids(&self) -> Vec<Pid> {
        self.running.keys().copied().collect()
    }

    /// Whether no program runs.
    pub fn is_empty(&self) -> bool {
        self.running.is_empty()
    }
}

/// Where programs are.
#[derive(Clone, Copy)]
pub struct Programs<'p> {
    /// The directory of helpers.
    pub libexec: &'p Path,
    /// Our own.
    pub exe: &'p Path,
}

/// Starts a helper with its standard input and output, and its standard error.
pub fn start(
    config: &Config,
    rights: &Rights,
    programs: Programs<'_>,
    helper: &Helper,
    stream: &OwnedFd,
    errors: &OwnedFd,
) -> Result<Pid, String> {
    let mut plan = plan(config, rights, programs.libexec, helper)?;
    if let Some(root) = plan.root.take() {
        plan = by_way_of_ourselves(plan, root, programs.exe)?;
    }
    let env = std::env::vars_os()
        .map(|(name, value)| CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()))
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())?;
    process::spawn(&Spawn {
        program: plan.program,
        argv: plan.argv,
        env,
        fds: vec![stream.as_fd(), stream.as_fd(), errors.as_fd()],
        identity: plan.identity,
        dirs: vec![c"/".into()],
        umask: 0o022,
    })
    .map_err(|error| format!("fork: {}", strerror(&error)))
}

/// A program with a root directory of its own is started by a new process of ours, `smtpd -x
/// chroot`, that enters it and runs the shell there. Between fork and exec nobody could: on OpenBSD
/// the parent has called pledge(2), which no promise lets change its root, and what it has promised
/// holds in a child until that runs another program.
fn by_way_of_ourselves(plan: Plan, root: CString, exe: &Path) -> Result<Plan, String> {
    let exe = CString::new(exe.as_os_str().as_bytes()).map_err(|error| error.to_string())?;
    let number = |id: u32| CString::new(id.to_string()).map_err(|error| error.to_string());
    let (uid, gid) = plan.identity.map_or((0, 0), |who| (who.uid, who.gid));
    let mut argv = vec![exe.clone(), c"-x".into(), c"chroot".into(), c"--".into()];
    argv.extend([root, number(uid)?, number(gid)?]);
    argv.extend(plan.argv.into_iter().last());
    Ok(Plan {
        program: exe,
        argv,
        root: None,
        identity: None,
    })
}

/// `smtpd -x chroot -- DIR UID GID COMMAND`: what to exit with when the command does not run.
pub fn shut_in(words: &[String]) -> i32 {
    let failed = |what: &str, why: &str| {
        log::warn(format_args!("{what}: {why}"));
        process::NOT_STARTED
    };
    let [dir, uid, gid, command] = words else {
        return failed("chroot", "a directory, two numbers and a command");
    };
    let (Ok(uid), Ok(gid)) = (uid.parse(), gid.parse()) else {
        return failed("chroot", "a directory, two numbers and a command");
    };
    match sandbox::root_at(Path::new(dir)) {
        Ok(true) => {}
        Ok(false) => return failed(&format!("chroot {dir}"), "it is not permitted"),
        Err(error) => return failed(&format!("chroot {dir}"), &strerror(&error)),
    }
    if let Err(error) = creds::become_for_good(&Identity::alone(uid, gid)) {
        return failed("change of user", &strerror(&error));
    }
    let error = Command::new("/bin/sh").args(["-c", command]).exec();
    failed(&format!("{dir}/bin/sh"), &strerror(&error))
}

/// Everything decided, nothing done.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    program: CString,
    argv: Vec<CString>,
    root: Option<CString>,
    identity: Option<Identity>,
}

fn plan(config: &Config, rights: &Rights, libexec: &Path, helper: &Helper) -> Result<Plan, String> {
    match helper {
        Helper::Table(name) => match config.tables.get(name.as_str()) {
            Some(TableSource::Program(program)) => of_table(program, name, rights, libexec),
            _ => Err(format!("no table with a program is called {name}")),
        },
        Helper::Proc(name) => match config.procs.get(name.as_str()) {
            Some(proc) => of_filter(proc, rights, libexec),
            None => Err(format!("no processor is called {name}")),
        },
    }
}

/// smtpd-tables(7): its name is the table's, its argument what follows the program in the
/// configuration.
fn of_table(
    program: &TableProgram,
    table: &str,
    rights: &Rights,
    libexec: &Path,
) -> Result<Plan, String> {
    let text = |text: &[u8]| CString::new(text).map_err(|error| error.to_string());
    let mut argv = vec![text(table.as_bytes())?];
    if let Some(argument) = &program.argument {
        argv.push(text(argument.as_bytes())?);
    }
    Ok(Plan {
        program: text(program.file(libexec).as_os_str().as_bytes())?,
        argv,
        root: None,
        identity: rights.of_helpers(),
    })
}

/// smtpd.conf(5): the command is for the shell, and one that does not start with a slash is among
/// the helpers.
fn of_filter(proc: &Proc, rights: &Rights, libexec: &Path) -> Result<Plan, String> {
    let mut command = OsString::from("exec ");
    if !proc.command.starts_with('/') {
        command.push(libexec);
        command.push("/");
    }
    command.push(proc.command.as_str());
    let command = CString::new(command.into_vec()).map_err(|error| error.to_string())?;
    let root = match &proc.chroot {
        Some(dir) if rights.is_root() => {
            Some(CString::new(dir.as_os_str().as_bytes()).map_err(|error| error.to_string())?)
        }
        Some(_) => return Err("chroot is for an smtpd that was started by root".to_owned()),
        None => None,
    };
    Ok(Plan {
        program: c"/bin/sh".into(),
        argv: vec![c"/bin/sh".into(), c"-c".into(), command],
        root,
        identity: identity(proc, rights)?,
    })
}

/// As whom: the user of the configuration or our own for helpers, with one group alone.
fn identity(proc: &Proc, rights: &Rights) -> Result<Option<Identity>, String> {
    let wanted = match &proc.user {
        Some(name) => match user::by_name(name) {
            Ok(Some(user)) => Some((user.uid, user.gid)),
            Ok(None) => return Err(format!("unknown user {name}")),
            Err(error) => return Err(format!("user {name}: {error}")),
        },
        None => None,
    };
    let group = match &proc.group {
        Some(name) => match user::group_id(name) {
            Ok(Some(gid)) => Some(gid),
            Ok(None) => return Err(format!("unknown group {name}")),
            Err(error) => return Err(format!("group {name}: {error}")),
        },
        None => None,
    };
    match (rights, rights.of_helpers()) {
        (Rights::User { uid, gid }, _) => {
            let other = wanted.is_some_and(|(wanted, _)| wanted != *uid)
                || group.is_some_and(|wanted| wanted != *gid);
            if other {
                Err("smtpd was not started by root and cannot change users".to_owned())
            } else {
                Ok(None)
            }
        }
        (_, Some(own)) => {
            let (uid, gid) = wanted.unwrap_or((own.uid, own.gid));
            Ok(Some(Identity::alone(uid, group.unwrap_or(gid))))
        }
        (_, None) => Err("there is no user to run it".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::samples::line;

    fn delivery(engine: u64, id: u32) -> Delivery {
        Delivery { engine, id }
    }

    #[test]
    fn a_helper_ends_a_moment_after_its_engine() {
        let (mut helpers, now) = (Helpers::default(), Instant::now());
        helpers.started(Pid::fake(10), delivery(1, 7));
        helpers.started(Pid::fake(11), delivery(2, 7));
        assert_eq!(helpers.find(delivery(2, 7)), Some(Pid::fake(11)));
        assert_eq!(helpers.deadline(), None);
        helpers.orphan(1, now);
        assert!(helpers.overdue(now).is_empty());
        assert_eq!(helpers.deadline(), Some(now + GRACE));
        assert_eq!(helpers.overdue(now + GRACE), [Pid::fake(10)]);
        let end = helpers.ended(Pid::fake(10), Ended::Signaled(9));
        assert_eq!(end, Some((delivery(1, 7), MdaEnd::Signaled(9))));
        assert_eq!(helpers.ended(Pid::fake(10), Ended::Signaled(9)), None);
        assert_eq!(helpers.pids(), [Pid::fake(11)]);
    }

    fn proc(command: &str) -> Proc {
        Proc {
            command: line(command),
            user: None,
            group: None,
            chroot: None,
            on_failure: crate::config::OnFailure::default(),
            at: crate::config::Position::default(),
        }
    }

    const ORDINARY: Rights = Rights::User { uid: 1, gid: 1 };

    // smtpd.conf(5), proc: an absolute path, or a program among the helpers.
    #[test]
    fn a_command_is_for_the_shell_and_among_the_helpers_without_a_slash() {
        let libexec = Path::new("/usr/libexec/smtpd");
        let command = |text: &str| {
            let plan = of_filter(&proc(text), &ORDINARY, libexec).unwrap();
            assert_eq!(plan.program.as_c_str(), c"/bin/sh");
            plan.argv[2].to_str().unwrap().to_owned()
        };
        assert_eq!(command("/bin/x -a 'b c'"), "exec /bin/x -a 'b c'");
        assert_eq!(
            command("filter-x -a"),
            "exec /usr/libexec/smtpd/filter-x -a"
        );
    }

    // smtpd-tables(7): argv is the table and what follows the program in the configuration.
    #[test]
    fn a_table_program_is_told_its_table_and_its_argument() {
        let libexec = Path::new("/usr/libexec/smtpd");
        let plan = |text: &str| {
            let program = TableProgram::parse(text).unwrap();
            let plan = of_table(&program, "users", &ORDINARY, libexec).unwrap();
            let argv: Vec<_> = plan
                .argv
                .iter()
                .map(|a| a.to_str().unwrap().to_owned())
                .collect();
            (plan.program.to_str().unwrap().to_owned(), argv.join(" "))
        };
        let named = "/usr/libexec/smtpd/table-ldap".to_owned();
        assert_eq!(
            plan("ldap:/etc/x:y"),
            (named.clone(), "users /etc/x:y".to_owned())
        );
        assert_eq!(plan("ldap"), (named, "users".to_owned()));
        let path = "/opt/t".to_owned();
        assert_eq!(plan("proc:/opt/t"), (path.clone(), "users".to_owned()));
        assert_eq!(
            plan("proc:/opt/t:/etc/c"),
            (path, "users /etc/c".to_owned())
        );
        for bad in ["", "../x", "x:relative", "proc:x", "proc", "a/b:/c"] {
            assert_eq!(TableProgram::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_root_changes_users() {
        let libexec = Path::new("/");
        let other = Proc {
            user: Some(line("root")),
            ..proc("/bin/x")
        };
        assert!(of_filter(&other, &ORDINARY, libexec).is_err());
        let shut_in = Proc {
            chroot: Some("/var/empty".into()),
            ..proc("/bin/x")
        };
        assert!(of_filter(&shut_in, &ORDINARY, libexec).is_err());
        let root = Rights::User { uid: 0, gid: 0 };
        assert_eq!(of_filter(&other, &root, libexec).unwrap().identity, None);
    }
}
