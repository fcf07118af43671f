//! Reading what OpenSMTPD has encrypted: one seal over the whole file.
//!
//! `0x01`, a nonce of 12 bytes, the text under AES-256-GCM with the configured key as it is, and 16
//! bytes of seal. Nothing of it can be trusted before all has been read, so it is held in memory;
//! such files are never written. The form does not tell a wrong key from damage, and the mail may
//! be good: it counts as a wrong key.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use super::seal::{Key, TAG_BYTES};
use super::{Source, Unreadable, fill_at};

/// The largest file that is read.
const MAX_BYTES: u64 = 256 * 1024 * 1024;

/// All of a file.
pub(super) fn read(source: &Source) -> Result<Vec<u8>, Unreadable> {
    let length = source.size_bytes()?;
    if length > MAX_BYTES {
        return Err(Unreadable::Key(format!(
            "OpenSMTPD has encrypted it as a whole, and it is larger than {MAX_BYTES} bytes: have \
             OpenSMTPD deliver it"
        )));
    }
    let mut bytes = vec![0; length as usize];
    let count = fill_at(source, &mut bytes, 0)?;
    bytes.truncate(count);
    Ok(bytes)
}

/// The text in a file's bytes.
pub(super) fn open(key: &Key, mut bytes: Vec<u8>) -> Result<Vec<u8>, Unreadable> {
    let nonce: Option<[u8; NONCE_LEN]> = bytes
        .get(1..=NONCE_LEN)
        .and_then(|nonce| nonce.try_into().ok());
    let Some(nonce) = nonce.filter(|_| bytes.len() > NONCE_LEN + TAG_BYTES) else {
        return Err(Unreadable::Damaged("it ends early".to_owned()));
    };
    let unbound = UnboundKey::new(&AES_256_GCM, key.bytes());
    let unbound = unbound.map_err(|_| unopened())?;
    let sealed = bytes.split_off(1 + NONCE_LEN);
    open_in_place(&LessSafeKey::new(unbound), nonce, sealed)
}

fn open_in_place(
    key: &LessSafeKey,
    nonce: [u8; NONCE_LEN],
    mut sealed: Vec<u8>,
) -> Result<Vec<u8>, Unreadable> {
    let nonce = Nonce::assume_unique_for_key(nonce);
    let length = key
        .open_in_place(nonce, Aad::empty(), &mut sealed)
        .map_err(|_| unopened())?
        .len();
    sealed.truncate(length);
    Ok(sealed)
}

fn unopened() -> Unreadable {
    Unreadable::Key(
        "OpenSMTPD has encrypted it, with another key or it has been damaged since".to_owned(),
    )
}
