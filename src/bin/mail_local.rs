//! mail_local: see `smtpd::cli` and `smtpd::mda`.
fn main() {}
