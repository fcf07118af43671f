//! The client's side of SMTP (RFC 5321) and LMTP (RFC 2033): for relays, `lmtp` actions and
//! mail.lmtp.
//!
//! ```text
//! let socket = Socket::tcp(to, source, hello.timeouts.connect)?;
//! let mut session = Session::open(Box::new(socket), Opening { hello, name, upgrade, tap })?;
//! while session.can_take_more() {
//!     let transacted = session.transaction(&message, recipients);
//! }
//! session.quit();
//! ```
//!
//! [`engine`] is the conversation, without a connection; [`Session`] drives it over a [`Stream`]
//! and blocks the calling thread, in no phase longer than [`Timeouts`] allows. TLS comes in by the
//! trait [`Upgrade`].
//!
//! Promises: each recipient that was tried has exactly one outcome, and `Delivered` only where
//! the server said 2xx behind the final dot. A message is never ended when it could not be read
//! to its end. What is sent has CR and LF only together and no lone dot but the last. Credentials
//! go over TLS only. Whatever the server sends, memory and time are bounded, and it costs at most
//! this session.
//!
//! It resolves no names, chooses no routes, and writes no log.

#![forbid(unsafe_code)]

pub mod engine;
pub mod event;
pub mod extensions;
pub mod error;
pub mod order;
pub mod reply;
pub mod secure;
pub mod session;
pub mod stream;

#[cfg(test)]
mod tests;

pub use error::{NotSecured, SessionError, Stage};
pub use event::{Event, Login, Tap};
pub use extensions::Extensions;
pub use order::{
    Content, Credentials, Hello, Message, Protocol, Recipient, Timeouts, Tls, Transacted,
};
pub use reply::{Class, Reply};
pub use secure::Secure;
pub use session::{Follow, Opening, Session};
pub use stream::{Secured, Socket, Stream, Upgrade};
