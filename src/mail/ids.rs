//! Names of messages, envelopes and sessions.

use std::fmt;
use std::num::{NonZeroU32, NonZeroU64};
use std::str::FromStr;

/// One message in the queue: 32 bits, never 0, written as 8 lower-case hex digits. It is not the
/// Message-ID field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MsgId(NonZeroU32);

/// One message for one destination: 64 bits with the message's id on top, written as 16
/// lower-case hex digits. The unit of retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EvpId(NonZeroU64);

/// One SMTP session, as log lines name it: 16 lower-case hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// The text is not an id: wrong length, not lower-case hex, or zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAnId;

impl MsgId {
    /// The id with this number, unless it is 0.
    pub fn new(number: u32) -> Option<MsgId> {
        NonZeroU32::new(number).map(MsgId)
    }

    /// The number.
    pub fn get(self) -> u32 {
        self.0.get()
    }
}

impl EvpId {
    /// The envelope of `msgid` whose lower half is `low`, unless `low` is 0.
    pub fn new(msgid: MsgId, low: u32) -> Option<EvpId> {
        NonZeroU32::new(low)?;
        NonZeroU64::new(u64::from(msgid.get()) << 32 | u64::from(low)).map(EvpId)
    }

    /// The envelope with this number: both halves must be other than 0.
    pub fn from_u64(number: u64) -> Option<EvpId> {
        EvpId::new(MsgId::new((number >> 32) as u32)?, number as u32)
    }

    /// The message this envelope belongs to.
    pub fn msgid(self) -> MsgId {
        MsgId(NonZeroU32::new((self.0.get() >> 32) as u32).unwrap_or(NonZeroU32::MIN))
    }

    /// The number.
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for MsgId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl fmt::Display for EvpId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Display for NotAnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an id")
    }
}

impl std::error::Error for NotAnId {}

impl FromStr for MsgId {
    type Err = NotAnId;
    fn from_str(text: &str) -> Result<MsgId, NotAnId> {
        MsgId::new(hex(text, 8)? as u32).ok_or(NotAnId)
    }
}

impl FromStr for EvpId {
    type Err = NotAnId;
    fn from_str(text: &str) -> Result<EvpId, NotAnId> {
        EvpId::from_u64(hex(text, 16)?).ok_or(NotAnId)
    }
}

fn hex(text: &str, digits: usize) -> Result<u64, NotAnId> {
    if text.len() != digits || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(NotAnId);
    }
    u64::from_str_radix(text, 16).map_err(|_| NotAnId)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_id_carries_its_message() {
        let evpid: EvpId = "1a2b3c4d7f3e9a10".parse().unwrap();
        assert_eq!(evpid.msgid().to_string(), "1a2b3c4d");
        assert_eq!(evpid.to_string(), "1a2b3c4d7f3e9a10");
        for bad in [
            "",
            "1a2b3c4d",
            "1a2b3c4d00000000",
            "000000007f3e9a10",
            "+a2b3c4d7f3e9a10",
        ] {
            assert_eq!(bad.parse::<EvpId>(), Err(NotAnId), "{bad}");
        }
    }
}
