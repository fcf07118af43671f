//! mail.mboxfile(8): see `smtpd::cli::mail_mboxfile` and `smtpd::mda`.
fn main() {
    std::process::exit(smtpd::cli::mail_mboxfile::main());
}
