//! Making a database, record by record.

use std::io::{self, Seek, SeekFrom, Write};

use super::{FIELD_BYTES, HEADER_BYTES, TABLES, first_slot, hash, pair_bytes, table_of};

/// Writes a database to an empty file, which is not complete before [`Writer::finish`] has
/// returned.
pub struct Writer<W> {
    out: W,
    next: u64,
    /// Hash and position of every record.
    records: Vec<(u32, u32)>,
}

impl<W: Write + Seek> Writer<W> {
    /// Begins; `out` should have a buffer.
    pub fn new(mut out: W) -> io::Result<Writer<W>> {
        out.write_all(&[0; HEADER_BYTES as usize])?;
        Ok(Writer {
            out,
            next: HEADER_BYTES,
            records: Vec::new(),
        })
    }

    /// Adds a record. Readers find the first one of a key.
    pub fn add(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        if key.len() > FIELD_BYTES || value.len() > FIELD_BYTES {
            return Err(too_large());
        }
        let head = pair_bytes(key.len() as u32, value.len() as u32);
        for bytes in [&head[..], key, value] {
            self.out.write_all(bytes)?;
        }
        self.records.push((hash(key), narrow(self.next)?));
        self.next += 8 + key.len() as u64 + value.len() as u64;
        Ok(())
    }

    /// Writes the hash tables and what leads to them, and gives the file back.
    pub fn finish(mut self) -> io::Result<W> {
        let mut header = Vec::with_capacity(HEADER_BYTES as usize);
        let mut by_table: Vec<Vec<(u32, u32)>> = vec![Vec::new(); TABLES];
        for record in std::mem::take(&mut self.records) {
            if let Some(table) = by_table.get_mut(table_of(record.0)) {
                table.push(record);
            }
        }
        for table in by_table {
            let slots = laid_out(&table);
            header.extend(pair_bytes(narrow(self.next)?, narrow(slots.len() as u64)?));
            for (hash, record) in &slots {
                self.out.write_all(&pair_bytes(*hash, *record))?;
            }
            self.next += 8 * slots.len() as u64;
        }
        // The last table must be within reach too.
        narrow(self.next)?;
        self.out.seek(SeekFrom::Start(0))?;
        self.out.write_all(&header)?;
        self.out.flush()?;
        Ok(self.out)
    }
}

/// A hash table with twice as many slots as records; 0 is no record's position.
fn laid_out(records: &[(u32, u32)]) -> Vec<(u32, u32)> {
    let mut slots = vec![(0, 0); records.len() * 2];
    let count = slots.len() as u32;
    for record in records {
        let start = first_slot(record.0, count) as usize;
        let free = (start..slots.len())
            .chain(0..start)
            .find(|at| slots.get(*at).is_some_and(|(_, position)| *position == 0));
        if let Some(slot) = free.and_then(|at| slots.get_mut(at)) {
            *slot = *record;
        }
    }
    slots
}

fn narrow(number: u64) -> io::Result<u32> {
    u32::try_from(number).map_err(|_| too_large())
}

fn too_large() -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, "too large for a database")
}
