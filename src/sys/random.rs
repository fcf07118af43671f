//! Random bytes from the kernel.

use std::io;

use super::errno::cvt;

/// Fills `buffer` with random bytes.
pub fn fill(buffer: &mut [u8]) -> io::Result<()> {
    // getentropy(2) takes at most 256 bytes.
    for chunk in buffer.chunks_mut(256) {
        // SAFETY: `chunk` is writable for its length.
        cvt(unsafe { libc::getentropy(chunk.as_mut_ptr().cast(), chunk.len()) })?;
    }
    Ok(())
}

/// A random number. The kernel's generator does not fail once the system is up; if it does, there
/// is no safe way to go on and the process ends.
pub fn number_u64() -> u64 {
    let mut bytes = [0; 8];
    fill(&mut bytes).expect("getentropy(2) fails only for bad arguments");
    u64::from_ne_bytes(bytes)
}

/// A random number; see [`number_u64`].
pub fn number_u32() -> u32 {
    number_u64() as u32
}
