//! What expansion yields.

use crate::util::Line;

use super::{Kind, MailAddr};

/// What becomes of a recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expanded {
    /// Where it leads, at least to one place.
    pub destinations: Vec<Destination>,
    /// The filters of its rule, by their name in the configuration.
    pub filter: Option<String>,
}

/// Without filters.
impl From<Vec<Destination>> for Expanded {
    fn from(destinations: Vec<Destination>) -> Expanded {
        Expanded {
            destinations,
            filter: None,
        }
    }
}

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
