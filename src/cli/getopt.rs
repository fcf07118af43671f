//! getopt(3) for sendmail(8).
//!
//! The getopts crate has no letters whose argument must be attached (`-q30m`, but `-q bob`),
//! takes only text, and builds a table of long options we do not have. Command lines of
//! sendmail(8) are bytes, come from programs fifty years apart, and are read here as the C
//! library reads them: letters may be bundled, an argument may be attached or the next word, a
//! letter with two colons takes an attached argument only, operands may stand before options,
//! and `--` ends the options.

use std::collections::VecDeque;

/// What stands at one place of a command line.
#[derive(Debug, PartialEq, Eq)]
pub enum Item {
    /// A letter and its argument.
    Letter(u8, Option<Vec<u8>>),
    /// A word that is no option.
    Operand(Vec<u8>),
}

/// The command line does not fit the letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misuse {
    Unknown(u8),
    /// A letter without the argument it needs.
    Missing(u8),
}

/// Takes `words` (without the program's name) apart by `letters`, written as for getopt(3).
pub fn parse(letters: &str, words: Vec<Vec<u8>>) -> Result<Vec<Item>, Misuse> {
    let mut words = VecDeque::from(words);
    let mut items = Vec::new();
    while let Some(word) = words.pop_front() {
        match word.as_slice() {
            b"--" => {
                items.extend(words.drain(..).map(Item::Operand));
            }
            [b'-', bundle @ ..] if !bundle.is_empty() => {
                bundled(letters, bundle, &mut words, &mut items)?;
            }
            _ => items.push(Item::Operand(word)),
        }
    }
    Ok(items)
}

fn bundled(
    letters: &str,
    bundle: &[u8],
    words: &mut VecDeque<Vec<u8>>,
    items: &mut Vec<Item>,
) -> Result<(), Misuse> {
    let mut rest = bundle;
    while let Some((&letter, behind)) = rest.split_first() {
        rest = behind;
        let attached = (!behind.is_empty()).then(|| behind.to_vec());
        let argument = match takes(letters, letter).ok_or(Misuse::Unknown(letter))? {
            Takes::Nothing => {
                items.push(Item::Letter(letter, None));
                continue;
            }
            Takes::Attached => attached,
            Takes::Argument => {
                let argument = attached.or_else(|| words.pop_front());
                Some(argument.ok_or(Misuse::Missing(letter))?)
            }
        };
        items.push(Item::Letter(letter, argument));
        return Ok(());
    }
    Ok(())
}

enum Takes {
    Nothing,
    Argument,
    Attached,
}

fn takes(letters: &str, letter: u8) -> Option<Takes> {
    let letters = letters.as_bytes();
    if letter == b':' {
        return None;
    }
    let at = letters.iter().position(|known| *known == letter)?;
    Some(match letters.get(at + 1..) {
        Some([b':', b':', ..]) => Takes::Attached,
        Some([b':', ..]) => Takes::Argument,
        _ => Takes::Nothing,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(letters: &str, line: &[&str]) -> Result<Vec<String>, Misuse> {
        let words = line.iter().map(|word| word.as_bytes().to_vec()).collect();
        let show = |item| match item {
            Item::Letter(letter, None) => format!("-{}", char::from(letter)),
            Item::Letter(letter, Some(argument)) => {
                format!(
                    "-{}={}",
                    char::from(letter),
                    String::from_utf8(argument).unwrap()
                )
            }
            Item::Operand(word) => String::from_utf8(word).unwrap(),
        };
        Ok(parse(letters, words)?.into_iter().map(show).collect())
    }

    #[test]
    fn letters_arguments_and_operands_are_read_as_getopt_reads_them() {
        // getopt(3): bundles, attached and separate arguments, two colons, permutation, `--`.
        let cases: &[(&[&str], &[&str])] = &[
            (&["-tv", "bob"], &["-t", "-v", "bob"]),
            (&["-fbob", "-f", "bob"], &["-f=bob", "-f=bob"]),
            (&["-tfbob"], &["-t", "-f=bob"]),
            (&["-f", ""], &["-f="]),
            (&["-f", "--"], &["-f=--"]),
            (&["-q", "bob"], &["-q", "bob"]),
            (&["-q30m", "bob"], &["-q=30m", "bob"]),
            (&["bob", "-t", "al"], &["bob", "-t", "al"]),
            (&["-t", "--", "-f", "--"], &["-t", "-f", "--"]),
            (&["-", "-t"], &["-", "-t"]),
            (&["-t", ""], &["-t", ""]),
        ];
        for (line, expected) in cases {
            assert_eq!(read("f:q::tv", line).unwrap(), *expected, "{line:?}");
        }
        assert_eq!(read("f:t", &["-tx"]), Err(Misuse::Unknown(b'x')));
        assert_eq!(read("f:t", &["-:"]), Err(Misuse::Unknown(b':')));
        assert_eq!(read("f:t", &["--help"]), Err(Misuse::Unknown(b'-')));
        assert_eq!(read("f:t", &["-f"]), Err(Misuse::Missing(b'f')));
    }
}
