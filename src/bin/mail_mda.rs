//! mail.mda(8): see `smtpd::cli::mail_mda` and `smtpd::mda`.
fn main() {
    std::process::exit(smtpd::cli::mail_mda::main());
}
