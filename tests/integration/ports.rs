//! `etc/ports`: what can be shown of the ports where neither of their systems is.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::install::Built;
use crate::support::not_run;

fn ports(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("etc/ports")
        .join(name)
}

/// Runs a port's `do-install` as the system's own framework would, which is not here, and says
/// which files that puts where.
fn installed(system: &str, test: &str, variables: &[(&str, &str)]) -> Option<BTreeSet<String>> {
    if Command::new("bmake").arg("-V").arg("x").output().is_err() {
        not_run(test, "there is no bmake");
        return None;
    }
    let built = Built::new(test)?;
    let dir = built.dir.path();
    for (name, text) in [
        ("mk/sys.mk", String::new()),
        ("mk/bsd.port.mk", String::new()),
        ("bin/uname", format!("#!/bin/sh\necho {system}\n")),
    ] {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let path = std::env::var("PATH").unwrap();
    let mut bmake = Command::new("bmake");
    bmake
        .env_remove("MAKEFLAGS")
        .env("PATH", format!("{}/bin:{path}", dir.display()))
        .arg("-m")
        .arg(dir.join("mk"))
        .arg("-C")
        .arg(ports(&system.to_lowercase()))
        .arg("do-install")
        .arg(format!("WRKSRC={}", env!("CARGO_MANIFEST_DIR")));
    for (name, value) in variables {
        let value = value.replace("$dir", dir.to_str().unwrap());
        bmake.arg(format!("{name}={value}"));
    }
    let done = bmake.output().unwrap();
    assert!(done.status.success(), "{done:?}");
    let stage = dir.join("stage");
    let mut found = BTreeSet::new();
    let mut rest = vec![stage.clone()];
    while let Some(path) = rest.pop() {
        if fs::symlink_metadata(&path).unwrap().is_dir() {
            rest.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()))
        } else {
            let below = path.strip_prefix(&stage).unwrap();
            found.insert(below.display().to_string());
        }
    }
    // Texts name the places where they will be.
    let page = found.iter().find(|name| name.ends_with("/smtpctl.8"));
    let page = fs::read_to_string(stage.join(page.unwrap())).unwrap();
    assert!(!page.contains(dir.to_str().unwrap()), "{page}");
    Some(found)
}

/// The files that a packing list has, below the root.
fn listed(path: &str, name: impl Fn(&str) -> Option<String>) -> BTreeSet<String> {
    let text = fs::read_to_string(ports(path)).unwrap();
    let names: Vec<String> = text.lines().filter_map(name).collect();
    let set: BTreeSet<String> = names.iter().map(|n| format!("usr/local/{n}")).collect();
    assert_eq!(set.len(), names.len(), "{path} has a name twice");
    set
}

#[test]
fn freebsds_port_packs_what_it_installs() {
    let Some(found) = installed(
        "FreeBSD",
        "freebsds_port_packs_what_it_installs",
        &[
            ("PREFIX", "/usr/local"),
            ("STAGEDIR", "$dir/stage"),
            ("EXAMPLESDIR", "/usr/local/share/examples/smtpd-rs"),
            ("CARGO_TARGET_DIR", "$dir/target"),
            ("GMAKE", "make"),
            ("MV", "mv"),
            ("RM", "rm -f"),
            ("STRIP_CMD", "ls"),
        ],
    ) else {
        return;
    };
    let listed = listed("freebsd/pkg-plist", |line| {
        let name = match line.split_once(' ') {
            Some((keyword, name)) if keyword.starts_with('@') => name,
            _ => line,
        };
        let name = name.replace("%%EXAMPLESDIR%%", "share/examples/smtpd-rs");
        // Its framework compresses them.
        Some(name.strip_suffix(".gz").map_or(name.clone(), str::to_owned))
    });
    assert_eq!(found, listed);
}

#[test]
fn openbsds_port_packs_what_it_installs() {
    let Some(found) = installed(
        "OpenBSD",
        "openbsds_port_packs_what_it_installs",
        &[
            // As bsd.port.mk(5) has it during fake.
            ("TRUEPREFIX", "/usr/local"),
            ("PREFIX", "$dir/stage/usr/local"),
            ("DESTDIR", "$dir/stage"),
            ("WRKINST", "$dir/stage"),
            ("SYSCONFDIR", "/etc"),
            ("MODCARGO_TARGET_DIR", "$dir/target"),
            ("MAKE_PROGRAM", "make"),
        ],
    ) else {
        return;
    };
    let listed = listed("openbsd/pkg/PLIST", |line| match line.split_once(' ') {
        Some(("@bin" | "@man", name)) => Some(name.to_owned()),
        // The framework makes these.
        Some(("@rcscript", _)) => None,
        _ if line.starts_with('@') || line.contains("pkg-readmes") => None,
        _ => Some(line.to_owned()),
    });
    assert_eq!(found, listed);
}

#[test]
fn the_ports_know_the_crates_of_the_lock_file() {
    // etc/ports/crates.sh: to be run after each change of Cargo.lock.
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("etc/ports");
    for system in ["freebsd", "openbsd"] {
        fs::create_dir_all(place.join(system)).unwrap();
    }
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    fs::copy(top.join("Cargo.lock"), dir.path().join("Cargo.lock")).unwrap();
    fs::copy(ports("crates.sh"), place.join("crates.sh")).unwrap();
    let done = Command::new("sh").arg(place.join("crates.sh")).output();
    assert!(done.unwrap().status.success());
    for name in [
        "freebsd/Makefile.crates",
        "freebsd/distinfo",
        "openbsd/crates.inc",
    ] {
        let (made, kept) = (fs::read(place.join(name)), fs::read(ports(name)));
        assert!(made.unwrap() == kept.unwrap(), "{name}: run crates.sh");
    }
}
