//! What a running daemon cannot take over from a new smtpd.conf(5).

use std::collections::BTreeMap;

use super::model::{Config, Listener, Proc, TableProgram, TableSource};

/// Each change from `old` to `new` that takes a restart, by name; none, and a reload may have it.
pub fn needs_restart(old: &Config, new: &Config) -> Vec<String> {
    let mut found = Vec::new();
    let bound = |listener: &Listener| (listener.on.clone(), listener.family, listener.port);
    let (before, after) = (&old.listeners, &new.listeners);
    for listener in after {
        if !before.iter().any(|known| bound(known) == bound(listener)) {
            let (at, on) = (&listener.at, &listener.on);
            found.push(format!("{at}: listen on {on} is new or changed"));
        }
    }
    for listener in before {
        if !after.iter().any(|kept| bound(kept) == bound(listener)) {
            let (on, port) = (&listener.on, listener.port);
            found.push(format!("listen on {on} port {port} is gone"));
        }
    }
    if found.is_empty() && !before.iter().map(bound).eq(after.iter().map(bound)) {
        found.push("the listeners come in another order".to_owned());
    }
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
    changed(
        table_programs(old) == table_programs(new),
        "a table of a program",
    );
    changed(procs(old) == procs(new), "a proc or proc-exec");
    let with_cure = |what: String| format!("{what}: restart smtpd for that");
    found.into_iter().map(with_cure).collect()
}

fn table_programs(config: &Config) -> BTreeMap<&str, &TableProgram> {
    let programs = config
        .tables
        .iter()
        .filter_map(|(name, table)| match table {
            TableSource::Program(program) => Some((name.as_str(), program)),
            _ => None,
        });
    programs.collect()
}

/// Wherever in the file they stand.
fn procs(config: &Config) -> BTreeMap<&str, Proc> {
    let procs = config.procs.iter().map(|(name, proc)| {
        let at = Default::default();
        (name.as_str(), Proc { at, ..proc.clone() })
    });
    procs.collect()
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

    // smtpctl(8), reload: what has to be bound or opened anew is refused by name.
    #[test]
    fn what_takes_a_restart_is_named() {
        let rest = "action a maildir\nmatch for local action a\n";
        let old = format!("listen on 127.0.0.1 port 2525\nlisten on 127.0.0.1 port 2526\n{rest}");
        let refused = |new: &str| needs_restart(&config(&old), &config(&format!("{new}{rest}")));
        let both = "listen on 127.0.0.1 port 2525 tag x\nlisten on 127.0.0.1 port 2526\n";
        assert_eq!(refused(both), [""; 0]);
        assert_eq!(
            refused("listen on 127.0.0.1 port 2525\nlisten on 127.0.0.1 port 2527\n"),
            [
                "smtpd.conf:2: listen on 127.0.0.1 is new or changed: restart smtpd for that",
                "listen on 127.0.0.1 port 2526 is gone: restart smtpd for that"
            ]
        );
        assert_eq!(
            refused("listen on 127.0.0.1 port 2526\nlisten on 127.0.0.1 port 2525\n"),
            ["the listeners come in another order: restart smtpd for that"]
        );
        assert_eq!(
            refused(&format!("{both}queue compression\n")),
            ["queue compression has changed: restart smtpd for that"]
        );
        assert_eq!(
            refused(&format!("{both}scheduler limit max-inflight 1\n")),
            ["scheduler limit has changed: restart smtpd for that"]
        );
        assert_eq!(
            refused(&format!("{both}table t proc:/bin/true\n")),
            ["a table of a program has changed: restart smtpd for that"]
        );
    }
}
