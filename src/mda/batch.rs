//! Many maildir deliveries by one process.
//!
//! Messages come in frames (`privsep::batch`) for as long as the other end keeps the pipe open.
//! Those that have arrived when no more input waits are settled together, sharing syncs, and
//! answered in order. A message is answered only once it is delivered or has failed; one that did
//! not arrive whole is not delivered at all.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::fd::AsFd;
use std::time::Duration;

use crate::config::Delivery;
use crate::config::specifier::Values;
use crate::privsep::batch::{Answer, CHUNK_MAX, Chunk, Head};
use crate::privsep::job::ChildJob;
use crate::sys::descriptors;
use crate::sys::poll::{Interest, PollFd, poll};
use crate::util::Line;
use crate::util::sysexits::{CONFIG, DATAERR, OK, TEMPFAIL};

use super::MdaError;
use super::maildir::{self, Draft, Target, Written};
use super::maildir_target::maildir_target;

/// The name in front of failures: that of the program that delivers a single message.
pub const NAME: &str = "mail.maildir";

/// Most messages settled at once. Each has its file, and perhaps a folder of its own, open until
/// then.
const GROUP_MAX: usize = 64;
/// Descriptors for everything else.
const OTHER_FILES: usize = 16;

type Outcome = (u32, Result<Written, MdaError>);

/// Delivers what comes from `input` until it ends.
pub fn serve(job: &ChildJob, home: &str, input: File, mut output: File) -> Result<(), MdaError> {
    let (Delivery::Maildir { .. }, None, None) = (&job.delivery, &job.wrapper, &job.job.command())
    else {
        return Err(MdaError::new(CONFIG, "only maildir actions take a batch"));
    };
    let mut input = BufReader::with_capacity(CHUNK_MAX, input);
    let mut chunk = vec![0; CHUNK_MAX];
    let mut group: Vec<Outcome> = Vec::new();
    let room = descriptors::limit().map_or(0, |all| all.saturating_sub(OTHER_FILES) / 2);
    let most = GROUP_MAX.min(room).max(1);
    loop {
        if group.len() >= most || (!group.is_empty() && !more_waits(&input)) {
            settle(&mut group, &mut output).map_err(broken)?;
        }
        let Some(head) = Head::read(&mut input).map_err(broken)? else {
            return settle(&mut group, &mut output).map_err(broken);
        };
        let draft = target(job, home, &head).and_then(|target| Draft::new(&target));
        let result = receive(&mut input, draft, &mut chunk).map_err(broken)?;
        group.push((head.sequence, result));
    }
}

fn more_waits(input: &BufReader<File>) -> bool {
    if !input.buffer().is_empty() {
        return true;
    }
    let mut fds = [PollFd::new(input.get_ref().as_fd(), Interest::Read)];
    poll(&mut fds, Some(Duration::ZERO)).is_ok_and(|ready| ready > 0)
}

fn target(job: &ChildJob, home: &str, head: &Head) -> Result<Target, MdaError> {
    let Delivery::Maildir { path, junk } = &job.delivery else {
        return Err(MdaError::new(CONFIG, "only maildir actions take a batch"));
    };
    let values = Values {
        sender: &head.sender,
        rcpt: &head.rcpt,
        dest: &head.dest,
        username: &job.job.user,
        directory: &job.home,
        delimiter: job.delimiter,
    };
    let subaddress = head.subaddress.as_ref();
    maildir_target(path.as_deref(), *junk, &values, home, subaddress)
}

/// Takes one body off the stream, all of it whatever happens; an error means the stream is lost.
fn receive(
    input: &mut impl Read,
    draft: Result<Draft, MdaError>,
    chunk: &mut [u8],
) -> io::Result<Result<Written, MdaError>> {
    let mut state = draft;
    loop {
        match Chunk::read(input)? {
            Chunk::End => return Ok(state.and_then(Draft::finish)),
            Chunk::Abort => return Ok(Err(MdaError::new(TEMPFAIL, "Error reading body"))),
            Chunk::Bytes(len) => {
                let bytes = chunk.get_mut(..len).ok_or(io::ErrorKind::InvalidData)?;
                input.read_exact(bytes)?;
                let written = match &mut state {
                    Ok(draft) => draft.write(bytes),
                    Err(_) => Ok(()),
                };
                if let Err(failure) = written {
                    state = Err(failure);
                }
            }
        }
    }
}

fn settle(group: &mut Vec<Outcome>, output: &mut File) -> io::Result<()> {
    let mut answers = Vec::with_capacity(group.len());
    let mut written = Vec::with_capacity(group.len());
    for (sequence, result) in group.drain(..) {
        answers.push((sequence, result.map(|message| written.push(message)).err()));
    }
    let settled = maildir::settle(written);
    let mut settled = settled.into_iter();
    let mut frames = Vec::new();
    for (sequence, failure) in answers {
        let failure = failure.or_else(|| match settled.next() {
            Some(Ok(())) => None,
            Some(Err(failure)) => Some(failure),
            None => Some(MdaError::new(TEMPFAIL, "not settled")),
        });
        answer(sequence, failure).write(&mut frames)?;
    }
    io::Write::write_all(output, &frames)
}

