//! A message on its way through the programs that want its lines.
//!
//! The programs are stages: what the first one says is said to the second, with the second one's
//! token, and what the last one says is the message. A stage says as many lines as it likes, when
//! it likes, and `.` ends what it says. Lines that wait for a program that does not read, and those
//! that wait for the session, lie in memory up to a bound and beyond that in a file without a name
//! (`Spill`), so that no program ever waits for another one, or for a client.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::mail::SessionId;
use crate::proc::stamp;
use crate::sys::{open, random};
use crate::util::Line;

use super::program::{Hears, Program};
use super::protocol::{self, Phase};

/// Something has changed: there are lines, the end, a failure, or room. It is called by threads of
/// programs, and must not wait.
pub type Notice = Box<dyn FnOnce() + Send>;

/// The lines of a message on their way through the programs of a chain.
pub struct Content {
    session: SessionId,
    stages: Vec<(Arc<Program>, u64)>,
    flow: Mutex<Flow>,
}

struct Flow {
    /// What waits for each stage.
    inputs: Vec<Spill>,
    /// What waits for the session.
    output: Spill,
    /// Bytes that each stage may still say.
    allowed: Vec<u64>,
    ended: bool,
    failed: Option<Line>,
    /// Whether the first stage was told something since the session last asked.
    moved: bool,
    notice: Option<Notice>,
}

/// What has become of a message so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// More will come.
    More,
    /// It is complete.
    End,
    /// It never will be, for this program's sake.
    Failed(Line),
}

impl Content {
    /// A message of `session` for these programs, each with a token that no other message has. What
    /// does not fit into memory goes into `dir`; a message that comes out of a program longer than
    /// `most_bytes` is no message.
    pub fn open(
        session: SessionId,
        programs: Vec<Arc<Program>>,
        dir: PathBuf,
        most_bytes: u64,
    ) -> Arc<Content> {
        let fresh = |program| (program, random::number_u64());
        let stages: Vec<_> = programs.into_iter().map(fresh).collect();
        let content = Arc::new(Content {
            session,
            flow: Mutex::new(Flow {
                inputs: stages.iter().map(|_| Spill::new(dir.clone())).collect(),
                output: Spill::new(dir),
                allowed: vec![most_bytes; stages.len()],
                ended: false,
                failed: None,
                moved: false,
                notice: None,
            }),
            stages,
        });
        for (number, (program, token)) in content.stages.iter().enumerate() {
            program.open(session, *token, content.clone(), number);
        }
        content
    }

    /// Takes lines, each with its LF, and gives them to the first stage.
    pub fn feed(&self, lines: &[u8]) {
        let mut flow = self.flow();
        if flow.failed.is_some() {
            return;
        }
        let kept = match flow.inputs.first_mut() {
            Some(input) => input.push(lines),
            None => Ok(()),
        };
        self.keep(&mut flow, 0, kept);
        let notice = self.pump(&mut flow, 0);
        drop(flow);
        tell(notice);
    }

    /// Whether more lines may be fed; otherwise [`Content::when_changed`] tells when to ask again.
    pub fn has_room(&self) -> bool {
        let mut flow = self.flow();
        let notice = self.pump(&mut flow, 0);
        flow.moved = false;
        let room =
            flow.failed.is_some() || flow.inputs.first().is_none_or(|input| input.len() < ROOM);
        drop(flow);
        tell(notice);
        room
    }

    /// Moves what has come out to the end of `text`, up to a bound.
    pub fn take(&self, text: &mut Vec<u8>) -> Progress {
        let mut flow = self.flow();
        if let Some(name) = &flow.failed {
            return Progress::Failed(name.clone());
        }
        let taken = flow.output.take_lines(TAKEN, text);
        self.keep(&mut flow, self.stages.len(), taken);
        match (&flow.failed, flow.ended && flow.output.len() == 0) {
            (Some(name), _) => Progress::Failed(name.clone()),
            (None, true) => Progress::End,
            (None, false) => Progress::More,
        }
    }

    /// Calls when there is something new; at once if there is now.
    pub fn when_changed(&self, notice: Notice) {
        let mut flow = self.flow();
        let first = self.pump(&mut flow, 0);
        let moved = std::mem::take(&mut flow.moved);
        let now = moved || flow.ended || flow.failed.is_some() || flow.output.len() > 0;
        if now {
            drop(flow);
            tell(first);
            return notice();
        }
        flow.notice = Some(notice);
        drop(flow);
        tell(first);
    }

