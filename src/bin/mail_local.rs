//! mail.local(8): see `smtpd::cli::mail_local` and `smtpd::mda`.
fn main() {
    std::process::exit(smtpd::cli::mail_local::main());
}
