//! mail_maildir: see `smtpd::cli` and `smtpd::mda`.
fn main() {}
