//! `listen on`: which addresses that means on this host, and sockets bound to them.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};

use crate::config::{Family, Listener};
use crate::mail::literal;
use crate::sys::errno::strerror;
use crate::sys::net::{self, InterfaceAddr};

use super::built_in;

/// A socket of a listener.
#[derive(Debug)]
pub struct Bound {
    /// Position of the listener in `Config::listeners`.
    pub index: u32,
    /// What was asked for; port 0 became another one.
    wanted: SocketAddr,
    pub socket: TcpListener,
}

/// How many connections may wait to be accepted; the system may allow fewer.
const BACKLOG: i32 = 4096;

/// What is wrong with the listeners, as far as that can be said without binding them.
pub fn check_listeners(listeners: &[Listener]) -> Vec<String> {
    let interfaces = match interfaces() {
        Ok(interfaces) => interfaces,
        Err(why) => return vec![format!("smtpd: {why}")],
    };
    let names = Names::of_this_host(&interfaces);
    let wrong = listeners.iter().filter_map(|listener| {
        let why = names.resolve(listener).err()?;
        Some(format!("{}: {why}", listener.at))
    });
    wrong.collect()
}

fn interfaces() -> Result<Vec<InterfaceAddr>, String> {
    net::interface_addrs().map_err(|error| format!("interface addresses: {}", strerror(&error)))
}

/// Binds what `held` has not bound: a socket of the same address goes on, with all who wait at it.
pub fn bind_all(listeners: &[Listener], held: &[Bound]) -> Result<Vec<Bound>, String> {
    let interfaces = interfaces()?;
    let names = Names::of_this_host(&interfaces);
    let mut left: Vec<&Bound> = held.iter().collect();
    let mut bound = Vec::new();
    for (index, listener) in (0u32..).zip(listeners) {
        let addrs = names
            .resolve(listener)
            .map_err(|why| format!("{}: {why}", listener.at))?;
        for wanted in addrs {
            let same = left.iter().position(|known| known.wanted == wanted);
            let socket = match same.map(|at| left.swap_remove(at)) {
                Some(known) => known.socket.try_clone(),
                None => net::listen_tcp(wanted, BACKLOG),
            };
            let socket = socket.map_err(|error| {
                let (why, at) = (strerror(&error), &listener.at);
                let hint = way_out(&error, listener, held);
                format!("bind: {why} ({wanted}, {}:{}){hint}", at.file, at.line)
            })?;
            bound.push(Bound {
                index,
                wanted,
                socket,
            });
        }
    }
    Ok(bound)
}

/// What can be done about an address that cannot be had.
fn way_out(error: &io::Error, listener: &Listener, held: &[Bound]) -> &'static str {
    let is_ours = held
        .iter()
        .any(|known| known.wanted.port() == listener.port);
    let trial = listener.at.file == built_in::NAME;
    match error.kind() {
        io::ErrorKind::AddrInUse if is_ours => {
            ": a listener of the present configuration is in its place: restart smtpd for that"
        }
        io::ErrorKind::AddrInUse if trial => ": -D port=N chooses another port",
        io::ErrorKind::AddrInUse => ": another program listens there",
        io::ErrorKind::PermissionDenied if listener.port < 1024 => {
            ": ports below 1024 are for root"
        }
        _ => "",
    }
}

/// What the word after `listen on` may stand for.
struct Names<'a> {
    interfaces: &'a [InterfaceAddr],
    members: &'a dyn Fn(&str) -> Vec<String>,
    host: &'a dyn Fn(&str) -> Vec<IpAddr>,
}

