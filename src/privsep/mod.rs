//! The wire between the parent and the engine: the whole privileged surface.
//!
//! One SOCK_SEQPACKET socket pair, one frame per packet, descriptors attached to the frame that
//! names them. Requests name things (an action, a user), never commands built from mail.

#![forbid(unsafe_code)]

pub mod reply;
pub mod request;

pub use reply::{MdaEnd, Reply};
pub use request::{MdaJob, Request};
