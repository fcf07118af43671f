//! mail.lmtp(8): see `smtpd::cli::mail_lmtp` and `smtpd::client`.
fn main() {
    std::process::exit(smtpd::cli::mail_lmtp::main());
}
