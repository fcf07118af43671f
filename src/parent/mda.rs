//! Starting local deliveries: who may be delivered to, and as whom.
//!
//! The parent looks up the action and the user by their names and starts our own program as the
//! recipient. Texts of strangers are carried to that child unread; it is the child, without
//! privileges, that makes a command of them.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::config::{Config, Delivery, LocalAction, Method, Paths, paths};
use crate::log;
use crate::privsep::identity::Rights;
use crate::privsep::{ChildJob, MdaJob, MdaRefusal, MdaTask};
use crate::sys::creds::Identity;
use crate::sys::errno::strerror;
use crate::sys::fdpass;
use crate::sys::process::{self, NewFile, Pid, Spawn};
use crate::sys::user::User;
use crate::util::Line;
use crate::util::sysexits;

use super::userbase::Users;

/// What a delivery needs to know besides the job.
pub struct DeliveryContext<'a> {
    /// Actions and wrappers.
    pub config: &'a Config,
    /// Users of the system and of userbases.
    pub users: &'a dyn Users,
    /// Where the helpers are.
    pub paths: &'a Paths,
    /// Our own program.
    pub exe: &'a Path,
    /// Who we are.
    pub rights: &'a Rights,
    /// The file mode mask of commands.
    pub umask: u32,
}

/// Starts `job`. `stdin` is the message, `output` takes what the program says.
pub fn start(
    context: &DeliveryContext<'_>,
    job: MdaJob,
    stdin: OwnedFd,
    output: OwnedFd,
) -> Result<Pid, MdaRefusal> {
    let plan = plan(context, job)?;
    launch(context, &plan, stdin, output)
        .map_err(|error| refuse(sysexits::OSERR, format!("fork: {}", strerror(&error))))
}

/// Everything decided, nothing done.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    child: ChildJob,
    identity: Option<Identity>,
    home: PathBuf,
    /// The mailbox that has to exist. The process makes it, for it may have to wait for the disk.
    mailbox: Option<NewFile>,
}

fn plan(context: &DeliveryContext<'_>, job: MdaJob) -> Result<Plan, MdaRefusal> {
    let action = local_action(context.config, &job)?;
    let recipient = recipient(context, action, &job)?;
    let origin = origin(context.rights, action, &job)?;
    let user = match (&action.user, origin) {
        (Some(name), Origin::Action) => delivery_user(context, name)?,
        _ => recipient.clone(),
    };
    let plain_mbox = action.delivery == Delivery::Mbox && job.command().is_none();
    may_deliver(context.rights, &job, &user, plain_mbox)?;
    let Some(home) = recipient.home.to_str().map(str::to_owned) else {
        let text = format!("home directory of {} is not UTF-8", recipient.name);
        return Err(refuse(sysexits::TEMPFAIL, text));
    };
    let wrapper = action
        .wrapper
        .as_ref()
        .and_then(|name| context.config.mda_wrappers.get(name).cloned());
    let child = ChildJob {
        job,
        delivery: action.delivery.clone(),
        own_forward: origin == Origin::Forward,
        wrapper,
        user: Line::sanitize(user.name.as_bytes()),
        home,
        uid: user.uid,
        libexec: context.paths.libexec.clone(),
        delimiter: context.config.smtp.sub_addr_delim,
    };
    let root = context.rights.is_root();
    let mailbox = (root && plain_mbox)
        .then(|| mailbox(Path::new(paths::MAILDIR), &user))
        .transpose()?;
    Ok(Plan {
        child,
        identity: root.then(|| Identity::alone(user.uid, user.gid)),
        home: user.home.clone(),
        mailbox,
    })
}

fn local_action<'a>(config: &'a Config, job: &MdaJob) -> Result<&'a LocalAction, MdaRefusal> {
    let name = &job.action;
    let Some(action) = config.actions.get(name.as_str()) else {
        return Err(refuse(
            sysexits::TEMPFAIL,
            format!("unknown action '{name}'"),
        ));
    };
    let Method::Local(local) = &action.method else {
        let text = format!("action '{name}' does not deliver locally");
        return Err(refuse(sysexits::TEMPFAIL, text));
    };
    let only_expands = matches!(local.delivery, Delivery::ForwardOnly | Delivery::ExpandOnly);
    if only_expands && job.command().is_none() {
        let text = format!("action '{name}' delivers to nobody");
        return Err(refuse(sysexits::TEMPFAIL, text));
    }
    let plain = local.wrapper.is_none();
    let fits = match (&job.task, &local.delivery) {
        (MdaTask::Single(_), _) => true,
        (MdaTask::Batch, Delivery::Maildir { .. }) => plain,
        (MdaTask::Connection, Delivery::Lmtp { .. }) => plain,
        (MdaTask::Batch | MdaTask::Connection, _) => false,
    };
    if !fits {
        let text = format!("action '{name}' delivers messages one by one");
        return Err(refuse(sysexits::TEMPFAIL, text));
    }
    Ok(local)
}

/// Who says what is done with the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// The action: its text is in the configuration.
    Action,
    /// An alias: nobody can see which one. It runs as the daemon's user, whatever the action says.
    Alias,
    /// The recipient's .forward, where the child has to find it.
    Forward,
}

