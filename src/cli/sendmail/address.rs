//! Addresses out of header fields and off the command line.
//!
//! A field is read byte by byte, so its length does not matter; an address is at most
//! [`LONGEST_ADDRESS`] bytes. What is found is not judged: the daemon does that. Only bytes that
//! could end a line of SMTP are kept out here.

use crate::cli::exit_error::ExitError;

/// Longest address in bytes.
pub const LONGEST_ADDRESS: usize = 999;
/// Most recipients of one message.
pub const MOST_ADDRESSES: usize = 100_000;

/// Reads an RFC 5322 address list: comments, quoted strings, groups and angle addresses
/// understood, white space left out.
#[derive(Debug, Default)]
pub struct ListParser {
    found: Vec<Vec<u8>>,
    current: Vec<u8>,
    /// The current text came out of angle brackets; what follows them is no part of it.
    taken: bool,
    within: Within,
    comments: u32,
    escaped: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Within {
    #[default]
    Plain,
    Quoted {
        angle: bool,
    },
    Angle,
    Literal {
        angle: bool,
    },
}

impl ListParser {
    /// Reads more of the field's body.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), ExitError> {
        bytes.iter().try_for_each(|byte| self.byte(*byte))
    }

    /// The addresses of the field, which ends here.
    pub fn finish(mut self) -> Result<Vec<Vec<u8>>, ExitError> {
        if self.comments > 0 || !matches!(self.within, Within::Plain) {
            return Err(ExitError::new("syntax error in address"));
        }
        self.end_of_address()?;
        Ok(self.found)
    }

    fn byte(&mut self, byte: u8) -> Result<(), ExitError> {
        if self.comments > 0 {
            self.comment(byte);
            return Ok(());
        }
        match self.within {
            Within::Quoted { angle } => self.quoted(byte, angle),
            Within::Literal { angle } => {
                if byte == b']' {
                    self.within = inside(angle);
                }
                self.push(byte)
            }
            Within::Plain | Within::Angle => self.outside(byte),
        }
    }

    /// RFC 5322 §3.2.2: comments nest.
    fn comment(&mut self, byte: u8) {
        match byte {
            _ if self.escaped => self.escaped = false,
            b'\\' => self.escaped = true,
            b'(' => self.comments = self.comments.saturating_add(1),
            b')' => self.comments -= 1,
            _ => {}
        }
    }

    fn quoted(&mut self, byte: u8, angle: bool) -> Result<(), ExitError> {
        match byte {
            _ if self.escaped => self.escaped = false,
            b'\\' => self.escaped = true,
            b'"' => self.within = inside(angle),
            _ => {}
        }
        self.push(byte)
    }

    fn outside(&mut self, byte: u8) -> Result<(), ExitError> {
        let angle = self.within == Within::Angle;
        match byte {
            b'(' => self.comments = 1,
            b'"' => {
                self.within = Within::Quoted { angle };
                return self.push(byte);
            }
            b'[' => {
                self.within = Within::Literal { angle };
                return self.push(byte);
            }
            b' ' | b'\t' | b'\r' | b'\n' => {}
            b'>' if angle => {
                self.within = Within::Plain;
                self.taken = true;
            }
            _ if angle => return self.push(byte),
            // What was collected before the bracket was a display name.
            b'<' => {
                self.current.clear();
                self.taken = false;
                self.within = Within::Angle;
            }
            b',' | b';' => return self.end_of_address(),
            // What was collected before the colon was the name of a group.
            b':' => {
                self.current.clear();
                self.taken = false;
            }
            _ => return self.push(byte),
        }
        Ok(())
    }

    fn push(&mut self, byte: u8) -> Result<(), ExitError> {
        if self.taken {
            return Ok(());
        }
        if self.current.len() >= LONGEST_ADDRESS {
            return Err(ExitError::new("address exceeds buffer size"));
        }
        self.current.push(byte);
        Ok(())
    }

    fn end_of_address(&mut self) -> Result<(), ExitError> {
        self.taken = false;
        let address = std::mem::take(&mut self.current);
        let address = without_route(address);
        if address.is_empty() {
            return Ok(());
        }
        if self.found.len() >= MOST_ADDRESSES {
            return Err(too_many());
        }
        check(&address, "address")?;
        self.found.push(address);
        Ok(())
    }
}

