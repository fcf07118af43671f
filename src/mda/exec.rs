//! One delivery, as the recipient: the role `smtpd -x mda`.
//!
//! The job names a method; here it becomes either work done in this process (maildir, files of
//! aliases, mailboxes where the system has no mail.local(8)) or a program that this process feeds.
//! The message comes on standard input, in chunks with a mark at their end; what goes wrong is said
//! in one line on standard error and in the exit code.
//!
//! A message that stops before its end mark, because the daemon has died, is not delivered: work
//! of our own has failed, and a program is killed before it could take the end of its input for
//! the end of the message.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, BufReader};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::config::specifier::{Piece, Values, expand, mbox_from};
use crate::config::{Delivery, paths};
use crate::expansion::forward_names;
use crate::mail;
use crate::privsep::batch::{BodyReader, CHUNK_MAX};
use crate::privsep::forward_file::{self, Verdict};
use crate::privsep::job::ChildJob;
use crate::privsep::{MdaTask, Single};
use crate::sys;
use crate::sys::sandbox::{self, Role};
use crate::util::Timestamp;
use crate::util::sysexits::{CONFIG, NOPERM, OK, OSERR, TEMPFAIL};

use super::maildir::{self, Draft, Junk, Target};
use super::maildir_target::maildir_target;
use super::{MdaError, batch, conclude, copy, guard, lmtp, local, mbox, mboxfile, shell};

/// What a job comes to.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    /// Our own mail.maildir.
    Maildir(Target),
    /// Our own mail.mboxfile.
    File { path: PathBuf, from: String },
    /// Our own mail.local.
    Mailbox { user: String, from: String },
    /// A program that is given the message.
    Program(Program),
}

#[derive(Debug, PartialEq, Eq)]
struct Program {
    path: PathBuf,
    args: Vec<OsString>,
    env: Vec<(&'static str, String)>,
}

/// One line: the method, and what it works on.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Plan::Maildir(target) => {
                write!(f, "maildir {}", target.root.display())?;
                if let Some(extension) = &target.extension {
                    write!(f, ", its folder .{extension} if there is one")?;
                }
                match target.junk {
                    Junk::Folder => f.write_str(", junk to its folder .Junk"),
                    Junk::Ignore => Ok(()),
                }
            }
            Plan::File { path, .. } => write!(f, "file {}", path.display()),
            Plan::Mailbox { user, .. } => write!(f, "mailbox of {user}"),
            Plan::Program(program) => {
                write!(f, "command {}", program.path.display())?;
                program
                    .args
                    .iter()
                    .try_for_each(|arg| write!(f, " {}", quoted(&arg.to_string_lossy())))
            }
        }
    }
}

/// A word as sh(1) would have to read it.
fn quoted(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./@:=+,%".contains(&b);
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// Does what the job says and returns the exit code.
pub fn run(job: &ChildJob) -> i32 {
    let program = program_name(job);
    let (home, message) = match ready(job) {
        Ok(ready) => ready,
        Err(failure) => return conclude(program, Err(failure)),
    };
    let done = match (&job.job.task, &job.delivery) {
        (MdaTask::Single(single), _) => {
            return match plan(job, single, &home).and_then(|plan| carry_out(plan, message)) {
                Ok(code) => code,
                Err(failure) => conclude(program, Err(failure)),
            };
        }
        (MdaTask::Batch, _) => shut_in().and_then(|()| run_batch(job, &home, message)),
        (MdaTask::Connection, Delivery::Lmtp { dest, .. }) => {
            shut_in().and_then(|()| lmtp::connect(dest, &message))
        }
        (MdaTask::Connection, _) => {
            let text = "only lmtp actions have a connection";
            Err(MdaError::new(CONFIG, text))
        }
    };
    conclude(program, done)
}

fn ready(job: &ChildJob) -> Result<(String, File), MdaError> {
    may_run(job)?;
    is_wanted(job)?;
    Ok((home(job)?, standard_input()?))
}

/// What a delivery would come to, in words: for whoever asks before there is a message.
pub fn describe(job: &ChildJob) -> Result<String, MdaError> {
    no_root(job)?;
    match &job.job.task {
        MdaTask::Single(single) => Ok(plan(job, single, &home(job)?)?.to_string()),
        MdaTask::Batch | MdaTask::Connection => Ok(program_name(job).to_owned()),
    }
}

/// The name that messages begin with: that of the helper program which does the same.
fn program_name(job: &ChildJob) -> &'static str {
    match (job.job.command(), &job.delivery) {
        (Some(mail::Command::File(_)), _) => "mail.mboxfile",
        (None, Delivery::Maildir { .. }) => batch::NAME,
        (None, Delivery::Mbox) => local::NAME,
        (None, Delivery::Lmtp { .. }) => lmtp::NAME,
        _ => "smtpd",
    }
}

/// The parent has made us the recipient; anything else is its fault and not to be made worse.
fn may_run(job: &ChildJob) -> Result<(), MdaError> {
    let uid = sys::user::effective_uid();
    if uid != job.uid {
        let text = format!("running with uid {uid} instead of {}", job.uid);
        return Err(MdaError::new(OSERR, text));
    }
    no_root(job)
}

