//! What the engine may ask of the parent. This list is closed.

use crate::mail::{Command, MailAddr};
use crate::util::{Line, Secret};

/// A request; its answer carries the same `id`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Start a local delivery. Two descriptors come with it: the message to read (the child's
    /// standard input, in chunks as in [`super::batch`], so that an engine or parent that dies
    /// half-way does not make a part of a message look like all of it) and where its output goes.
    /// Answered by `MdaRefused` or `MdaDone`.
    StartMda {
        /// Names the delivery in the answer and in `KillMda`.
        id: u32,
        /// What to deliver.
        job: MdaJob,
    },
    /// End a delivery that is no longer wanted; its `MdaDone` follows.
    KillMda {
        /// The delivery.
        id: u32,
    },
    /// Start the program behind a table or a filter of the configuration. Two descriptors come with
    /// it: its standard input and output, and its standard error. Answered by `HelperStarted` and
    /// then `HelperEnded`, or by `HelperRefused`. The parent ends it when the engine has ended.
    StartHelper {
        /// Names it in the answers and in `KillHelper`.
        id: u32,
        helper: Helper,
    },
    /// End a helper; its `HelperEnded` follows.
    KillHelper {
        /// The helper.
        id: u32,
    },
    /// Open a user's .forward. No path is told: the parent finds the user in the action's userbase
    /// and looks only where the user's home is. Answered by `Forward`.
    OpenForward {
        id: u32,
        action: Line,
        /// The user, a key of the action's userbase.
        user: Line,
    },
    /// Check the password of a user of the system. Both come from a stranger; the parent hands them
    /// to a child of its own unread. Answered by `Password`.
    CheckPassword {
        id: u32,
        user: Line,
        password: Secret,
    },
    /// `smtpctl update table`: the parent reads its own copies again, one of users and one for the
    /// next engine, and tells its own program.
    UpdateTable { table: Line },
    /// `smtpctl log`, `pause` and `resume`: the parent follows, and so does the next engine.
    Set { what: Setting, on: bool },
    /// Read and check the configuration afresh, or its certificates alone. Answered by `NewConfig`
    /// or `BadConfig`; whatever is answered, the old one is in use until `Reloaded`.
    Reload {
        id: u32,
        /// Which files.
        extent: Extent,
    },
    /// Whether the engine uses the configuration that `NewConfig` brought. The parent does the
    /// same.
    Reloaded(bool),
    /// The engine is up and serves.
    Ready,
    /// `smtpd -q`: the queue has been run; end the service.
    Finished,
}

/// What of a configuration is read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All files.
    All,
    /// Certificates, keys and authorities.
    Certificates,
}

/// What smtpctl(8) switches on and off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Setting {
    /// Lines at debug level.
    Verbose,
    /// No local delivery starts.
    PauseMda,
    /// No transfer to another host starts.
    PauseMta,
    /// Nothing is taken in.
    PauseSmtp,
}

/// A program that the configuration names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Helper {
    /// The one behind this table.
    Table(Line),
    /// The one of this `proc`, or of the `proc-exec` of this filter.
    Proc(Line),
}

/// A local delivery, described by names. The parent finds the action in its own configuration,
/// the user in the system, and hands the texts to a child that has already become the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MdaJob {
    pub action: Line,
    /// The recipient user, a key of the action's userbase.
    pub user: Line,
    /// What the child is for.
    pub task: MdaTask,
}

/// What a child does that has become the recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MdaTask {
    /// It delivers one message, in the action's way or by a command.
    Single(Box<Single>),
    /// It takes many messages, which bring their own addresses, in the frames of [`super::batch`].
    /// Only an action `maildir` without a wrapper has one.
    Batch,
    /// It connects to the socket of an action `lmtp` without a wrapper, sends the connection
    /// through its standard input, which is one end of `sys::fdpass`, and is done.
    Connection,
}

/// One message for one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Single {
    /// What followed the sub-address delimiter.
    pub subaddress: Option<Line>,
    /// A pipe or file from an alias or .forward, in place of the action's method.
    pub command: Option<Command>,
    /// The reverse-path.
    pub sender: MailAddr,
    /// The recipient as RCPT TO gave it.
    pub rcpt: MailAddr,
    /// The recipient after expansion.
    pub dest: MailAddr,
}

impl MdaJob {
    /// The pipe or file that takes the place of the action's method.
    pub fn command(&self) -> Option<&Command> {
        match &self.task {
            MdaTask::Single(single) => single.command.as_ref(),
            MdaTask::Batch | MdaTask::Connection => None,
        }
    }
}
