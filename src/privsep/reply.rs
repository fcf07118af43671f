//! What the parent answers, and what it tells the engine at its start.

use super::{Extent, HomeState};
use crate::util::Line;
use crate::util::Secret;

/// From the parent to the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// One descriptor comes with it: an unlinked file with the configuration's sources.
    Config,
    /// One descriptor comes with it: a bound, listening socket for listener number `index` of the
    /// configuration. One listener may have several.
    Listener {
        /// Position in `Config::listeners`.
        index: u32,
    },
    /// One descriptor comes with it: the bound, listening control socket.
    Control,
    /// The key of `queue encryption`, where it is not in the configuration. It goes this way alone:
    /// no argument, variable or file holds it.
    QueueKey(Secret),
    /// All descriptors have been sent: serve.
    Start {
        /// Debug lines wanted.
        verbose: bool,
        /// `-P mda`.
        pause_mda: bool,
        /// `-P mta`.
        pause_mta: bool,
        /// `-P smtp`.
        pause_smtp: bool,
        /// `-q`: run the queue once, then say `Finished`.
        run_once: bool,
    },
    /// The delivery was not started.
    MdaRefused {
        id: u32,
        why: MdaRefusal,
    },
    /// The delivery has ended.
    MdaDone {
        id: u32,
        end: MdaEnd,
    },
    /// A helper runs.
    HelperStarted {
        id: u32,
        /// Its process.
        pid: u32,
    },
    /// A helper was not started.
    HelperRefused {
        id: u32,
        text: Line,
    },
    HelperEnded {
        id: u32,
        end: MdaEnd,
    },
    /// A user's .forward.
    Forward {
        id: u32,
        found: ForwardFound,
    },
    /// Whether a password is that of a user of the system.
    Password {
        id: u32,
        /// What the system says.
        verdict: PasswordVerdict,
    },
    /// One descriptor comes with it: a socket to the process that holds private keys, the first or
    /// a new one.
    Keys,
    /// Ask for a reload: SIGHUP has come, or certificates have changed.
    Hangup(Extent),
    /// One descriptor comes with it: an unlinked file with the sources of a new configuration. If
    /// it has other private keys a second one does: a socket to the process that holds those.
    NewConfig {
        id: u32,
        /// Whether there is a socket.
        keys: bool,
        /// How many `Listener` have come before, for this configuration.
        listeners: u32,
    },
    /// The files make no configuration, or none that can be taken over without a restart.
    BadConfig {
        id: u32,
        text: String,
    },
    /// Finish what is being answered, record outcomes, and exit.
    Shutdown,
}

/// Why a delivery is not started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MdaRefusal {
    /// The userbase has no such user.
    NoUser,
    /// The userbase could not be asked.
    NoLookup,
    /// Anything else, in terms of what a delivery program would have exited with.
    Exit {
        /// A sysexits(3) code.
        code: i32,
        text: Line,
    },
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MdaEnd {
    /// With this exit code.
    Exited(i32),
    /// Killed by this signal.
    Signaled(i32),
    /// Killed by the parent because its time was over.
    TimedOut,
}

/// What the parent says of a user's .forward.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForwardFound {
    /// There is none.
    Absent {
        /// What the home was before it was looked at, if that may be compared.
        home: Option<HomeState>,
    },
    /// One descriptor comes with it: the file, open for reading.
    Opened,
    /// There is one that cannot be used, or nobody can say now.
    Unusable { text: Line },
}

/// What the system says of a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PasswordVerdict {
    /// It is the user's, who may log in.
    Right,
    /// It is not, or there is no such user.
    Wrong,
    /// Nobody can say now.
    Unknown { text: Line },
}
