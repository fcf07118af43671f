//! sendmail(8): takes a message from a program or a person and gives it to the daemon.
//!
//! Promises: exit 0 means that the message is the daemon's, or safely stored for it; 75 that the
//! caller must keep it; anything else that it is refused, and lies in `dead.letter`. Arguments and
//! environment are any caller's: none of them reaches a shell, a path or a second line.

pub mod address;
pub mod compose;
pub mod dead_letter;
pub mod intake;
pub mod offline;
pub mod options;
pub mod relay;
pub mod replay;
mod report;
pub mod submit;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::config::paths::Paths;
use crate::control::client::{Client, Error};
use crate::control::{Answer, Ask, Which};
use crate::sys::errno::strerror;
use crate::sys::localtime::rfc5322_date;
use crate::sys::open;
use crate::util::Timestamp;
use crate::util::sysexits;

use super::caller::{Caller, Environment, Group, Login};
use super::exit_error::ExitError;
use super::instance::{may_control, offline_dir, server_name};
use super::{mailq, newaliases};
use compose::Author;
use intake::Message;
use options::{Mode, Options};
use submit::Letter;

/// The command line of sendmail(8), without the program's name.
pub fn run(words: Vec<Vec<u8>>, env: &mut Environment<'_>) -> Result<i32, ExitError> {
    let options = options::parse(words)?;
    if options.mode == Mode::Submit {
        return send(&options, env);
    }
    give_up(env)?;
    match &options.mode {
        Mode::Smtp => relay::run(env),
        Mode::Verify => verify(&options, env),
        Mode::PrintQueue => mailq::run(&env.paths, env.uid, env.output),
        Mode::InitAliases { source } => {
            let source = source.as_deref().map(OsStr::from_bytes).map(Path::new);
            newaliases::init(source, &env.paths, env.uid, env.output)
        }
        Mode::Flush | Mode::Submit => flush(&env.paths, env.uid),
    }
}

/// The daemon has it, or it is stored for the daemon, or its writer has it in `dead.letter`, or the
/// exit code tells the caller to keep it.
fn send(options: &Options, env: &mut Environment<'_>) -> Result<i32, ExitError> {
    let mut input = take_input(env);
    let mut draft = Draft::read(options, env, &mut *input)?;
    if let Err(failure) = draft.address(options, env) {
        give_up(env)?;
        return Err(draft.save_dead_letter(failure));
    }
    let why = match submit::session(&env.paths.socket) {
        Ok(stream) => {
            let letter = draft.letter.clone();
            let dialogue = watched(options, &mut *env.output);
            match submit::submit(&stream, &letter, |out| draft.write(out), dialogue) {
                Ok(()) => {
                    give_up(env)?;
                    return Ok(0);
                }
                Err(undelivered) if undelivered.is_final() => {
                    give_up(env)?;
                    let text = undelivered.to_string();
                    return Err(draft.save_dead_letter(ExitError::with(sysexits::SOFTWARE, text)));
                }
                Err(undelivered) => undelivered.to_string(),
            }
        }
        Err(why) => why,
    };
    let group = std::mem::take(&mut env.group);
    store(&mut draft, &env.paths, group).map_err(|failure| ExitError {
        text: format!("{why}; {}", failure.text),
        ..failure
    })?;
    if options.verbose {
        // Nobody watching is no reason to fail.
        let _ = writeln!(env.output, "stored for later: {why}");
    }
    Ok(0)
}

fn store(draft: &mut Draft, paths: &Paths, group: Group) -> Result<(), ExitError> {
    let dir = offline_dir(paths);
    let letter = draft.letter.clone();
    let now = Timestamp::now();
    group
        .spend(|| offline::store(&dir, &letter, now, &mut |out| draft.write(out)))
        .map_err(|e| ExitError::with(sysexits::TEMPFAIL, format!("setresgid: {}", strerror(&e))))?
}

/// `-bv`: what the daemon would say to each recipient. There is no message.
fn verify(options: &Options, env: &mut Environment<'_>) -> Result<i32, ExitError> {
    let nothing = Options {
        recipients: intake::Recipients::Ignored,
        ..options.clone()
    };
    let mut draft = Draft::read(&nothing, env, &mut io::empty())?;
    draft.address(&nothing, env)?;
    let later = |why: String| ExitError::with(sysexits::TEMPFAIL, why);
    let stream = submit::session(&env.paths.socket).map_err(later)?;
    let dialogue = watched(options, &mut *env.output);
    let replies = match submit::verify(&stream, &draft.letter, dialogue) {
        Ok(replies) => replies,
        Err(undelivered) => {
            let code = if undelivered.is_final() {
                sysexits::SOFTWARE
            } else {
                sysexits::TEMPFAIL
            };
            return Err(ExitError::with(code, undelivered.to_string()));
        }
    };
    let mut code = sysexits::OK;
    for (recipient, reply) in draft.letter.recipients.iter().zip(replies) {
        let verdict = match reply.as_bytes().first() {
            Some(b'2') => "deliverable",
            Some(b'5') => {
                code = sysexits::NOUSER;
                &reply
            }
            _ => {
                code = if code == sysexits::OK {
                    sysexits::TEMPFAIL
                } else {
                    code
                };
                &reply
            }
        };
        let recipient = String::from_utf8_lossy(recipient);
        writeln!(env.output, "{recipient}... {verdict}").map_err(|e| ExitError::output(&e))?;
    }
    Ok(code)
}

