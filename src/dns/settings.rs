//! resolv.conf(5): whom to ask, how often, and what to put behind short names.

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use resolv_conf::{Config, ScopedIp};

use super::limits;
use super::name::{self, Wire};

/// How the resolver asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Name servers, the first one preferred.
    pub servers: Vec<SocketAddr>,
    /// Domains that short names are tried in.
    pub search: Vec<String>,
    /// A name with so many dots is tried as it is first.
    pub ndots: usize,
    /// How long one server may take.
    pub timeout: Duration,
    /// How often each server is asked.
    pub attempts: usize,
    /// Whether the servers take turns.
    pub rotate: bool,
    /// Where hosts are connected to.
    pub families: Families,
    /// resolv.conf(5), read again when it changes.
    pub resolv_conf: Option<PathBuf>,
    /// hosts(5), read again when it changes.
    pub hosts: Option<PathBuf>,
}

/// At which addresses a host is connected to: `family` of resolv.conf(5), as OpenBSD has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Families {
    /// At both, IPv6 first.
    #[default]
    Inet6First,
    /// At both, IPv4 first.
    Inet4First,
    /// At IPv4 addresses alone.
    Inet4,
    /// At IPv6 addresses alone.
    Inet6,
}

impl Families {
    /// What the last line of a resolv.conf(5) says that makes sense.
    fn parse(text: &[u8]) -> Families {
        let lines = text.split(|&byte| byte == b'\n');
        let read = |line: &[u8]| {
            let line = std::str::from_utf8(line).ok()?.split(['#', ';']).next()?;
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["family", "inet4"] => Some(Families::Inet4),
                ["family", "inet6"] => Some(Families::Inet6),
                ["family", "inet4", "inet6"] => Some(Families::Inet4First),
                ["family", "inet6", "inet4"] => Some(Families::Inet6First),
                _ => None,
            }
        };
        lines.rev().find_map(read).unwrap_or_default()
    }

    /// Whether a host is connected to at this address.
    pub fn have(self, addr: IpAddr) -> bool {
        match self {
            Families::Inet6First | Families::Inet4First => true,
            Families::Inet4 => addr.is_ipv4(),
            Families::Inet6 => addr.is_ipv6(),
        }
    }

    /// Whether this address comes before those of the other family.
    pub fn prefer(self, addr: IpAddr) -> bool {
        match self {
            Families::Inet6First | Families::Inet6 => addr.is_ipv6(),
            Families::Inet4First | Families::Inet4 => addr.is_ipv4(),
        }
    }
}

impl Settings {
    /// What the system's files say, or an instance's own where its root has them.
    pub fn of_instance(root: Option<&Path>) -> Settings {
        let file = |name: &str| {
            let own = root.map(|root| root.join(name));
            own.filter(|path| path.exists())
                .unwrap_or_else(|| Path::new("/etc").join(name))
        };
        Settings::read(&file("resolv.conf"), &file("hosts"))
    }

    /// What these files say, and where they are. Files that are missing or cannot be read leave
    /// the defaults of the C library: the name server of this host.
    pub fn read(resolv_conf: &Path, hosts: &Path) -> Settings {
        let mut settings = Settings {
            hosts: Some(hosts.to_owned()),
            ..Settings::default()
        };
        if let Ok(text) = read_file(resolv_conf) {
            settings.adopt(&text);
        }
        settings.resolv_conf = Some(resolv_conf.to_owned());
        settings
    }

    /// Takes over what the text of a resolv.conf(5) says. Lines that cannot be read are left out,
    /// as the C library does.
    pub(super) fn adopt(&mut self, text: &[u8]) {
        let (mut config, _) = Config::parse_with_errors(text);
        config.glibc_normalize();
        self.servers = servers(text).take(limits::SERVERS).collect();
        if self.servers.is_empty() {
            self.servers = Settings::default().servers;
        }
        let search = config.get_last_search_or_domain().cloned();
        self.search = search.take(limits::SEARCH).collect();
        self.ndots = config.ndots.min(15) as usize;
        self.timeout = Duration::from_secs(u64::from(config.timeout.clamp(1, 30)));
        self.attempts = config.attempts.clamp(1, 5) as usize;
        self.rotate = config.rotate;
        self.families = Families::parse(text);
    }

    /// The names that `text` may mean, in the order in which they are tried: with a last dot,
    /// itself; else itself and in each domain of the search list, itself first if it has enough
    /// dots.
    pub(super) fn candidates(&self, text: &str) -> Vec<Wire> {
        let itself = name::parse(text);
        if text.ends_with('.') {
            return itself.into_iter().collect();
        }
        let in_domains = self
            .search
            .iter()
            .filter_map(|domain| name::parse(&format!("{text}.{domain}")));
        if text.bytes().filter(|&byte| byte == b'.').count() >= self.ndots {
            itself.into_iter().chain(in_domains).collect()
        } else {
            in_domains.chain(itself).collect()
        }
    }
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            servers: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, DOMAIN_PORT))],
            search: Vec::new(),
            ndots: 1,
            timeout: Duration::from_secs(5),
            attempts: 2,
            rotate: false,
            families: Families::default(),
            resolv_conf: None,
            hosts: None,
        }
    }
}

