//! The configuration on its way to the engine: the bytes that the parent has read, and what it
//! found out about the machine, so that both understand the same configuration whatever changes
//! in between.

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::FileExt;

use crate::config::{self, Defaults, Diagnostic, Loaded, Sources};
use crate::util::frame::Writer;

use super::frame::{Malformed, TooLong, VERSION, finish, open};

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
        let mut w = Writer::frame(VERSION);
        w.line(&self.defaults.server_name);
        w.u32(u32::try_from(self.defaults.addresses.len()).map_err(|_| TooLong)?);
        for address in &self.defaults.addresses {
            w.text(&address.to_string());
        }
        w.bytes(&self.sources.encode());
        finish(w, MAX_HANDOVER)
    }

    /// From bytes.
    pub fn decode(bytes: &[u8]) -> Result<Handover, Malformed> {
        let mut r = open(bytes)?;
        let server_name = r.line()?;
        let mut addresses: Vec<IpAddr> = Vec::new();
        for _ in 0..r.u32()? {
            addresses.push(r.text()?.parse().map_err(|_| Malformed)?);
        }
        let sources = Sources::decode(r.bytes()?)?;
        r.end()?;
        Ok(Handover {
            sources,
            defaults: Defaults {
                server_name,
                addresses,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::util::Line;

    #[test]
    fn both_ends_load_the_same() {
        let handover = Handover {
            sources: Sources::from_text("x", "listen on 127.0.0.1 port 2525\n", &[]),
            defaults: Defaults {
                server_name: Line::new("mx.example.org").unwrap(),
                addresses: vec!["127.0.0.1".parse().unwrap(), "fe80::1".parse().unwrap()],
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
