//! mail.maildir(8): see `smtpd::cli::mail_maildir` and `smtpd::mda`.
fn main() {
    std::process::exit(smtpd::cli::mail_maildir::main());
}
