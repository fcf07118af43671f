//! Looking keys up, and going through all records.

use super::{Bad, Bytes, FIELD_BYTES, HEADER_BYTES, TABLES, first_slot, hash, pair, table_of};

/// A cdb database that is open for lookups.
pub struct Reader<B> {
    bytes: B,
    /// Position and number of slots of each hash table.
    tables: Vec<(u32, u32)>,
    /// Where the records end and the hash tables begin.
    records_end: u64,
}

/// Slots read at a time: a search rarely goes further.
const SLOTS: u32 = 8;
/// What is read of a record at first: its head, and most keys and values whole.
const GUESS_BYTES: u64 = 256;

impl<B: Bytes> Reader<B> {
    /// Takes bytes whose hash tables follow each other up to the end, as every writer leaves them.
    pub fn open(bytes: B) -> Result<Reader<B>, Bad> {
        let length = bytes.length()?;
        let mut header = [0; HEADER_BYTES as usize];
        let known = usize::try_from(length).unwrap_or(usize::MAX);
        let start = header.get_mut(..known.min(HEADER_BYTES as usize));
        if let Some(start) = start {
            bytes.read_at(start, 0)?;
        }
        let tables: Vec<(u32, u32)> = header.chunks(8).filter_map(pair).collect();
        match records_end(&tables, length) {
            Some(records_end) => Ok(Reader {
                bytes,
                tables,
                records_end,
            }),
            None if is_berkeley_db(&header) => Err(Bad::BerkeleyDb),
            None => Err(Bad::Format),
        }
    }

    /// Where the bytes come from.
    pub fn bytes(&self) -> &B {
        &self.bytes
    }

    /// The value of the first record with exactly this key.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Bad> {
        let hash = hash(key);
        let (position, slots) = self.tables.get(table_of(hash)).copied().unwrap_or((0, 0));
        let mut slot = first_slot(hash, slots);
        let mut left = slots;
        let mut buffer = [0; 8 * SLOTS as usize];
        while left > 0 {
            let count = SLOTS.min(left).min(slots - slot);
            let some = buffer.get_mut(..8 * count as usize).ok_or(Bad::Format)?;
            let at = u64::from(position) + 8 * u64::from(slot);
            self.bytes.read_at(some, at)?;
            for (found, record) in some.chunks(8).filter_map(pair) {
                if record == 0 {
                    return Ok(None);
                }
                if found == hash
                    && let Some(value) = self.value_if(record, key)?
                {
                    return Ok(Some(value));
                }
            }
            left -= count;
            slot = (slot + count).checked_rem(slots).unwrap_or(0);
        }
        Ok(None)
    }

    /// All records, in the order in which they were written.
    pub fn records(&self) -> Records<'_, B> {
        Records {
            reader: self,
            next: HEADER_BYTES,
            buffer: Vec::new(),
            used: 0,
        }
    }

    /// The value of a record, if `key` is its key.
    fn value_if(&self, record: u32, key: &[u8]) -> Result<Option<Vec<u8>>, Bad> {
        let start = u64::from(record);
        let left = self.records_end.checked_sub(start).ok_or(Bad::Format)?;
        let mut bytes = vec![0; left.min(8 + key.len() as u64 + GUESS_BYTES) as usize];
        self.bytes.read_at(&mut bytes, start)?;
        let (key_bytes, value_bytes) = pair(&bytes).ok_or(Bad::Format)?;
        let (key_bytes, value_bytes) = lengths(key_bytes, value_bytes, left)?;
        let value_at = 8 + key_bytes;
        if bytes.get(8..value_at) != Some(key) {
            return Ok(None);
        }
        let whole = value_at + value_bytes;
        let have = bytes.len();
        if have < whole {
            bytes.resize(whole, 0);
            let rest = bytes.get_mut(have..).ok_or(Bad::Format)?;
            self.bytes.read_at(rest, start + have as u64)?;
        }
        bytes.truncate(whole);
        bytes.drain(..value_at);
        Ok(Some(bytes))
    }
}

