//! Entries for the fuzzer in `tests/fuzz`: whatever the bytes are, these come back, and what they
//! assert holds. Compiled for tests, which try every target a little, and for the fuzzer alone
//! (feature `fuzzing`).

#![forbid(unsafe_code)]
// Reports come as panics.
#![allow(clippy::missing_panics_doc)]

mod expansion;
mod programs;
mod text;
mod wire;

/// Tries a target on any bytes.
pub type Target = fn(&[u8]);

/// All targets, by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("config", text::config),
    ("table", text::table),
    ("items", expansion::items),
    ("expansion", expansion::expand),
    ("specifier", text::specifier),
    ("envelope", text::envelope),
    ("coding", text::coding),
    ("header", text::header),
    ("offline", text::offline),
    ("command", wire::command),
    ("session", wire::session),
    ("reply", wire::reply),
    ("dns", wire::dns),
    ("frames", wire::frames),
    ("helpers", wire::helpers),
    ("filter", programs::filter),
    ("table-program", programs::table),
];

/// The target of this name.
pub fn target(name: &str) -> Option<Target> {
    let found = TARGETS.iter().find(|(known, _)| *known == name);
    found.map(|(_, target)| *target)
}

/// Cuts `bytes` at its first NUL.
fn halves(bytes: &[u8]) -> (&[u8], &[u8]) {
    match bytes.iter().position(|byte| *byte == 0) {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (bytes, &[]),
    }
}

/// As text; bytes that are no UTF-8 become something else.
fn text_of(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::util::dice::Dice;

    /// Attempts per seed.
    const ATTEMPTS: usize = 40;

    #[test]
    fn every_target_holds_for_its_seeds_and_what_is_near_them() {
        // `make fuzz` goes on where this ends.
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds");
        let mut dice = Dice::new(5);
        for (name, target) in TARGETS {
            let mut tried = 0;
            for entry in std::fs::read_dir(seeds.join(name)).unwrap() {
                let seed = std::fs::read(entry.unwrap().path()).unwrap();
                target(&seed);
                tried += 1;
                for _ in 0..ATTEMPTS {
                    target(&bent(&seed, &mut dice));
                }
            }
            assert!(tried > 0, "{name} has no seeds");
            for length in 0..20 {
                let noise: Vec<u8> = (0..length).map(|_| dice.roll(256) as u8).collect();
                target(&noise);
            }
        }
    }

    /// A seed with a few bytes changed, lost, doubled or moved.
    fn bent(seed: &[u8], dice: &mut Dice) -> Vec<u8> {
        let mut bytes = seed.to_vec();
        for _ in 0..=dice.roll(4) {
            if bytes.is_empty() {
                break;
            }
            let at = dice.roll(bytes.len());
            let end = (at + 1 + dice.roll(8)).min(bytes.len());
            match dice.roll(5) {
                0 => bytes[at] = dice.roll(256) as u8,
                1 => drop(bytes.drain(at..end)),
                2 => {
                    let again = bytes[at..end].to_vec();
                    bytes.splice(at..at, again);
                }
                3 => bytes[at] = b"\r\n\0{}%\"\\,|:@ "[dice.roll(13)],
                _ => bytes.truncate(at),
            }
        }
        bytes
    }
}
