//! mail.local(8): arguments and exit codes.

use std::ffi::OsString;
use std::io;

use crate::mda::{conclude, local, mbox};
use crate::util::Timestamp;
use crate::util::sysexits::USAGE;

use super::mail_options::{lossy, words};

/// Runs mail.local(8) and returns its exit code.
pub fn main() -> i32 {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let Some((users, options)) = parse(&args) else {
        let usage = "usage: mail.local [-lL] [-f from | -r from] user ...";
        crate::mda::say(usage);
        return USAGE;
    };
    let mut message = io::stdin().lock();
    conclude(
        local::NAME,
        local::deliver(&mut message, &users, &options, Timestamp::now()),
    )
}

fn parse(args: &[OsString]) -> Option<(Vec<String>, local::Options)> {
    let words = words(args, "fr");
    let mut from = None;
    let mut dot_lock = local::DotLock::Try;
    for (letter, value) in words.letters {
        match (letter, value) {
            (b'f' | b'r', Some(value)) if from.is_none() => from = Some(value),
            (b'l', _) => dot_lock = local::DotLock::Try,
            (b'L', _) => dot_lock = local::DotLock::Never,
            (b'd', _) => {}
            _ => return None,
        }
    }
    let users: Vec<String> = words.operands.iter().map(lossy).collect();
    (!users.is_empty()).then(|| {
        let options = local::Options {
            spool: local::system_spool(),
            from: from.as_ref().map(lossy).unwrap_or_else(our_name),
            dot_lock,
            lock_wait: mbox::LOCK_WAIT,
        };
        (users, options)
    })
}

/// The sender when none is given: whoever runs this.
fn our_name() -> String {
    let uid = crate::sys::user::real_uid();
    match crate::sys::user::by_uid(uid) {
        Ok(Some(user)) => user.name,
        _ => "???".to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(text: &[&str]) -> Vec<OsString> {
        text.iter().map(OsString::from).collect()
    }

    #[test]
    fn mail_local_takes_one_sender_and_needs_a_user() {
        // mail.local(8).
        let (users, options) = parse(&args(&["-L", "-d", "-f", "a@b", "bob", "al"])).unwrap();
        assert_eq!(users, ["bob", "al"]);
        assert_eq!(options.from, "a@b");
        assert_eq!(options.dot_lock, local::DotLock::Never);
        for wrong in [
            &["-f", "a", "-r", "b", "bob"][..],
            &[],
            &["-f", "a"],
            &["-x", "bob"],
        ] {
            assert!(parse(&args(wrong)).is_none(), "{wrong:?}");
        }
    }
}
