//! Packets with descriptors attached, over a pair of connected sockets.
//!
//! Every packet starts with its length, because not every system hands it over in one piece: since
//! version 15 FreeBSD may take or give a part of one when a buffer is nearly full. The rest of a
//! packet that has begun is waited for, but not for long.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use super::errno::{cvt, retry};
use super::poll::{Interest, PollFd, poll};

/// Whether a call may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Until it can be done.
    Yes,
    /// Until it can be done, but not after this: then `WouldBlock`.
    Until(Instant),
    /// Not at all: `WouldBlock`.
    No,
}

/// What one packet brought.
#[derive(Debug)]
pub struct Received {
    /// How many bytes of the buffer it filled; 0 when the other end is gone.
    pub length: usize,
    pub fds: Vec<OwnedFd>,
    pub lost: Lost,
}

/// What a packet did not bring, the worse the later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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

/// Sends one packet. A broken connection is an error, never a signal. `WouldBlock` means that
/// nothing was sent; after any other error the connection is of no use.
pub fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
    wait: Wait,
) -> io::Result<()> {
    let too_much = || io::Error::from(io::ErrorKind::InvalidInput);
    if fds.len() > MOST_FDS {
        return Err(too_much());
    }
    let head = u32::try_from(bytes.len())
        .map_err(|_| too_much())?
        .to_be_bytes();
    let mut parts = [IoSlice::new(&head), IoSlice::new(bytes)];
    let mut rest = &mut parts[..];
    let sent = patiently(socket, Interest::Write, wait, || {
        send_part(socket, rest, fds, wait)
    })?;
    IoSlice::advance_slices(&mut rest, sent);
    let deadline = Instant::now() + REST;
    while !rest.is_empty() && rest.iter().any(|part| !part.is_empty()) {
        await_rest(socket, Interest::Write, deadline)?;
        match send_part(socket, rest, &[], Wait::No) {
            Ok(sent) => IoSlice::advance_slices(&mut rest, sent),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Receives one packet into `buffer`. After one that was not whole, the connection is of no use.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8], wait: Wait) -> io::Result<Received> {
    let mut head = [0; HEAD_BYTES];
    let mut parts = [IoSliceMut::new(&mut head), IoSliceMut::new(buffer)];
    let mut all = patiently(socket, Interest::Read, wait, || {
        receive_part(socket, &mut parts, wait)
    })?;
    if all.length == 0 {
        return Ok(all);
    }
    let deadline = Instant::now() + REST;
    while all.length < HEAD_BYTES {
        receive_rest(socket, &mut head[all.length..], &mut all, deadline)?;
    }
    let announced = u32::from_be_bytes(head) as usize;
    let room = announced.min(buffer.len());
    while all.length < HEAD_BYTES + room {
        let missing = &mut buffer[all.length - HEAD_BYTES..room];
        receive_rest(socket, missing, &mut all, deadline)?;
    }
    all.length -= HEAD_BYTES;
    if all.length != announced {
        all.lost = Lost::Bytes;
    }
    all.fds.iter().for_each(|fd| do_not_linger(fd.as_fd()));
    Ok(all)
}

/// Does `attempt` again while it cannot be done, for as long as `wait` says.
fn patiently<T>(
    socket: BorrowedFd<'_>,
    interest: Interest,
    wait: Wait,
    mut attempt: impl FnMut() -> io::Result<T>,
) -> io::Result<T> {
    loop {
        match (attempt(), wait) {
            (Err(error), Wait::Until(deadline)) if error.kind() == io::ErrorKind::WouldBlock => {
                let left = deadline.saturating_duration_since(Instant::now());
                let fds = &mut [PollFd::new(socket, interest)];
                if left.is_zero() || poll(fds, Some(left))? == 0 {
                    return Err(error);
                }
                // Some systems find room where there is too little for a whole packet.
                std::thread::sleep(MOMENT.min(left));
            }
            (result, _) => return result,
        }
    }
}

/// Closing a socket that came from the other side must not wait for a third one to read.
fn do_not_linger(fd: BorrowedFd<'_>) {
    let off = libc::linger {
        l_onoff: 0,
        l_linger: 0,
    };
    // SAFETY: `off` is readable for the length given. What is no socket does not linger.
    unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const off).cast(),
            size_of_val(&off) as libc::socklen_t,
        );
    }
}

/// Most descriptors that can be received with one packet; whoever wants fewer closes the rest.
pub const MOST_FDS: usize = 16;

const CONTROL_WORDS: usize = (MOST_FDS * 4 + 64) / 8;
const BUFFER_BYTES: libc::c_int = 256 * 1024;
const HEAD_BYTES: usize = 4;
/// How long the rest of a packet may take that has begun: whoever sends it does so at once, and
/// must not hold up the other side.
const REST: Duration = Duration::from_secs(1);
const MOMENT: Duration = Duration::from_millis(1);

