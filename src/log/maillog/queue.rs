//! Lines of the queue: envelopes that end without a delivery, reports that enter it.

use crate::mail::{Envelope, EvpId, Kind, MailAddr, MsgId, SessionId};
use crate::util::Timestamp;
use crate::util::time::Duration;

use crate::log::info;

/// An envelope's life time is over.
pub fn queue_expired(envelope: &Envelope, now: Timestamp) {
    queue_end("Expire", "Envelope expired", envelope, now);
}

/// The administrator removed an envelope.
pub fn queue_removed(envelope: &Envelope, now: Timestamp) {
    queue_end("Remove", "Removed by administrator", envelope, now);
}

fn queue_end(what: &str, stat: &str, envelope: &Envelope, now: Timestamp) {
    let subsystem = match envelope.kind {
        Kind::Local(_) => "delivery",
        Kind::Relay | Kind::Bounce(_) => "relay",
    };
    let rcpt = if envelope.rcpt == envelope.dest {
        "-".to_owned()
    } else {
        envelope.rcpt.stored()
    };
    info(format_args!(
        "{subsystem}: {what} for {}: from=<{}>, to=<{}>, rcpt=<{rcpt}>, delay={}, stat={stat}",
        envelope.id,
        envelope.sender.stored(),
        envelope.dest.stored(),
        Duration(now.since(envelope.created)),
    ));
}

/// A report has entered the queue as a message of its own.
pub fn bounce_message(session: SessionId, msgid: MsgId, size_bytes: u64) {
    info(format_args!(
        "{session} smtp message msgid={msgid} size={size_bytes} nrcpt=1 proto=ESMTP"
    ));
}

/// The recipient of a report.
pub fn bounce_envelope(session: SessionId, evpid: EvpId, to: &MailAddr) {
    info(format_args!(
        "{session} smtp envelope evpid={evpid} from=<> to=<{to}>"
    ));
}
