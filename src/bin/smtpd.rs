//! smtpd(8): see `smtpd::cli::smtpd`.

fn main() {
    std::process::exit(smtpd::cli::smtpd::main());
}
