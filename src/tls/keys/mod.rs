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

pub use holder::{Holder, Keys};

/// Longest packet, in bytes: what is signed in TLS 1.2 is all of the handshake so far.
pub const PACKET_MAX: usize = 64 * 1024;
/// Most questions of an engine at a time.
const LINES_MAX: usize = 16;
/// Most signature schemes of one key.
const SCHEMES_MAX: u32 = 64;

/// What the engine asks.
#[derive(Debug, PartialEq, Eq)]
enum Question<'q> {
    /// The schemes that the key called so can sign with.
    Schemes(&'q str),
    /// A signature.
    Sign {
        key: &'q str,
        scheme: SignatureScheme,
        message: &'q [u8],
    },
}

/// What it is told.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Schemes(Vec<SignatureScheme>),
    Signature(Vec<u8>),
    /// There is no such key, or it cannot do that.
    No,
}

impl Question<'_> {
    fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        match self {
            Question::Schemes(key) => {
                w.u8(1);
                w.text(key);
            }
            Question::Sign {
                key,
                scheme,
                message,
            } => {
                w.u8(2);
                w.text(key);
                w.u32(u32::from(u16::from(*scheme)));
                w.bytes(message);
            }
        }
        w.into_bytes()
    }

    fn decode(packet: &[u8]) -> Result<Question<'_>, Bad> {
        let mut r = Reader::new(packet);
        let question = match r.u8()? {
            1 => Question::Schemes(r.text()?),
            2 => Question::Sign {
                key: r.text()?,
                scheme: scheme(&mut r)?,
                message: r.bytes()?,
            },
            _ => return Err(Bad::Value),
        };
        r.end()?;
        Ok(question)
    }
}

impl Answer {
    fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        match self {
            Answer::Schemes(schemes) => {
                w.u8(1);
                w.u32(schemes.len() as u32);
                for scheme in schemes {
                    w.u32(u32::from(u16::from(*scheme)));
                }
            }
            Answer::Signature(signature) => {
                w.u8(2);
                w.bytes(signature);
            }
            Answer::No => w.u8(3),
        }
        w.into_bytes()
    }

    fn decode(packet: &[u8]) -> Result<Answer, Bad> {
        let mut r = Reader::new(packet);
        let answer = match r.u8()? {
            1 => {
                let count = r.u32()?;
                if count > SCHEMES_MAX {
                    return Err(Bad::Value);
                }
                let schemes = (0..count)
                    .map(|_| scheme(&mut r))
                    .collect::<Result<_, _>>()?;
                Answer::Schemes(schemes)
            }
            2 => Answer::Signature(r.bytes()?.to_vec()),
            3 => Answer::No,
            _ => return Err(Bad::Value),
        };
        r.end()?;
        Ok(answer)
    }
}

fn scheme(r: &mut Reader<'_>) -> Result<SignatureScheme, Bad> {
    let number = u16::try_from(r.u32()?).map_err(|_| Bad::Value)?;
    Ok(SignatureScheme::from(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_cross_whole_or_not_at_all() {
        let questions = [
            Question::Schemes("mx.example.org"),
            Question::Sign {
                key: "mx.example.org",
                scheme: SignatureScheme::ED25519,
                message: b"to be signed",
            },
        ];
        for question in questions {
            let packet = question.encode();
            assert_eq!(Question::decode(&packet), Ok(question));
            for cut in 0..packet.len() {
                assert!(Question::decode(&packet[..cut]).is_err());
            }
        }
        let answers = [
            Answer::Schemes(vec![SignatureScheme::RSA_PSS_SHA256]),
            Answer::Signature(vec![7; 300]),
            Answer::No,
        ];
        for answer in answers {
            let packet = answer.encode();
            for cut in 0..packet.len() {
                assert!(Answer::decode(&packet[..cut]).is_err());
            }
            assert_eq!(Answer::decode(&packet), Ok(answer));
        }
    }
}