/// A user's command runs because it stands in that user's own .forward, and for no other reason:
/// whoever asks for the delivery may be wrong about it.
fn is_wanted(job: &ChildJob) -> Result<(), MdaError> {
    let (Some(command), true) = (job.job.command(), job.own_forward) else {
        return Ok(());
    };
    let temporary = |text: String| MdaError::new(TEMPFAIL, text);
    let named = match forward_file::open(Path::new(&job.home), job.uid).map_err(temporary)? {
        Verdict::File(file) => forward_names(file, command).map_err(temporary)?,
        Verdict::None | Verdict::NoHome(_) => false,
    };
    if named {
        Ok(())
    } else {
        Err(temporary(format!(
            "the .forward of {} does not name this command or file now",
            job.job.user
        )))
    }
}

/// Only a mailbox is opened with root's rights.
fn no_root(job: &ChildJob) -> Result<(), MdaError> {
    let mailbox = job.delivery == Delivery::Mbox && job.job.command().is_none();
    if job.uid == 0 && !mailbox {
        let text = format!("MDA not allowed to deliver to: {}", job.job.user);
        return Err(MdaError::new(NOPERM, text));
    }
    Ok(())
}

/// The home of the user we run as: with `user` in the action, not the recipient's.
fn home(job: &ChildJob) -> Result<String, MdaError> {
    if job.user == job.job.user {
        return Ok(job.home.clone());
    }
    let why = match sys::user::by_name(&job.user) {
        Ok(Some(user)) => return Ok(user.home.to_string_lossy().into_owned()),
        // The parent has just found it.
        Ok(None) => "not found".to_owned(),
        Err(error) => sys::errno::strerror(&error),
    };
    Err(MdaError::new(
        TEMPFAIL,
        format!("home of {}: {why}", job.user),
    ))
}

fn standard_input() -> Result<File, MdaError> {
    io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map(File::from)
        .map_err(|error| {
            MdaError::new(
                OSERR,
                format!("standard input: {}", sys::errno::strerror(&error)),
            )
        })
}

fn run_batch(job: &ChildJob, home: &str, input: File) -> Result<(), MdaError> {
    let output = io::stdout().as_fd().try_clone_to_owned().map_err(|error| {
        MdaError::new(
            OSERR,
            format!("standard output: {}", sys::errno::strerror(&error)),
        )
    })?;
    batch::serve(job, home, input, File::from(output))
}

fn carry_out(plan: Plan, input: File) -> Result<i32, MdaError> {
    if let Plan::Program(program) = &plan {
        // The command is on its way already, and must not be started twice for want of this.
        let shut_in = || drop(sandbox::enter(Role::Guard));
        return guard::run(&mut command(program), input, shut_in)
            .map_err(|error| MdaError::on(OSERR, &program.path, &error));
    }
    shut_in()?;
    let message = &mut BodyReader::new(BufReader::with_capacity(CHUNK_MAX, input));
    match plan {
        Plan::Program(_) => Ok(()),
        Plan::Maildir(target) => {
            let mut draft = Draft::new(&target)?;
            copy(message, |bytes| draft.write(bytes), TEMPFAIL)?;
            let written = draft.finish()?;
            maildir::settle(vec![written])
                .into_iter()
                .collect::<Result<(), _>>()
        }
        Plan::File { path, from } => {
            mboxfile::deliver(message, &path, &from, Timestamp::now(), mbox::LOCK_WAIT)
        }
        Plan::Mailbox { user, from } => {
            let options = local::Options {
                spool: local::system_spool(),
                from,
                dot_lock: local::DotLock::Try,
                lock_wait: mbox::LOCK_WAIT,
            };
            local::deliver(message, &[user], &options, Timestamp::now())
        }
    }
    .map(|()| OK)
}

/// What strangers wrote is only read from here on. Mail that we store is its owner's alone, whatever
/// mask there is for commands.
fn shut_in() -> Result<(), MdaError> {
    sys::process::set_umask(0o077);
    sandbox::enter(Role::Delivery)
        .map(drop)
        .map_err(|error| MdaError::new(OSERR, format!("sandbox: {}", sys::errno::strerror(&error))))
}

fn command(program: &Program) -> Command {
    let mut command = Command::new(&program.path);
    command
        .args(&program.args)
        .env_clear()
        .envs(program.env.iter().map(|(name, value)| (name, value)));
    command
}

