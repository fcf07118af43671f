//! What the command lines of the mail.* helpers have in common.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::mda::MdaError;

/// A command line in getopt(3)'s order: letters with their values, then operands.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// Letters in the order given. A letter that needs a value and has none comes without.
    pub letters: Vec<(u8, Option<OsString>)>,
    /// What follows the options.
    pub operands: Vec<OsString>,
}

/// Splits arguments; the letters in `with_value` take one. Judging letters is the caller's: the
/// mail.* helpers but mail.local ignore those they do not know.
pub fn words(args: &[OsString], with_value: &str) -> Words {
    let mut words = Words::default();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let letters = match arg.as_bytes().strip_prefix(b"-") {
            Some(b"-") => break,
            Some(letters) if !letters.is_empty() => letters,
            _ => {
                words.operands.push(arg.clone());
                break;
            }
        };
        words.letters.extend(cluster(letters, with_value));
        if let Some((letter, value @ None)) = words.letters.last_mut()
            && with_value.as_bytes().contains(letter)
        {
            *value = rest.next().cloned();
        }
    }
    words.operands.extend(rest.cloned());
    words
}

/// The letters of one argument; after one that takes a value, the rest is that value.
fn cluster(letters: &[u8], with_value: &str) -> Vec<(u8, Option<OsString>)> {
    let mut found = Vec::new();
    for (at, letter) in letters.iter().enumerate() {
        if with_value.as_bytes().contains(letter) {
            let value = letters.get(at + 1..).filter(|value| !value.is_empty());
            found.push((*letter, value.map(|v| OsString::from_vec(v.to_vec()))));
            break;
        }
        found.push((*letter, None));
    }
    found
}

/// Text of an argument; what is not UTF-8 is replaced.
pub fn lossy(arg: impl AsRef<OsStr>) -> String {
    arg.as_ref().to_string_lossy().into_owned()
}

/// The helpers that run what users write refuse to do it for root.
pub fn refuse_root() -> Result<(), MdaError> {
    if crate::sys::user::effective_uid() == 0 {
        return Err(MdaError::new(
            crate::util::sysexits::FAILURE,
            "may not be executed as root",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(text: &[&str]) -> Vec<OsString> {
        text.iter().map(OsString::from).collect()
    }

    #[test]
    fn options_are_read_as_getopt_reads_them() {
        let words = |text: &[&str]| {
            let words = words(&args(text), "f");
            let letters: Vec<String> = words
                .letters
                .iter()
                .map(|(l, v)| {
                    format!(
                        "{}{}",
                        char::from(*l),
                        v.as_ref().map(lossy).unwrap_or_default()
                    )
                })
                .collect();
            (
                letters.join(","),
                words
                    .operands
                    .iter()
                    .map(lossy)
                    .collect::<Vec<_>>()
                    .join(","),
            )
        };
        for (text, letters, operands) in [
            (&["-j", "path"][..], "j", "path"),
            (&["-jx", "-fme", "a", "-b"], "j,x,fme", "a,-b"),
            (&["-jf", "me", "--", "-a"], "j,fme", "-a"),
            (&["-f"], "f", ""),
            (&["-", "x"], "", "-,x"),
            (&["--"], "", ""),
            (&["-j"], "j", ""),
            (&[], "", ""),
        ] {
            assert_eq!(
                words(text),
                (letters.to_string(), operands.to_string()),
                "{text:?}"
            );
        }
    }
}
