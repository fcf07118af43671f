//! Addresses of hosts for threads that may wait for them.

use std::net::IpAddr;
use std::time::Duration;

use crossbeam_channel::bounded;

use crate::deliver::lmtp::Names;
use crate::dns::{Answer, DnsError, Handle, Kind};

/// Longer than the resolver ever takes.
const WAIT: Duration = Duration::from_secs(90);

/// Names that are looked up while the caller waits, in both families, IPv6 first.
pub fn blocking(resolver: Handle) -> Names {
    Names::new(move |name| {
        let (answers, found) = bounded(2);
        for kind in [Kind::Aaaa, Kind::A] {
            let answers = answers.clone();
            // There is room for both.
            let reply = Box::new(move |answer| drop(answers.send(answer)));
            resolver.lookup(name, kind, reply);
        }
        drop(answers);
        let (mut v6, mut v4) = (Vec::new(), Vec::new());
        let mut why = "Name or service not known";
        for _ in 0..2 {
            match found.recv_timeout(WAIT) {
                Ok(Ok(Answer::Aaaa(addrs))) => v6.extend(addrs.into_iter().map(IpAddr::V6)),
                Ok(Ok(Answer::A(addrs))) => v4.extend(addrs.into_iter().map(IpAddr::V4)),
                Ok(Ok(_) | Err(DnsError::NoName | DnsError::NoData)) => {}
                Ok(Err(DnsError::TempFail)) | Err(_) => {
                    why = "Temporary failure in name resolution";
                }
            }
        }
        v6.append(&mut v4);
        if v6.is_empty() {
            Err(why.to_owned())
        } else {
            Ok(v6)
        }
    })
}
