//! Listening sockets, connections, and the addresses of interfaces.

use std::ffi::CStr;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use super::errno::cvt;
use super::poll::{Interest, PollFd, poll};

/// One address of one interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceAddr {
    pub interface: String,
    /// The address; the port is 0, and a link-local one carries its scope.
    pub addr: SocketAddr,
}

/// All IPv4 and IPv6 addresses of this host's interfaces.
pub fn interface_addrs() -> io::Result<Vec<InterfaceAddr>> {
    let mut list: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: `list` is writable; what it is set to is freed below.
    cvt(unsafe { libc::getifaddrs(&mut list) })?;
    let mut found = Vec::new();
    let mut next = list;
    while !next.is_null() {
        // SAFETY: the list is ours until freeifaddrs(3); names are C strings and addresses are
        // null or as long as their family says.
        unsafe {
            let entry = &*next;
            next = entry.ifa_next;
            if let Some(addr) = socket_addr(entry.ifa_addr) {
                let interface = CStr::from_ptr(entry.ifa_name)
                    .to_string_lossy()
                    .into_owned();
                found.push(InterfaceAddr { interface, addr });
            }
        }
    }
    // SAFETY: the list came from getifaddrs(3) and is not used any more.
    unsafe { libc::freeifaddrs(list) };
    Ok(found)
}

/// The interfaces that belong to the group `name`. On Linux, which has no groups, `egress` is
/// those that carry a default route; any other group has no members.
pub fn group_members(name: &str) -> io::Result<Vec<String>> {
    platform::group_members(name)
}

/// Binds and listens. An IPv6 socket takes no IPv4 connections.
pub fn listen_tcp(addr: SocketAddr, backlog: i32) -> io::Result<TcpListener> {
    let family = match addr {
        SocketAddr::V4(_) => libc::AF_INET,
        SocketAddr::V6(_) => libc::AF_INET6,
    };
    // SAFETY: plain numbers.
    let fd = cvt(unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: socket(2) has just made it; nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    set_option(&fd, libc::SOL_SOCKET, libc::SO_REUSEADDR)?;
    if addr.is_ipv6() {
        set_option(&fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY)?;
    }
    bind(&fd, addr)?;
    // SAFETY: plain numbers.
    cvt(unsafe { libc::listen(fd.as_raw_fd(), backlog) })?;
    Ok(TcpListener::from(fd))
}

/// Why there is no connection.
#[derive(Debug)]
pub enum ConnectError {
    /// Our own end cannot have the address it should.
    Source(io::Error),
    /// The system refused without asking anybody, as without a route.
    AtOnce(io::Error),
    /// The other end refused, or did not answer (`TimedOut`).
    Peer(io::Error),
}

/// Connects to `to`, from the address `source` where that is given, within `timeout`. The socket
/// that is returned does not block.
pub fn connect_tcp(
    to: SocketAddr,
    source: Option<IpAddr>,
    timeout: Duration,
) -> Result<TcpStream, ConnectError> {
    let family = match to {
        SocketAddr::V4(_) => libc::AF_INET,
        SocketAddr::V6(_) => libc::AF_INET6,
    };
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: plain numbers.
    let fd = cvt(unsafe { libc::socket(family, kind, 0) }).map_err(ConnectError::AtOnce)?;
    // SAFETY: socket(2) has just made it; nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    if let Some(source) = source {
        bind(&fd, SocketAddr::new(source, 0)).map_err(ConnectError::Source)?;
    }
    match with_sockaddr(to, |raw, length| {
        // SAFETY: `raw` is readable for `length`.
        unsafe { libc::connect(fd.as_raw_fd(), raw, length) }
    }) {
        Ok(()) => return Ok(TcpStream::from(fd)),
        Err(error) => match error.raw_os_error() {
            // An interrupted attempt goes on by itself.
            Some(libc::EINPROGRESS | libc::EINTR) => {}
            Some(libc::ECONNREFUSED | libc::ETIMEDOUT) => return Err(ConnectError::Peer(error)),
            _ => return Err(ConnectError::AtOnce(error)),
        },
    }
    let stream = TcpStream::from(fd);
    let mut fds = [PollFd::new(stream.as_fd(), Interest::Write)];
    match poll(&mut fds, Some(timeout)) {
        Ok(0) => return Err(ConnectError::Peer(io::ErrorKind::TimedOut.into())),
        Ok(_) => {}
        Err(error) => return Err(ConnectError::AtOnce(error)),
    }
    match stream.take_error() {
        Ok(None) => Ok(stream),
        Ok(Some(error)) | Err(error) => Err(ConnectError::Peer(error)),
    }
}

fn set_option(fd: &OwnedFd, level: libc::c_int, option: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the value is readable for the length given.
    cvt(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    })
    .map(drop)
}

