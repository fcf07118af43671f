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
//! What a command itself hands to another shell (`eval`, `sh -c '… %{rcpt} …'`) is beyond us;
//! sanitized values are harmless there, raw ones are not.

use super::Failure;
use super::specifier::{Piece, TEXT_MAX, not_expanded, too_long};

/// A text for `sh -c` and the parameters that follow `$0`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// The text.
    pub text: String,
    /// `$1` and so on.
    pub values: Vec<String>,
}

/// Makes a script of `command`; with a wrapper, of the wrapper with the command in its `%{mda}`.
pub fn script(command: &[Piece], wrapper: Option<&[Piece]>) -> Result<Script, Failure> {
    let mut writer = Writer::default();
    match wrapper {
        None => writer.pieces(command, None)?,
        Some(wrapper) => writer.pieces(wrapper, Some(command))?,
    }
    writer.finish()
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
    /// `"`.
    Double,
    /// `(` or `$(`: quoting starts anew inside.
    Paren,
    /// A backquote: likewise.
    Backquote,
    /// `${`, inside double quotes or not.
    Brace { double: bool },
}

impl Writer {
    fn pieces(&mut self, pieces: &[Piece], wrapped: Option<&[Piece]>) -> Result<(), Failure> {
        for piece in pieces {
            match (piece, wrapped) {
                (Piece::Text(text), _) => text.chars().for_each(|c| self.char(c)),
                (Piece::Value(value) | Piece::Home(value), _) => self.value(value),
                (Piece::Mda, Some(command)) => self.pieces(command, None)?,
                (Piece::Mda, None) => return Err(not_expanded()),
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

    fn finish(mut self) -> Result<Script, Failure> {
        if self.escape {
            self.text.push('\\');
        }
        let length: usize = self.values.iter().map(String::len).sum();
        if length + self.text.len() >= 2 * TEXT_MAX {
            return Err(too_long());
        }
        if self.values.is_empty() {
            return Ok(Script {
                text: self.text,
                values: self.values,
            });
        }
        let mut text = String::new();
        for number in 1..=self.values.len() {
            text.push_str(&format!("{}=${{{number}}};", variable(number)));
        }
        text.push_str(&format!("shift {};", self.values.len()));
        text.push_str(&self.text);
        Ok(Script {
            text,
            values: self.values,
        })
    }
}

fn variable(number: usize) -> String {
    format!("smtpd_{number}")
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::mail::MailAddr;
    use crate::mda::specifier::{Values, expand};

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
        script(&command, wrapper.as_deref()).unwrap()
    }

    fn run(script: &Script) -> String {
        let dir = tempfile::tempdir().unwrap();
        let output = Command::new("/bin/sh")
            .args(["-c", &script.text, "/bin/sh"])
            .args(&script.values)
            .current_dir(dir.path())
            .output()
            .unwrap();
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
                "printf '<%%s>' %{dest.user}",
                Some("sh -c '%{mda}'; sh -c \"%{mda}\""),
                &addr,
            );
            run(&nested);
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
        assert!(script(&command, None).is_err());
        assert!(script(&command, Some(&command)).is_err());
    }
}
