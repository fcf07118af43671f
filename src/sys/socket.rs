//! What sockets know of the other end and std does not ask.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::errno::cvt;

/// Whether mio's events are those of kqueue or epoll: a read that fills less than its buffer has
/// emptied the socket, and whatever comes later is another event; and a descriptor that is closed
/// brings none. Over poll(2), mio keeps the list itself, and brings no other event before a read
/// has found nothing.
pub const EVENTS_ARE_THE_SYSTEMS: bool = cfg!(not(mio_unsupported_force_poll_poll));

/// The effective user id of the process at the other end of a connected unix socket, as it was
/// when that end connected.
#[cfg(target_os = "linux")]
pub fn peer_uid(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut credentials = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: `credentials` is writable for `length` bytes, which is its size.
    cvt(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &mut length,
        )
    })?;
    // Linux gives the id "nobody there" for a socket that was never connected.
    if length as usize != size_of::<libc::ucred>() || credentials.uid == u32::MAX {
        return Err(io::Error::from(io::ErrorKind::NotConnected));
    }
    Ok(credentials.uid)
}

/// The effective user id of the process at the other end of a connected unix socket, as it was
/// when that end connected.
#[cfg(not(target_os = "linux"))]
pub fn peer_uid(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut uid: libc::uid_t = 0;
    let mut gid: libc::gid_t = 0;
    // SAFETY: both pointers are valid for the call.
    cvt(unsafe { libc::getpeereid(socket.as_raw_fd(), &mut uid, &mut gid) })?;
    Ok(uid)
}

/// Lets a TCP socket send what it has at once. Connections inherit it from the socket that listens.
pub fn set_nodelay(socket: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: `on` is readable for its size, which is given.
    cvt(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_NODELAY,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    })?;
    Ok(())
}

/// The name of the network interface with this index, for the zone of a link-local address.
pub fn interface_name(index: u32) -> Option<String> {
    let mut name = [0 as libc::c_char; libc::IF_NAMESIZE];
    // SAFETY: `name` has the IF_NAMESIZE bytes the call writes at most.
    let found = unsafe { libc::if_indextoname(index, name.as_mut_ptr()) };
    if found.is_null() {
        return None;
    }
    let bytes: Vec<u8> = name
        .iter()
        .take_while(|&&byte| byte != 0)
        .map(|&byte| byte as u8)
        .collect();
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::sys::user;

    #[test]
    fn the_other_end_of_a_pair_is_ourselves() {
        let (a, _b) = UnixStream::pair().unwrap();
        assert_eq!(peer_uid(a.as_fd()).unwrap(), user::effective_uid());
        let file = std::fs::File::open("/").unwrap();
        assert!(peer_uid(file.as_fd()).is_err());
    }

    #[test]
    fn an_interface_that_is_not_there_has_no_name() {
        assert_eq!(interface_name(u32::MAX), None);
        assert_eq!(interface_name(0), None);
    }
}
