//! mail.mda(8): arguments and exit codes.

use std::ffi::OsString;

use crate::mda::{MdaError, complain, run};
use crate::util::sysexits::FAILURE;

use super::mail_options::{refuse_root, words};

const NAME: &str = "mail.mda";

/// Runs mail.mda(8) and returns its exit code.
pub fn main() -> i32 {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let wrapped = std::env::var_os(run::WRAPPED);
    let result = refuse_root()
        .and_then(|()| parse(&args, wrapped))
        .and_then(|command| run::run(&command));
    result.unwrap_or_else(|failure| {
        complain(NAME, &failure.text);
        failure.code
    })
}

/// Without a command we stand in a wrapper of smtpd.conf(5), in place of the command in `wrapped`.
fn parse(args: &[OsString], wrapped: Option<OsString>) -> Result<OsString, MdaError> {
    let wrong = |text| MdaError::new(FAILURE, text);
    match words(args, "").operands.as_slice() {
        [] => wrapped.ok_or_else(|| wrong("command required")),
        [command] => Ok(command.clone()),
        _ => Err(wrong("only one command is supported")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_command() {
        // mail.mda(8).
        let parse = |args: &[&str]| {
            let args: Vec<_> = args.iter().map(OsString::from).collect();
            parse(&args, None).map_err(|f| f.text)
        };
        assert_eq!(parse(&["exit 1"]), Ok("exit 1".into()));
        assert_eq!(parse(&[]), Err("command required".to_string()));
        let many = Err("only one command is supported".to_string());
        assert_eq!(parse(&["a", "b"]), many);
    }

    #[test]
    fn in_a_wrapper_the_command_is_in_the_environment() {
        // mail.mda(8), smtpd.conf(5) mda wrapper.
        let wrapped = || Some("wrapped".into());
        assert_eq!(parse(&[], wrapped()).unwrap(), "wrapped");
        assert_eq!(parse(&["a".into()], wrapped()).unwrap(), "a");
    }
}
