//! A command for sh(1) in which the envelope's text is data.
//!
//! Values are not pasted into the command. They travel as positional parameters, are copied to
//! shell variables, and the command refers to those: `mda "x -f %{sender}"` becomes
//! `smtpd_1=$1;shift 1;x -f "${smtpd_1}"`. So the shell reads only what the administrator, or
//! the owner of a .forward, wrote; a value is one word (or part of one) whatever is in it, with
//! the modifier `raw` too. To place the variable well, the quoting at each place is followed
//! through quotes, comments and substitutions. Where that goes wrong (an exotic here-document,
//! say) the command gets an odd word; a value is still never read as shell.
//!
//! A wrapper gets the command whole, however many commands of sh(1) it consists of. Outside quotes
//! its `%{mda}` is the command's words where that is the path of a program with arguments, and else
//! one word: the path of mail.mda(8), which runs the text that it finds in the environment. Inside
//! quotes it is the text.
//!
//! What a command itself hands to another shell (`eval`, `sh -c '… %{rcpt} …'`) is beyond us;
//! sanitized values are harmless there, raw ones are not.

use crate::config::specifier::{Piece, TEXT_MAX, Unexpanded};

use super::MdaError;

/// A text for `sh -c` and the parameters that follow `$0`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    pub text: String,
    /// `$1` and so on.
    pub values: Vec<String>,
    /// What [`WRAPPED`] is in the environment.
    pub wrapped: Option<String>,
}

/// The variable in which mail.mda(8) finds the command that a wrapper wraps.
pub const WRAPPED: &str = "SMTPD_MDA";

/// Makes a script of `command`.
pub fn script(command: &[Piece]) -> Result<Script, MdaError> {
    let mut writer = Writer::default();
    writer.pieces(command, None)?;
    let script = writer.finish();
    bounded(script)
}

/// Makes a script of `wrapper` with the command in its `%{mda}`; `mail_mda` is the path of
/// mail.mda(8).
pub fn wrapped(wrapper: &[Piece], command: &[Piece], mail_mda: &str) -> Result<Script, MdaError> {
    let mut inner = Writer::default();
    inner.pieces(command, None)?;
    let inner = Wrapped {
        command,
        is_plain: is_plain(command),
        text: inner.standing_alone(),
        mail_mda,
    };
    let mut writer = Writer::default();
    writer.pieces(wrapper, Some(&inner))?;
    let mut script = writer.finish();
    if !inner.is_plain {
        script.wrapped = Some(inner.text);
    }
    bounded(script)
}

/// What a wrapper's `%{mda}` stands for.
struct Wrapped<'a> {
    command: &'a [Piece],
    /// Its words can stand among the wrapper's.
    is_plain: bool,
    text: String,
    mail_mda: &'a str,
}

/// Whether a command is the path of a program with arguments, and nothing that a shell would have
/// to run by itself.
fn is_plain(command: &[Piece]) -> bool {
    let is_path = match command.first() {
        Some(Piece::Home(_)) => true,
        Some(Piece::Text(text)) => text.starts_with('/'),
        Some(Piece::Value(_) | Piece::Mda) | None => false,
    };
    let mut quote = None;
    for piece in command {
        let Piece::Text(text) = piece else { continue };
        for c in text.chars() {
            match (quote, c) {
                (Some(open), c) if c == open => quote = None,
                (Some('\''), _) => {}
                (_, '\\' | '`' | '$') => return false,
                (Some(_), _) => {}
                (None, '\'' | '"') => quote = Some(c),
                (None, ';' | '&' | '|' | '<' | '>' | '(' | ')' | '\n' | '#' | '{' | '}') => {
                    return false;
                }
                (None, _) => {}
            }
        }
    }
    is_path && quote.is_none()
}

fn bounded(script: Script) -> Result<Script, MdaError> {
    let values: usize = script.values.iter().map(String::len).sum();
    let wrapped = script.wrapped.as_ref().map_or(0, String::len);
    if values + wrapped + script.text.len() >= 4 * TEXT_MAX {
        return Err(Unexpanded::TooLong.into());
    }
    Ok(script)
}

#[derive(Default)]
struct Writer {
    text: String,
    values: Vec<String>,
    open: Vec<Open>,
    single: bool,
    comment: bool,
    /// A backslash that is not written yet: what it does depends on what follows.
    escape: bool,
    previous: Option<char>,
}