/// Sends as much as the system takes; says how much that was.
fn send_part(
    socket: BorrowedFd<'_>,
    parts: &[IoSlice<'_>],
    fds: &[BorrowedFd<'_>],
    wait: Wait,
) -> io::Result<usize> {
    let mut control = [0u64; CONTROL_WORDS];
    // SAFETY: msghdr is plain old data for which zero bytes are a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    // IoSlice has the layout of an iovec; sendmsg(2) only reads through it.
    message.msg_iov = parts.as_ptr().cast_mut().cast();
    message.msg_iovlen = parts.len() as _;
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
    retry(|| {
        // SAFETY: `message` points at buffers that live until the call returns.
        let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &message, flags) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    })
}

/// Receives what is there of a packet.
fn receive_part(
    socket: BorrowedFd<'_>,
    parts: &mut [IoSliceMut<'_>],
    wait: Wait,
) -> io::Result<Received> {
    let mut control = [0u64; CONTROL_WORDS];
    // SAFETY: msghdr is plain old data for which zero bytes are a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    // IoSliceMut has the layout of an iovec.
    message.msg_iov = parts.as_mut_ptr().cast();
    message.msg_iovlen = parts.len() as _;
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

/// Receives more of the packet that `all` has the beginning of.
fn receive_rest(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    all: &mut Received,
    deadline: Instant,
) -> io::Result<()> {
    await_rest(socket, Interest::Read, deadline)?;
    match receive_part(socket, &mut [IoSliceMut::new(buffer)], Wait::No) {
        Ok(more) if more.length == 0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
        Ok(more) => {
            all.length += more.length;
            all.fds.extend(more.fds);
            if all.fds.len() > MOST_FDS {
                return Err(io::Error::from(io::ErrorKind::InvalidData));
            }
            all.lost = all.lost.max(more.lost);
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error),
    }
}

fn await_rest(socket: BorrowedFd<'_>, interest: Interest, deadline: Instant) -> io::Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    match poll(&mut [PollFd::new(socket, interest)], Some(left))? {
        0 => Err(io::Error::from(io::ErrorKind::TimedOut)),
        _ => Ok(()),
    }
}

fn dontwait(wait: Wait) -> libc::c_int {
    match wait {
        Wait::Yes => 0,
        Wait::No | Wait::Until(_) => libc::MSG_DONTWAIT,
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
    fn a_packet_in_parts_is_put_together() {
        // FreeBSD 15 may take and give parts, as a stream does everywhere.
        let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
        let sent: Vec<u8> = (0..1_000_000u32).map(|n| n as u8).collect();
        let file = tempfile::tempfile().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| send(a.as_fd(), &sent, &[file.as_fd()], Wait::No).unwrap());
            let mut buffer = vec![0; sent.len() + 1];
            let received = receive(b.as_fd(), &mut buffer, Wait::Yes).unwrap();
            assert_eq!(
                (received.length, received.lost),
                (sent.len(), Lost::Nothing)
            );
            assert_eq!(received.fds.len(), 1);
            assert!(buffer.starts_with(&sent));
        });
        drop(a);
        let end = receive(b.as_fd(), &mut [0; 8], Wait::Yes).unwrap();
        assert_eq!((end.length, end.lost), (0, Lost::Nothing));
    }

    #[test]
    fn who_waits_until_then_waits_for_room_and_no_longer() {
        let (a, b) = pair().unwrap();
        let soon = || Wait::Until(Instant::now() + Duration::from_millis(20));
        let packet = [7; 8192];
        let mut sent = 0;
        let error = loop {
            match send(a.as_fd(), &packet, &[], soon()) {
                Ok(()) => sent += 1,
                Err(error) => break error,
            }
        };
        assert!(sent > 0);
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        // Nothing was sent then: what is there is whole, and more goes as soon as it is read.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let late = Wait::Until(Instant::now() + Duration::from_secs(60));
                send(a.as_fd(), b"last", &[], late).unwrap();
            });
            let mut buffer = [0; 8192];
            for length in std::iter::repeat_n(packet.len(), sent).chain([4]) {
                let received = receive(b.as_fd(), &mut buffer, Wait::Yes).unwrap();
                assert_eq!((received.length, received.lost), (length, Lost::Nothing));
            }
        });
        let error = receive(b.as_fd(), &mut [0; 8], soon()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn half_a_packet_is_an_error() {
        for half in [&[0u8, 0][..], &[0, 0, 0, 9, 1, 2, 3]] {
            let (mut a, b) = std::os::unix::net::UnixStream::pair().unwrap();
            a.write_all(half).unwrap();
            drop(a);
            let error = receive(b.as_fd(), &mut [0; 64], Wait::Yes).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
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

    #[test]
    fn a_socket_that_is_passed_does_not_hold_up_whoever_closes_it() {
        // A compromised engine passes one that lingers, with data that nobody takes.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut lingers = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let _peer = listener.accept().unwrap();
        let on = libc::linger {
            l_onoff: 1,
            l_linger: 20,
        };
        // SAFETY: `on` is readable for the length given.
        let set = unsafe {
            libc::setsockopt(
                lingers.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_LINGER,
                (&raw const on).cast(),
                size_of_val(&on) as libc::socklen_t,
            )
        };
        assert_eq!(set, 0);
        lingers.set_nonblocking(true).unwrap();
        while lingers.write(&[0; 65536]).is_ok() {}
        let (a, b) = pair().unwrap();
        send(a.as_fd(), b"x", &[lingers.as_fd()], Wait::Yes).unwrap();
        drop(lingers);
        let mut buffer = [0; 8];
        let received = receive(b.as_fd(), &mut buffer, Wait::Yes).unwrap();
        let before = Instant::now();
        drop(received);
        assert!(before.elapsed() < Duration::from_secs(10));
    }
}
