//! The privileged parent: one thread, no mail bytes.
//!
//! It binds sockets, starts the engine and starts it again when it dies, starts deliveries as their
//! recipients, opens their .forward, and replays what sendmail(8) stored while nothing ran.
//! Children are always fork and exec of a program. It parses nothing that a stranger wrote:
//! requests name things, and an engine whose request is malformed is killed and started anew.

#![forbid(unsafe_code)]

use std::path::PathBuf;

use crate::config::{Config, Paths};
use crate::log::Target;
use crate::privsep::Handover;
use crate::util::Secret;

pub mod auth;
pub mod built_in;
mod children;
mod chores;
mod forward;
mod held;
pub mod helpers;
mod keys;
mod link;
mod listeners;
pub mod looks;
mod mda;
mod offline;
pub mod purge;
mod question;
mod serve;
mod spool;
mod start;
mod takeover;
mod user_programs;
mod userbase;

pub use listeners::check_listeners;
pub use offline::REPLAY_TIME;
pub use question::OwnForwards;

/// How the daemon was asked to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where its files are.
    pub paths: Paths,
    /// Our own program, absolute.
    pub exe: PathBuf,
    /// Into the background, or not.
    pub ground: Ground,
    /// Where lines go.
    pub log: Target,
    /// Words of `-T`, for the engine.
    pub traces: Vec<String>,
    /// `-P mda`, and what smtpctl(8) has made of it.
    pub pause_mda: bool,
    /// `-P mta`, the same.
    pub pause_mta: bool,
    /// `-P smtp`, the same.
    pub pause_smtp: bool,
    /// The key of `queue encryption`, where smtpd.conf does not hold it.
    pub queue_key: Option<Secret>,
    /// `-q`: end when the queue has been run once.
    pub run_once: bool,
}

/// Whether the daemon leaves its terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// It stays.
    Fore,
    /// It leaves.
    Back,
}

/// Reads the configuration's files, or takes them from a hand-over, and checks all that can be
/// checked before they are used.
pub type Reread = Box<dyn Fn(Option<Handover>) -> Result<(Handover, Config), Vec<String>>>;

/// Runs the daemon until it is told to stop; says what to exit with. Before it goes into the
/// background, what is wrong is said on standard error.
pub fn run(options: Options, handover: &Handover, config: Config, reread: Reread) -> i32 {
    match start::start(options, handover, config, reread) {
        Ok(parent) => parent.run(),
        Err(why) => {
            crate::log::fatal(format_args!("{why}"));
            1
        }
    }
}