/// Reads a configuration file, unless it is absurdly long.
pub(super) fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?
        .take(limits::FILE_BYTES)
        .read_to_end(&mut text)?;
    Ok(text)
}

/// The name servers in the order of the text, also those with a port, as OpenBSD has them.
fn servers(text: &[u8]) -> impl Iterator<Item = SocketAddr> {
    text.split(|&byte| byte == b'\n').filter_map(|line| {
        let words = std::str::from_utf8(line).ok()?;
        let mut words = words.split_whitespace();
        match (words.next(), words.next().and_then(with_port)) {
            (Some("nameserver"), Some(server)) => Some(server),
            _ => {
                let (config, _) = Config::parse_with_errors(line);
                config.nameservers.first().and_then(address)
            }
        }
    })
}

/// `[192.0.2.53]:5353`.
fn with_port(text: &str) -> Option<SocketAddr> {
    let (addr, port) = text.strip_prefix('[')?.split_once("]:")?;
    Some(SocketAddr::new(addr.parse().ok()?, port.parse().ok()?))
}

fn address(server: &ScopedIp) -> Option<SocketAddr> {
    match server {
        ScopedIp::V6(ip, Some(zone)) => {
            // Only the system knows the number of a zone; an address needs no look-up.
            let text = format!("{ip}%{zone}");
            (text.as_str(), DOMAIN_PORT).to_socket_addrs().ok()?.next()
        }
        plain => Some(SocketAddr::from((IpAddr::from(plain.clone()), DOMAIN_PORT))),
    }
}

const DOMAIN_PORT: u16 = 53;

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Settings {
        let mut settings = Settings::default();
        settings.adopt(text.as_bytes());
        settings
    }

    #[test]
    fn resolv_conf_is_read_as_the_c_library_does() {
        // resolv.conf(5): nameserver, search, options ndots timeout attempts rotate; at most
        // three servers; the host itself without any.
        let found = settings(
            "# comment\nnameserver 192.0.2.53\nnameserver 2001:db8::53\nnonsense here\n\
             nameserver 192.0.2.54\nnameserver 192.0.2.55\nsearch a.example b.example\n\
             options ndots:2 timeout:99 attempts:3 rotate edns0\nlookup file bind\n",
        );
        let servers: Vec<String> = found.servers.iter().map(SocketAddr::to_string).collect();
        assert_eq!(
            servers,
            ["192.0.2.53:53", "[2001:db8::53]:53", "192.0.2.54:53"]
        );
        assert_eq!(found.search, ["a.example", "b.example"]);
        assert_eq!((found.ndots, found.attempts, found.rotate), (2, 3, true));
        assert_eq!(found.timeout, Duration::from_secs(30));
        // OpenBSD: a name server may be given with a port.
        let ports = settings("nameserver [127.0.0.1]:53535\nnameserver [::1]:54\n");
        let ports: Vec<String> = ports.servers.iter().map(SocketAddr::to_string).collect();
        assert_eq!(ports, ["127.0.0.1:53535", "[::1]:54"]);
        assert_eq!(settings("").servers, Settings::default().servers);
        assert_eq!(settings("\u{0}\u{ff}garbage").servers.len(), 1);
    }

    #[test]
    fn the_last_line_about_families_counts() {
        // OpenBSD's resolv.conf(5), family: one is used alone, of two the first is preferred.
        for (text, families) in [
            ("", Families::Inet6First),
            ("family inet4\n", Families::Inet4),
            ("family inet6\n", Families::Inet6),
            (
                "family inet6\nfamily inet4 inet6 # x\n",
                Families::Inet4First,
            ),
            (
                "family inet4\n\tfamily inet6  inet4\n",
                Families::Inet6First,
            ),
            ("family inet4\nfamily inet\nfamily\n", Families::Inet4),
        ] {
            assert_eq!(settings(text).families, families, "{text:?}");
        }
        let mut changed = settings("family inet4\n");
        changed.adopt(b"nameserver 192.0.2.53\n");
        assert_eq!(changed.families, Families::default());
    }

    #[test]
    fn short_names_are_searched_for_and_long_ones_tried_first() {
        // resolv.conf(5), ndots: names with fewer dots go through the search list first.
        let settings = settings("search a.example b.example\n");
        let texts = |name: &str| -> Vec<String> {
            let names = settings.candidates(name);
            names.iter().map(|name| name.to_string()).collect()
        };
        assert_eq!(texts("mx"), ["mx.a.example", "mx.b.example", "mx"]);
        assert_eq!(texts("mx.c")[0], "mx.c");
        assert_eq!(texts("mx.c."), ["mx.c"]);
        assert_eq!(texts("bad name"), [""; 0]);
    }
}