    /// Says to stage `number` what waits for it, as far as it reads; its thread tells when it reads
    /// again.
    fn pump(&self, flow: &mut Flow, number: usize) -> Option<Notice> {
        let (program, token) = self.stages.get(number)?;
        let mut moved = false;
        while flow.failed.is_none() && program.proc().has_room() {
            let mut lines = Vec::new();
            let taken = match flow.inputs.get_mut(number) {
                Some(input) => input.take_lines(PIECE, &mut lines),
                None => Ok(()),
            };
            self.keep(flow, number, taken);
            if lines.is_empty() {
                break;
            }
            moved = true;
            let stamp = stamp();
            let mut said = Vec::with_capacity(lines.len() * 3);
            for line in lines.split_inclusive(|byte| *byte == b'\n') {
                let line = line.strip_suffix(b"\n").unwrap_or(line);
                let request =
                    protocol::request(&stamp, Phase::DataLine, self.session, *token, line);
                said.extend_from_slice(&request);
            }
            if program.proc().say(&said).is_err() {
                self.fail_in(flow, number);
            }
        }
        let moved = moved && number == 0;
        flow.moved |= moved;
        if moved || flow.failed.is_some() {
            flow.notice.take()
        } else {
            None
        }
    }

    /// What cannot be kept is lost, and with it the message.
    fn keep(&self, flow: &mut Flow, stage: usize, kept: io::Result<()>) {
        if let Err(error) = kept {
            crate::log::warn(format_args!("filter: session {}: {error}", self.session));
            self.fail_in(flow, stage.min(self.stages.len().saturating_sub(1)));
        }
    }

    fn fail_in(&self, flow: &mut Flow, stage: usize) {
        let name = self.stages.get(stage).map(|(program, _)| program.name());
        let name = name.cloned().unwrap_or_default();
        flow.failed.get_or_insert(name);
    }

    fn flow(&self) -> MutexGuard<'_, Flow> {
        self.flow.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody wants it any more.
    pub fn close(&self) {
        for (program, token) in &self.stages {
            program.close(self.session, *token);
        }
    }
}

impl Flow {
    /// Takes bytes off what a stage may still say, where there are so many.
    fn may_say(&mut self, stage: usize, bytes: u64) -> bool {
        let Some(allowed) = self.allowed.get_mut(stage) else {
            return false;
        };
        let left = allowed.checked_sub(bytes);
        *allowed = left.unwrap_or(0);
        left.is_some()
    }
}

impl Hears for Content {
    fn heard(&self, stage: usize, line: &[u8]) {
        let mut flow = self.flow();
        if flow.failed.is_some() {
            return;
        }
        let next = stage + 1;
        let mut passed = None;
        let last = next == self.stages.len();
        if last && flow.ended {
            // Behind its own end.
        } else if last && line == b"." {
            flow.ended = true;
        } else if flow.may_say(stage, line.len() as u64 + 1) {
            let kept = match flow.inputs.get_mut(next) {
                Some(input) => input.push_line(line),
                None => flow.output.push_line(line),
            };
            self.keep(&mut flow, next, kept);
            passed = self.pump(&mut flow, next);
        } else {
            self.fail_in(&mut flow, stage);
        }
        let changed = last || flow.failed.is_some();
        let notice = if changed { flow.notice.take() } else { None };
        // What this program has said makes it likely that it reads again.
        let first = self.pump(&mut flow, stage);
        drop(flow);
        tell(passed.or(notice));
        tell(first);
    }

    fn room(&self, stage: usize) {
        let mut flow = self.flow();
        let notice = self.pump(&mut flow, stage);
        drop(flow);
        tell(notice);
    }

    fn fail(&self, name: &Line) {
        let mut flow = self.flow();
        flow.failed.get_or_insert_with(|| name.clone());
        let notice = flow.notice.take();
        drop(flow);
        tell(notice);
    }
}

fn tell(notice: Option<Notice>) {
    if let Some(notice) = notice {
        notice();
    }
}

