//! What the parent tells the process that holds private keys.
//!
//! A packet is a key with its name. One that brings a descriptor, and nothing else, brings the
//! socket of an engine.

use crate::util::frame::{Bad, Reader, Writer};

/// Largest key file, in bytes.
pub const KEY_MAX: usize = 32 * 1024;
/// Largest packet, in bytes.
pub const PACKET_MAX: usize = KEY_MAX + 1024;

/// A key, in PEM, and the name of its pki.
pub fn key_packet(name: &str, pem: &[u8]) -> Vec<u8> {
    let mut w = Writer::default();
    w.text(name);
    w.bytes(pem);
    w.into_bytes()
}

/// Reads what [`key_packet`] made.
pub fn read_key_packet(packet: &[u8]) -> Result<(&str, &[u8]), Bad> {
    let mut r = Reader::new(packet);
    let (name, pem) = (r.text()?, r.bytes()?);
    r.end()?;
    Ok((name, pem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_crosses_whole_or_not_at_all() {
        let packet = key_packet("mx.example.org", b"-----BEGIN");
        let read = read_key_packet(&packet);
        assert_eq!(read, Ok(("mx.example.org", &b"-----BEGIN"[..])));
        for cut in 0..packet.len() {
            assert!(read_key_packet(&packet[..cut]).is_err());
        }
    }
}
