//! Compression: one ordinary gzip member (RFC 1952), as OpenSMTPD writes it; `zcat` reads it.

use std::io::{self, Read};
use std::sync::{Mutex, MutexGuard, PoisonError};

use flate2::read::MultiGzDecoder;
use flate2::{Compress, Compression, Crc, FlushCompress, Status};

use crate::queue::DiskFile;

use super::Bytes;

/// Identification, deflate, no flags, no time, no extra flags, Unix (RFC 1952 §2.3).
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
/// Written on when so much has come together.
const PIECE_BYTES: usize = 64 * 1024;
/// Room given to the compressor at a time.
const ROOM_BYTES: usize = 16 * 1024;

/// Compresses what is written to it.
pub(super) struct Writer<F> {
    file: F,
    deflate: Compressor,
    crc: Crc,
    out: Vec<u8>,
    finished: bool,
}

impl<F: DiskFile> Writer<F> {
    pub(super) fn new(file: F) -> Writer<F> {
        Writer {
            file,
            deflate: Compressor::take(),
            crc: Crc::new(),
            out: HEADER.to_vec(),
            finished: false,
        }
    }

    /// Every turn takes input, or makes output into the room it is given.
    fn deflate(&mut self, mut input: &[u8], flush: FlushCompress) -> io::Result<()> {
        loop {
            self.out.reserve(ROOM_BYTES);
            let deflate = self.deflate.get();
            let before = deflate.total_in();
            let status = deflate
                .compress_vec(input, &mut self.out, flush)
                .map_err(io::Error::other)?;
            let taken = (deflate.total_in() - before) as usize;
            input = input.get(taken..).unwrap_or_default();
            if self.out.len() >= PIECE_BYTES {
                self.file.write(&self.out)?;
                self.out.clear();
            }
            let more = matches!(flush, FlushCompress::Finish);
            if status == Status::StreamEnd || (input.is_empty() && !more) {
                return Ok(());
            }
        }
    }
}

impl<F: DiskFile> DiskFile for Writer<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.crc.update(bytes);
        self.deflate(bytes, FlushCompress::None)
    }

    fn finish(&mut self) -> io::Result<()> {
        if self.finished {
            return Ok(());
        }
        self.deflate(&[], FlushCompress::Finish)?;
        // RFC 1952 §2.3.1: CRC-32, and the length modulo 2^32.
        self.out.extend_from_slice(&self.crc.sum().to_le_bytes());
        self.out.extend_from_slice(&self.crc.amount().to_le_bytes());
        self.file.write(&self.out)?;
        self.out = Vec::new();
        self.finished = true;
        self.file.finish()
    }

    fn start_writeback(&mut self) {
        self.file.start_writeback();
    }

    fn sync(&mut self) -> io::Result<()> {
        self.finish()?;
        self.file.sync()
    }
}

/// A compressor on loan. One holds some 300 KiB, which the system would have to clear each time.
struct Compressor(Option<Compress>);

/// Compressors that nobody uses.
static IDLE: Mutex<Vec<Compress>> = Mutex::new(Vec::new());
/// More are not kept.
const MOST_IDLE: usize = 8;

impl Compressor {
    fn take() -> Compressor {
        Compressor(idle().pop())
    }

    fn get(&mut self) -> &mut Compress {
        self.0
            .get_or_insert_with(|| Compress::new(Compression::default(), false))
    }
}

impl Drop for Compressor {
    fn drop(&mut self) {
        let Some(mut compress) = self.0.take() else {
            return;
        };
        compress.reset();
        let mut idle = idle();
        if idle.len() < MOST_IDLE {
            idle.push(compress);
        }
    }
}

fn idle() -> MutexGuard<'static, Vec<Compress>> {
    IDLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A small text, compressed.
pub(super) fn pack(text: &[u8]) -> io::Result<Vec<u8>> {
    let mut packed = Vec::new();
    let mut writer = Writer::new(Bytes(&mut packed));
    writer.write(text)?;
    writer.finish()?;
    drop(writer);
    Ok(packed)
}

/// The text again. A wrong checksum or length, an early end, and anything behind the end are errors
/// at that place.
pub(super) fn unpack<R: Read>(packed: R) -> MultiGzDecoder<R> {
    MultiGzDecoder::new(packed)
}
