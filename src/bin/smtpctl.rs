//! smtpctl, sendmail, send-mail, mailq, newaliases: see `smtpd::cli::personality`.

fn main() -> std::process::ExitCode {
    smtpd::cli::personality::main()
}