/// What has been opened and not closed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Open {
    Double,
    /// `(` or `$(`: quoting starts anew inside.
    Paren,
    /// A backquote: likewise.
    Backquote,
    /// `${`, inside double quotes or not.
    Brace {
        double: bool,
    },
}

impl Writer {
    fn pieces(&mut self, pieces: &[Piece], mda: Option<&Wrapped<'_>>) -> Result<(), MdaError> {
        for piece in pieces {
            match (piece, mda) {
                (Piece::Text(text), _) => text.chars().for_each(|c| self.char(c)),
                (Piece::Value(value) | Piece::Home(value), _) => self.value(value),
                (Piece::Mda, Some(inner)) if self.single || self.double() => {
                    self.value(&inner.text);
                }
                (Piece::Mda, Some(inner)) if inner.is_plain => {
                    self.pieces(inner.command, None)?;
                }
                (Piece::Mda, Some(inner)) => self.value(inner.mail_mda),
                (Piece::Mda, None) => return Err(Unexpanded::NoValue.into()),
            }
        }
        Ok(())
    }

    fn double(&self) -> bool {
        match self.open.last() {
            Some(Open::Double) => true,
            Some(Open::Brace { double }) => *double,
            Some(Open::Paren | Open::Backquote) | None => false,
        }
    }

    fn char(&mut self, c: char) {
        let previous = self.previous.replace(c);
        if self.escape {
            self.escape = false;
            self.text.push('\\');
        } else if self.single {
            self.single = c != '\'';
        } else if self.comment {
            self.comment = c != '\n';
        } else if c == '\\' {
            self.escape = true;
            return;
        } else {
            self.structure(c, previous);
        }
        self.text.push(c);
    }

    fn structure(&mut self, c: char, previous: Option<char>) {
        let double = self.double();
        let top = self.open.last().copied();
        match c {
            '\'' if !double => self.single = true,
            '"' if top == Some(Open::Double) => {
                self.open.pop();
            }
            '"' => self.open.push(Open::Double),
            '(' if !double || previous == Some('$') => self.open.push(Open::Paren),
            ')' if top == Some(Open::Paren) => {
                self.open.pop();
            }
            '{' if previous == Some('$') => self.open.push(Open::Brace { double }),
            '}' if matches!(top, Some(Open::Brace { .. })) => {
                self.open.pop();
            }
            '`' => match self.open.iter().rposition(|open| *open == Open::Backquote) {
                Some(at) => self.open.truncate(at),
                None => self.open.push(Open::Backquote),
            },
            '#' if !double && previous.is_none_or(|c| c.is_whitespace() || ";|&(".contains(c)) => {
                self.comment = true;
            }
            _ => {}
        }
    }

    fn value(&mut self, value: &str) {
        if self.comment {
            return;
        }
        let escape = std::mem::take(&mut self.escape);
        let double = self.double();
        if escape && double {
            // In double quotes a backslash before an ordinary character stands for itself.
            self.text.push_str("\\\\");
        }
        self.values.push(value.to_string());
        let reference = format!("${{{}}}", variable(self.values.len()));
        let text = if self.single {
            format!("'\"{reference}\"'")
        } else if double {
            reference
        } else {
            format!("\"{reference}\"")
        };
        self.text.push_str(&text);
        self.previous = Some('"');
    }

    fn finish(mut self) -> Script {
        self.close();
        let mut text = String::new();
        if !self.values.is_empty() {
            for number in 1..=self.values.len() {
                text.push_str(&format!("{}=${{{number}}};", variable(number)));
            }
            text.push_str(&format!("shift {};", self.values.len()));
        }
        text.push_str(&self.text);
        Script {
            text,
            values: self.values,
            wrapped: None,
        }
    }

    /// A text that brings its values itself, for a shell that gets no parameters.
    fn standing_alone(mut self) -> String {
        self.close();
        let mut text = String::new();
        for (number, value) in (1..).zip(&self.values) {
            text.push_str(&format!("{}={};", variable(number), quoted(value)));
        }
        text + &self.text
    }

    fn close(&mut self) {
        if std::mem::take(&mut self.escape) {
            self.text.push('\\');
        }
    }
}

