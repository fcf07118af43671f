//! The header of a proxy, as it comes.

use std::io::{self, Read};

use crate::smtp::proxy::{self, Bad, Client, FIXED};

/// A header that is being read, and nothing behind it.
#[derive(Default)]
pub(super) struct Header {
    bytes: Vec<u8>,
}

/// What came of reading.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// The socket has nothing now.
    WouldBlock,
    Known(Client),
}

/// Why there is no header.
#[derive(Debug)]
pub(super) enum HeaderError {
    /// The proxy has hung up.
    HungUp,
    /// It has said something else.
    Bad(Bad),
    /// The socket failed.
    Io(io::Error),
}

impl Header {
    /// Reads on. Never takes a byte that is not the header's.
    pub(super) fn read(&mut self, socket: &mut impl Read) -> Result<Progress, HeaderError> {
        loop {
            let wanted = match self.bytes.first_chunk::<FIXED>() {
                None => FIXED,
                Some(fixed) => FIXED + proxy::rest(fixed).map_err(HeaderError::Bad)?,
            };
            let have = self.bytes.len();
            if let Some((fixed, rest)) = self.bytes.split_first_chunk::<FIXED>()
                && have == wanted
            {
                return proxy::client(fixed, rest)
                    .map(Progress::Known)
                    .map_err(HeaderError::Bad);
            }
            self.bytes.resize(wanted, 0);
            let (_, missing) = self.bytes.split_at_mut(have);
            let read = socket.read(missing);
            self.bytes
                .truncate(have + read.as_ref().copied().unwrap_or(0));
            match read {
                Ok(0) => return Err(HeaderError::HungUp),
                Ok(_) => {}
                Err(error) if super::would_block(&error) => return Ok(Progress::WouldBlock),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(HeaderError::Io(error)),
            }
        }
    }
}

impl std::fmt::Display for HeaderError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            HeaderError::HungUp => f.write_str("disconnected"),
            HeaderError::Bad(bad) => write!(f, "{bad}"),
            HeaderError::Io(error) => {
                write!(f, "IO error ({})", crate::sys::errno::strerror(error))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// Gives `step` bytes, then would block once.
    struct Slow {
        bytes: VecDeque<u8>,
        step: usize,
        pause: bool,
    }

    impl Read for Slow {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.pause = !self.pause;
            if self.pause {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let length = buffer.len().min(self.step);
            self.bytes.read(&mut buffer[..length])
        }
    }

    #[test]
    fn a_header_is_read_however_it_comes_and_what_follows_stays() {
        let mut whole = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
        whole.extend([192, 0, 2, 7, 198, 51, 100, 1, 0, 1, 0, 25]);
        whole.extend(b"EHLO there\r\n");
        for step in [1, 5, 1000] {
            let mut slow = Slow {
                bytes: whole.iter().copied().collect(),
                step,
                pause: false,
            };
            let mut header = Header::default();
            let client = loop {
                match header.read(&mut slow).unwrap() {
                    Progress::WouldBlock => {}
                    Progress::Known(client) => break client,
                }
            };
            assert_eq!(client, Client::At("192.0.2.7:1".parse().unwrap()));
            assert_eq!(slow.bytes.make_contiguous(), b"EHLO there\r\n");
        }
        for cut in 0..28 {
            let mut rest = &whole[..cut];
            let failure = Header::default().read(&mut rest).unwrap_err();
            assert!(matches!(failure, HeaderError::HungUp), "{cut}");
        }
    }
}
