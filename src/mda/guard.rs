//! A command and the process that guards it: it sees the end of its input only if that is the end
//! of the message.
//!
//! The message comes in chunks with a mark at their end (`privsep::batch`). If the daemon dies
//! before it has written that mark, both of us are killed, the command before its input is closed.
//! They are one process group: whoever ends us, as the parent does when the time is over, ends the
//! command as well. A command need not read what it does not want.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{ChildStdin, Command, Stdio};

use crate::privsep::batch::{BodyReader, CHUNK_MAX};
use crate::sys::descriptors::set_nonblocking;
use crate::sys::poll::{Interest, PollFd, poll};
use crate::sys::process;

/// Runs `command` with the message that comes on `input`; its exit code. A signal that ends it
/// ends us, too. An error means that it was not started; once it is, `started` is called.
pub fn run(command: &mut Command, input: File, started: impl FnOnce()) -> io::Result<i32> {
    let mut child = command.stdin(Stdio::piped()).spawn()?;
    started();
    if let Some(output) = child.stdin.take()
        && feed(input, output).is_err()
    {
        process::kill_own_group();
    }
    let status = child.wait()?;
    match (status.code(), status.signal()) {
        (Some(code), _) => Ok(code),
        (None, signal) => process::die_of(signal.unwrap_or_default()),
    }
}

/// Hands the message over. With an error the output is still open.
fn feed(input: File, output: ChildStdin) -> io::Result<()> {
    let output = std::mem::ManuallyDrop::new(output);
    set_nonblocking(output.as_fd())?;
    let mut message = BodyReader::new(Input {
        file: input,
        ahead: Vec::new(),
        at: 0,
        is_over: false,
    });
    let mut buffer = vec![0; CHUNK_MAX];
    loop {
        let n = match message.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            result => result?,
        };
        let wants_more = write(&output, &buffer[..n], &mut message)?;
        if n == 0 || !wants_more {
            drop(std::mem::ManuallyDrop::into_inner(output));
            return Ok(());
        }
    }
}

/// Writes all of `bytes`, however long the command takes; false when it takes no more. Meanwhile
/// the daemon may die.
fn write(
    mut output: &ChildStdin,
    mut bytes: &[u8],
    message: &mut BodyReader<Input>,
) -> io::Result<bool> {
    while !bytes.is_empty() {
        match output.write(bytes) {
            Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let gone = {
                    let input = message.get_ref();
                    let mut fds = vec![PollFd::new(output.as_fd(), Interest::Write)];
                    if !input.is_over {
                        fds.push(PollFd::new(input.file.as_fd(), Interest::Nothing));
                    }
                    poll(&mut fds, None)?;
                    fds.get(1).is_some_and(|input| input.hangup)
                };
                if gone {
                    message.get_mut().take_the_rest()?;
                    message.check_rest(|input| input.rest())?;
                }
            }
            Err(_) => return Ok(false),
        }
    }
    Ok(true)
}

/// The daemon's pipe, and what was in it when the daemon closed it.
#[derive(Debug)]
struct Input {
    file: File,
    ahead: Vec<u8>,
    at: usize,
    is_over: bool,
}

impl Input {
    /// Reads what is left once the other end is closed: no more than a pipe holds.
    fn take_the_rest(&mut self) -> io::Result<()> {
        self.file.read_to_end(&mut self.ahead)?;
        self.is_over = true;
        Ok(())
    }

    fn rest(&self) -> &[u8] {
        self.ahead.get(self.at..).unwrap_or_default()
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.is_over {
            return self.file.read(buffer);
        }
        let n = self.rest().read(buffer)?;
        self.at += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::privsep::batch::Chunk;

    fn message(parts: usize, ended: bool) -> Vec<u8> {
        let mut stream = Vec::new();
        for _ in 0..parts {
            Chunk::Bytes(1000).encode(&mut stream);
            stream.extend_from_slice(&[b'x'; 1000]);
        }
        if ended {
            Chunk::End.encode(&mut stream);
        }
        stream
    }

    fn sent(stream: &[u8]) -> File {
        let (read, mut write) = io::pipe().unwrap();
        write.write_all(stream).unwrap();
        std::os::fd::OwnedFd::from(read).into()
    }

    #[test]
    fn a_command_gets_all_of_a_message_or_no_end() {
        // smtpd.conf(5), COMMANDS. The pipes hold less than the message.
        for (ended, script) in [
            (true, "exec cat"),
            (true, "sleep 0.1; exec cat"),
            (false, "exec cat"),
            (false, "sleep 0.1; exec cat"),
        ] {
            let mut child = Command::new("/bin/sh")
                .args(["-c", script])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut output = child.stdout.take().unwrap();
            let reader = std::thread::spawn(move || {
                let mut text = Vec::new();
                output.read_to_end(&mut text).map(|_| text)
            });
            let fed = feed(sent(&message(60, ended)), child.stdin.take().unwrap());
            assert_eq!(fed.is_ok(), ended, "{script}");
            if !ended {
                assert!(child.try_wait().unwrap().is_none(), "it saw an end");
                child.kill().unwrap();
            }
            assert_eq!(child.wait().unwrap().success(), ended);
            let got = reader.join().unwrap().unwrap().len();
            assert!(!ended || got == 60_000, "{got}");
        }
    }

    #[test]
    fn a_command_that_reads_nothing_does_not_hide_that_the_daemon_has_died() {
        for ended in [true, false] {
            let mut child = Command::new("/bin/sh")
                .args(["-c", "read x"])
                .stdin(Stdio::piped())
                .spawn()
                .unwrap();
            let mut filler = child.stdin.take().unwrap();
            // Full already: nothing of the message fits.
            set_nonblocking(filler.as_fd()).unwrap();
            while filler.write(&[b'y'; 4096]).is_ok() {}
            if ended {
                // It goes without having read.
                child.kill().unwrap();
            }
            let fed = feed(sent(&message(60, ended)), filler);
            let _ = child.kill();
            child.wait().unwrap();
            assert_eq!(fed.is_ok(), ended);
        }
    }

    #[test]
    fn what_a_command_does_not_read_does_no_harm() {
        // smtpd.conf(5), COMMANDS: 0 is success, also for a command that has not read all.
        let code = run(
            Command::new("/bin/sh").args(["-c", "exit 3"]),
            sent(&message(60, true)),
            || (),
        );
        assert_eq!(code.unwrap(), 3);
        let missing = run(
            &mut Command::new("/no/such/program"),
            sent(&message(1, true)),
            || (),
        );
        assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
