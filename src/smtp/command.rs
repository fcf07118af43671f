//! A command line, taken apart: which command, and its argument as bytes.
//!
//! Case and blanks follow smtpd(8) as its clients know it: the word is case-insensitive and ends
//! at the first space; `MAIL FROM:` and `RCPT TO:` hold exactly one space and the colon sits
//! directly behind. Blanks in front of an argument are skipped, blanks behind it are its own.

/// A command with what followed it. `None`: nothing, not even a space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command<'line> {
    Helo(Option<&'line [u8]>),
    Ehlo(Option<&'line [u8]>),
    StartTls(Option<&'line [u8]>),
    Auth(Option<&'line [u8]>),
    /// `MAIL FROM:` and what follows the colon.
    Mail(&'line [u8]),
    /// `RCPT TO:` and what follows the colon.
    Rcpt(&'line [u8]),
    Data(Option<&'line [u8]>),
    Rset(Option<&'line [u8]>),
    Quit(Option<&'line [u8]>),
    Help(Option<&'line [u8]>),
    Wiz(Option<&'line [u8]>),
    /// NOOP, whatever follows.
    Noop,
    /// VRFY, whatever follows.
    Vrfy,
    Unknown,
}

impl Command<'_> {
    /// Reads a line without its line end.
    pub fn parse(line: &[u8]) -> Command<'_> {
        if let Some(argument) = strip_word(line, b"MAIL FROM:") {
            return Command::Mail(argument.trim_ascii_start());
        }
        if let Some(argument) = strip_word(line, b"RCPT TO:") {
            return Command::Rcpt(argument.trim_ascii_start());
        }
        let (word, argument) = match memchr::memchr(b' ', line) {
            None => (line, None),
            Some(space) => {
                let (word, rest) = line.split_at(space);
                (word, Some(rest.trim_ascii_start()))
            }
        };
        match word.to_ascii_uppercase().as_slice() {
            b"HELO" => Command::Helo(argument),
            b"EHLO" => Command::Ehlo(argument),
            b"STARTTLS" => Command::StartTls(argument),
            b"AUTH" => Command::Auth(argument),
            b"DATA" => Command::Data(argument),
            b"RSET" => Command::Rset(argument),
            b"QUIT" => Command::Quit(argument),
            b"HELP" => Command::Help(argument),
            b"WIZ" => Command::Wiz(argument),
            b"NOOP" => Command::Noop,
            b"VRFY" => Command::Vrfy,
            _ => Command::Unknown,
        }
    }
}

/// Whether it is a line of HTTP: it begins as a request does, or as a field that each has, or it is
/// no command and ends with a version of HTTP.
pub fn is_http(line: &[u8]) -> bool {
    const METHODS: [&[u8]; 6] = [b"CONNECT", b"GET", b"HEAD", b"OPTIONS", b"POST", b"PUT"];
    let mut words = line.split(|byte| *byte == b' ');
    let word = words.next().unwrap_or_default();
    let last = line.trim_ascii_end().rsplit(u8::is_ascii_whitespace).next();
    METHODS
        .iter()
        .any(|method| word.eq_ignore_ascii_case(method))
        || strip_word(line, b"Host:").is_some()
        || last.is_some_and(|last| strip_word(last, b"HTTP/").is_some())
            && Command::parse(line) == Command::Unknown
}

fn strip_word<'line>(line: &'line [u8], word: &[u8]) -> Option<&'line [u8]> {
    let (head, rest) = line.split_at_checked(word.len())?;
    head.eq_ignore_ascii_case(word).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_ignore_case_and_end_at_the_first_space() {
        assert_eq!(
            Command::parse(b"ehlo  Host "),
            Command::Ehlo(Some(b"Host "))
        );
        assert_eq!(Command::parse(b"HELO"), Command::Helo(None));
        assert_eq!(Command::parse(b"QUIT "), Command::Quit(Some(b"")));
        assert_eq!(Command::parse(b"noop what ever"), Command::Noop);
        for unknown in [&b""[..], b" QUIT", b"HELO\tx", b"QUITX", b".", b"BDAT 3"] {
            assert_eq!(Command::parse(unknown), Command::Unknown);
        }
    }

    #[test]
    fn http_is_told_by_its_first_word_or_its_last() {
        for line in [
            "GET / HTTP/1.1",
            "put /x",
            "Connect mx:25 HTTP/1.1",
            "POST",
            "host:mx",
            "DELETE /x HTTP/1.1",
            "patch /x http/1.0 ",
            "PROPFIND\t/\tHTTP/1.1",
            "HTTP/1.1",
        ] {
            assert!(is_http(line.as_bytes()), "{line}");
        }
        for line in [
            "",
            "HELO get",
            "GETS /",
            " GET /",
            "HELP",
            "MAIL FROM:<get@host>",
            "MAIL FROM:<a@b> HTTP/1.1",
            "HELO HTTP/1.1",
            "DELETE /HTTP/",
            "XYZ HTTP/1.1 x",
        ] {
            assert!(!is_http(line.as_bytes()), "{line}");
        }
    }

    #[test]
    fn the_colon_of_mail_and_rcpt_sits_directly_behind() {
        assert_eq!(Command::parse(b"mail from:<a@b>"), Command::Mail(b"<a@b>"));
        assert_eq!(Command::parse(b"RCPT To:  <a> "), Command::Rcpt(b"<a> "));
        for unknown in [
            "MAIL FROM :<a@b>",
            "MAIL  FROM:<a@b>",
            "MAIL",
            "RCPT TO",
            "MAIL <a>",
        ] {
            assert_eq!(Command::parse(unknown.as_bytes()), Command::Unknown);
        }
    }
}
