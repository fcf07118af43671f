//! The addresses of this host's network interfaces, by getifaddrs(3).

use std::ffi::CStr;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::errno::cvt;

/// One address of one interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The interface's name, `lo0` or `em0`.
    pub name: String,
    /// The address.
    pub addr: IpAddr,
    /// The zone of a link-local IPv6 address; 0 otherwise.
    pub scope_id: u32,
}

/// Every IPv4 and IPv6 address of every interface.
pub fn list() -> io::Result<Vec<Interface>> {
    let mut head: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: head is written on success only.
    cvt(unsafe { libc::getifaddrs(&mut head) })?;
    let mut found = Vec::new();
    let mut entry = head;
    while !entry.is_null() {
        // SAFETY: every entry of the list is valid until freeifaddrs below.
        let current = unsafe { &*entry };
        if let Some((addr, scope_id)) = address(current.ifa_addr) {
            // SAFETY: the name of an entry is a C string that lives as long as the list.
            let name = unsafe { CStr::from_ptr(current.ifa_name) };
            found.push(Interface {
                name: name.to_string_lossy().into_owned(),
                addr,
                scope_id,
            });
        }
        entry = current.ifa_next;
    }
    // SAFETY: head came from getifaddrs and is not used afterwards.
    unsafe { libc::freeifaddrs(head) };
    Ok(found)
}

fn address(pointer: *const libc::sockaddr) -> Option<(IpAddr, u32)> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: the pointer is to a socket address, whose family says how long it is.
    let family = i32::from(unsafe { (*pointer).sa_family });
    if family == libc::AF_INET {
        // SAFETY: an AF_INET address is a sockaddr_in; it may lie unaligned.
        let inet = unsafe { pointer.cast::<libc::sockaddr_in>().read_unaligned() };
        let addr = Ipv4Addr::from(u32::from_be(inet.sin_addr.s_addr));
        return Some((IpAddr::V4(addr), 0));
    }
    if family == libc::AF_INET6 {
        // SAFETY: an AF_INET6 address is a sockaddr_in6; it may lie unaligned.
        let inet = unsafe { pointer.cast::<libc::sockaddr_in6>().read_unaligned() };
        return Some(without_embedded_scope(
            inet.sin6_addr.s6_addr,
            inet.sin6_scope_id,
        ));
    }
    None
}

/// The BSDs' kernels keep the zone of a link-local address in its second 16 bits.
fn without_embedded_scope(mut bytes: [u8; 16], scope_id: u32) -> (IpAddr, u32) {
    let embedded = u32::from(u16::from_be_bytes([bytes[2], bytes[3]]));
    let link_local = bytes[0] == 0xfe && bytes[1] & 0xc0 == 0x80;
    if !link_local || embedded == 0 {
        return (IpAddr::V6(Ipv6Addr::from(bytes)), scope_id);
    }
    bytes[2] = 0;
    bytes[3] = 0;
    let scope_id = if scope_id == 0 { embedded } else { scope_id };
    (IpAddr::V6(Ipv6Addr::from(bytes)), scope_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_its_address() {
        let all = list().unwrap();
        assert!(all.iter().any(|found| found.addr.is_loopback()), "{all:?}");
    }

    #[test]
    fn a_zone_inside_an_address_is_taken_out() {
        let mut bytes = [0; 16];
        bytes[0] = 0xfe;
        bytes[1] = 0x80;
        bytes[3] = 2;
        bytes[15] = 1;
        let (addr, scope) = without_embedded_scope(bytes, 0);
        assert_eq!(addr.to_string(), "fe80::1");
        assert_eq!(scope, 2);
    }
}