/// Bytes that wait for the first stage from which on the client waits.
const ROOM: u64 = 64 * 1024;
/// Bytes that a session takes at a time.
const TAKEN: usize = 64 * 1024;
/// Bytes that a program is given at a time.
const PIECE: usize = 32 * 1024;
/// Bytes that are kept in memory.
const MEMORY: usize = 256 * 1024;

/// Bytes in a row: the first in memory, and what does not fit there in a file.
struct Spill {
    memory: Vec<u8>,
    taken: usize,
    dir: PathBuf,
    file: Option<File>,
    /// What of the file is not taken.
    from: u64,
    to: u64,
}

impl Spill {
    fn new(dir: PathBuf) -> Spill {
        Spill {
            memory: Vec::new(),
            taken: 0,
            dir,
            file: None,
            from: 0,
            to: 0,
        }
    }

    fn len(&self) -> u64 {
        (self.memory.len() - self.taken) as u64 + (self.to - self.from)
    }

    fn push_line(&mut self, line: &[u8]) -> io::Result<()> {
        self.push(line)?;
        self.push(b"\n")
    }

    fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.from == self.to && self.memory.len() - self.taken + bytes.len() <= MEMORY {
            self.memory.extend_from_slice(bytes);
            return Ok(());
        }
        let file = match &self.file {
            Some(file) => file,
            None => self.file.insert(open::nameless(&self.dir)?),
        };
        file.write_all_at(bytes, self.to)?;
        self.to += bytes.len() as u64;
        Ok(())
    }

    /// Moves whole lines, about `most` bytes of them.
    fn take_lines(&mut self, most: usize, out: &mut Vec<u8>) -> io::Result<()> {
        if self.taken == self.memory.len() {
            self.refill()?;
        }
        let rest = self.memory.get(self.taken..).unwrap_or_default();
        let window = rest.get(..most).unwrap_or(rest);
        let end = match window.iter().rposition(|byte| *byte == b'\n') {
            Some(at) => at + 1,
            // A long line.
            None => match rest.iter().position(|byte| *byte == b'\n') {
                Some(at) => at + 1,
                None if self.from == self.to => 0,
                None => {
                    // Its end is in the file.
                    self.refill()?;
                    return if self.memory.len() - self.taken > LONGEST {
                        Err(io::Error::other("a line is too long"))
                    } else {
                        self.take_lines(most, out)
                    };
                }
            },
        };
        out.extend_from_slice(rest.get(..end).unwrap_or_default());
        self.taken += end;
        self.settle();
        Ok(())
    }

    /// Reads from the file what fits into memory.
    fn refill(&mut self) -> io::Result<()> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        let wanted = usize::try_from(self.to - self.from)
            .unwrap_or(MEMORY)
            .min(MEMORY);
        self.memory.drain(..self.taken);
        self.taken = 0;
        let start = self.memory.len();
        self.memory.resize(start + wanted, 0);
        if let Some(room) = self.memory.get_mut(start..) {
            file.read_exact_at(room, self.from)?;
        }
        self.from += wanted as u64;
        if self.from == self.to {
            (self.from, self.to) = (0, 0);
            file.set_len(0)?;
        }
        Ok(())
    }

    fn settle(&mut self) {
        if self.taken == self.memory.len() {
            self.memory.clear();
            self.taken = 0;
        } else if self.taken > MEMORY / 2 {
            self.memory.drain(..self.taken);
            self.taken = 0;
        }
    }
}

/// The longest line that waits in a file.
const LONGEST: usize = 2 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::util::dice::Dice;

    #[test]
    fn what_is_put_in_comes_out_in_its_order_whatever_is_in_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut dice = Dice::new(7);
        for _ in 0..20 {
            let mut spill = Spill::new(dir.path().to_owned());
            let (mut put, mut got) = (Vec::new(), Vec::new());
            for number in 0..200 {
                let mut line = vec![b'a' + (number % 26) as u8; dice.roll(20_000)];
                line.push(b'\n');
                spill.push(&line).unwrap();
                put.extend_from_slice(&line);
                if dice.roll(3) == 0 {
                    let before = got.len();
                    let most = 1 + dice.roll(50_000);
                    spill.take_lines(most, &mut got).unwrap();
                    assert!(got.len() == before || got.ends_with(b"\n"));
                }
            }
            while spill.len() > 0 {
                spill.take_lines(100_000, &mut got).unwrap();
            }
            assert!(put == got);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
