//! What a running daemon cannot take over from a new smtpd.conf(5).

use super::model::Config;

/// Each change from `old` to `new` that takes a restart, by name; none, and a reload may have it.
pub fn needs_restart(old: &Config, new: &Config) -> Vec<String> {
    let mut found = Vec::new();
    let mut changed = |is_the_same: bool, what: &str| {
        if !is_the_same {
            found.push(format!("{what} has changed"));
        }
    };
    let (was, is) = (&old.queue, &new.queue);
    changed(was.compression == is.compression, "queue compression");
    changed(was.encryption == is.encryption, "queue encryption");
    changed(old.scheduler == new.scheduler, "scheduler limit");
    changed(old.mda == new.mda, "mda limit");
    let (was, is) = (old.mta.max_deferred, new.mta.max_deferred);
    changed(was == is, "mta max-deferred");
    let with_cure = |what: String| format!("{what}: restart smtpd for that");
    found.into_iter().map(with_cure).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Defaults, Sources, load};
    use super::*;
    use crate::mail::samples::line;

    fn config(text: &str) -> Config {
        let defaults = Defaults {
            server_name: line("mx.example.org"),
            addresses: Vec::new(),
        };
        let sources = Sources::from_text("smtpd.conf", text, &[]);
        let loaded = load(&sources, &defaults);
        loaded.unwrap_or_else(|bad| panic!("{bad:?}")).config
    }

    // smtpctl(8), reload: what is fixed at the start is refused by name.
    #[test]
    fn what_takes_a_restart_is_named() {
        let old = "listen on 127.0.0.1 port 2525\naction a maildir\nmatch for local action a\n";
        let refused = |new: &str| needs_restart(&config(old), &config(&format!("{old}{new}")));
        let may_change = "listen on ::1 port 2526\ntable t proc:/bin/true\nproc p \"/bin/true\"\n";
        assert_eq!(refused(may_change), [""; 0]);
        for (line, what) in [
            ("queue compression", "queue compression"),
            ("scheduler limit max-inflight 1", "scheduler limit"),
        ] {
            let text = format!("{what} has changed: restart smtpd for that");
            assert_eq!(refused(&format!("{line}\n")), [text]);
        }
    }
}
