//! Lines of relaying that belong to no session (`smtp-out: …`). What decides about routes has no
//! log of its own, so a line is a value first.

use std::fmt;

use crate::util::time::Duration;

/// A line. Relays, connectors and routes are named as smtpctl(8) shows them.
#[derive(Clone, Copy)]
pub enum SmtpOut<'a> {
    /// A relay has enough envelopes in memory; more wait in the scheduler.
    HighWater(&'a dyn fmt::Display),
    /// It has room again.
    LowWater(&'a dyn fmt::Display),
    /// A relay's exchangers are not found, for this reason.
    Unresolved(&'a dyn fmt::Display, &'a dyn fmt::Display),
    /// A connector has no host to connect to.
    NoExchanger(&'a dyn fmt::Display),
    /// None of the hosts has an address of the connector's family.
    OtherFamily(&'a dyn fmt::Display),
    /// All routes of a connector are disabled.
    NoRoute(&'a dyn fmt::Display),
    /// A route fails in this way.
    RouteError(&'a dyn fmt::Display, &'a dyn fmt::Display),
    /// A route is not used for a while.
    RouteDisabled(&'a dyn fmt::Display, Duration),
    /// That while is over.
    RouteEnabled(&'a dyn fmt::Display),
    /// `smtpctl resume route`.
    RouteResumed(&'a dyn fmt::Display),
}

impl fmt::Display for SmtpOut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("smtp-out: ")?;
        match self {
            SmtpOut::HighWater(relay) => {
                write!(f, "hiwat reached on {relay}: holding envelopes")
            }
            SmtpOut::LowWater(relay) => write!(f, "back to lowat on {relay}: releasing"),
            SmtpOut::Unresolved(relay, why) => {
                write!(f, "Failed to resolve MX for {relay}: {why}")
            }
            SmtpOut::NoExchanger(connector) => write!(f, "No MX found for {connector}"),
            SmtpOut::OtherFamily(connector) => {
                write!(f, "Address family mismatch on {connector}")
            }
            SmtpOut::NoRoute(connector) => write!(f, "No valid route for {connector}"),
            SmtpOut::RouteError(route, why) => write!(f, "Error on {route}: {why}"),
            SmtpOut::RouteDisabled(route, time) => {
                write!(f, "Disabling route {route} for {time}")
            }
            SmtpOut::RouteEnabled(route) => write!(f, "Enabling route {route}"),
            SmtpOut::RouteResumed(route) => {
                write!(f, "Enabling route {route} per admin request")
            }
        }
    }
}
