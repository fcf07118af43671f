//! Numbers, flags and texts in a row of bytes: what goes over our own sockets is made of these.
//!
//! Numbers are little-endian, a text stands behind its length (u32), a flag is 0 or 1 and nothing
//! else. A frame begins with the length of what follows (u32) and a version. Reading is strict, so
//! that no two rows mean the same; it never reads past the end and allocates nothing.

use std::fmt;

use super::Line;

/// How a row of bytes is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bad {
    /// It ends inside a field.
    Short,
    /// Bytes are left behind the last field.
    Trailing,
    /// A field holds what it must not.
    Value,
    /// No kind of value has this number.
    Kind(u8),
}

/// Bytes in front of a frame's version: its length.
pub const LENGTH_BYTES: usize = 4;

/// Puts fields one behind the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Writer {
    bytes: Vec<u8>,
    most_bytes: Option<usize>,
}

impl Writer {
    /// The start of a frame: room for the length, then the version.
    pub fn frame(version: u8) -> Writer {
        Writer {
            bytes: vec![0, 0, 0, 0, version],
            most_bytes: None,
        }
    }

    /// Begins a frame of `most_bytes` at most, its length not counted, in which lists end early.
    pub fn bounded_frame(version: u8, most_bytes: usize) -> Writer {
        Writer {
            most_bytes: Some(most_bytes),
            ..Writer::frame(version)
        }
    }

    /// A byte.
    pub fn u8(&mut self, n: u8) {
        self.bytes.push(n);
    }

    /// A number.
    pub fn u32(&mut self, n: u32) {
        self.bytes.extend_from_slice(&n.to_le_bytes());
    }

    /// A number.
    pub fn u64(&mut self, n: u64) {
        self.bytes.extend_from_slice(&n.to_le_bytes());
    }

    /// A number.
    pub fn i32(&mut self, n: i32) {
        self.bytes.extend_from_slice(&n.to_le_bytes());
    }

    /// Yes or no.
    pub fn flag(&mut self, flag: bool) {
        self.u8(u8::from(flag));
    }

    /// Bytes behind their length. More than a u32 can count cannot be read back; every row has a
    /// bound far below.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.bytes.extend_from_slice(bytes);
    }

    /// A text.
    pub fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    /// A text of one line.
    pub fn line(&mut self, line: &Line) {
        self.text(line);
    }

    /// A flag, and the value if there is one.
    pub fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Writer, T)) {
        self.flag(value.is_some());
        if let Some(value) = value {
            write(self, value);
        }
    }

    /// A count, and as many of `items` as fit.
    pub fn list<T>(&mut self, items: &[T], write: impl Fn(&mut Writer, &T)) {
        let count_at = self.bytes.len();
        self.u32(0);
        let mut count: u32 = 0;
        for item in items {
            let before = self.bytes.len();
            write(self, item);
            let length = self.bytes.len() - LENGTH_BYTES;
            if self.most_bytes.is_some_and(|most| length > most) {
                self.bytes.truncate(before);
                break;
            }
            count += 1;
        }
        self.put(count_at, count);
    }

    /// The whole frame, its length filled in.
    pub fn into_frame(mut self) -> Vec<u8> {
        let length = self.bytes.len().saturating_sub(LENGTH_BYTES);
        self.put(0, u32::try_from(length).unwrap_or(u32::MAX));
        self.bytes
    }

    /// The fields alone.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    fn put(&mut self, at: usize, n: u32) {
        for (to, from) in self.bytes.iter_mut().skip(at).zip(n.to_le_bytes()) {
            *to = from;
        }
    }
}

