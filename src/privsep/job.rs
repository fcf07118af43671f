//! What a delivery child is told on descriptor 3, when it has already become the recipient.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use crate::config::Delivery;
use crate::config::paths::find_helper;
use crate::sys::fdpass::{self, Wait};
use crate::sys::process;
use crate::util::Line;
use crate::util::wire::wire;

use super::MdaJob;
use super::frame::{self, Malformed, TooLong};

/// A delivery as its child sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildJob {
    /// What the engine asked for.
    pub job: MdaJob,
    /// The action's method.
    pub delivery: Delivery,
    /// Whether the command, or file, must stand in the user's own .forward.
    pub own_forward: bool,
    /// The text of the action's wrapper.
    pub wrapper: Option<Line>,
    /// Who the child runs as, by name: the action's `user`, else the recipient user.
    pub user: Line,
    /// The recipient user's home directory. `HOME` in the child's environment is that of the user
    /// it runs as, which the action's `user` may have made another one.
    pub home: String,
    /// The id of the user that the child runs as.
    pub uid: u32,
    /// Where the mail.* helpers are.
    pub libexec: PathBuf,
    /// What sub-addresses start with, for `%{rcpt:strip}`.
    pub delimiter: char,
}

/// Longest encoded job, in bytes: a request and what the configuration adds. FreeBSD passes no
/// packet over 64 KiB.
const MAX_JOB: usize = 60 * 1024;

impl ChildJob {
    /// Where the helper `name`, such as `mail.maildir`, is.
    pub fn helper(&self, name: &str) -> PathBuf {
        find_helper(&self.libexec, name)
    }

    /// As bytes.
    pub fn encode(&self) -> Result<Vec<u8>, TooLong> {
        frame::encode(self, MAX_JOB)
    }

    /// From bytes.
    pub fn decode(bytes: &[u8]) -> Result<ChildJob, Malformed> {
        frame::decode(bytes)
    }

    /// Puts the job where the child will find it. The socket's buffer holds it, so this does not
    /// wait for anyone.
    pub fn send(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let bytes = self
            .encode()
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        fdpass::send(socket, &bytes, &[], Wait::No)
    }

    /// The job of this process. Only the first call can get it.
    pub fn read_from_fd3() -> io::Result<ChildJob> {
        ChildJob::receive(process::inherited()?.as_fd())
    }

    fn receive(socket: BorrowedFd<'_>) -> io::Result<ChildJob> {
        let mut buffer = vec![0; MAX_JOB];
        let received = fdpass::receive(socket, &mut buffer, Wait::Yes)?;
        buffer.truncate(received.length);
        Ok(ChildJob::decode(&buffer)?)
    }
}

wire! {
    struct ChildJob {
        job,
        delivery,
        own_forward,
        wrapper,
        user,
        home,
        uid,
        libexec,
        delimiter,
    }
}

wire! {
    enum Delivery {
        1 = Mbox,
        2 = Maildir { path, junk },
        3 = Mda(command),
        4 = Lmtp { dest, rcpt_to },
        5 = ForwardOnly,
        6 = ExpandOnly,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::privsep::frame::tests::Chance;

    #[test]
    fn a_job_arrives_as_it_was_sent() {
        let mut chance = Chance::new(5);
        let line = Line::new("/bin/cat > \"~/x\"").unwrap();
        for delivery in [
            Delivery::Mbox,
            Delivery::Maildir {
                path: None,
                junk: true,
            },
            Delivery::Maildir {
                path: Some(line.clone()),
                junk: false,
            },
            Delivery::Mda(line.clone()),
            Delivery::Lmtp {
                dest: line.clone(),
                rcpt_to: true,
            },
            Delivery::ForwardOnly,
            Delivery::ExpandOnly,
        ] {
            let job = ChildJob {
                job: chance.job(),
                delivery,
                own_forward: chance.below(2) == 0,
                wrapper: (chance.below(2) == 0).then(|| line.clone()),
                user: Line::new("bob").unwrap(),
                home: "/home/bob".into(),
                uid: 1000,
                libexec: "/usr/libexec/smtpd".into(),
                delimiter: '-',
            };
            let (a, b) = fdpass::pair().unwrap();
            job.send(a.as_fd()).unwrap();
            assert_eq!(ChildJob::receive(b.as_fd()).unwrap(), job);
            let bytes = job.encode().unwrap();
            for cut in 0..bytes.len() {
                assert_eq!(ChildJob::decode(&bytes[..cut]), Err(Malformed));
            }
        }
    }
}
