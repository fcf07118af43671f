//! What expansion yields.

use crate::util::Line;

use super::{Kind, MailAddr};

/// One final destination of a recipient; becomes one envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The action that settles it.
    pub action: Line,
    /// The address it came from, after expansion.
    pub dest: MailAddr,
    /// [`Kind::Local`] or [`Kind::Relay`].
    pub kind: Kind,
    /// Whether it is the product of forwarding.
    pub internal: bool,
    /// The same for destinations of one message that are one: nothing that the delivery sees tells
    /// them apart.
    pub sameness: String,
}
