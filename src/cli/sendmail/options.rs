//! The command line of sendmail(8): what we obey, what we accept for other programs' sake.

use crate::cli::caller::Login;
use crate::cli::exit_error::ExitError;
use crate::cli::getopt::{self, Item};

use super::intake::Recipients;

/// What a command line asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Which of its trades sendmail plies.
    pub mode: Mode,
    /// `-f` or `-r`, the last one; as given.
    pub sender: Option<Vec<u8>>,
    /// `-F`.
    pub full_name: Option<Vec<u8>>,
    /// `-t` reads the header for recipients.
    pub recipients: Recipients,
    /// `-v`.
    pub verbose: bool,
    /// `-S` ignores the login name.
    pub login: Login,
    /// `-N`.
    pub notify: Option<Vec<u8>>,
    /// `-R`.
    pub ret: Option<Vec<u8>>,
    /// `-V`.
    pub envid: Option<Vec<u8>>,
    /// Everything that is no option.
    pub operands: Vec<Vec<u8>>,
}

/// What sendmail(8) was called for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    #[default]
    Submit,
    /// `-bs`: SMTP on standard input and output.
    Smtp,
    /// `-bv`: say what would become of each recipient.
    Verify,
    /// `-bp`: mailq(8).
    PrintQueue,
    /// `-bi`: newaliases(8), perhaps with `-O AliasFile=PATH`.
    InitAliases { source: Option<Vec<u8>> },
    /// `-q`: try everything now.
    Flush,
}

/// Reads a command line, without the program's name.
pub fn parse(words: Vec<Vec<u8>>) -> Result<Options, ExitError> {
    let items = getopt::parse(LETTERS, words).map_err(|_| ExitError::verbatim(1, USAGE))?;
    let mut options = Options::default();
    let mut alias_file = None;
    for item in items {
        let (letter, argument) = match item {
            Item::Operand(word) => {
                options.operands.push(word);
                continue;
            }
            Item::Letter(letter, argument) => (letter, argument),
        };
        match letter {
            b'f' | b'r' => options.sender = argument,
            b'F' => options.full_name = argument,
            b't' => options.recipients = Recipients::FromHeader,
            b'v' => options.verbose = true,
            b'S' => options.login = Login::Ignored,
            b'N' => options.notify = argument,
            b'R' => options.ret = argument,
            b'V' => options.envid = argument,
            b'q' => options.mode = Mode::Flush,
            b'b' => options.mode = mode(argument.as_deref(), options.mode),
            b'O' => alias_file = argument.as_deref().and_then(alias_option).or(alias_file),
            _ => {}
        }
    }
    if let Mode::InitAliases { source } = &mut options.mode {
        *source = alias_file;
    }
    Ok(options)
}

const USAGE: &str = "usage: sendmail [-tv] [-f from] [-F name] to ...\n";

/// Letters of OpenBSD's sendmail(8), and those of others that mean nothing here:
/// -C -d -G -h -I -n -O -U -X.
const LETTERS: &str = "A:B:b:C:d:E::e:F:f:Gh:IiJ::L:mN:nO:o:p:q::R:r:StUV:vX:x";

/// `-bm`, `-bd`, `-bt` and the like change nothing.
fn mode(argument: Option<&[u8]>, current: Mode) -> Mode {
    match argument.and_then(<[u8]>::first) {
        Some(b's') => Mode::Smtp,
        Some(b'v') => Mode::Verify,
        Some(b'p') => Mode::PrintQueue,
        Some(b'i') => Mode::InitAliases { source: None },
        _ => current,
    }
}

fn alias_option(argument: &[u8]) -> Option<Vec<u8>> {
    argument.strip_prefix(b"AliasFile=").map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &[&str]) -> Result<Options, ExitError> {
        parse(line.iter().map(|word| word.as_bytes().to_vec()).collect())
    }

    fn bytes(text: &str) -> Option<Vec<u8>> {
        Some(text.as_bytes().to_vec())
    }

    #[test]
    fn the_flags_of_the_manual_are_obeyed() {
        // sendmail(8): -f, -r, -F, -t, -v, -N, -R, -V, -S.
        let line = [
            "-t",
            "-v",
            "-f",
            "a@b",
            "-FBob B",
            "bob",
            "-NSUCCESS",
            "-R",
            "HDRS",
            "-Vid",
        ];
        let options = read(&line).unwrap();
        let expected = Options {
            sender: bytes("a@b"),
            full_name: bytes("Bob B"),
            recipients: Recipients::FromHeader,
            verbose: true,
            notify: bytes("SUCCESS"),
            ret: bytes("HDRS"),
            envid: bytes("id"),
            operands: vec![b"bob".to_vec()],
            ..Options::default()
        };
        assert_eq!(options, expected);
        assert_eq!(read(&["-fa", "-rb"]).unwrap().sender, bytes("b"));
        assert_eq!(read(&["-f", ""]).unwrap().sender, bytes(""));
        assert_eq!(read(&["-S"]).unwrap().login, Login::Ignored);
        assert_eq!(read(&["--", "-t"]).unwrap().operands, [b"-t".to_vec()]);
    }

    #[test]
    fn flags_of_other_sendmails_are_accepted_and_change_nothing() {
        // sendmail(8): options that other mail programs pass are accepted and ignored.
        let ignored: &[&[&str]] = &[
            &["-A", "c"],
            &["-Am"],
            &["-B8BITMIME"],
            &["-bm"],
            &["-bd"],
            &["-bt"],
            &["-C", "/x"],
            &["-d0.1"],
            &["-E"],
            &["-Ex"],
            &["-em"],
            &["-G"],
            &["-h", "5"],
            &["-I"],
            &["-i"],
            &["-J"],
            &["-Jx"],
            &["-L", "tag"],
            &["-m"],
            &["-n"],
            &["-O", "Timeout=1h"],
            &["-oi"],
            &["-oem"],
            &["-odb"],
            &["-o", "i"],
            &["-p", "x"],
            &["-U"],
            &["-X", "/log"],
            &["-x"],
        ];
        for line in ignored {
            let line = [*line, &["bob"]].concat();
            let expected = Options {
                operands: vec![b"bob".to_vec()],
                ..Options::default()
            };
            assert_eq!(read(&line).unwrap(), expected, "{line:?}");
        }
    }

    #[test]
    fn the_other_trades_have_their_flags() {
        assert_eq!(read(&["-bs"]).unwrap().mode, Mode::Smtp);
        assert_eq!(read(&["-bs", "-bm"]).unwrap().mode, Mode::Smtp);
        assert_eq!(read(&["-bp"]).unwrap().mode, Mode::PrintQueue);
        assert_eq!(read(&["-bv", "bob"]).unwrap().mode, Mode::Verify);
        for line in [&["-q"][..], &["-q30m"], &["-qf"], &["-q", "-v"]] {
            assert_eq!(read(line).unwrap().mode, Mode::Flush);
        }
        let source = bytes("/x");
        let mode = read(&["-bi", "-OAliasFile=/x"]).unwrap().mode;
        assert_eq!(mode, Mode::InitAliases { source });
    }

    #[test]
    fn unknown_flags_are_a_usage_error() {
        for line in [
            &["-M"][..],
            &["-s"],
            &["-T"],
            &["-f"],
            &["--help"],
            &["-Z", "x"],
        ] {
            assert_eq!(read(line), Err(ExitError::verbatim(1, USAGE)), "{line:?}");
        }
    }
}