fn bind(fd: &OwnedFd, addr: SocketAddr) -> io::Result<()> {
    with_sockaddr(addr, |raw, length| {
        // SAFETY: `raw` is readable for `length`.
        unsafe { libc::bind(fd.as_raw_fd(), raw, length) }
    })
}

/// Calls `call` with `addr` as the system writes it, readable for the length given.
fn with_sockaddr(
    addr: SocketAddr,
    call: impl FnOnce(*const libc::sockaddr, libc::socklen_t) -> libc::c_int,
) -> io::Result<()> {
    let result = match addr {
        SocketAddr::V4(v4) => {
            // SAFETY: sockaddr_in is plain old data for which zero bytes are a value.
            let mut raw: libc::sockaddr_in = unsafe { std::mem::zeroed() };
            raw.sin_family = libc::AF_INET as libc::sa_family_t;
            raw.sin_port = v4.port().to_be();
            raw.sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
            call(
                (&raw const raw).cast(),
                size_of_val(&raw) as libc::socklen_t,
            )
        }
        SocketAddr::V6(v6) => {
            // SAFETY: sockaddr_in6 is plain old data for which zero bytes are a value.
            let mut raw: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
            raw.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            raw.sin6_port = v6.port().to_be();
            raw.sin6_addr.s6_addr = v6.ip().octets();
            raw.sin6_scope_id = v6.scope_id();
            call(
                (&raw const raw).cast(),
                size_of_val(&raw) as libc::socklen_t,
            )
        }
    };
    cvt(result).map(drop)
}

/// # Safety
/// `raw` must be null or point at an address as long as its family says.
unsafe fn socket_addr(raw: *const libc::sockaddr) -> Option<SocketAddr> {
    if raw.is_null() {
        return None;
    }
    // SAFETY: not null, and every address starts with its family.
    let family = libc::c_int::from(unsafe { (*raw).sa_family });
    if family == libc::AF_INET {
        // SAFETY: the family says that it is one.
        let v4 = unsafe { raw.cast::<libc::sockaddr_in>().read_unaligned() };
        let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
        return Some(SocketAddr::new(IpAddr::V4(ip), 0));
    }
    if family == libc::AF_INET6 {
        // SAFETY: the family says that it is one.
        let v6 = unsafe { raw.cast::<libc::sockaddr_in6>().read_unaligned() };
        let (ip, scope) = unscoped(v6.sin6_addr.s6_addr, v6.sin6_scope_id);
        return Some(SocketAddr::V6(SocketAddrV6::new(ip, 0, 0, scope)));
    }
    None
}

/// The BSDs may hand out link-local addresses with the scope inside (KAME); it is taken out.
fn unscoped(mut octets: [u8; 16], scope: u32) -> (Ipv6Addr, u32) {
    let link_local = octets[0] == 0xfe && octets[1] & 0xc0 == 0x80;
    if !link_local {
        return (Ipv6Addr::from(octets), 0);
    }
    let embedded = u32::from(u16::from_be_bytes([octets[2], octets[3]]));
    octets[2] = 0;
    octets[3] = 0;
    let scope = if scope == 0 { embedded } else { scope };
    (Ipv6Addr::from(octets), scope)
}

#[cfg(target_os = "linux")]
mod platform {
    use std::collections::BTreeSet;
    use std::io;

    pub fn group_members(name: &str) -> io::Result<Vec<String>> {
        if name != "egress" {
            return Ok(Vec::new());
        }
        let v4 = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
        let v6 = std::fs::read_to_string("/proc/net/ipv6_route").unwrap_or_default();
        Ok(default_routes(&v4, &v6).into_iter().collect())
    }

    /// The interfaces of default routes that are up and do not just refuse.
    pub(super) fn default_routes(v4: &str, v6: &str) -> BTreeSet<String> {
        const UP: u32 = 0x1;
        const REJECT: u32 = 0x200;
        let usable = |flags: &str| {
            u32::from_str_radix(flags, 16).is_ok_and(|flags| flags & (UP | REJECT) == UP)
        };
        let mut found = BTreeSet::new();
        for line in v4.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let [interface, "00000000", _, flags, _, _, _, "00000000", ..] = words[..]
                && usable(flags)
            {
                found.insert(interface.to_owned());
            }
        }
        for line in v6.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let [dest, "00", _, _, _, _, _, _, flags, interface] = words[..]
                && dest.bytes().all(|b| b == b'0')
                && interface != "lo"
                && usable(flags)
            {
                found.insert(interface.to_owned());
            }
        }
        found
    }
}

#[cfg(any(target_os = "openbsd", target_os = "freebsd"))]
mod platform {
    use std::ffi::CStr;
    use std::io;
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

    use super::cvt;

    const NAME: usize = libc::IFNAMSIZ;
    const MOST_MEMBERS: usize = 4096;

    // net/if.h: ifgroupreq, with its union spelled as the longest member that we use.
    #[repr(C)]
    struct GroupRequest {
        name: [u8; NAME],
        len: libc::c_uint,
        groups: Members,
    }

