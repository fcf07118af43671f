//! mail_mboxfile: see `smtpd::cli` and `smtpd::mda`.
fn main() {}