/// Where the records end, if the tables lie where they must.
fn records_end(tables: &[(u32, u32)], length: u64) -> Option<u64> {
    let mut used = tables.iter().filter(|(_, slots)| *slots > 0).peekable();
    let end = match used.peek() {
        Some((position, _)) => u64::from(*position),
        // Without tables there are no records.
        None => HEADER_BYTES,
    };
    let mut next = end;
    for (position, slots) in used {
        if u64::from(*position) != next {
            return None;
        }
        next += 8 * u64::from(*slots);
    }
    let whole = tables.len() == TABLES && next == length && end >= HEADER_BYTES;
    whole.then_some(end)
}

/// The magic numbers of hash and btree files, in either byte order, where the versions have them.
fn is_berkeley_db(header: &[u8]) -> bool {
    const MAGIC: [u32; 2] = [0x0006_1561, 0x0005_3162];
    [0, 12].iter().any(|at| {
        let number = header.get(*at..at + 4).and_then(|b| b.try_into().ok());
        let number = u32::from_le_bytes(number.unwrap_or_default());
        MAGIC.contains(&number) || MAGIC.contains(&number.swap_bytes())
    })
}

/// The lengths of a record that has at most `left` bytes.
fn lengths(key: u32, value: u32, left: u64) -> Result<(usize, usize), Bad> {
    let fits = 8 + u64::from(key) + u64::from(value) <= left;
    match (usize::try_from(key), usize::try_from(value)) {
        (Ok(key), Ok(value)) if fits && key <= FIELD_BYTES && value <= FIELD_BYTES => {
            Ok((key, value))
        }
        _ => Err(Bad::Format),
    }
}

/// A record: key and value.
pub type Record<'b> = (&'b [u8], &'b [u8]);

/// The records of a database, one by one. It borrows what it gives out: see [`Records::next`].
pub struct Records<'r, B> {
    reader: &'r Reader<B>,
    /// Where the next bytes are to be read.
    next: u64,
    buffer: Vec<u8>,
    /// How much of the buffer has been given out.
    used: usize,
}

/// Bytes read at a time.
const CHUNK_BYTES: usize = 64 << 10;

impl<B: Bytes> Records<'_, B> {
    /// Key and value of the next record; `None` behind the last one.
    #[allow(clippy::should_implement_trait)] // The items borrow from the buffer.
    pub fn next(&mut self) -> Result<Option<Record<'_>>, Bad> {
        let left = self.reader.records_end - self.next + (self.buffer.len() - self.used) as u64;
        if left == 0 {
            return Ok(None);
        }
        self.fill(8)?;
        let head = self.buffer.get(self.used..).and_then(pair);
        let (key, value) = head.ok_or(Bad::Format)?;
        let (key, value) = lengths(key, value, left)?;
        self.fill(8 + key + value)?;
        let start = self.used + 8;
        self.used = start + key + value;
        let record = self.buffer.get(start..self.used).ok_or(Bad::Format)?;
        Ok(record.split_at_checked(key))
    }

    /// Has at least `wanted` bytes in the buffer that were not given out.
    fn fill(&mut self, wanted: usize) -> Result<(), Bad> {
        let have = self.buffer.len() - self.used;
        if have >= wanted {
            return Ok(());
        }
        self.buffer.drain(..self.used);
        self.used = 0;
        let left = self.reader.records_end - self.next;
        let more = (wanted - have).max(CHUNK_BYTES) as u64;
        let more = more.min(left) as usize;
        if have + more < wanted {
            return Err(Bad::Format);
        }
        self.buffer.resize(have + more, 0);
        let fresh = self.buffer.get_mut(have..).ok_or(Bad::Format)?;
        self.reader.bytes.read_at(fresh, self.next)?;
        self.next += more as u64;
        Ok(())
    }
}