fn answer(sequence: u32, failure: Option<MdaError>) -> Answer {
    match failure {
        None => Answer {
            sequence,
            code: OK,
            text: Line::default(),
        },
        Some(failure) => Answer {
            sequence,
            code: failure.code,
            text: Line::sanitize(format!("{NAME}: {}", failure.text).as_bytes()),
        },
    }
}

fn broken(error: io::Error) -> MdaError {
    MdaError::new(DATAERR, format!("batch: {error}"))
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::mail::MailAddr;
    use crate::privsep::{MdaJob, MdaTask};

    fn job(path: &str) -> ChildJob {
        ChildJob {
            job: MdaJob {
                action: Line::new("local").unwrap(),
                user: Line::new("bob").unwrap(),
                task: MdaTask::Batch,
            },
            delivery: Delivery::Maildir {
                path: Line::new(path).ok(),
                junk: false,
            },
            own_forward: false,
            wrapper: None,
            user: Line::new("bob").unwrap(),
            home: "/".into(),
            uid: 0,
            libexec: PathBuf::new(),
            delimiter: '+',
        }
    }

    fn frame(out: &mut Vec<u8>, sequence: u32, local: &str, body: &[u8], end: Chunk) {
        let addr = MailAddr::new(local, "e.org").unwrap();
        let head = Head {
            sequence,
            subaddress: None,
            sender: MailAddr::null(),
            rcpt: addr.clone(),
            dest: addr,
        };
        head.encode(out);
        for part in body.chunks(5) {
            Chunk::Bytes(part.len()).encode(out);
            out.extend_from_slice(part);
        }
        end.encode(out);
    }

    fn serve_bytes(job: &ChildJob, bytes: &[u8]) -> (Result<(), MdaError>, Vec<Answer>) {
        let dir = tempfile::tempdir().unwrap();
        let (input, output) = (dir.path().join("in"), dir.path().join("out"));
        std::fs::write(&input, bytes).unwrap();
        let result = serve(
            job,
            "/",
            File::open(&input).unwrap(),
            File::create(&output).unwrap(),
        );
        let mut bytes = std::fs::read(&output).unwrap();
        let answers = std::iter::from_fn(|| Answer::take(&mut bytes).unwrap()).collect();
        (result, answers)
    }

    fn messages(folder: &Path) -> usize {
        std::fs::read_dir(folder.join("new")).map_or(0, Iterator::count)
    }

    #[test]
    fn each_message_has_its_path_and_its_answer_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_str().unwrap();
        std::fs::write(dir.path().join("file"), b"").unwrap();
        let job = job(&format!("{root}/%{{rcpt.user}}"));
        let mut bytes = Vec::new();
        frame(&mut bytes, 1, "ann", b"hello world", Chunk::End);
        frame(&mut bytes, 2, "file", b"no directory", Chunk::End);
        frame(&mut bytes, 3, "bob", b"", Chunk::End);
        frame(&mut bytes, 4, "bob", b"half", Chunk::Abort);
        frame(&mut bytes, 5, "..", b"out", Chunk::End);
        frame(&mut bytes, 6, "ann", b"again", Chunk::End);
        let (result, answers) = serve_bytes(&job, &bytes);
        result.unwrap();
        let codes: Vec<_> = answers.iter().map(|a| (a.sequence, a.code)).collect();
        assert_eq!(codes, [(1, 0), (2, 75), (3, 0), (4, 75), (5, 1), (6, 0)]);
        assert!(answers[1].text.starts_with("mail.maildir: "));
        assert!(answers[1].text.ends_with("/file/tmp: Not a directory"));
        assert_eq!(answers[3].text.as_str(), "mail.maildir: Error reading body");
        assert_eq!(messages(&dir.path().join("ann")), 2);
        assert_eq!(messages(&dir.path().join("bob")), 1);
    }

    #[test]
    fn a_message_cut_off_by_the_engines_death_is_not_delivered() {
        let dir = tempfile::tempdir().unwrap();
        let job = job(dir.path().to_str().unwrap());
        let mut bytes = Vec::new();
        frame(&mut bytes, 1, "ann", b"whole", Chunk::End);
        let whole = bytes.len();
        frame(&mut bytes, 2, "ann", b"to be cut", Chunk::End);
        for cut in whole + 1..bytes.len() {
            let (result, answers) = serve_bytes(&job, &bytes[..cut]);
            assert!(result.is_err() && answers.is_empty());
            assert_eq!(messages(dir.path()), 0);
        }
        let tmp = dir.path().join("tmp");
        assert_eq!(std::fs::read_dir(tmp).map_or(0, Iterator::count), 0);
    }

    #[test]
    fn only_plain_maildir_actions_take_a_batch() {
        let mut wrapped = job("/x");
        wrapped.wrapper = Line::new("x %{mda}").ok();
        assert_eq!(serve_bytes(&wrapped, b"").0.unwrap_err().code, 78);
        let mut mda = job("/x");
        mda.delivery = Delivery::Mda(Line::new("true").unwrap());
        assert_eq!(serve_bytes(&mda, b"").0.unwrap_err().code, 78);
    }
}
