//! Lines to standard error: a terminal, a file, or whoever is at the other end of a pipe.
//!
//! Who writes itself looks first whether there is room. It waits a moment for one who is slow to
//! read, and not again before that one reads. The room that was seen may be taken by another process
//! that writes to the same pipe; then it waits for that room after all.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use crate::sys::poll::write_some;

use super::sink::{Level, PATIENCE, Sink, Writer};

/// Standard error: the line and nothing else.
#[derive(Debug)]
pub struct Stderr {
    writer: Writer,
    /// There was no room, and nobody waits again before there is some.
    is_stuck: bool,
    /// The last line has no end.
    is_cut: bool,
}

impl Stderr {
    /// Written to by the caller or by a thread.
    pub fn new(writer: Writer) -> Stderr {
        Stderr {
            writer,
            is_stuck: false,
            is_cut: false,
        }
    }

    /// One write, so that lines of several processes do not mix, unless the line is longer than a
    /// pipe takes at once.
    fn put(&mut self, to: BorrowedFd<'_>, line: &str) -> io::Result<()> {
        let start = if self.is_cut { "\n" } else { "" };
        let text = format!("{start}{line}\n");
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            let patience = if self.is_stuck {
                Duration::ZERO
            } else {
                PATIENCE
            };
            match write_some(to, rest, patience) {
                Ok(count) => {
                    (self.is_stuck, self.is_cut) = (false, true);
                    rest = rest.get(count.max(1)..).unwrap_or_default();
                }
                Err(error) => {
                    self.is_stuck = error.kind() == io::ErrorKind::WouldBlock;
                    return Err(error);
                }
            }
        }
        self.is_cut = false;
        Ok(())
    }
}

impl Sink for Stderr {
    fn write(&mut self, _level: Level, line: &str) -> io::Result<()> {
        // The test runner holds back what goes through the macro, and shows it when a test fails. A
        // fuzzer makes millions of lines that nobody wants.
        #[cfg(test)]
        eprintln!("{line}");
        if cfg!(any(test, feature = "fuzzing")) {
            return Ok(());
        }
        let stderr = io::stderr();
        match self.writer {
            Writer::Caller => self.put(stderr.as_fd(), line),
            Writer::Thread => stderr.lock().write_all(format!("{line}\n").as_bytes()),
        }
    }

    fn write_all(&mut self, lines: &[(Level, String)]) -> u64 {
        let packs = packs(lines).into_iter();
        let lost = packs.filter(|(text, _)| self.write(Level::Info, text).is_err());
        lost.map(|(_, count)| count).sum()
    }
}

/// As many lines together as a pipe takes whole, and how many they are.
fn packs(lines: &[(Level, String)]) -> Vec<(String, u64)> {
    let mut packs: Vec<(String, u64)> = Vec::new();
    for (_, line) in lines {
        match packs.last_mut() {
            Some((text, count)) if text.len() + line.len() + 2 <= PIPE_BYTES => {
                text.push('\n');
                text.push_str(line);
                *count += 1;
            }
            _ => packs.push((line.clone(), 1)),
        }
    }
    packs
}

/// POSIX: so much is written to a pipe at once or not at all (`PIPE_BUF` is 512 at least, and more
/// on all our systems).
const PIPE_BYTES: usize = 512;

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use super::*;

    #[test]
    fn a_caller_does_not_wait_for_a_pipe_that_nobody_reads() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut stderr = Stderr::new(Writer::Caller);
        // Longer than a pipe takes at once, so that a line is cut.
        let line = |n: usize| format!("{n} {} end", "x".repeat(9000));
        let mut put = |n| stderr.put(writer.as_fd(), &line(n)).is_ok();
        let taken = (0..1000).take_while(|n| put(*n)).count();
        assert!(taken < 1000 && !put(0) && !put(0));
        let mut buffer = vec![0; 1 << 20];
        let read = reader.read(&mut buffer).unwrap();
        // It is read again, and so there is an end of the line that was cut.
        assert!(put(1000));
        drop(writer);
        buffer.truncate(read);
        reader.read_to_end(&mut buffer).unwrap();
        let text = String::from_utf8(buffer).unwrap();
        let whole: Vec<usize> = text
            .lines()
            .filter(|line| line.ends_with(" end"))
            .map(|line| line.split(' ').next().unwrap().parse().unwrap())
            .collect();
        let expected: Vec<usize> = (0..taken).chain([1000]).collect();
        assert_eq!(whole, expected);
    }

    #[test]
    fn whatever_is_no_pipe_takes_every_line() {
        let mut file = tempfile::tempfile().unwrap();
        let mut stderr = Stderr::new(Writer::Caller);
        let line = "x".repeat(10_000);
        for _ in 0..20 {
            stderr.put(file.as_fd(), &line).unwrap();
        }
        file.rewind().unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, format!("{line}\n").repeat(20));
    }

    #[test]
    fn lines_share_a_write_as_long_as_a_pipe_takes_it_whole() {
        let lines: Vec<_> = (0..100)
            .map(|n| (Level::Info, "x".repeat(n * 7 % 300)))
            .chain([(Level::Err, "y".repeat(2 * PIPE_BYTES))])
            .collect();
        let packs = packs(&lines);
        assert!(packs.len() < 60);
        assert_eq!(packs.iter().map(|(_, count)| count).sum::<u64>(), 101);
        let fits = |text: &String| text.len() < PIPE_BYTES || !text.contains('\n');
        assert!(packs.iter().all(|(text, _)| fits(text)));
        let text: Vec<_> = packs.into_iter().map(|(text, _)| text).collect();
        let one: Vec<_> = lines.into_iter().map(|(_, line)| line).collect();
        assert_eq!(text.join("\n"), one.join("\n"));
    }
}