impl<'a> Names<'a> {
    fn of_this_host(interfaces: &'a [InterfaceAddr]) -> Names<'a> {
        Names {
            interfaces,
            members: &|group| net::group_members(group).unwrap_or_default(),
            host: &|name| match (name, 0).to_socket_addrs() {
                Ok(addrs) => addrs.map(|addr| addr.ip()).collect(),
                Err(_) => Vec::new(),
            },
        }
    }

    /// smtpd.conf(5), listen on: an interface or a group of them, else an address, else a host
    /// name; the first that is one ends the search.
    fn resolve(&self, listener: &Listener) -> Result<Vec<SocketAddr>, String> {
        let on = listener.on.as_str();
        let mut found = self.of_interfaces(&|name| name == on);
        if found.is_empty() {
            let members = (self.members)(on);
            found = self.of_interfaces(&|name| members.iter().any(|member| member == name));
        }
        if found.is_empty() {
            found = literal::parse_or_bare(on)
                .map(|ip| SocketAddr::new(ip, 0))
                .into_iter()
                .collect();
        }
        if found.is_empty() {
            let ips = (self.host)(on)
                .into_iter()
                .filter(|ip| self.may_be_ours(ip));
            found = ips.map(|ip| SocketAddr::new(ip, 0)).collect();
        }
        let mut seen = BTreeSet::new();
        found.retain(|addr| is_of(listener.family, addr) && seen.insert(*addr));
        if found.is_empty() {
            let hint = match on {
                "all" | "any" => "; for every address, listen on 0.0.0.0 and on ::",
                _ => "",
            };
            return Err(format!("invalid virtual ip or interface: {on}{hint}"));
        }
        for addr in &mut found {
            addr.set_port(listener.port);
        }
        Ok(found)
    }

    /// hosts(5) often has `::1` for localhost where IPv6 is switched off.
    fn may_be_ours(&self, ip: &IpAddr) -> bool {
        ip.is_ipv4() || self.interfaces.iter().any(|known| known.addr.ip() == *ip)
    }

    fn of_interfaces(&self, wanted: &dyn Fn(&str) -> bool) -> Vec<SocketAddr> {
        self.interfaces
            .iter()
            .filter(|i| wanted(&i.interface))
            .map(|i| i.addr)
            .collect()
    }
}

fn is_of(family: Option<Family>, addr: &SocketAddr) -> bool {
    match family {
        None => true,
        Some(Family::Inet4) => addr.is_ipv4(),
        Some(Family::Inet6) => addr.is_ipv6(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Position;

    fn listener(on: &str, family: Option<Family>) -> Listener {
        Listener {
            on: on.into(),
            family,
            port: 25,
            ..Listener::default()
        }
    }

    fn resolve(on: &str, family: Option<Family>) -> Result<Vec<String>, String> {
        let interface = |name: &str, addr: &str| InterfaceAddr {
            interface: name.into(),
            addr: SocketAddr::new(addr.parse().unwrap(), 0),
        };
        let interfaces = [
            interface("lo0", "127.0.0.1"),
            interface("lo0", "::1"),
            interface("em0", "192.0.2.1"),
        ];
        let names = Names {
            interfaces: &interfaces,
            members: &|group| match group {
                "egress" => vec!["em0".into()],
                _ => Vec::new(),
            },
            host: &|name| match name {
                "mail.example.org" => {
                    vec!["192.0.2.1".parse().unwrap(), "192.0.2.1".parse().unwrap()]
                }
                "localhost" => vec!["127.0.0.1".parse().unwrap(), "::2".parse().unwrap()],
                _ => Vec::new(),
            },
        };
        let found = names.resolve(&listener(on, family))?;
        Ok(found.iter().map(SocketAddr::to_string).collect())
    }

    #[test]
    fn a_listener_is_an_interface_a_group_an_address_or_a_host() {
        // smtpd.conf(5), listen on interface.
        assert_eq!(resolve("lo0", None).unwrap(), ["127.0.0.1:25", "[::1]:25"]);
        assert_eq!(resolve("lo0", Some(Family::Inet6)).unwrap(), ["[::1]:25"]);
        assert_eq!(resolve("egress", None).unwrap(), ["192.0.2.1:25"]);
        assert_eq!(resolve("0.0.0.0", None).unwrap(), ["0.0.0.0:25"]);
        assert_eq!(resolve("::", None).unwrap(), ["[::]:25"]);
        assert_eq!(resolve("mail.example.org", None).unwrap(), ["192.0.2.1:25"]);
        // A name may stand for an IPv6 address that the machine does not have.
        assert_eq!(resolve("localhost", None).unwrap(), ["127.0.0.1:25"]);
    }

    #[test]
    fn what_is_none_of_these_stops_the_start() {
        let every = "; for every address, listen on 0.0.0.0 and on ::";
        for (on, family, hint) in [
            ("all", None, every),
            ("*", None, ""),
            ("127.0.0.1", Some(Family::Inet6), ""),
        ] {
            let error = resolve(on, family).unwrap_err();
            assert_eq!(
                error,
                format!("invalid virtual ip or interface: {on}{hint}")
            );
        }
    }

    #[test]
    fn an_address_in_use_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut again = listener("127.0.0.1", None);
        again.port = taken.local_addr().unwrap().port();
        again.at = Position {
            column: 0,
            file: "smtpd.conf".into(),
            line: 3,
        };
        let error = bind_all(&[again.clone()], &[]).unwrap_err();
        let text = format!("bind: Address already in use (127.0.0.1:{}, ", again.port);
        assert_eq!(
            error,
            format!("{text}smtpd.conf:3): another program listens there")
        );
        again.at.file = built_in::NAME.into();
        let error = bind_all(&[again], &[]).unwrap_err();
        assert_eq!(
            error,
            format!("{text}built-in:3): -D port=N chooses another port")
        );
    }

    #[test]
    fn a_listener_that_is_bound_goes_on_wherever_it_stands_now() {
        // smtpctl(8), reload.
        let mut any = listener("127.0.0.1", None);
        any.port = 0;
        let first = bind_all(&[any.clone()], &[]).unwrap();
        let address = |bound: &Bound| bound.socket.local_addr().unwrap();
        let mut new = any.clone();
        new.on = "127.0.0.2".into();
        let next = bind_all(&[new, any], &first).unwrap();
        assert_eq!(next[1].index, 1);
        assert_eq!(address(&next[1]), address(&first[0]));
        assert_ne!(address(&next[0]), address(&first[0]));
    }
}
