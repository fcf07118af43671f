//! Names of ports: the mail services we know, and those of services(5).

/// Where the system keeps services(5).
pub const FILE: &str = "/etc/services";

/// The port of a mail service.
pub fn well_known(name: &str) -> Option<u16> {
    Some(match name {
        "smtp" | "mail" => 25,
        "lmtp" => 24,
        "smtps" | "submissions" => 465,
        "submission" => 587,
        _ => return None,
    })
}

/// The TCP port that a services(5) file gives to a name or alias.
pub fn in_file(file: &[u8], name: &str) -> Option<u16> {
    String::from_utf8_lossy(file).lines().find_map(|line| {
        let mut words = line.split('#').next()?.split_ascii_whitespace();
        let service = words.next()?;
        let port = words.next()?.strip_suffix("/tcp")?;
        let named = service == name || words.any(|alias| alias == name);
        named.then(|| port.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    // smtpd.conf(5): a port is a number or a name of services(5).
    #[test]
    fn services_are_found_by_name_and_alias() {
        let file = b"# c\nfoo 1/udp\nfoo\t2/tcp bar # x\nbad x/tcp\n";
        assert_eq!(in_file(file, "foo"), Some(2));
        assert_eq!(in_file(file, "bar"), Some(2));
        assert_eq!(in_file(file, "x"), None);
        assert_eq!(in_file(file, "bad"), None);
    }
}
