//! Private keys and the process that holds them.
//!
//! `smtpd -x keys` is given the keys by the parent ([`agent`]), has no files and no network, and
//! signs. The engine has certificates only; a [`Holder`] stands for the key of one of them and asks
//! for each signature. An engine that was broken into can have things signed while it lives, and
//! cannot take a key away.
//!
//! One packet is one question and one is its answer. A socket carries one question at a time; an
//! engine that has several makes more sockets, and gives the process their other ends over the one
//! that the parent has given it. The keys' process answers at once, each socket by a thread of its
//! own; an engine that gets no answer in time fails the handshake.

pub mod agent;
mod holder;

use rustls::SignatureScheme;

use crate::util::frame::{Bad, Reader, Writer};
use crate::util::wire::{Each, Form, Wire, wire};

pub use holder::{Holder, Keys};

/// Longest packet, in bytes: what is signed in TLS 1.2 is all of the handshake so far.
pub const PACKET_MAX: usize = 64 * 1024;
/// Most questions of an engine at a time.
const LINES_MAX: usize = 16;

/// What the engine asks.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Question {
    /// The schemes that the key called so can sign with.
    Schemes(String),
    /// A signature.
    Sign {
        key: String,
        scheme: SignatureScheme,
        message: Vec<u8>,
    },
}

/// What it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    Schemes(Vec<SignatureScheme>),
    Signature(Vec<u8>),
    /// There is no such key, or it cannot do that.
    No,
}

wire! {
    enum Question {
        1 = Schemes(key),
        2 = Sign { key, scheme as Scheme, message },
    }
}

wire! {
    enum Answer {
        1 = Schemes(schemes as Each<Scheme>),
        2 = Signature(signature),
        3 = No,
    }
}

/// A scheme by its number in TLS.
struct Scheme;

impl Form<SignatureScheme> for Scheme {
    fn write(scheme: &SignatureScheme, w: &mut Writer) {
        u16::from(*scheme).write(w);
    }

    fn read(r: &mut Reader<'_>) -> Result<SignatureScheme, Bad> {
        u16::read(r).map(SignatureScheme::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_cross_whole_or_not_at_all() {
        let questions = [
            Question::Schemes("mx.example.org".to_owned()),
            Question::Sign {
                key: "mx.example.org".to_owned(),
                scheme: SignatureScheme::ED25519,
                message: b"to be signed".to_vec(),
            },
        ];
        for question in questions {
            let packet = question.to_bytes();
            assert_eq!(Question::from_bytes(&packet), Ok(question));
            for cut in 0..packet.len() {
                assert!(Question::from_bytes(&packet[..cut]).is_err());
            }
        }
        let answers = [
            Answer::Schemes(vec![SignatureScheme::RSA_PSS_SHA256]),
            Answer::Signature(vec![7; 300]),
            Answer::No,
        ];
        for answer in answers {
            let packet = answer.to_bytes();
            for cut in 0..packet.len() {
                assert!(Answer::from_bytes(&packet[..cut]).is_err());
            }
            assert_eq!(Answer::from_bytes(&packet), Ok(answer));
        }
    }
}