/// The recipients that an operand names: split at commas outside quotes and brackets, blanks
/// around them and one pair of brackets taken off, and otherwise left as they are.
pub fn operand(word: &[u8]) -> Result<Vec<Vec<u8>>, ExitError> {
    check(word, "recipient")?;
    let mut found = Vec::new();
    let (mut quoted, mut escaped, mut depth) = (false, false, 0_u32);
    let separates = |byte: &u8| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => quoted = !quoted,
            b'<' | b'[' if !quoted => depth = depth.saturating_add(1),
            b'>' | b']' if !quoted => depth = depth.saturating_sub(1),
            b',' => return !quoted && depth == 0,
            _ => {}
        }
        false
    };
    for piece in word.split(separates) {
        let piece = piece.trim_ascii();
        let piece = match piece {
            [b'<', inner @ .., b'>'] => inner,
            _ => piece,
        };
        if piece.len() > LONGEST_ADDRESS {
            return Err(ExitError::new("address exceeds buffer size"));
        }
        if !piece.is_empty() {
            found.push(piece.to_vec());
        }
    }
    Ok(found)
}

/// The envelope sender that `-f` names; empty is the null sender.
pub fn sender(word: &[u8]) -> Result<Vec<u8>, ExitError> {
    check(word, "sender")?;
    let address = match word.trim_ascii() {
        [b'<', inner @ .., b'>'] => inner,
        [b'<', ..] => return Err(ExitError::new("leading < but no trailing >")),
        plain => plain,
    };
    if address.len() > LONGEST_ADDRESS {
        return Err(ExitError::new("address exceeds buffer size"));
    }
    Ok(address.to_vec())
}

/// Puts the server's name behind an address without a domain; the null address stays null.
pub fn qualify(mut address: Vec<u8>, server: &str) -> Vec<u8> {
    if !address.is_empty() && !has_domain(&address) {
        address.push(b'@');
        address.extend_from_slice(server.as_bytes());
    }
    address
}

/// Refuses bytes that end a line or steer a terminal: none belongs in a command of SMTP.
pub fn check(text: &[u8], what: &str) -> Result<(), ExitError> {
    if text.iter().any(u8::is_ascii_control) {
        return Err(ExitError::new(format!("{what} contains illegal character")));
    }
    Ok(())
}

/// The end of a message with too many recipients.
pub fn too_many() -> ExitError {
    ExitError::new(format!("more than {MOST_ADDRESSES} recipients"))
}

fn inside(angle: bool) -> Within {
    if angle { Within::Angle } else { Within::Plain }
}

/// An `@` outside a quoted string.
fn has_domain(address: &[u8]) -> bool {
    let (mut quoted, mut escaped) = (false, false);
    address.iter().any(|byte| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => quoted = !quoted,
            b'@' => return !quoted,
            _ => {}
        }
        false
    })
}

