//! A system without anything of the kind.

use std::io;

use super::Role;

pub fn enter(_role: Role<'_>) -> io::Result<Vec<&'static str>> {
    Ok(Vec::new())
}
