//! The parent's end of the wire to the engine. It never waits: what the engine does not take yet
//! is kept, and while something is kept, no more requests are read.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::privsep::channel::{Channel, Packet};
use crate::privsep::{Reply, Request};
use crate::sys::fdpass::Wait;
use crate::util::Zeroize;

/// The parent's end of the channel to one engine.
#[derive(Debug)]
pub struct Link {
    channel: Channel,
    outbox: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
}

/// What came from the engine.
#[derive(Debug)]
pub enum Heard {
    /// Nothing more now.
    Nothing,
    /// A request and its descriptors: as many as it should have, or none if we have no room.
    Request(Request, Vec<OwnedFd>),
    /// It has closed its end.
    Closed,
}

/// Replies kept from which on requests wait.
const FULL: usize = 256;

impl Link {
    /// Around our end of a new pair.
    pub fn new(channel: Channel) -> Link {
        Link {
            channel,
            outbox: VecDeque::new(),
        }
    }

    /// Sends, or keeps for later. A reply that does not fit a frame is an error of ours.
    pub fn send(&mut self, reply: &Reply, fds: Vec<OwnedFd>) -> io::Result<()> {
        let frame = reply
            .encode()
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        self.outbox.push_back((frame, fds));
        self.flush()
    }

    /// Sends what is kept, as far as the engine takes it.
    pub fn flush(&mut self) -> io::Result<()> {
        while let Some((frame, fds)) = self.outbox.front() {
            let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
            match self.channel.send(frame, &fds, Wait::No) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
            self.outbox.pop_front();
        }
        Ok(())
    }

    /// Whether something is kept.
    pub fn wants_write(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Whether requests may be read.
    pub fn wants_read(&self) -> bool {
        self.outbox.len() < FULL
    }

    /// The next request. One that is malformed, or has the wrong number of descriptors, is an
    /// error: the engine is no longer what was started.
    pub fn receive(&mut self) -> io::Result<Heard> {
        let packet = match self.channel.receive(Wait::No) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Heard::Nothing),
            result => result?,
        };
        let Some(Packet {
            mut frame,
            fds,
            lost_fds,
        }) = packet
        else {
            return Ok(Heard::Closed);
        };
        let request = Request::decode(&frame)?;
        if let Request::CheckPassword { .. } = request {
            frame.zeroize();
        }
        if fds.len() != request.descriptors() && !(lost_fds && request.descriptors() > 0) {
            return Err(crate::privsep::frame::Malformed.into());
        }
        Ok(Heard::Request(request, fds))
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_that_does_not_read_stops_nobody() {
        let (parent, engine) = Channel::pair().unwrap();
        let mut link = Link::new(parent);
        while link.wants_read() {
            link.send(&Reply::Shutdown, Vec::new()).unwrap();
        }
        assert!(link.wants_write());
        while link.wants_write() {
            engine.receive(Wait::Yes).unwrap().unwrap();
            link.flush().unwrap();
        }
    }

    #[test]
    fn a_request_needs_its_descriptors_and_no_others() {
        let (parent, engine) = Channel::pair().unwrap();
        let mut link = Link::new(parent);
        let ready = Request::Ready.encode().unwrap();
        let file = tempfile::tempfile().unwrap();
        engine.send(&ready, &[], Wait::Yes).unwrap();
        assert!(matches!(
            link.receive(),
            Ok(Heard::Request(Request::Ready, _))
        ));
        assert!(matches!(link.receive(), Ok(Heard::Nothing)));
        engine.send(&ready, &[file.as_fd()], Wait::Yes).unwrap();
        assert!(link.receive().is_err());
        engine.send(b"garbage", &[], Wait::Yes).unwrap();
        assert!(link.receive().is_err());
        drop(engine);
        assert!(matches!(link.receive(), Ok(Heard::Closed)));
    }
}
