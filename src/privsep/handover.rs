//! The configuration on its way to the engine: the bytes that the parent has read, and what it
//! found out about the machine, so that both understand the same configuration whatever changes
//! in between.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::config::{self, Defaults, Diagnostic, Loaded, Sources};
use crate::util::wire::wire;

use super::frame::{self, Malformed, TooLong};

/// A configuration that can be loaded anywhere with the same result.
#[derive(Clone, Debug)]
pub struct Handover {
    /// The files.
    pub sources: Sources,
    /// The machine.
    pub defaults: Defaults,
}

/// Longest hand-over, file tables included, in bytes.
pub const MAX_HANDOVER: usize = 256 * 1024 * 1024;

/// The bytes of a hand-over. By offset: other engines read the same open file.
pub fn read(file: &File) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len();
    if length > MAX_HANDOVER as u64 {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

impl Handover {
    /// Parses and checks.
    pub fn load(&self) -> Result<Loaded, Vec<Diagnostic>> {
        config::load(&self.sources, &self.defaults)
    }

    /// As bytes.
    pub fn encode(&self) -> Result<Vec<u8>, TooLong> {
        frame::encode(self, MAX_HANDOVER)
    }

    /// From bytes.
    pub fn decode(bytes: &[u8]) -> Result<Handover, Malformed> {
        frame::decode(bytes)
    }
}

wire! { struct Handover { sources, defaults } }

wire! { struct Defaults { server_name, addresses } }

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Peer;
    use crate::util::Line;

    #[test]
    fn both_ends_load_the_same() {
        let handover = Handover {
            sources: Sources::from_text("x", "listen on 127.0.0.1 port 2525\n", &[]),
            defaults: Defaults {
                server_name: Line::new("mx.example.org").unwrap(),
                addresses: ["127.0.0.1", "[fe80::1%lo0]"]
                    .map(|text| Peer::parse(text).unwrap())
                    .to_vec(),
            },
        };
        let bytes = handover.encode().unwrap();
        let other = Handover::decode(&bytes).unwrap();
        assert_eq!(other.sources, handover.sources);
        assert_eq!(other.defaults.server_name, handover.defaults.server_name);
        assert_eq!(other.defaults.addresses, handover.defaults.addresses);
        for cut in 0..bytes.len() {
            assert!(Handover::decode(&bytes[..cut]).is_err());
        }
    }
}
