use std::fs::File;
use std::io::Write;

use crate::sys;

use super::*;

const KEY: &str = "0123456789abcdef0123456789abcdef";

fn codings() -> [Coding; 4] {
    let key = Key::new(KEY);
    [
        (false, None),
        (true, None),
        (false, key.clone()),
        (true, key),
    ]
    .map(|(compress, key)| Coding { compress, key })
}

fn reader() -> Coding {
    codings()[2].clone()
}

fn name() -> Name {
    Name(0x1a2b_3c4d_0000_0000)
}

fn file_with(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .chars()
        .map(|c| c.to_digit(16).unwrap() as u8)
        .collect();
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

/// A text that compresses, or one that does not.
fn text(length: usize, random: bool) -> Vec<u8> {
    let mut bytes = b"a line of mail\n".repeat(length / 15 + 1);
    bytes.truncate(length);
    if random {
        // A file begins with a field of ours; a first byte 0x01 is OpenSMTPD's mark of encryption.
        let noise = bytes.get_mut(1..).unwrap_or_default();
        sys::random::fill(noise).unwrap();
    }
    bytes
}

/// What a file holds after `pieces` of this size have been written to it.
fn written(coding: &Coding, text: &[u8], piece: usize) -> Vec<u8> {
    struct Shared(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);
    impl DiskFile for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(())
        }
        fn sync(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let bytes = std::sync::Arc::default();
    let file = Box::new(Shared(std::sync::Arc::clone(&bytes)));
    let mut writer = coding.writer(name(), file).unwrap();
    for piece in text.chunks(piece) {
        writer.write(piece).unwrap();
    }
    writer.finish().unwrap();
    writer.sync().unwrap();
    let bytes = bytes.lock().unwrap();
    bytes.clone()
}

fn read_back(coding: &Coding, bytes: &[u8]) -> Result<Vec<u8>, io::Error> {
    let mut body = coding.open(name(), file_with(bytes))?;
    let mut text = Vec::new();
    body.read_to_end(&mut text)?;
    assert_eq!(body.size_bytes()?, text.len() as u64);
    Ok(text)
}

#[test]
fn whatever_way_a_body_is_written_it_reads_back_byte_for_byte() {
    // smtpd.conf(5), queue compression, queue encryption: how files are kept, not what is in them.
    for length in [0, 1, 65_535, 65_536, 65_537, 131_072, 300_000] {
        for random in [false, true] {
            let text = text(length, random);
            for coding in codings() {
                let bytes = written(&coding, &text, 7919);
                let back = read_back(&reader(), &bytes).unwrap();
                assert!(back == text, "{coding:?}, {length} bytes");
            }
        }
    }
}

#[test]
fn envelopes_read_back_and_lie_in_the_form_that_was_asked_for() {
    let text = b"version: 3\ndispatcher: \"x\"\n".repeat(20);
    let forms = [Form::Plain, Form::Gzip, Form::Sealed, Form::Sealed];
    for (coding, form) in codings().iter().zip(forms) {
        let bytes = coding.encode(name(), &text).unwrap();
        assert_eq!(Form::of(&bytes), form);
        let back = reader().decode(name(), &bytes, text.len()).unwrap();
        assert_eq!(back, text);
    }
    let packed = codings()[1].encode(name(), &text).unwrap();
    let unpacked = reader().decode(name(), &packed, text.len() - 1);
    assert!(matches!(unpacked, Err(Unreadable::Damaged(_))));
}

#[test]
fn a_wrong_key_is_told_from_damage() {
    let bytes = reader().encode(name(), b"text").unwrap();
    let other = Coding {
        key: Key::new("another key of thirty-two bytes."),
        ..Coding::default()
    };
    for coding in [&other, &codings()[0]] {
        let decoded = coding.decode(name(), &bytes, 100);
        assert!(matches!(decoded, Err(Unreadable::Key(_))), "{decoded:?}");
        let opened = coding.open(name(), file_with(&bytes));
        assert!(matches!(opened, Err(Unreadable::Key(_))));
    }
    let elsewhere = reader().decode(Name(1), &bytes, 100);
    assert!(matches!(elsewhere, Err(Unreadable::Damaged(_))));
    assert!(Key::new("short").is_none());
    assert_eq!(format!("{:?}", Key::new(KEY)), "Some(********)");
}

#[test]
fn no_changed_byte_and_no_lost_end_is_taken_for_text() {
    for coding in &codings()[2..] {
        let text = text(1000, false);
        let whole = coding.encode(name(), &text).unwrap();
        for at in 0..whole.len() {
            let mut bent = whole.clone();
            bent[at] ^= 0x10;
            // Bent magic makes a plain file, whose text nobody takes for an envelope.
            let read = reader().decode(name(), &bent, 2000);
            assert!(at < 8 || read.is_err(), "byte {at}");
            let cut = reader().decode(name(), &whole[..at], 2000);
            assert!(at < 8 || cut.is_err(), "cut at {at}");
        }
    }
}

#[test]
fn a_body_that_ends_at_a_seam_or_whose_chunks_are_swapped_does_not_open() {
    let text = text(200_000, true);
    let whole = written(&reader(), &text, 10_000);
    let (header, chunk) = (48, 65_552);
    for chunks in 0..=3 {
        let cut = &whole[..header + chunks * chunk];
        assert!(read_back(&reader(), cut).is_err(), "{chunks} chunks");
    }
    let mut swapped = whole.clone();
    swapped[header..header + 2 * chunk].rotate_left(chunk);
    assert!(read_back(&reader(), &swapped).is_err());
    let longer = [&whole[..], b"x"].concat();
    assert!(read_back(&reader(), &longer).is_err());
    assert!(read_back(&reader(), &whole).unwrap() == text);
}

#[test]
fn a_compressed_body_that_is_cut_is_an_error_and_zcat_reads_a_whole_one() {
    let text = text(100_000, false);
    let coding = &codings()[1];
    let whole = written(coding, &text, 333);
    assert_eq!(whole[..3], GZIP);
    for cut in [whole.len() - 1, whole.len() - 8, whole.len() / 2, 11] {
        assert!(read_back(coding, &whole[..cut]).is_err(), "cut at {cut}");
    }
    let mut one = flate2::read::GzDecoder::new(&whole[..]);
    let mut back = Vec::new();
    one.read_to_end(&mut back).unwrap();
    assert!(back == text);
}

/// AES-256-GCM by OpenSSL, as OpenSMTPD calls it: 0x01, nonce, text (plain, or gzip), seal.
const OLD: &str = "01000102030405060708090a0b7e90d916bc7ba69688a47bb41ea3b5248b696aeb36c37e5e4d630ef0ec9fb5f65315a2300c";
const OLD_PACKED: &str = "01000102030405060708090a0b326eb37cd918d2acaa237a903c059b49c8b9512fdc5ebe44698d73f974e94d86bd8f6be134a017109149dbd168f17e41c8a3862994a61ffcd0";

#[test]
fn files_that_opensmtpd_has_encrypted_are_read() {
    for old in [OLD, OLD_PACKED] {
        let bytes = unhex(old);
        let text = b"Subject: x\n\nold mail\n";
        assert_eq!(reader().decode(name(), &bytes, 100).unwrap(), text);
        assert_eq!(read_back(&reader(), &bytes).unwrap(), text);
        let mut bent = bytes.clone();
        bent[20] ^= 1;
        let decoded = reader().decode(name(), &bent, 100);
        assert!(matches!(decoded, Err(Unreadable::Key(_))), "{decoded:?}");
        let cut = reader().decode(name(), &bytes[..20], 100);
        assert!(matches!(cut, Err(Unreadable::Damaged(_))), "{cut:?}");
    }
}
