//! The files of etc/ that are about our output, held against the real one.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use regex::bytes::Regex;

use crate::support::Setup;
use crate::support::exposition;
use crate::support::json::Json;
use crate::support::tls_host::Authority;

fn example(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("etc").join(name);
    fs::read_to_string(path).expect(name)
}

#[test]
fn the_dashboard_asks_for_metrics_that_there_are() {
    // etc/grafana.json: it is JSON, and what its panels show the endpoint has.
    let dashboard = Json::parse(&example("grafana.json")).expect("JSON");
    let mut asked = Vec::new();
    dashboard.all("expr", &mut asked);
    let daemon = Setup::maildir().start();
    let page = String::from_utf8(daemon.ctl(["metrics"]).stdout).expect("text");
    let families = exposition::parse(&page).unwrap_or_else(|wrong| panic!("{wrong}\n{page}"));
    let samples = families.iter().flat_map(|family| &family.samples);
    let known: BTreeSet<&str> = samples.map(|sample| sample.name.as_str()).collect();
    let mut names = 0;
    for asked in asked {
        let asked = asked.text().expect("a query");
        let words = asked.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for name in words.filter(|word| word.starts_with("smtpd_")) {
            assert!(known.contains(name), "{name}");
            names += 1;
        }
    }
    assert!(names > 10, "{names}");
}

/// Whom etc/fail2ban.conf finds in a log.
pub fn banned(log: &str) -> BTreeSet<String> {
    let filter = example("fail2ban.conf");
    let (_, patterns) = filter.split_once("failregex = ").expect("patterns");
    let patterns = patterns.split("\nignoreregex").next().expect("patterns");
    let patterns: Vec<Regex> = patterns
        .lines()
        .map(|line| line.trim().replace("<HOST>", "(?P<host>[0-9a-fA-F.:]+)"))
        .map(|pattern| Regex::new(&format!("(?-u){pattern}")).expect("a pattern"))
        .collect();
    assert_eq!(patterns.len(), 2);
    let of = |line: &str| {
        let found = patterns
            .iter()
            .find_map(|pattern| pattern.captures(line.as_bytes()))?;
        Some(String::from_utf8_lossy(&found["host"]).into_owned())
    };
    log.lines().filter_map(of).collect()
}

#[test]
fn a_page_that_is_wrong_is_noticed() {
    // What is held against the format has to be able to fail.
    let good = "# HELP a_total x\n# TYPE a_total counter\na_total{b=\"c\\\"\\n\"} 1\n\
                # HELP h y\n# TYPE h histogram\nh_bucket{le=\"0.1\"} 1\nh_bucket{le=\"+Inf\"} 2\n\
                h_sum 0.3\nh_count 2\n";
    assert_eq!(exposition::parse(good).expect("good").len(), 2);
    for (from, to) in [
        ("# HELP a_total x\n", ""),
        ("# TYPE a_total counter\n", ""),
        ("a_total{b=\"c\\\"\\n\"} 1\n", "a_total 1\na_total 1\n"),
        ("b=\"c\\\"\\n\"", "b=\"c"),
        ("b=\"c\\\"\\n\"", "b-=\"c\""),
        ("a_total{b=\"c\\\"\\n\"} 1", "a_total -1"),
        ("a_total{b=\"c\\\"\\n\"} 1", "a_total one"),
        ("h_bucket{le=\"0.1\"} 1", "h_bucket{le=\"0.1\"} 3"),
        ("h_count 2", "h_count 3"),
        ("h_sum 0.3\n", ""),
        ("h_bucket{le=\"+Inf\"} 2\n", ""),
        ("h_count 2\n", "h_count 2"),
    ] {
        let bad = good.replacen(from, to, 1);
        assert!(bad != good && exposition::parse(&bad).is_err(), "{bad}");
    }
    for bad in [
        "",
        "{",
        "[1,]",
        "{\"a\":1,\"a\":2}",
        "\"\t\"",
        "[1] 2",
        "{\"a\" 1}",
        "nul",
    ] {
        assert!(Json::parse(bad).is_err(), "{bad}");
    }
}

