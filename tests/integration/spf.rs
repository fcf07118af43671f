//! smtpctl(8), spf walk: the real program against a name server of the test's own.

use crate::relay_names::{Does, NameServer, Over, reply};
use crate::support::Setup;

const A: u16 = 1;
const MX: u16 = 15;
const TXT: u16 = 16;

fn text(text: &str) -> Vec<u8> {
    let mut data = vec![u8::try_from(text.len()).expect("a short text")];
    data.extend(text.as_bytes());
    data
}

fn zone(query: &[u8], name: &str) -> Option<Vec<u8>> {
    let end = 12 + query.get(12..)?.iter().position(|byte| *byte == 0)?;
    let kind = u16::from_be_bytes([*query.get(end + 1)?, *query.get(end + 2)?]);
    let records = match (name, kind) {
        ("sender.example", TXT) => {
            let record = "v=spf1 ip4:192.0.2.0/28 a/24 mx include:other.example -all";
            vec![(TXT, text("something else")), (TXT, text(record))]
        }
        ("other.example", TXT) => vec![(TXT, text("v=spf1 ip6:2001:db8::/32 ?all"))],
        ("sender.example", A) => vec![(A, vec![198, 51, 100, 7])],
        // The exchanger is the domain itself.
        ("sender.example", MX) => vec![(MX, vec![0, 10, 0xc0, 12])],
        ("gone.example", _) => return Some(reply(query, 3, &[])),
        _ => Vec::new(),
    };
    Some(reply(query, 0, &records))
}

#[test]
fn spf_walk_prints_what_the_records_let_send() {
    // smtpctl(8), spf walk: names in, addresses and prefixes out, failures silent, exit 0.
    let script =
        |query: &[u8], name: &str, _: Over| zone(query, name).map_or(Does::Nothing, Does::Says);
    let port = NameServer::start(script).port;
    let dir = tempfile::TempDir::new().expect("a temporary directory");
    let conf = format!("nameserver [127.0.0.1]:{port}\noptions timeout:1 attempts:1\n");
    std::fs::write(dir.path().join("resolv.conf"), conf).expect("resolv.conf");
    // No daemon runs.
    let instance = Setup::maildir().prepare_in(dir);
    let names = b"sender.example  \ngone.example\nx\n";
    let output = instance.front_end("smtpctl", ["spf", "walk"], names);
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut lines: Vec<&str> = lines.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "192.0.2.0/28",
            "198.51.100.7",
            "198.51.100.7/24",
            "2001:db8::/32"
        ],
        "{output:?}"
    );
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}"
    );
}