/// A word that sh(1) reads as `value`.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', "'\\''"))
}

fn variable(number: usize) -> String {
    format!("smtpd_{number}")
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use super::*;
    use crate::config::specifier::{Values, expand};
    use crate::mail::MailAddr;

    fn compile(command: &str, wrapper: Option<&str>, addr: &MailAddr) -> Script {
        let values = Values {
            sender: addr,
            rcpt: addr,
            dest: addr,
            username: addr.user(),
            directory: "/home/a b'c",
            delimiter: '+',
        };
        let command = expand(command, &values).unwrap();
        let wrapper = wrapper.map(|wrapper| expand(wrapper, &values).unwrap());
        match wrapper {
            None => script(&command).unwrap(),
            Some(wrapper) => wrapped(&wrapper, &command, "./mail.mda").unwrap(),
        }
    }

    fn run(script: &Script) -> String {
        let dir = tempfile::tempdir().unwrap();
        let mail_mda = dir.path().join("mail.mda");
        let text = "#!/bin/sh\ncommand=$SMTPD_MDA\nunset SMTPD_MDA\nexec /bin/sh -c \"$command\"\n";
        std::fs::write(&mail_mda, text).unwrap();
        std::fs::set_permissions(&mail_mda, Permissions::from_mode(0o700)).unwrap();
        let output = Command::new("/bin/sh")
            .args(["-c", &script.text, "/bin/sh"])
            .args(&script.values)
            .envs(script.wrapped.iter().map(|text| (WRAPPED, text)))
            .current_dir(dir.path())
            .output()
            .unwrap();
        std::fs::remove_file(&mail_mda).unwrap();
        let left = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(left, 0, "something was run or written by {script:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn hostile() -> Vec<String> {
        [
            "`touch canary`",
            "$(touch canary)",
            ";touch canary;",
            "|touch canary",
            "&touch canary&",
            "'touch canary'",
            "';touch canary;'",
            "\";touch canary;\"",
            "\"'`touch canary`'\"",
            ">canary",
            "<>canary",
            "${IFS}touch${IFS}canary",
            "a)touch canary;(",
            "}touch canary",
            "\\\";touch canary #",
            "*",
            "~root",
            "-n",
            "smtpd_1=x",
            "$1",
            "a\u{a0}b",
            "#",
            "",
        ]
        .map(str::to_string)
        .to_vec()
    }

    #[test]
    fn no_address_is_ever_read_by_the_shell() {
        // CVE-2020-7247, CVE-2019-10149: whatever the address, the canary file is never created.
        for local in hostile() {
            let addr = MailAddr::new(&local, "e.org").unwrap();
            let full = if local.is_empty() {
                "@e.org".to_string()
            } else {
                format!("{local}@e.org")
            };
            for (command, quoted) in [
                ("printf '<%%s>' %{rcpt:raw}", true),
                ("printf '<%%s>' \"%{rcpt:raw}\"", true),
                ("printf '<%%s>' '%{rcpt:raw}'", true),
                ("printf '<%%s>' \"$(printf %%s %{rcpt:raw})\"", true),
                ("printf '<%%s>' \"$(printf %%s \"%{rcpt:raw}\")\"", true),
                ("printf '<%%s>' \"`printf %%s %{rcpt:raw}`\"", true),
                ("printf '<%%s>' ${nothing:-%{rcpt:raw}}", true),
                ("f() { printf '<%%s>' %{rcpt:raw}; }; f \"x'y\"", true),
                ("(printf '<%%s>' '%{rcpt:raw}') # it's %{rcpt:raw}", true),
                ("printf '<%%s>' \\%{rcpt:raw}", true),
                ("x='a'\"b\"; printf '<%%s>' %{rcpt:raw}", true),
                ("cat <<E\n%{rcpt:raw}\nE\n", false),
            ] {
                let text = run(&compile(command, None, &addr));
                if quoted {
                    assert_eq!(text, format!("<{full}>"), "{command} with {local:?}");
                }
            }
        }
    }

    #[test]
    fn a_wrapper_gets_the_command_where_it_says_mda() {
        // smtpd.conf(5), mda wrapper.
        for local in hostile() {
            let addr = MailAddr::new(&local, "e.org").unwrap();
            let script = compile(
                "printf '<%%s>' %{dest.user:raw}",
                Some("printf '[%%s]' '%{rcpt.domain}' && %{mda}"),
                &addr,
            );
            assert_eq!(run(&script), format!("[e.org]<{local}>"));
            let nested = compile(
                "printf '<%%s>' %{dest.user:raw}; printf '[%%s]' \"%{rcpt.domain}\"",
                Some("sh -c '%{mda}'; sh -c \"%{mda}\"; eval \"%{mda}\""),
                &addr,
            );
            assert_eq!(run(&nested), format!("<{local}>[e.org]").repeat(3));
            for plain in ["", " | cat"] {
                let words = compile(
                    &format!("/usr/bin/printf '<%%s>' %{{dest.user:raw}}{plain}"),
                    Some("f() { \"$@\"; }; f %{mda}; env -u x %{mda}"),
                    &addr,
                );
                assert_eq!(run(&words), format!("<{local}>").repeat(2));
            }
        }
    }

    #[test]
    fn a_wrapper_covers_the_whole_command() {
        // smtpd.conf(5), mda wrapper: it cannot be got around with a second command. Whichever way
        // it runs what it gets, all of it runs inside.
        let addr = MailAddr::new("bob", "e.org").unwrap();
        for command in [
            "true; printf %%s $IN",
            "true && printf %%s $IN",
            "false || printf %%s $IN",
            "true & wait; printf %%s $IN",
            "true\nprintf %%s $IN",
            "printf %%s $IN # x",
            "(printf %%s $IN)",
            "{ printf %%s $IN; }",
            "true | printf %%s $IN",
            "printf %%s $(printf %%s $IN)",
            "printf %%s `printf %%s $IN`",
            "if true; then printf %%s $IN; fi",
            "/usr/bin/printf %%s \"$(printf %%s $IN)\"",
            "/usr/bin/env printf %%s $IN",
            "exec printf %%s $IN",
            "X=y printf %%s $IN",
        ] {
            for wrapper in [
                "w() { IN=in \"$@\"; }; w %{mda}",
                "w() { IN=in sh -c \"$1\"; }; w %{mda}",
                "w() { IN=in sh -c \"$*\"; }; w %{mda}",
                "w() { IN=in sh -c \"$1\"; }; w \"%{mda}\"",
                "w() { IN=in sh -c \"$1\"; }; w '%{mda}'",
                "env IN=in %{mda}",
                "printf '' | env IN=in %{mda} && true",
            ] {
                let script = compile(command, Some(wrapper), &addr);
                assert_eq!(run(&script), "in", "{wrapper} with {command}");
            }
        }
    }

    #[test]
    fn the_command_stays_as_the_administrator_wrote_it() {
        let addr = MailAddr::new("bob", "e.org").unwrap();
        let script = compile("a | b > \"c d\" '100%%' \\\\ \\", None, &addr);
        assert_eq!(script.text, "a | b > \"c d\" '100%' \\\\ \\");
        assert!(script.values.is_empty());
        assert_eq!(
            run(&compile(
                "~/x 2>/dev/null || printf '%%s' \"~\"",
                None,
                &addr
            )),
            "~"
        );
        assert_eq!(
            run(&compile("printf %%s \"a\\%{rcpt}\"", None, &addr)),
            "a\\bob@e.org"
        );
        assert_eq!(
            run(&compile(
                "set -- x; printf %%s,%%s,%%s $# $1 %{rcpt}; env | grep -c smtpd_",
                None,
                &addr
            )),
            "1,x,bob@e.org0\n"
        );
        assert_eq!(
            run(&compile("printf %%s \"$#$0\" %{rcpt.user}", None, &addr)),
            "0/bin/shbob"
        );
    }

    #[test]
    fn mda_means_something_only_in_wrappers() {
        let addr = MailAddr::new("bob", "e.org").unwrap();
        let values = Values {
            sender: &addr,
            rcpt: &addr,
            dest: &addr,
            username: "bob",
            directory: "/",
            delimiter: '+',
        };
        let command = expand("x %{mda}", &values).unwrap();
        assert!(script(&command).is_err());
        assert!(wrapped(&command, &command, "mail.mda").is_err());
    }
}
