//! The lines operators grep: one function per line. Fields and their order are an interface.

// Local delivery.

use crate::mail::Envelope;
use crate::util::Timestamp;

/// The end of an attempt at local delivery. `gid` names the user's group of deliveries, `result`
/// is `Ok`, `TempFail` or `PermFail`.
pub fn mda_delivery(gid: u64, envelope: &Envelope, now: Timestamp, result: &str, stat: &str) {
    super::info(format_args!(
        "{}",
        mda_delivery_line(gid, envelope, now, result, stat)
    ));
}

pub(crate) fn mda_delivery_line(
    gid: u64,
    envelope: &Envelope,
    now: Timestamp,
    result: &str,
    stat: &str,
) -> String {
    let user = match &envelope.kind {
        crate::mail::Kind::Local(local) => local.user.as_str(),
        _ => "",
    };
    format!(
        "{gid:016x} mda delivery evpid={} from=<{}> to=<{}> rcpt=<{}> user={user} delay={} result={result} stat={stat}",
        envelope.id,
        envelope.sender,
        envelope.dest,
        envelope.rcpt,
        crate::util::time::Duration(now.since(envelope.created)),
    )
}