/// Takes fields off the front.
#[derive(Clone, Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// At the first field of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader(bytes)
    }

    /// A byte.
    pub fn u8(&mut self) -> Result<u8, Bad> {
        self.array::<1>().map(|[n]| n)
    }

    /// A number.
    pub fn u32(&mut self) -> Result<u32, Bad> {
        self.array().map(u32::from_le_bytes)
    }

    /// A number.
    pub fn u64(&mut self) -> Result<u64, Bad> {
        self.array().map(u64::from_le_bytes)
    }

    /// A number.
    pub fn i32(&mut self) -> Result<i32, Bad> {
        self.array().map(i32::from_le_bytes)
    }

    /// Yes or no.
    pub fn flag(&mut self) -> Result<bool, Bad> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Bad::Value),
        }
    }

    /// Bytes behind their length.
    pub fn bytes(&mut self) -> Result<&'a [u8], Bad> {
        let length = usize::try_from(self.u32()?).map_err(|_| Bad::Short)?;
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(Bad::Short)?;
        self.0 = rest;
        Ok(bytes)
    }

    /// A text.
    pub fn text(&mut self) -> Result<&'a str, Bad> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Bad::Value)
    }

    /// A text of one line.
    pub fn line(&mut self) -> Result<Line, Bad> {
        Line::new(self.text()?).map_err(|_| Bad::Value)
    }

    /// A flag, and the value if there is one.
    pub fn option<T, E: From<Bad>>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<Option<T>, E> {
        self.flag()?.then(|| read(self)).transpose()
    }

    /// Nothing is left.
    pub fn end(&self) -> Result<(), Bad> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Bad::Trailing)
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Bad> {
        let (head, rest) = self.0.split_first_chunk().ok_or(Bad::Short)?;
        self.0 = rest;
        Ok(*head)
    }
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Bad::Short => "message too short",
            Bad::Trailing | Bad::Value | Bad::Kind(_) => "bogus data",
        })
    }
}

impl std::error::Error for Bad {}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut w = Writer::default();
        w.u8(7);
        w.u32(0x0102_0304);
        w.u64(u64::MAX - 1);
        w.i32(-2);
        w.flag(true);
        w.text("é\n");
        w.option(Some(&Line::sanitize(b"one")), Writer::line);
        w.option(None, Writer::line);
        w.into_bytes()
    }

    #[test]
    fn what_is_written_is_read_back_and_a_part_of_it_is_not() {
        let bytes = sample();
        let read = |bytes: &[u8]| -> Result<(), Bad> {
            let mut r = Reader::new(bytes);
            assert_eq!(r.u8()?, 7);
            assert_eq!(r.u32()?, 0x0102_0304);
            assert_eq!(r.u64()?, u64::MAX - 1);
            assert_eq!(r.i32()?, -2);
            assert!(r.flag()?);
            assert_eq!(r.text()?, "é\n");
            assert_eq!(r.option(Reader::line)?.as_deref(), Some("one"));
            assert_eq!(r.option(Reader::line)?, None);
            r.end()
        };
        assert_eq!(read(&bytes), Ok(()));
        for cut in 0..bytes.len() {
            assert_eq!(read(&bytes[..cut]), Err(Bad::Short));
        }
        assert_eq!(read(&[bytes.as_slice(), &[0]].concat()), Err(Bad::Trailing));
    }

    #[test]
    fn values_have_one_form_each() {
        assert_eq!(Reader::new(&[2]).flag(), Err(Bad::Value));
        assert_eq!(Reader::new(b"\x01\0\0\0\xff").text(), Err(Bad::Value));
        assert_eq!(Reader::new(b"\x01\0\0\0\n").line(), Err(Bad::Value));
        assert_eq!(Reader::new(&[0xff; 8]).bytes(), Err(Bad::Short));
    }

    #[test]
    fn a_list_ends_where_the_frame_is_full() {
        let mut w = Writer::bounded_frame(1, 1 + 4 + 2 * 4);
        w.list(&[1, 2, 3], |w, n| w.u32(*n));
        let frame = w.into_frame();
        let mut r = Reader::new(&frame);
        assert_eq!(r.u32(), Ok(frame.len() as u32 - 4));
        assert_eq!((r.u8(), r.u32()), (Ok(1), Ok(2)));
        assert_eq!((r.u32(), r.u32()), (Ok(1), Ok(2)));
        assert_eq!(r.end(), Ok(()));
    }
}
