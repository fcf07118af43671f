//! What is written is read, and what is not a database is seen as such.

use std::io::Cursor;

use crate::util::dice::Dice;

use super::{Bad, Reader, Writer};

fn database(records: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut writer = Writer::new(Cursor::new(Vec::new())).unwrap();
    for (key, value) in records {
        writer.add(key, value).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

type Pair = (Vec<u8>, Vec<u8>);

fn all(bytes: &[u8]) -> Result<Vec<Pair>, Bad> {
    let reader = Reader::open(bytes)?;
    let mut records = reader.records();
    let mut found = Vec::new();
    while let Some((key, value)) = records.next()? {
        found.push((key.to_vec(), value.to_vec()));
    }
    Ok(found)
}

#[test]
fn every_record_is_found_and_nothing_else() {
    let long = vec![b'x'; 300_000];
    let keys: Vec<String> = (0..5000).map(|n| format!("key{n}")).collect();
    let mut records: Vec<(&[u8], &[u8])> = vec![(b"", b""), (b"long", &long), (b"twice", b"1")];
    records.extend(keys.iter().map(|key| (key.as_bytes(), key.as_bytes())));
    records.push((b"twice", b"2"));
    let bytes = database(&records);
    let reader = Reader::open(&bytes[..]).unwrap();
    for (key, value) in &records[..records.len() - 1] {
        assert_eq!(reader.get(key).unwrap().as_deref(), Some(*value));
    }
    for missing in [&b"key"[..], b"key5000", b"Long", b"\0"] {
        assert_eq!(reader.get(missing).unwrap(), None);
    }
    let found = all(&bytes).unwrap();
    assert_eq!(found.len(), records.len());
    assert_eq!(found[1], (b"long".to_vec(), long.clone()));
    assert_eq!(all(&database(&[])).unwrap(), []);
}

// cdb(5): the bytes that every other writer makes of one record.
#[test]
fn the_format_is_the_one_that_is_described() {
    let bytes = database(&[(b"one", b"Hello")]);
    assert_eq!(&bytes[2048..2064], b"\x03\0\0\0\x05\0\0\0oneHello");
    // The hash of "one" is 0x0b875b81: table 0x81, and the second of its two slots.
    let slots = [[0; 8], *b"\x81\x5b\x87\x0b\0\x08\0\0"].concat();
    assert_eq!(&bytes[2064..2080], slots);
    assert_eq!(&bytes[8 * 0x81..8 * 0x81 + 8], b"\x10\x08\0\0\x02\0\0\0");
    assert_eq!(bytes.len(), 2080);
}

#[test]
fn a_file_that_is_cut_off_is_no_database() {
    let bytes = database(&[(b"a", b"1"), (b"b", b"2")]);
    for end in 0..bytes.len() {
        assert!(Reader::open(&bytes[..end]).is_err(), "{end}");
    }
    let mut longer = bytes;
    longer.push(0);
    assert!(Reader::open(&longer[..]).is_err());
}

// makemap(8): a file of another program is named as such.
#[test]
fn berkeley_db_is_recognised() {
    let mut bytes = vec![0; 4096];
    for (at, magic) in [
        (0, 0x0006_1561_u32.to_le_bytes()),
        (0, 0x0006_1561_u32.to_be_bytes()),
        (0, 0x0005_3162_u32.to_be_bytes()),
        (12, 0x0006_1561_u32.to_le_bytes()),
    ] {
        bytes.fill(0);
        bytes[at..at + 4].copy_from_slice(&magic);
        assert!(matches!(Reader::open(&bytes[..]), Err(Bad::BerkeleyDb)));
    }
    bytes.fill(b'x');
    assert!(matches!(Reader::open(&bytes[..]), Err(Bad::Format)));
}

#[test]
fn no_bytes_make_it_panic_or_search_for_ever() {
    let keys: Vec<String> = (0..40).map(|n| format!("k{n}")).collect();
    let records: Vec<(&[u8], &[u8])> = keys
        .iter()
        .map(|key| (key.as_bytes(), &b"value"[..]))
        .collect();
    let good = database(&records);
    let mut dice = Dice::new(1);
    for _ in 0..3000 {
        let mut bytes = good.clone();
        for _ in 0..=dice.roll(6) {
            let at = dice.roll(bytes.len());
            bytes[at] = dice.number() as u8;
        }
        bytes.truncate(good.len() - dice.roll(3));
        if let Ok(reader) = Reader::open(&bytes[..]) {
            for key in &keys {
                let _ = reader.get(key.as_bytes());
            }
        }
        let _ = all(&bytes);
    }
}