    #[repr(C)]
    union Members {
        group: [u8; NAME],
        list: *mut [u8; NAME],
    }

    const _: () =
        assert!(size_of::<GroupRequest>() == NAME + 8 + NAME || cfg!(target_pointer_width = "32"));

    // _IOWR('i', 138, struct ifgroupreq)
    const SIOCGIFGMEMB: libc::c_ulong =
        0xC000_0000 | ((size_of::<GroupRequest>() as libc::c_ulong) << 16) | 0x6900 | 138;

    pub fn group_members(name: &str) -> io::Result<Vec<String>> {
        if name.len() >= NAME {
            return Ok(Vec::new());
        }
        // SAFETY: plain numbers.
        let fd =
            cvt(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?;
        // SAFETY: socket(2) has just made it; nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let mut request = GroupRequest {
            name: [0; NAME],
            len: 0,
            groups: Members { group: [0; NAME] },
        };
        request.name[..name.len()].copy_from_slice(name.as_bytes());
        // The first call says how long the list is.
        // SAFETY: `request` is what the ioctl expects.
        match cvt(unsafe { libc::ioctl(fd.as_raw_fd(), SIOCGIFGMEMB, &mut request) }) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(Vec::new()),
            Err(error) => return Err(error),
            Ok(_) => {}
        }
        let room = (request.len as usize / NAME).min(MOST_MEMBERS);
        let mut list = vec![[0u8; NAME]; room];
        request.len = (room * NAME) as libc::c_uint;
        request.groups.list = list.as_mut_ptr();
        // SAFETY: `list` is writable for the length given.
        cvt(unsafe { libc::ioctl(fd.as_raw_fd(), SIOCGIFGMEMB, &mut request) })?;
        list.truncate(request.len as usize / NAME);
        Ok(list
            .iter()
            .filter_map(|name| CStr::from_bytes_until_nul(name).ok())
            .map(|name| name.to_string_lossy().into_owned())
            .collect())
    }
}

#[cfg(not(any(target_os = "linux", target_os = "openbsd", target_os = "freebsd")))]
mod platform {
    pub fn group_members(_name: &str) -> std::io::Result<Vec<String>> {
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn a_listener_takes_connections() {
        for addr in ["127.0.0.1:0", "[::1]:0"] {
            let listener = match listen_tcp(addr.parse().unwrap(), 1024) {
                Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => continue,
                Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => continue,
                result => result.unwrap(),
            };
            let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            listener.accept().unwrap();
            let taken = listen_tcp(listener.local_addr().unwrap(), 1024).unwrap_err();
            assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        }
    }

    #[test]
    fn a_connection_comes_from_the_address_it_should_and_says_who_refused() {
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let listener = listen_tcp(SocketAddr::new(loopback, 0), 8).unwrap();
        let to = listener.local_addr().unwrap();
        let soon = Duration::from_secs(5);
        let made = connect_tcp(to, Some(loopback), soon).unwrap();
        assert_eq!(listener.accept().unwrap().1, made.local_addr().unwrap());
        // RFC 5737: nobody has this address.
        let elsewhere = Some("192.0.2.77".parse().unwrap());
        let source = connect_tcp(to, elsewhere, soon);
        assert!(matches!(source, Err(ConnectError::Source(_))), "{source:?}");
        drop((listener, made));
        let refused = connect_tcp(to, None, soon);
        assert!(matches!(refused, Err(ConnectError::Peer(_))), "{refused:?}");
    }

    #[test]
    fn the_loopback_address_belongs_to_an_interface() {
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        assert!(
            interface_addrs()
                .unwrap()
                .iter()
                .any(|i| i.addr.ip() == loopback)
        );
        assert!(group_members("no-such-group").unwrap().is_empty());
    }

    #[test]
    fn a_scope_inside_a_link_local_address_is_taken_out() {
        let inside = [0xfe, 0x80, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        assert_eq!(unscoped(inside, 0), ("fe80::1".parse().unwrap(), 3));
        let plain: Ipv6Addr = "2001:db8::1".parse().unwrap();
        assert_eq!(unscoped(plain.octets(), 5), (plain, 0));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn egress_is_where_default_routes_lead() {
        // smtpd.conf(5), listen on: egress is the group of interfaces with a default route.
        let v4 = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
                  eth0\t00000000\t010011AC\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                  eth1\t0000A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        let zeros = "0".repeat(32);
        let v6 = format!(
            "{zeros} 00 {zeros} 00 fe800000000000000000000000000001 00000400 1 0 00000003 wlan0\n\
             {zeros} 00 {zeros} 00 {zeros} ffffffff 1 0 00200200 lo\n"
        );
        let found: Vec<String> = platform::default_routes(v4, &v6).into_iter().collect();
        assert_eq!(found, ["eth0", "wlan0"]);
    }
}
