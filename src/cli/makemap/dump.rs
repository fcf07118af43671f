//! `makemap -U`: what is in a database.

use std::io::Write;
use std::path::Path;

use crate::cli::exit_error::ExitError;
use crate::sys::errno::strerror;
use crate::sys::open;
use crate::util::cdb::Reader;

/// One line for each record, key and value with a tab in between, in the order of the file.
pub fn print(path: &Path, out: &mut dyn Write) -> Result<(), ExitError> {
    let failed = |reason: String| ExitError::new(format!("{}: {reason}", path.display()));
    let file = open::plain(path).map_err(|error| failed(strerror(&error)))?;
    let reader = Reader::open(file).map_err(|bad| failed(bad.to_string()))?;
    let mut records = reader.records();
    while let Some((key, value)) = records.next().map_err(|bad| failed(bad.to_string()))? {
        for bytes in [key, b"\t", value, b"\n"] {
            out.write_all(bytes).map_err(|e| ExitError::output(&e))?;
        }
    }
    Ok(())
}
