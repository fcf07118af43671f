//! One program, many names: what it does depends on the name it is called by.
//!
//! Promises: a set-group-id program acts with its caller's group from here on; only sendmail's
//! offline store takes the other group up, and gives it up for good behind it. Every other
//! personality gives it up before it looks at anything. Nothing set-user-id runs at all.

use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::process::ExitCode;

use crate::config::paths::Paths;
use crate::sys::creds::is_setid;
use crate::sys::setgid;
use crate::sys::user::effective_uid;

use super::caller::{Caller, Environment, Group};
use super::exit_error::{ExitError, Form};
use super::makemap::Done;
use super::sendmail;
use super::{mailq, makemap, newaliases, smtpctl};

/// What smtpctl does under the name that it was called by.
pub fn main() -> ExitCode {
    let mut words = env::args_os().map(OsString::into_vec);
    let name = words.next().unwrap_or_default();
    let program = String::from_utf8_lossy(base_name(&name)).into_owned();
    let mut output = io::BufWriter::with_capacity(64 * 1024, io::stdout());
    let result = start(&program, words.collect(), &mut output);
    let flushed = output.flush().map_err(|e| ExitError::output(&e));
    let code = match result.and_then(|code| flushed.map(|()| code)) {
        Ok(code) => code,
        Err(failure) => report(&program, &failure),
    };
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// Looks at who is calling, gives up what is not needed, and goes to work.
fn start(program: &str, words: Vec<Vec<u8>>, output: &mut dyn Write) -> Result<i32, ExitError> {
    if setgid::is_set_uid() {
        return Err(ExitError::new("this program must not be set-user-id"));
    }
    let set_id = is_setid();
    let group = Group::put_aside().map_err(|e| ExitError::io("setegid", &e))?;
    let replay = is_sendmail(program) && words == [b"--replay"];
    let stores = is_sendmail(program) && !replay;
    let group = if stores {
        group
    } else {
        group
            .give_up()
            .map_err(|e| ExitError::io("setresgid", &e))?;
        Group::default()
    };
    // A set-id program must not believe its environment. A replay has just given up all that it
    // had; the daemon of an instance tells it by the environment where that instance is.
    let mut env = Environment {
        paths: Paths::of_environment(!set_id || replay),
        uid: effective_uid(),
        group,
        caller: Box::new(Caller::of),
        input: Box::new(io::stdin()),
        output,
    };
    if replay {
        let stdin = io::stdin().as_fd().try_clone_to_owned();
        let file = File::from(stdin.map_err(|e| ExitError::io("standard input", &e))?);
        return sendmail::replay::run(&mut env, &file);
    }
    run(program, words, &mut env)
}

/// Does what `program` does.
pub fn run(
    program: &str,
    words: Vec<Vec<u8>>,
    env: &mut Environment<'_>,
) -> Result<i32, ExitError> {
    match program {
        "sendmail" | "send-mail" => sendmail::run(words, env),
        "smtpctl" => {
            let (paths, words) = smtpctl_options(&texts(words)?, &env.paths)?;
            smtpctl::run(&words, &paths, env.uid, env.output)
        }
        "mailq" => mailq::run(&env.paths, env.uid, env.output),
        "newaliases" => newaliases::run(&texts(words)?, &env.paths, env.uid, env.output),
        "makemap" => {
            let input = std::mem::replace(&mut env.input, Box::new(io::empty()));
            match makemap::run(words, input, env.output)? {
                Done::Made => Ok(0),
                Done::NewAliases(source) => {
                    newaliases::init(source.as_deref(), &env.paths, env.uid, env.output)
                }
            }
        }
        _ => Err(ExitError::new("unsupported mode")),
    }
}

fn is_sendmail(program: &str) -> bool {
    matches!(program, "sendmail" | "send-mail")
}

fn base_name(name: &[u8]) -> &[u8] {
    name.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
}

/// smtpctl(8) and newaliases(8) speak text.
fn texts(words: Vec<Vec<u8>>) -> Result<Vec<String>, ExitError> {
    let words = words.into_iter().map(String::from_utf8);
    words
        .collect::<Result<_, _>>()
        .map_err(|_| ExitError::new("argument is not UTF-8 text"))
}

/// `-R DIR` in front of the command.
fn smtpctl_options(words: &[String], paths: &Paths) -> Result<(Paths, Vec<String>), ExitError> {
    let mut options = getopts::Options::new();
    options.parsing_style(getopts::ParsingStyle::StopAtFirstFree);
    options.optopt("R", "", "", "");
    let matches = options
        .parse(words)
        .map_err(|_| ExitError::verbatim(1, SMTPCTL_USAGE))?;
    let paths = match matches.opt_str("R") {
        Some(root) => Paths::under(Path::new(&root)),
        None => paths.clone(),
    };
    Ok((paths, matches.free))
}

const SMTPCTL_USAGE: &str = "usage: smtpctl [-R root] command [argument ...]\n";

/// Says what went wrong and gives the exit code. A closed standard error stays closed.
fn report(program: &str, failure: &ExitError) -> i32 {
    let mut errors = io::stderr();
    let _ = match (failure.form, failure.text.is_empty()) {
        (_, true) => Ok(()),
        (Form::Verbatim, _) => errors.write_all(failure.text.as_bytes()),
        (Form::Message, _) => errors.write_all(format!("{program}: {}\n", failure.text).as_bytes()),
    };
    failure.code
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fake_daemon::Root;

    fn called(program: &str, words: &[&str]) -> Result<i32, ExitError> {
        let root = Root::new();
        let mut env = Environment {
            paths: root.paths.clone(),
            uid: effective_uid(),
            group: Group::default(),
            caller: Box::new(Caller::of),
            input: Box::new(io::empty()),
            output: &mut Vec::new(),
        };
        let words = words.iter().map(|word| word.as_bytes().to_vec()).collect();
        run(program, words, &mut env)
    }

    #[test]
    fn the_name_decides() {
        // smtpctl(8): sendmail, send-mail, mailq, newaliases and makemap are the same program.
        assert_eq!(called("mailq", &["ignored", "-x"]), Ok(0));
        assert_eq!(called("smtpctl", &["show", "queue"]), Ok(0));
        assert_eq!(called("smtpctl", &[]).unwrap_err().code, 255);
        for program in ["sendmail", "send-mail"] {
            let failure = called(program, &[]).unwrap_err();
            assert_eq!(failure, ExitError::with(70, "no recipients"));
            assert_eq!(called(program, &["-bp"]), Ok(0));
        }
        assert_eq!(called("makemap", &["x"]).unwrap_err().code, 1);
        assert_eq!(called("cat", &[]), Err(ExitError::new("unsupported mode")));
        assert_eq!(base_name(b"/usr/sbin/sendmail"), b"sendmail");
        assert_eq!(base_name(b""), b"");
    }

    #[test]
    fn smtpctl_takes_an_instance_root_in_front_of_its_command() {
        let root = Root::new();
        let dir = root.dir.path().to_str().unwrap();
        let line = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            smtpctl_options(&words, &Paths::system())
        };
        let (paths, words) = line(&["-R", dir, "show", "-x"]).unwrap();
        assert_eq!(paths.socket, root.paths.socket);
        assert_eq!(words, ["show", "-x"]);
        assert_eq!(line(&["show"]).unwrap().0.socket, Paths::system().socket);
        assert_eq!(
            line(&["-x"]).unwrap_err(),
            ExitError::verbatim(1, SMTPCTL_USAGE)
        );
    }

    #[test]
    fn a_group_that_is_not_there_is_spent_and_given_up_without_ado() {
        assert_eq!(Group::put_aside().unwrap().spend(|| 7).unwrap(), 7);
        Group::put_aside().unwrap().give_up().unwrap();
    }
}
