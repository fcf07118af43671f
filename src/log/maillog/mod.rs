//! The lines operators grep: one function per line. Fields and their order are an interface.
//!
//! One file for each part of the daemon that speaks.

mod mda;
mod mta;
mod queue;
mod smtp;
mod smtp_out;

pub use mda::mda_delivery;
#[cfg(test)]
pub(crate) use mda::mda_delivery_line;
pub use mta::{
    Bracketed, Delays, Delivery, mta_cert_check, mta_connected, mta_connecting, mta_delays,
    mta_delivery, mta_disconnected, mta_error, mta_other_tls, mta_rejects_all, mta_tls,
    mta_tls_failure, mta_without_tls,
};
pub use queue::{bounce_envelope, bounce_message, queue_expired, queue_removed};
pub use smtp::{
    smtp_authentication, smtp_bad_input, smtp_cert_check, smtp_connected, smtp_disconnected,
    smtp_envelope, smtp_failed_command, smtp_io_error, smtp_message, smtp_proxy, smtp_proxy_closed,
    smtp_proxy_refused, smtp_reject, smtp_shortage, smtp_summed_up, smtp_tls, smtp_trouble,
};
pub use smtp_out::SmtpOut;