/// RFC 5321 Appendix F.2: a source route before the address is ignored.
fn without_route(address: Vec<u8>) -> Vec<u8> {
    if address.first() != Some(&b'@') {
        return address;
    }
    match address.iter().position(|byte| *byte == b':') {
        Some(at) => address.get(at + 1..).unwrap_or_default().to_vec(),
        None => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(list: Vec<Vec<u8>>) -> Vec<String> {
        let list = list.into_iter();
        list.map(|address| String::from_utf8(address).unwrap())
            .collect()
    }

    fn field(body: &str) -> Result<Vec<String>, ExitError> {
        let mut parser = ListParser::default();
        // A byte at a time: pieces may be cut anywhere.
        for byte in body.as_bytes() {
            parser.feed(&[*byte])?;
        }
        parser.finish().map(text)
    }

    #[test]
    fn addresses_are_found_in_every_form_of_a_field() {
        // RFC 5322 §3.4: comments, quoted strings, groups and angle addresses.
        let cases: &[(&str, &[&str])] = &[
            ("", &[]),
            (" bob", &["bob"]),
            (" bob@x, al@y ,, ", &["bob@x", "al@y"]),
            (" Bob B <bob@x>", &["bob@x"]),
            (" \"B, Bob\" <bob@x>, al", &["bob@x", "al"]),
            (" bob@x (Bob, \\) (the) first)", &["bob@x"]),
            (" (a) bob (b) @ (c) x (d)", &["bob@x"]),
            (" \"a b\"@x", &["\"a b\"@x"]),
            (" \"a\\\",b\"@x", &["\"a\\\",b\"@x"]),
            (" friends: a@x, B <b@y>; , c@z", &["a@x", "b@y", "c@z"]),
            (" undisclosed-recipients:;", &[]),
            (" <>", &[]),
            (" <bob@x> trailing, al", &["bob@x", "al"]),
            (
                " bob@[IPv6:2001:db8::1], <al@[192.0.2.1]>",
                &["bob@[IPv6:2001:db8::1]", "al@[192.0.2.1]"],
            ),
            (" <@a,@b:bob@x>", &["bob@x"]),
            ("\r\n\tbob@x,\r\n al@y", &["bob@x", "al@y"]),
            (" é@exämple.org", &["é@exämple.org"]),
            (" $(id)@x", &["$@x"]),
        ];
        for (body, expected) in cases {
            assert_eq!(field(body).unwrap(), *expected, "{body:?}");
        }
    }

    #[test]
    fn what_does_not_end_is_a_syntax_error() {
        // sendmail(8): an unbalanced comment or quote ends in `syntax error in address`, exit 1.
        for body in ["(bob", "\"bob", "a, (b (c)", "<bob", "bob@[1", "\"a\\\""] {
            let failure = ExitError::new("syntax error in address");
            assert_eq!(field(body), Err(failure), "{body:?}");
        }
        let long = "x".repeat(LONGEST_ADDRESS);
        assert_eq!(field(&long).unwrap().len(), 1);
        let failure = ExitError::new("address exceeds buffer size");
        assert_eq!(field(&format!("{long}x")), Err(failure));
        // A comment is no part of an address and may be long.
        assert_eq!(field(&format!("({long}{long}) bob")).unwrap(), ["bob"]);
    }

    #[test]
    fn control_characters_never_get_into_an_address() {
        for byte in (0..=255_u8).filter(u8::is_ascii_control) {
            for body in [&[b'a', byte, b'b'][..], &[b'"', b'a', byte, b'b', b'"']] {
                let mut parser = ListParser::default();
                parser.feed(body).unwrap();
                let found = parser.finish().unwrap_or_default();
                assert!(!found.concat().iter().any(u8::is_ascii_control), "{byte}");
                assert!(operand(body).is_err() && sender(body).is_err());
            }
        }
    }

    #[test]
    fn operands_are_split_at_commas_and_else_left_alone() {
        // sendmail(8): operands are split at commas. The shell's characters mean nothing.
        let cases: &[(&str, &[&str])] = &[
            ("bob", &["bob"]),
            ("a@x,b@y", &["a@x", "b@y"]),
            (" a@x , b@y ,", &["a@x", "b@y"]),
            ("<bob@x>", &["bob@x"]),
            ("\"a,b\"@x,c", &["\"a,b\"@x", "c"]),
            ("$(id);`id`|id&>x@y", &["$(id);`id`|id&>x@y"]),
            ("a|b", &["a|b"]),
            ("-f", &["-f"]),
            ("", &[]),
            (",", &[]),
        ];
        for (word, expected) in cases {
            assert_eq!(
                text(operand(word.as_bytes()).unwrap()),
                *expected,
                "{word:?}"
            );
        }
        let long = "x".repeat(LONGEST_ADDRESS + 1);
        assert!(operand(long.as_bytes()).is_err());
    }

    #[test]
    fn the_sender_loses_its_brackets_and_may_be_null() {
        // sendmail(8), -f: `<addr>` loses its brackets; '' and '<>' are the null sender.
        for (word, expected) in [("bob", "bob"), ("<bob@x>", "bob@x"), ("", ""), ("<>", "")] {
            assert_eq!(sender(word.as_bytes()).unwrap(), expected.as_bytes());
        }
        let failure = ExitError::new("leading < but no trailing >");
        assert_eq!(sender(b"<bob@x"), Err(failure));
    }

    #[test]
    fn addresses_without_a_domain_get_the_servers_name() {
        for (address, expected) in [
            ("bob", "bob@mx"),
            ("bob@x", "bob@x"),
            ("\"a@b\"", "\"a@b\"@mx"),
            ("\"a@b\"@x", "\"a@b\"@x"),
            ("", ""),
        ] {
            assert_eq!(qualify(address.into(), "mx"), expected.as_bytes());
        }
    }
}
