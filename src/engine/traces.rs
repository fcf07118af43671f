//! What smtpctl(8) has traced and profiled.

use crate::config::netaddr::Network;
use crate::control::message::{Answer, TraceOf};
use crate::log::profile;
use crate::log::{self, IsAbout};
use crate::mail::Peer;

/// `trace`, `untrace`.
pub fn trace(word: &str, on: bool) -> Answer {
    match log::trace_bits(word) {
        Some(bits) => {
            log::change_trace(bits, on);
            Answer::Ok
        }
        None => Answer::Fail(format!("nothing is called {word}")),
    }
}

/// `trace` of some.
pub fn trace_of(word: &str, whom: &TraceOf) -> Answer {
    let Some(bits) = log::trace_bits(word) else {
        return Answer::Fail(format!("nothing is called {word}"));
    };
    let (known, whose, test) = match whom {
        TraceOf::From(network) => (log::OF_CLIENTS, "clients", in_network(network)),
        TraceOf::To(network) => (log::OF_HOSTS, "hosts", in_network(network)),
        TraceOf::Tag(tag) => (log::OF_CLIENTS, "clients", Ok(tagged(tag))),
    };
    let is_about = match test {
        Ok(is_about) => is_about,
        Err(why) => return Answer::Fail(why),
    };
    if bits & known == 0 {
        return Answer::Fail(format!("{word} cannot be limited to some {whose}"));
    }
    if log::limit_trace(bits & known, is_about) {
        Answer::Ok
    } else {
        Answer::Fail(format!(
            "there are {} limited traces already; untrace ends those of a word",
            log::LIMITED_TRACES_MAX
        ))
    }
}

/// `profile`, and `unprofile`, which says what came of it.
pub fn profile(word: &str, on: bool) -> Answer {
    match (profile::named(word), on) {
        (None, _) => Answer::Fail(format!("nothing is called {word}")),
        (Some(what), true) => {
            profile::start(what);
            Answer::Ok
        }
        (Some(what), false) => Answer::Lines(profile::end(what)),
    }
}

fn in_network(text: &str) -> Result<IsAbout, String> {
    if text == "local" {
        return Ok(Box::new(|subject| *subject.peer == Peer::Local));
    }
    let network = Network::parse(text).ok_or_else(|| format!("not a network: {text}"))?;
    Ok(Box::new(move |subject| match subject.peer {
        Peer::Local => false,
        Peer::Inet { addr, .. } => {
            addr.is_ipv4() == network.addr.is_ipv4() && Network::of(*addr, network.bits) == network
        }
    }))
}

fn tagged(tag: &str) -> IsAbout {
    let tag = tag.to_owned();
    Box::new(move |subject| subject.tag == Some(tag.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Subject;

    #[test]
    fn networks_and_tags_choose_whom_a_trace_is_about() {
        // smtpctl(8), trace: from a network or local, and by the listener's tag.
        let about = |is_about: &IsAbout, peer: &str, tag| {
            let peer = Peer::parse(peer).unwrap();
            is_about(&Subject { peer: &peer, tag })
        };
        let near = in_network("192.0.2.0/24").unwrap();
        assert!(about(&near, "192.0.2.9", None));
        assert!(!about(&near, "192.0.3.9", None) && !about(&near, "[2001:db8::1]", None));
        assert!(!about(&near, "local", None));
        assert!(about(&in_network("local").unwrap(), "local", None));
        let six = in_network("2001:db8::/32").unwrap();
        assert!(about(&six, "[2001:db8::1]", None) && !about(&six, "192.0.2.9", None));
        assert!(in_network("nowhere").is_err());
        assert!(about(&tagged("x"), "local", Some("x")) && !about(&tagged("x"), "local", None));
    }

    #[test]
    fn what_cannot_be_told_apart_is_refused() {
        // smtpctl(8), trace: only what belongs to a client or a host can be limited to some.
        let from = TraceOf::From("10/8".to_owned());
        for word in ["imsg", "queue", "mta", "nonsense"] {
            let answer = trace_of(word, &from);
            assert!(matches!(answer, Answer::Fail(_)), "{word}: {answer:?}");
        }
        let to = TraceOf::To("10/8".to_owned());
        assert!(matches!(trace_of("smtp", &to), Answer::Fail(_)));
        assert!(matches!(profile("nonsense", true), Answer::Fail(_)));
    }
}
