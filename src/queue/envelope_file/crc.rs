//! The checksum of an envelope's file.

/// CRC-32 as in gzip (RFC 1952 §8).
pub(super) struct Crc(u32);

impl Crc {
    pub(super) fn new() -> Crc {
        Crc(!0)
    }

    pub(super) fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            let low = (self.0 as u8 ^ byte) as usize;
            self.0 = CRC_TABLE[low] ^ (self.0 >> 8);
        }
    }

    pub(super) fn value(&self) -> u32 {
        !self.0
    }
}

const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut n = 0;
    while n < 256 {
        let mut value = n as u32;
        let mut bit = 0;
        while bit < 8 {
            value = (value >> 1) ^ (0xedb8_8320 * (value & 1));
            bit += 1;
        }
        table[n] = value;
        n += 1;
    }
    table
};
