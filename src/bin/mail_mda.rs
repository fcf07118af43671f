//! mail_mda: see `smtpd::cli` and `smtpd::mda`.
fn main() {}
