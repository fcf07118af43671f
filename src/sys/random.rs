//! Random bytes from the kernel.

// Where a system has no thread-local variables of its own (OpenBSD), clippy does not see the const.
#![allow(clippy::missing_const_for_thread_local)]

use std::cell::RefCell;
use std::io;

use super::errno::retry;

/// Fills `buffer` with random bytes.
pub fn fill(buffer: &mut [u8]) -> io::Result<()> {
    // At most 256 bytes come at once and whole.
    for chunk in buffer.chunks_mut(256) {
        retry(|| fill_few(chunk))?;
    }
    Ok(())
}

/// getentropy(3) as musl's users have it.
#[cfg(target_os = "linux")]
fn fill_few(buffer: &mut [u8]) -> io::Result<()> {
    // SAFETY: `buffer` is writable for its length.
    let filled = unsafe { libc::getrandom(buffer.as_mut_ptr().cast(), buffer.len(), 0) };
    match usize::try_from(filled) {
        Ok(filled) if filled == buffer.len() => Ok(()),
        Ok(_) => Err(io::ErrorKind::Interrupted.into()),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

#[cfg(not(target_os = "linux"))]
fn fill_few(buffer: &mut [u8]) -> io::Result<()> {
    // SAFETY: `buffer` is writable for its length.
    super::errno::cvt(unsafe { libc::getentropy(buffer.as_mut_ptr().cast(), buffer.len()) })
        .map(drop)
}

/// A random number. The kernel's generator does not fail once the system is up; if it does, there
/// is no safe way to go on and the process ends. Each thread fetches some numbers at a time, and
/// gives each away once; a process that forks executes another program.
pub fn number_u64() -> u64 {
    STOCK.with_borrow_mut(|stock| {
        if let Some(number) = stock.pop() {
            return number;
        }
        let mut bytes = [0; 8 * NUMBERS];
        fill(&mut bytes).expect("getentropy(2) fails only for bad arguments");
        let (numbers, _) = bytes.as_chunks();
        stock.extend(numbers.iter().map(|number| u64::from_ne_bytes(*number)));
        stock.pop().expect("it has just been filled")
    })
}

/// Numbers fetched at a time.
const NUMBERS: usize = 16;

thread_local! {
    static STOCK: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// A random number; see [`number_u64`].
pub fn number_u32() -> u32 {
    number_u64() as u32
}