/// The literal blocks of a part of a manual, as they are read there.
fn blocks(manual: &str, from: &str, to: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("man")
        .join(manual);
    let text = fs::read_to_string(path).expect(manual);
    let (_, rest) = text.split_once(from).expect(from);
    let (part, _) = rest.split_once(to).expect(to);
    let blocks = part.split(".Bd -literal -offset indent\n").skip(1);
    let block = |block: &str| {
        block
            .split_once(".Ed")
            .expect("its end")
            .0
            .replace("\\e", "\\")
    };
    blocks.map(block).collect()
}

/// A root with the files that the examples name, in place of those of the system.
fn root() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let authority = Authority::new();
    for name in ["mail.example.org", "mx2.example.org"] {
        let pair = authority.certify(name);
        fs::write(dir.path().join(format!("{name}.crt")), &pair.pem).expect("a certificate");
        let key = dir.path().join(format!("{name}.key"));
        fs::write(&key, pair.key_pem()).expect("a key");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("chmod");
    }
    fs::write(dir.path().join("partners.pem"), &authority.pem).expect("authorities");
    fs::write(dir.path().join("smtpd.local.conf"), "# nothing\n").expect("a file");
    for (table, text) in [
        ("aliases", "postmaster: root\n"),
        ("people", "ann@example.org vmail\n"),
        ("addresses", "ann ann@example.org\n"),
        ("passwords", "ann $2b$08$AAAAAAAAAAAAAAAAAAAAAA\n"),
        ("secrets", "bob bob:secret\n"),
    ] {
        fs::write(dir.path().join(table), text).expect("a table");
    }
    dir
}

/// What smtpd -n says of a configuration of the manual, here where those files are.
fn judged(config: &str) -> (bool, String) {
    let dir = root();
    let here = dir.path().to_str().expect("UTF-8");
    let mut config = config.to_owned();
    for there in ["/etc/mail/", "/etc/ssl/private/", "/etc/ssl/"] {
        config = config.replace(there, &format!("{here}/"));
    }
    // This machine may have neither a network nor that user.
    let config = config
        .replace("egress", "127.0.0.1")
        .replace("user vmail", "user root");
    let daemon = Setup::new(&config).with_root().prepare_in(dir);
    let mut check = daemon.program("smtpd");
    let check = check.arg("-n").arg("-R").arg(daemon.path());
    let output = check.output().expect("smtpd -n");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.success(), format!("{said}\n{config}"))
}

#[test]
fn the_examples_of_the_directives_are_one_configuration() {
    // smtpd.conf(5), DIRECTIVES: what has to be declared first is put first, and nothing else is
    // changed.
    let blocks = blocks("smtpd.conf.5", ".Sh DIRECTIVES\n", "\n.Sh ");
    assert!(blocks.len() > 30, "{}", blocks.len());
    let order = [
        "include", "table", "pki", "ca", "proc", "filter", "mda", "action",
    ];
    let place = |block: &&String| {
        let word = block.split(' ').next().unwrap_or_default();
        let at = order
            .iter()
            .position(|known| *known == word)
            .unwrap_or(order.len());
        // A filter whose program is its own, or another's, before a chain of it.
        (at, block.contains(" chain "))
    };
    let mut sorted: Vec<&String> = blocks.iter().collect();
    sorted.sort_by_key(place);
    let config: String = sorted.into_iter().map(String::as_str).collect();
    let (good, said) = judged(&config);
    assert!(good, "{said}");
}

#[test]
fn the_set_ups_of_the_manual_are_configurations() {
    // smtpd.conf(5), EXAMPLES: complete set-ups; and parts of one.
    let sets = blocks("smtpd.conf.5", ".Ss Complete set-ups\n", "\n.Sh ");
    assert_eq!(sets.len(), 5);
    for set in &sets {
        let (good, said) = judged(set);
        assert!(good, "{said}");
        assert!(!said.contains("warning"), "{said}");
    }
    let parts = blocks("smtpd.conf.5", ".Sh EXAMPLES\n", ".Ss Complete set-ups\n");
    let (good, said) = judged(&parts.concat());
    assert!(good, "{said}");
}