fn origin(rights: &Rights, action: &LocalAction, job: &MdaJob) -> Result<Origin, MdaRefusal> {
    match (job.command(), rights) {
        (None, _) => Ok(Origin::Action),
        (Some(_), Rights::Root { .. }) if *job.user == *paths::USER => Ok(Origin::Alias),
        // All of them are one user's.
        (Some(_), Rights::User { .. }) => Ok(Origin::Alias),
        (Some(_), Rights::Root { .. }) => match &action.user {
            Some(name) if *name != job.user => {
                let text = format!("action '{}' does not deliver as {}", job.action, job.user);
                Err(refuse(sysexits::TEMPFAIL, text))
            }
            _ => Ok(Origin::Forward),
        },
    }
}

/// Commands and files of aliases are the daemon's own user's, whom a userbase need not have.
fn recipient(
    context: &DeliveryContext<'_>,
    action: &LocalAction,
    job: &MdaJob,
) -> Result<User, MdaRefusal> {
    let found = match context.rights {
        Rights::Root { daemon, .. } if job.command().is_some() && *job.user == *paths::USER => {
            let home = context.users.system(&job.user);
            home.map(|user| Some(daemon_user(daemon, user)))
        }
        Rights::User { uid, .. } => match context.users.recipient(action, &job.user) {
            Ok(None) if job.command().is_some() => context
                .users
                .system(&job.user)
                .map(|user| user.filter(|user| user.uid == *uid)),
            found => found,
        },
        Rights::Root { .. } => context.users.recipient(action, &job.user),
    };
    match found {
        Ok(Some(user)) => Ok(user),
        Ok(None) => Err(MdaRefusal::NoUser),
        Err(text) => {
            log::warn(format_args!("{text}"));
            Err(MdaRefusal::NoLookup)
        }
    }
}

/// The daemon's user, whom a trial on a bare machine has only by number.
fn daemon_user(daemon: &Identity, found: Option<User>) -> User {
    User {
        name: paths::USER.to_owned(),
        uid: daemon.uid,
        gid: daemon.gid,
        gecos: String::new(),
        home: found.map_or_else(|| PathBuf::from("/"), |user| user.home),
    }
}

fn delivery_user(context: &DeliveryContext<'_>, name: &str) -> Result<User, MdaRefusal> {
    match context.users.system(name) {
        Ok(Some(user)) => Ok(user),
        Ok(None) => {
            let text = format!("delivery user '{name}' does not exist");
            Err(refuse(sysexits::NOUSER, text))
        }
        Err(error) => {
            let text = format!("delivery user '{name}': {error}");
            Err(refuse(sysexits::TEMPFAIL, text))
        }
    }
}

fn may_deliver(
    rights: &Rights,
    job: &MdaJob,
    user: &User,
    plain_mbox: bool,
) -> Result<(), MdaRefusal> {
    match rights {
        Rights::Root { .. } if user.uid == 0 && !plain_mbox => Err(refuse(
            sysexits::NOPERM,
            format!("MDA not allowed to deliver to: {}", job.user),
        )),
        Rights::User { uid, .. } if *uid != user.uid => Err(refuse(
            sysexits::TEMPFAIL,
            format!(
                "smtpd does not run as root and cannot deliver as {}",
                user.name
            ),
        )),
        _ => Ok(()),
    }
}

/// The mailbox of a user.
fn mailbox(dir: &Path, owner: &User) -> Result<NewFile, MdaRefusal> {
    let is_name = |name: &str| !name.is_empty() && !name.starts_with('.') && !name.contains('/');
    let path = dir.join(&owner.name);
    match CString::new(path.as_os_str().as_bytes()) {
        Ok(path) if is_name(&owner.name) => Ok(NewFile {
            path,
            uid: owner.uid,
            gid: owner.gid,
        }),
        _ => {
            let text = format!("{}: not a mailbox's name", path.display());
            Err(refuse(sysexits::TEMPFAIL, text))
        }
    }
}

fn launch(
    context: &DeliveryContext<'_>,
    plan: &Plan,
    stdin: OwnedFd,
    output: OwnedFd,
) -> io::Result<Pid> {
    let (ours, theirs) = fdpass::pair()?;
    plan.child.send(ours.as_fd())?;
    let exe = CString::new(context.exe.as_os_str().as_bytes())?;
    let home = CString::new([b"HOME=", plan.home.as_os_str().as_bytes()].concat())?;
    let mut dirs: Vec<CString> = Vec::new();
    if plan.home.is_absolute() {
        dirs.push(CString::new(plan.home.as_os_str().as_bytes())?);
    }
    dirs.push(c"/".into());
    let spawn = Spawn {
        program: exe.clone(),
        argv: vec![exe, c"-x".into(), c"mda".into()],
        env: vec![home],
        fds: vec![
            stdin.as_fd(),
            output.as_fd(),
            output.as_fd(),
            theirs.as_fd(),
        ],
        identity: plan.identity.clone(),
        dirs,
        umask: context.umask,
    };
    process::spawn_with(&spawn, plan.mailbox.as_ref())
}

fn refuse(code: i32, text: String) -> MdaRefusal {
    MdaRefusal::Exit {
        code,
        text: Line::sanitize(text.as_bytes()),
    }
}

#[cfg(test)]
mod tests;