fn plan(job: &ChildJob, single: &Single, home: &str) -> Result<Plan, MdaError> {
    let values = values(job, single);
    let wrapper = match &job.wrapper {
        Some(text) => Some(expand(text, &values)?),
        None => None,
    };
    let pieces = match (&single.command, &job.delivery) {
        (Some(mail::Command::Pipe(text)), _) => expand(text, &values)?,
        (Some(mail::Command::File(path)), _) if wrapper.is_none() => {
            return Ok(Plan::File {
                path: PathBuf::from(path.as_str()),
                from: mbox_from(values.sender),
            });
        }
        (Some(mail::Command::File(path)), _) => vec![
            helper(job, "mail.mboxfile"),
            Piece::Text(" -f ".to_string()),
            Piece::Value(mbox_from(values.sender)),
            Piece::Text(" ".to_string()),
            Piece::Value(path.to_string()),
        ],
        (None, Delivery::Mda(text)) => expand(text, &values)?,
        (None, Delivery::Maildir { path, junk }) => {
            let subaddress = single.subaddress.as_ref();
            let target = maildir_target(path.as_deref(), *junk, &values, home, subaddress)?;
            if wrapper.is_none() {
                return Ok(Plan::Maildir(target));
            }
            maildir_command(job, &target)
        }
        (None, Delivery::Mbox) if wrapper.is_none() => return Ok(mailbox(job, &values)),
        (None, Delivery::Mbox) => return Err(MdaError::new(CONFIG, "mbox takes no wrapper")),
        (None, Delivery::Lmtp { dest, rcpt_to }) => {
            lmtp_command(job, expand(dest, &values)?, *rcpt_to)
        }
        (None, Delivery::ForwardOnly | Delivery::ExpandOnly) => {
            let text = "the action has no way to deliver to a user";
            return Err(MdaError::new(CONFIG, text));
        }
    };
    let script = match wrapper {
        None => shell::script(&pieces)?,
        Some(wrapper) => {
            let mail_mda = job.helper("mail.mda").display().to_string();
            shell::wrapped(&wrapper, &pieces, &mail_mda)?
        }
    };
    let mut env = environment(job, single, home);
    env.extend(script.wrapped.map(|text| (shell::WRAPPED, text)));
    let mut args: Vec<OsString> = vec!["-c".into(), script.text.into(), SHELL.into()];
    args.extend(script.values.into_iter().map(OsString::from));
    Ok(Plan::Program(Program {
        path: PathBuf::from(SHELL),
        args,
        env,
    }))
}

const SHELL: &str = "/bin/sh";

fn values<'a>(job: &'a ChildJob, single: &'a Single) -> Values<'a> {
    Values {
        sender: &single.sender,
        rcpt: &single.rcpt,
        dest: &single.dest,
        username: &job.job.user,
        directory: &job.home,
        delimiter: job.delimiter,
    }
}

fn helper(job: &ChildJob, name: &str) -> Piece {
    Piece::Home(job.helper(name).display().to_string())
}

fn maildir_command(job: &ChildJob, target: &Target) -> Vec<Piece> {
    let options = match target.junk {
        Junk::Folder => " -j ",
        Junk::Ignore => " ",
    };
    vec![
        helper(job, "mail.maildir"),
        Piece::Text(options.to_string()),
        Piece::Value(target.root.display().to_string()),
    ]
}

/// What has to be a command: with a wrapper, or where the destination has format specifiers.
fn lmtp_command(job: &ChildJob, dest: Vec<Piece>, rcpt_to: bool) -> Vec<Piece> {
    let recipient = if rcpt_to { " -r" } else { " -u" };
    let mut pieces = vec![helper(job, lmtp::NAME), Piece::Text(" -d ".to_string())];
    // Nothing in a destination is meant for the shell.
    pieces.extend(dest.into_iter().map(|piece| match piece {
        Piece::Text(text) => Piece::Value(text),
        other => other,
    }));
    pieces.push(Piece::Text(recipient.to_string()));
    pieces
}

/// mail.local(8) of the system, with the environment it has there; ours without one.
fn mailbox(job: &ChildJob, values: &Values<'_>) -> Plan {
    let from = mbox_from(values.sender);
    let user = job.job.user.to_string();
    match system_mail_local() {
        None => Plan::Mailbox { user, from },
        Some(path) => Plan::Program(Program {
            path,
            args: vec!["-f".into(), from.into(), user.into()],
            env: vec![
                ("HOME", "/".to_string()),
                ("PATH", sys::base::DEFAULT_PATH.to_string()),
                ("LOGNAME", "root".to_string()),
                ("USER", "root".to_string()),
            ],
        }),
    }
}

fn system_mail_local() -> Option<PathBuf> {
    let path = PathBuf::from(paths::MAIL_LOCAL?);
    path.is_file().then_some(path)
}

/// smtpd.conf(5), MDA COMMANDS: these variables and no others.
fn environment(job: &ChildJob, single: &Single, home: &str) -> Vec<(&'static str, String)> {
    let user = &job.job.user;
    let mut env = vec![
        ("PATH", sys::base::DEFAULT_PATH.to_string()),
        ("SHELL", SHELL.to_string()),
        ("HOME", home.to_string()),
        ("LOGNAME", user.to_string()),
        ("USER", user.to_string()),
        ("DOMAIN", single.rcpt.domain().to_string()),
        ("LOCAL", single.rcpt.user().to_string()),
        ("ORIGINAL_RECIPIENT", single.rcpt.to_string()),
        ("RECIPIENT", single.dest.to_string()),
        ("SENDER", single.sender.to_string()),
    ];
    if let Some(subaddress) = &single.subaddress {
        env.push(("EXTENSION", subaddress.to_string()));
    }
    env
}

#[cfg(test)]
mod tests;
