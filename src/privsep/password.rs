//! What the parent tells the child that checks a password: one packet.

use crate::util::frame::{Bad, Reader, Writer};
use crate::util::{Line, Secret, Zeroizing};

/// Largest packet, in bytes: name and password come in lines of SMTP.
pub const PACKET_MAX: usize = 8 * 1024;

/// A user and a password.
pub fn packet(user: &Line, password: &Secret) -> Zeroizing<Vec<u8>> {
    let mut w = Writer::default();
    w.line(user);
    w.text(password.reveal());
    Zeroizing::new(w.into_bytes())
}

/// Reads what [`packet`] made.
pub fn read_packet(packet: &[u8]) -> Result<(Line, Secret), Bad> {
    let mut r = Reader::new(packet);
    let (user, password) = (r.line()?, Secret::new(r.line()?));
    r.end()?;
    Ok((user, password))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_crosses_whole_or_not_at_all() {
        let (user, password) = (
            Line::new("ann").unwrap(),
            Secret::new(Line::new("x y").unwrap()),
        );
        let packet = packet(&user, &password);
        assert_eq!(read_packet(&packet), Ok((user, password)));
        for cut in 0..packet.len() {
            assert!(read_packet(&packet[..cut]).is_err());
        }
    }
}
