//! Asking for a secret on the controlling terminal, without an echo.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;

use super::errno::{cvt, retry};

/// Longest answer, in bytes; what is typed beyond it is not kept.
const MAX_BYTES: usize = 1024;

const END_OF_TEXT: u8 = 0x03;
const END_OF_INPUT: u8 = 0x04;
const BACKSPACE: u8 = 0x08;
const KILL_LINE: u8 = 0x15;
const QUIT: u8 = 0x1c;
const DELETE: u8 = 0x7f;

/// The terminal, which is set back to what it was when this goes.
struct Quiet {
    tty: File,
    before: libc::termios,
}

/// Writes `prompt` and reads one line, as getpass(3) does. Fails where there is no terminal, or
/// with `Interrupted` when the answer is broken off.
pub fn ask_secret(prompt: &str) -> io::Result<Vec<u8>> {
    let tty = OpenOptions::new().read(true).write(true).open("/dev/tty")?;
    let mut quiet = Quiet::new(tty)?;
    quiet.tty.write_all(prompt.as_bytes())?;
    let answer = line(&mut quiet.tty);
    // The line end that was typed was not echoed either.
    quiet.tty.write_all(b"\n")?;
    answer
}

/// Reads single bytes as they are typed. Keys that would send a signal come as bytes, so that
/// nothing ends the process while the terminal is quiet.
fn line(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    loop {
        let mut byte = [0];
        if retry(|| from.read(&mut byte))? == 0 {
            return Ok(text);
        }
        match byte[0] {
            b'\n' | b'\r' | END_OF_INPUT => return Ok(text),
            END_OF_TEXT | QUIT => return Err(io::ErrorKind::Interrupted.into()),
            BACKSPACE | DELETE => {
                text.pop();
            }
            KILL_LINE => text.clear(),
            byte if text.len() < MAX_BYTES => text.push(byte),
            _ => {}
        }
    }
}

impl Quiet {
    fn new(tty: File) -> io::Result<Quiet> {
        let mut before = MaybeUninit::<libc::termios>::uninit();
        // SAFETY: `before` is writable for a termios.
        cvt(unsafe { libc::tcgetattr(tty.as_raw_fd(), before.as_mut_ptr()) })?;
        // SAFETY: tcgetattr(3) has filled it in.
        let before = unsafe { before.assume_init() };
        let mut quiet = before;
        quiet.c_lflag &= !(libc::ECHO | libc::ECHONL | libc::ICANON | libc::ISIG);
        quiet.c_cc[libc::VMIN] = 1;
        quiet.c_cc[libc::VTIME] = 0;
        set(&tty, &quiet)?;
        Ok(Quiet { tty, before })
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // There is nobody to tell.
        let _ = set(&self.tty, &self.before);
    }
}

fn set(tty: &File, to: &libc::termios) -> io::Result<()> {
    retry(|| {
        // SAFETY: `to` is a termios that outlives the call.
        cvt(unsafe { libc::tcsetattr(tty.as_raw_fd(), libc::TCSAFLUSH, to) })
    })
    .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_edited_as_on_a_terminal() {
        let typed = |bytes: &[u8]| line(&mut &bytes[..]);
        assert_eq!(typed(b"key\nrest").unwrap(), b"key");
        assert_eq!(typed(b"kez\x7fy\r").unwrap(), b"key");
        assert_eq!(typed(b"wrong\x15key\x04").unwrap(), b"key");
        assert_eq!(typed(b"\x08no end").unwrap(), b"no end");
        let broken_off = typed(b"ke\x03").unwrap_err();
        assert_eq!(broken_off.kind(), io::ErrorKind::Interrupted);
        assert_eq!(typed(&[b'x'; 5000]).unwrap().len(), MAX_BYTES);
    }
}
