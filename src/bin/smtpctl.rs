//! smtpctl: see `smtpd::cli` and `smtpd::mda`.
fn main() {}
