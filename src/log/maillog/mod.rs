//! The lines operators grep: one function per line. Fields and their order are an interface.
//!
//! One file for each part of the daemon that speaks.

mod mda;
mod mta;
mod queue;
mod smtp;

pub use mda::mda_delivery;
#[cfg(test)]
pub(crate) use mda::mda_delivery_line;
pub use mta::{
    Bracketed, Delivery, mta_cert_check, mta_connected, mta_connecting, mta_delivery,
    mta_disconnected, mta_error, mta_rejects_all, mta_tls, mta_tls_failure,
};
pub use queue::{bounce_envelope, bounce_message, queue_expired, queue_removed};
pub use smtp::{
    smtp_authentication, smtp_bad_input, smtp_cert_check, smtp_connected, smtp_disconnected,
    smtp_envelope, smtp_failed_command, smtp_io_error, smtp_message, smtp_proxy, smtp_proxy_closed,
    smtp_proxy_refused, smtp_reject, smtp_summed_up, smtp_tls,
};
