//! One end of the socket pair between the parent and a process it started.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::sys::fdpass::{self, Lost, Wait};

use super::frame::{MAX_FRAME, Malformed};

/// One end of the channel between parent and engine.
#[derive(Debug)]
pub struct Channel(OwnedFd);

/// One frame with the descriptors that came with it.
#[derive(Debug)]
pub struct Packet {
    pub frame: Vec<u8>,
    /// The descriptors; none if some were lost.
    pub fds: Vec<OwnedFd>,
    /// Whether descriptors were lost because this process has too many.
    pub lost_fds: bool,
}

/// Most descriptors with one frame.
pub const MAX_FDS: usize = 3;

impl Channel {
    /// Makes a channel; these are its ends.
    pub fn pair() -> io::Result<(Channel, Channel)> {
        let (a, b) = fdpass::pair()?;
        Ok((Channel(a), Channel(b)))
    }

    /// Sends a frame and the descriptors that belong to it, in one piece.
    pub fn send(&self, frame: &[u8], fds: &[BorrowedFd<'_>], wait: Wait) -> io::Result<()> {
        fdpass::send(self.0.as_fd(), frame, fds, wait)
    }

    /// Receives a frame; `None` when the other end is gone. A frame that is too long, or comes
    /// with too many descriptors, is malformed: `InvalidData`.
    pub fn receive(&self, wait: Wait) -> io::Result<Option<Packet>> {
        let mut buffer = vec![0; MAX_FRAME];
        let received = match fdpass::receive(self.0.as_fd(), &mut buffer, wait) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            result => result?,
        };
        if received.length == 0 && received.fds.is_empty() {
            return Ok(None);
        }
        if received.lost == Lost::Bytes || received.fds.len() > MAX_FDS {
            return Err(Malformed.into());
        }
        buffer.truncate(received.length);
        let lost_fds = received.lost == Lost::Descriptors;
        Ok(Some(Packet {
            frame: buffer,
            fds: if lost_fds { Vec::new() } else { received.fds },
            lost_fds,
        }))
    }
}

impl From<OwnedFd> for Channel {
    fn from(fd: OwnedFd) -> Channel {
        Channel(fd)
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Malformed> for io::Error {
    fn from(malformed: Malformed) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_and_descriptors_cross() {
        let (a, b) = Channel::pair().unwrap();
        let (file, other) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        a.send(&[7; MAX_FRAME], &[file.as_fd(), other.as_fd()], Wait::Yes)
            .unwrap();
        let packet = b.receive(Wait::Yes).unwrap().unwrap();
        assert_eq!((packet.frame.len(), packet.fds.len()), (MAX_FRAME, 2));
        drop(a);
        assert!(b.receive(Wait::Yes).unwrap().is_none());
    }

    #[test]
    fn surplus_descriptors_are_closed_and_the_frame_is_malformed() {
        let (a, b) = Channel::pair().unwrap();
        let (mut read, write) = std::io::pipe().unwrap();
        let surplus = [write.as_fd(); MAX_FDS + 1];
        a.send(b"x", &surplus, Wait::Yes).unwrap();
        drop(write);
        let error = b.receive(Wait::Yes).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        // End of file: no copy of the writing end is left.
        let mut rest = Vec::new();
        std::io::Read::read_to_end(&mut read, &mut rest).unwrap();
    }

    #[test]
    fn too_long_a_frame_is_malformed() {
        let (a, b) = Channel::pair().unwrap();
        a.send(&[7; MAX_FRAME + 1], &[], Wait::Yes).unwrap();
        let error = b.receive(Wait::Yes).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
