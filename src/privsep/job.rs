//! What a delivery child is told once it has become the recipient.

use std::path::PathBuf;

use crate::config::Delivery;
use crate::util::Line;

use super::MdaJob;

/// A delivery, with what the parent found under the names in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildJob {
    /// The request.
    pub job: MdaJob,
    /// The action's method.
    pub delivery: Delivery,
    /// The text of the action's wrapper.
    pub wrapper: Option<Line>,
    /// Who the child runs as, by name: the action's `user`, else the recipient user.
    pub user: Line,
    /// The recipient user's home, as the userbase has it.
    pub home: String,
    /// Who the child runs as, by number.
    pub uid: u32,
    /// Where the mail.* helpers are.
    pub libexec: PathBuf,
}
