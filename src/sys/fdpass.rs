//! Packets with descriptors attached, over a pair of connected sockets.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::errno::{cvt, retry};

/// Whether a call may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Until it can be done.
    Yes,
    /// Not at all: `WouldBlock`.
    No,
}

/// What one packet brought.
#[derive(Debug)]
pub struct Received {
    /// How many bytes of the buffer it filled; 0 when the other end is gone.
    pub length: usize,
    /// Its descriptors, close-on-exec.
    pub fds: Vec<OwnedFd>,
    /// What was lost of it.
    pub lost: Lost,
}

/// What a packet did not bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// Nothing: it is whole.
    Nothing,
    /// Descriptors: there were more than anybody may send, or this process has no room for them.
    Descriptors,
    /// Bytes that did not fit the buffer.
    Bytes,
}

/// A pair of connected sockets that keep packets apart.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [-1; 2];
    // SAFETY: `fds` is writable for two descriptors.
    cvt(unsafe {
        libc::socketpair(
            libc::AF_UNIX,
            libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC,
            0,
            fds.as_mut_ptr(),
        )
    })?;
    // SAFETY: socketpair(2) has just made both; nobody else owns them.
    let (a, b) = unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) };
    for fd in [&a, &b] {
        // The BSDs' default buffer is smaller than our longest packet.
        set_buffer(fd, libc::SO_SNDBUF)?;
        set_buffer(fd, libc::SO_RCVBUF)?;
    }
    Ok((a, b))
}

/// Sends one packet. A broken connection is an error, never a signal.
pub fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
    wait: Wait,
) -> io::Result<()> {
    if fds.len() > MOST_FDS {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let mut control = [0u64; CONTROL_WORDS];
    let mut part = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: msghdr is plain old data for which zero bytes are a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &mut part;
    message.msg_iovlen = 1;
    if !fds.is_empty() {
        let payload = size_of_val(fds) as libc::c_uint;
        message.msg_control = control.as_mut_ptr().cast();
        // SAFETY: arithmetic on a number.
        message.msg_controllen = unsafe { libc::CMSG_SPACE(payload) } as _;
        // SAFETY: `control` is aligned, zeroed and, by MOST_FDS, long enough for one header and
        // `fds`; BorrowedFd has the layout of a descriptor number.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(payload) as _;
            std::ptr::copy_nonoverlapping(
                fds.as_ptr().cast::<u8>(),
                libc::CMSG_DATA(header),
                payload as usize,
            );
        }
    }
    let flags = libc::MSG_NOSIGNAL | libc::MSG_EOR | dontwait(wait);
    let sent = retry(|| {
        // SAFETY: `message` points at buffers that live until the call returns.
        let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &message, flags) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    })?;
    if sent == bytes.len() {
        Ok(())
    } else {
        Err(io::Error::from(io::ErrorKind::WriteZero))
    }
}

/// Receives one packet into `buffer`.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8], wait: Wait) -> io::Result<Received> {
    let mut control = [0u64; CONTROL_WORDS];
    let mut part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: msghdr is plain old data for which zero bytes are a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    let flags = libc::MSG_CMSG_CLOEXEC | dontwait(wait);
    let length = retry(|| {
        // SAFETY: `message` points at buffers that live until the call returns.
        let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, flags) };
        usize::try_from(got).map_err(|_| io::Error::last_os_error())
    })?;
    // SAFETY: recvmsg(2) has just filled `message`, whose control buffer still lives.
    let fds = unsafe { take_fds(&message) };
    let has = |flag| message.msg_flags & flag != 0;
    let lost = match (has(libc::MSG_TRUNC), has(libc::MSG_CTRUNC)) {
        (true, _) => Lost::Bytes,
        (false, true) => Lost::Descriptors,
        (false, false) => Lost::Nothing,
    };
    Ok(Received { length, fds, lost })
}

/// Most descriptors that can be received with one packet; whoever wants fewer closes the rest.
pub const MOST_FDS: usize = 16;

const CONTROL_WORDS: usize = (MOST_FDS * 4 + 64) / 8;
const BUFFER_BYTES: libc::c_int = 256 * 1024;

fn dontwait(wait: Wait) -> libc::c_int {
    match wait {
        Wait::Yes => 0,
        Wait::No => libc::MSG_DONTWAIT,
    }
}

fn set_buffer(fd: &OwnedFd, option: libc::c_int) -> io::Result<()> {
    // SAFETY: the value is readable for the length given.
    cvt(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const BUFFER_SIZE).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    })
    .map(drop)
}

static BUFFER_SIZE: libc::c_int = BUFFER_BYTES;

/// # Safety
/// `message` must have been filled by recvmsg(2), and its descriptors not yet taken.
unsafe fn take_fds(message: &libc::msghdr) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    // SAFETY: the CMSG macros walk within the length that the kernel set; each descriptor was
    // made for us by the kernel and is owned by nobody yet.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let bytes =
                    ((*header).cmsg_len as usize).saturating_sub(libc::CMSG_LEN(0) as usize);
                let data = libc::CMSG_DATA(header).cast::<libc::c_int>();
                for n in 0..bytes / size_of::<libc::c_int>() {
                    fds.push(OwnedFd::from_raw_fd(data.add(n).read_unaligned()));
                }
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
    fds
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Seek, Write};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn packets_stay_apart_and_carry_descriptors() {
        let (a, b) = pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"hello").unwrap();
        send(a.as_fd(), b"one", &[file.as_fd()], Wait::Yes).unwrap();
        send(a.as_fd(), b"second", &[], Wait::Yes).unwrap();
        let mut buffer = [0; 64];
        let first = receive(b.as_fd(), &mut buffer, Wait::Yes).unwrap();
        assert_eq!((first.length, first.lost), (3, Lost::Nothing));
        let mut copy = File::from(first.fds.into_iter().next().unwrap());
        copy.rewind().unwrap();
        let mut text = String::new();
        copy.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        let second = receive(b.as_fd(), &mut buffer, Wait::Yes).unwrap();
        assert_eq!((second.length, second.fds.len()), (6, 0));
        let none = receive(b.as_fd(), &mut buffer, Wait::No).unwrap_err();
        assert_eq!(none.kind(), io::ErrorKind::WouldBlock);
        drop(a);
        assert_eq!(
            receive(b.as_fd(), &mut buffer, Wait::Yes).unwrap().length,
            0
        );
    }

    #[test]
    fn a_packet_that_does_not_fit_is_told() {
        let (a, b) = pair().unwrap();
        send(a.as_fd(), &[7; 100], &[], Wait::Yes).unwrap();
        let mut buffer = [0; 10];
        let cut = receive(b.as_fd(), &mut buffer, Wait::Yes).unwrap();
        assert_eq!((cut.length, cut.lost), (10, Lost::Bytes));
    }

    #[test]
    fn a_broken_connection_is_an_error_and_no_signal() {
        let (a, b) = pair().unwrap();
        drop(b);
        assert!(send(a.as_fd(), b"x", &[], Wait::Yes).is_err());
    }
}
