//! Daemons that have users, files of the system or a network of their own, in namespaces of Linux.
//! Only root can make these.

use std::path::Path;
use std::process::{Command, Stdio};

use super::{not_run, root_only};

/// Puts what `dir` has of these in the place of the system's.
const FILES: &str = "for pair in etc:/etc passwd:/etc/passwd shadow:/etc/shadow group:/etc/group hosts:/etc/hosts \
                     resolv.conf:/etc/resolv.conf mailboxes:/var/mail; do \
                     [ ! -e \"$0/${pair%%:*}\" ] || \
                     mount --bind \"$0/${pair%%:*}\" \"${pair#*:}\" || exit 1; done; ";

/// Makes a network: lo0, and an interface with a default route and the address 192.0.2.1. Clients
/// in it may have any address of 198.51.100.0/24, which none of the interfaces has.
const NETWORK: &str = "ip link set lo name lo0 && ip link set lo0 up && \
                       ip link add egress0 type veth peer name wire0 && \
                       ip link set egress0 addrgenmode none && \
                       ip addr add 192.0.2.1/24 dev egress0 && ip link set egress0 up && ip link set wire0 up && \
                       ip route add default via 192.0.2.254 && \
                       ip route add local 198.51.100.0/24 dev lo0 || exit 1; ";

/// A command that runs another one where `/etc/passwd`, `/etc/group` and, if they are there,
/// `/etc/hosts`, `/etc/resolv.conf`, all of `/etc`, and `/var/mail` (`mailboxes`) are those of
/// `dir`; in a network of its own, if that is wanted.
pub fn with_its_own_users(dir: &Path, network: bool) -> Command {
    let mut command = Command::new("unshare");
    if network {
        command
            .args(["-mn", "sh", "-c"])
            .arg(format!("{NETWORK}{FILES}exec \"$@\""))
    } else {
        command
            .args(["-m", "sh", "-c"])
            .arg(format!("{FILES}exec \"$@\""))
    };
    command.arg(dir);
    command
}

/// Whether a test may give a daemon a network of its own; says the test's name when it cannot.
pub fn can_have_network(test: &str) -> bool {
    if !can_have_users(test) {
        return false;
    }
    let can = Command::new("unshare")
        .args(["-n", "sh", "-c", &format!("{NETWORK}nsenter -V")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !can {
        not_run(test, "needs a network namespace");
    }
    can
}

/// Whether a test may give a daemon users of its own (a private mount namespace); says the test's
/// name when it cannot run.
pub fn can_have_users(test: &str) -> bool {
    if !cfg!(target_os = "linux") || !root_only(test) {
        return false;
    }
    let can = Command::new("unshare")
        .args(["-m", "sh", "-c", "mount --bind /etc/passwd /etc/passwd"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !can {
        not_run(test, "needs a mount namespace");
    }
    can
}
