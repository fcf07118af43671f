//! smtp(1): see `smtpd::cli::smtp`.
fn main() {
    std::process::exit(smtpd::cli::smtp::main());
}
