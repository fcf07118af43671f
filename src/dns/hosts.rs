//! hosts(5): names and addresses that no name server is asked for.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::util::Line;

use super::name::{self, Wire};
use super::{Answer, DnsError, DnsResult, Kind, limits};

/// What /etc/hosts says.
#[derive(Clone, Debug, Default)]
pub(super) struct Hosts {
    by_name: HashMap<Wire, Vec<IpAddr>>,
    /// The first name of each address, under its reverse name.
    by_addr: HashMap<Wire, Line>,
}

impl Hosts {
    /// Reads the text of the file. Lines that make no sense are left out.
    pub(super) fn parse(text: &[u8]) -> Hosts {
        let mut hosts = Hosts::default();
        let text = String::from_utf8_lossy(text);
        for line in text.lines().take(limits::HOSTS) {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_ascii_whitespace();
            // A zone matters to those who connect, not to who has which name.
            let addr = words.next().and_then(|word| word.split('%').next());
            if let Some(addr) = addr.and_then(|word| word.parse::<IpAddr>().ok()) {
                hosts.add(addr, words);
            }
        }
        hosts
    }

    fn add<'a>(&mut self, addr: IpAddr, names: impl Iterator<Item = &'a str>) {
        for (text, wire) in names.filter_map(|text| Some((text, name::parse(text)?))) {
            if let Some(reverse) = name::parse(&super::reverse_name(addr))
                && let Some(host) = name::host_text(&wire)
                && host.eq_ignore_ascii_case(text.trim_end_matches('.'))
            {
                self.by_addr.entry(reverse).or_insert(host);
            }
            let addrs = self.by_name.entry(wire).or_default();
            if !addrs.contains(&addr) && addrs.len() < limits::RECORDS {
                addrs.push(addr);
            }
        }
    }

    /// What the file says to a question. A name with addresses of one family has none of the other.
    pub(super) fn answer(&self, name: &Wire, kind: Kind) -> Option<DnsResult> {
        let answer = match kind {
            Kind::A => {
                let addrs: Vec<Ipv4Addr> = self
                    .addresses(name)?
                    .iter()
                    .filter_map(|addr| match addr {
                        IpAddr::V4(addr) => Some(*addr),
                        IpAddr::V6(_) => None,
                    })
                    .collect();
                (!addrs.is_empty()).then_some(Answer::A(addrs))
            }
            Kind::Aaaa => {
                let addrs: Vec<Ipv6Addr> = self
                    .addresses(name)?
                    .iter()
                    .filter_map(|addr| match addr {
                        IpAddr::V6(addr) => Some(*addr),
                        IpAddr::V4(_) => None,
                    })
                    .collect();
                (!addrs.is_empty()).then_some(Answer::Aaaa(addrs))
            }
            Kind::Ptr => Some(Answer::Ptr(vec![self.by_addr.get(name)?.clone()])),
            Kind::Mx | Kind::Txt => return None,
        };
        Some(answer.ok_or(DnsError::NoData))
    }

    /// The addresses of a name that the file has.
    pub(super) fn addresses(&self, name: &Wire) -> Option<&[IpAddr]> {
        self.by_name.get(name).map(Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_found_both_ways() {
        // hosts(5): address, name, aliases; `#` starts a comment; case does not matter.
        let hosts = Hosts::parse(
            b"127.0.0.1\tlocalhost localhost.localdomain # here\n::1 localhost\n\
              192.0.2.1 Mail.example.org mail\nfe80::1%lo0 zoned\nnonsense\n1.2.3.4\n\xff\xff x\n\
              192.0.2.9 <script>\n",
        );
        let ask = |name: &str, kind| hosts.answer(&name::parse(name).unwrap(), kind);
        assert_eq!(
            ask("LOCALHOST", Kind::A),
            Some(Ok(Answer::A(vec![Ipv4Addr::LOCALHOST])))
        );
        assert_eq!(
            ask("localhost", Kind::Aaaa),
            Some(Ok(Answer::Aaaa(vec![Ipv6Addr::LOCALHOST])))
        );
        let reverse = |addr: &str| {
            ask(
                &super::super::reverse_name(addr.parse().unwrap()),
                Kind::Ptr,
            )
        };
        let names = |name: &str| Some(Ok(Answer::Ptr(vec![Line::new(name).unwrap()])));
        assert_eq!(reverse("127.0.0.1"), names("localhost"));
        assert_eq!(reverse("::1"), names("localhost"));
        assert_eq!(reverse("192.0.2.1"), names("mail.example.org"));
        assert_eq!(reverse("192.0.2.9"), None);
        assert_eq!(reverse("1.2.3.4"), None);
        assert_eq!(ask("mail", Kind::Aaaa), Some(Err(DnsError::NoData)));
        assert_eq!(ask("nail", Kind::Aaaa), None);
        assert_eq!(ask("mail", Kind::Mx), None);
    }
}
