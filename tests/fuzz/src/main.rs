//! Tries one target of `smtpd::fuzz`, named by `FUZZ_TARGET`, on whatever libFuzzer makes up.
//!
//! `FUZZ_TARGET=list` prints the names. Everything on the command line is libFuzzer's.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use smtpd::fuzz::{TARGETS, Target, target};

static CHOSEN: OnceLock<Target> = OnceLock::new();

fn choose() -> Target {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    match target(&name) {
        Some(target) => target,
        None => {
            for (known, _) in TARGETS {
                println!("{known}");
            }
            std::process::exit(i32::from(name != "list"));
        }
    }
}

fuzz_target!(init: {
    // The log would be all that is seen.
    CHOSEN.get_or_init(choose);
}, |bytes: &[u8]| {
    CHOSEN.get_or_init(choose)(bytes);
});