/// `-q`: the daemon tries everything now.
fn flush(paths: &Paths, uid: u32) -> Result<i32, ExitError> {
    if !may_control(paths, uid) {
        return Err(ExitError::with(sysexits::NOPERM, "need root privileges"));
    }
    let mut client = Client::connect(&paths.socket).map_err(later)?;
    match client.ask(&Ask::Schedule(Which::All))? {
        Answer::Count(_) | Answer::Ok => Ok(0),
        Answer::Fail(why) => Err(Error::Refused(why).into()),
        _ => Err(Error::Unexpected.into()),
    }
}

/// A daemon that is down, or too busy to be reached, may be up later.
fn later(error: Error) -> ExitError {
    match error {
        Error::Down | Error::Connect(_) => ExitError::with(sysexits::TEMPFAIL, error.to_string()),
        other => other.into(),
    }
}

/// `-v`.
fn watched<'a>(options: &Options, output: &'a mut dyn Write) -> Option<&'a mut dyn Write> {
    if options.verbose { Some(output) } else { None }
}

fn give_up(env: &mut Environment<'_>) -> Result<(), ExitError> {
    std::mem::take(&mut env.group)
        .give_up()
        .map_err(|e| ExitError::io("setresgid", &e))
}

fn take_input(env: &mut Environment<'_>) -> Box<dyn Read + Send> {
    std::mem::replace(&mut env.input, Box::new(io::empty()))
}

/// A message, its writer, and when it is addressed, its envelope.
struct Draft {
    letter: Letter,
    message: Message,
    author: Author,
    login: String,
    home: Option<PathBuf>,
}

impl Draft {
    /// Reads the message: from here on it can be left with its writer.
    fn read(
        options: &Options,
        env: &Environment<'_>,
        input: &mut dyn Read,
    ) -> Result<Draft, ExitError> {
        let message = Message::read(input, options.recipients)?;
        let caller = (env.caller)(options.login);
        Ok(Draft {
            letter: Letter::default(),
            message,
            author: Author {
                name: author_name(options, &caller),
                address: caller.login.clone().into_bytes(),
                date: rfc5322_date(Timestamp::now().0),
            },
            login: caller.login,
            home: caller.home,
        })
    }

    /// Makes the envelope of the command line and the header.
    fn address(&mut self, options: &Options, env: &Environment<'_>) -> Result<(), ExitError> {
        let server = server_name(&env.paths)
            .ok_or_else(|| ExitError::with(sysexits::NOHOST, "no server name"))?;
        let given = options.sender.as_deref().map(address::sender).transpose()?;
        for (value, what) in [
            (&options.notify, "-N"),
            (&options.ret, "-R"),
            (&options.envid, "-V"),
        ] {
            address::check(value.as_deref().unwrap_or_default(), what)?;
        }
        let mut recipients = Vec::new();
        for word in &options.operands {
            recipients.append(&mut address::operand(word)?);
        }
        if let Some(trouble) = self.message.trouble.take() {
            return Err(trouble);
        }
        recipients.append(&mut self.message.recipients);
        match recipients.len() {
            0 => return Err(ExitError::with(sysexits::SOFTWARE, "no recipients")),
            1..=address::MOST_ADDRESSES => {}
            _ => return Err(address::too_many()),
        }
        let sender = given
            .or(self.message.from.take())
            .unwrap_or_else(|| self.login.clone().into_bytes());
        let qualify = |address| address::qualify(address, &server);
        let sender = qualify(sender);
        self.author.address = if sender.is_empty() {
            qualify(b"MAILER-DAEMON".to_vec())
        } else {
            sender.clone()
        };
        self.letter = Letter {
            sender,
            recipients: recipients.into_iter().map(qualify).collect(),
            ret: options.ret.clone(),
            envid: options.envid.clone(),
            notify: options.notify.clone(),
        };
        Ok(())
    }

    fn write(&mut self, out: &mut dyn Write) -> io::Result<()> {
        compose::write(&mut self.message, &self.author, out)
    }

    /// The message as it leaves, in a file without a name.
    fn composed(&mut self) -> io::Result<File> {
        let mut out = io::BufWriter::new(open::nameless(&std::env::temp_dir())?);
        self.write(&mut out)?;
        let mut file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.rewind()?;
        Ok(file)
    }

    /// Appends the message to the dead.letter of its writer. Where that fails, the caller must keep
    /// it.
    fn save_dead_letter(&mut self, failure: ExitError) -> ExitError {
        if self.message.has_no_header() && self.message.has_no_body() {
            return failure;
        }
        let Err(why) = self.leave_letter() else {
            return failure;
        };
        ExitError {
            code: sysexits::TEMPFAIL,
            text: format!("{}; dead.letter: {why}", failure.text),
            ..failure
        }
    }

    fn leave_letter(&mut self) -> Result<(), String> {
        let home = self.home.clone().ok_or("no home directory")?;
        let from = String::from_utf8_lossy(&self.author.address).into_owned();
        let mut message = self.composed().map_err(|e| strerror(&e))?;
        dead_letter::append(&home, &from, Timestamp::now(), &mut message)
    }
}

/// `-F`; without it and without `-f`, what passwd(5) says.
fn author_name(options: &Options, caller: &Caller) -> Vec<u8> {
    match (&options.full_name, &options.sender) {
        (Some(name), _) => name.clone(),
        (None, Some(_)) => Vec::new(),
        (None, None) => caller.full_name.clone().into_bytes(),
    }
}

#[cfg(test)]
mod tests;
