//! `smtpctl encrypt`: hashes of passwords for credentials tables.

use std::io::{BufRead, Write};

use crate::cli::exit_error::ExitError;
use crate::sys::crypt;
use crate::sys::errno::strerror;

/// Prints the hash of `password`, or of each line of `input`. On a command line others may see a
/// password; the manual says so.
pub fn run(
    password: Option<String>,
    input: impl BufRead,
    out: &mut dyn Write,
) -> Result<i32, ExitError> {
    let mut print = |password: &str| -> Result<(), ExitError> {
        let failed = |error| ExitError::new(format!("encrypt: {}", strerror(&error)));
        let hash = crypt::hash(password).map_err(failed)?;
        writeln!(out, "{hash}").map_err(|error| ExitError::output(&error))
    };
    if let Some(password) = password {
        print(&password)?;
        return Ok(0);
    }
    for line in input.lines() {
        let line = line.map_err(|error| ExitError::new(format!("stdin: {}", strerror(&error))))?;
        print(&line)?;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    // smtpctl(8), encrypt: of its argument, or of every line.
    #[test]
    fn what_it_prints_is_the_hash_of_what_it_is_given() {
        let hashes = |password: Option<&str>, input: &str| {
            let mut out = Vec::new();
            let code = run(password.map(str::to_owned), input.as_bytes(), &mut out).unwrap();
            assert_eq!(code, 0);
            let text = String::from_utf8(out).unwrap();
            text.lines().map(str::to_owned).collect::<Vec<_>>()
        };
        let one = hashes(Some("a b"), "");
        assert!(crypt::verify("a b", &one[0]).unwrap());
        let two = hashes(None, "first\nsecond");
        assert!(crypt::verify("first", &two[0]).unwrap());
        assert!(crypt::verify("second", &two[1]).unwrap());
        assert!(hashes(None, "").is_empty());
    }
}
