//! The field's words as values: no files, no sockets, no clock.

#![forbid(unsafe_code)]

pub mod address;
pub mod destination;
pub mod dsn;
pub mod envelope;
pub mod facts;
pub mod ids;
pub mod item;
pub mod literal;
pub mod outcome;
pub mod peer;
pub mod refusal;
pub mod supposed;
mod wire;
#[cfg(test)]
pub(crate) mod samples;
pub mod srs;

pub use address::MailAddr;
pub use destination::{Destination, Expanded};
pub use dsn::{Dsn, Notify, Ret};
pub use envelope::{BounceKind, Command, Envelope, Flags, Kind, Local, Past};
pub use facts::Facts;
pub use ids::{EvpId, MsgId, SessionId};
pub use literal::Literal;
pub use outcome::{DsnOffer, Outcome, Remote, Status, Verdict};
pub use peer::Peer;
pub use refusal::Refusal;
pub use supposed::Supposed;
