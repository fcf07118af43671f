//! The Sender Rewriting Scheme: a sender at another host becomes one at ours that leads back.
//!
//! A forwarder that keeps the sender fails the check of SPF (RFC 7208) at the next host. It sends
//! from `SRS0=HHHH=TT=dom=user@forwarder` instead, or, when the sender is such an address already,
//! from `SRS1=HHHH=host==rest@forwarder`. `HHHH` is a part of a digest over a secret and the rest
//! of the address, `TT` the day: bounces find their way back for some days, and nobody else can
//! make such addresses to relay through us. Whether a sender is to be rewritten and whether a
//! recipient may be decoded is for the callers to say.

use std::fmt;

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};

use crate::util::Timestamp;

use super::MailAddr;

/// What addresses are made and checked with.
#[derive(Clone, Copy)]
pub struct Keys<'k> {
    /// `srs key`: what new addresses are made with.
    pub key: &'k str,
    /// `srs key backup`: what old ones may have been made with.
    pub backup: Option<&'k str>,
    /// `srs ttl`: days that an address leads back.
    pub ttl_days: u32,
}

/// Why an address leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bad {
    Form,
    /// No key of ours has made it.
    Hash,
    /// It is too old, or of a day that has not come yet.
    Day,
}

impl Keys<'_> {
    /// The sender as it leaves for the next host, an address of `domain` in lower case, as other
    /// hosts may write it; `None` when it has to stay as it is: there is none, or there is no room
    /// for what has to be added.
    pub fn encode(&self, sender: &MailAddr, domain: &str, now: Timestamp) -> Option<MailAddr> {
        let (user, host) = (sender.user(), sender.domain());
        if user.is_empty() || host.is_empty() || domain.is_empty() {
            return None;
        }
        let (kind, body) = match Kind::of(user) {
            None => ("SRS0", format!("{}={host}={user}", stamp(day(now)))),
            Some((Kind::First, rest)) => ("SRS1", format!("{host}={rest}")),
            Some((Kind::Again, rest)) => {
                let (_, rest) = rest.get(1..)?.split_once('=')?;
                ("SRS1", rest.to_owned())
            }
        };
        let domain = domain.to_ascii_lowercase();
        let local = format!("{kind}={}={body}", hash(self.key, &body, &domain));
        if local.len() + 1 + domain.len() > ADDRESS_BYTES {
            return None;
        }
        MailAddr::new(&local, &domain).ok()
    }

    /// The address that a recipient leads back to.
    pub fn decode(&self, rcpt: &MailAddr, now: Timestamp) -> Result<MailAddr, Bad> {
        let (kind, rest) = Kind::of(rcpt.user()).ok_or(Bad::Form)?;
        let rest = rest.strip_prefix('=').ok_or(Bad::Form)?;
        let (given, body) = rest.split_once('=').ok_or(Bad::Form)?;
        if given.len() != HASH_BYTES {
            return Err(Bad::Form);
        }
        self.check_hash(kind, given, body, rcpt)?;
        let (back, written) = match kind {
            Kind::First => {
                let (written, back) = body.split_once('=').ok_or(Bad::Form)?;
                let (host, user) = back.split_once('=').ok_or(Bad::Form)?;
                ((user.to_owned(), host), written)
            }
            Kind::Again => {
                let (host, inner) = body.split_once('=').ok_or(Bad::Form)?;
                let first = inner.strip_prefix(['=', '+', '-']).ok_or(Bad::Form)?;
                let written = first.split('=').nth(1).ok_or(Bad::Form)?;
                ((format!("SRS0{inner}"), host), written)
            }
        };
        self.check_day(written, now)?;
        let (user, host) = back;
        if user.is_empty() || host.is_empty() {
            Err(Bad::Form)
        } else {
            MailAddr::new(&user, host).map_err(|_| Bad::Form)
        }
    }

    /// The domain is in lower case when an address is made; it was in any case formerly.
    /// An address that went through a host which writes everything in lower case is compared
    /// without regard to case, and the day is put back into capitals, as we have written it.
    fn check_hash(&self, kind: Kind, given: &str, body: &str, rcpt: &MailAddr) -> Result<(), Bad> {
        let keys = [Some(self.key), self.backup];
        let folded = !rcpt.user().bytes().any(|b| b.is_ascii_uppercase());
        let mut capital = body.to_owned();
        if let (Kind::First, true, Some(day)) = (kind, folded, capital.get_mut(..STAMP_BYTES)) {
            day.make_ascii_uppercase();
        }
        let lower = rcpt.domain().to_ascii_lowercase();
        let matches = |key: &str, domain: &str| {
            hash(key, body, domain) == given
                || folded && hash(key, &capital, domain).eq_ignore_ascii_case(given)
        };
        let made_with = |key: &str| matches(key, &lower) || matches(key, rcpt.domain());
        if keys.into_iter().flatten().any(made_with) {
            Ok(())
        } else {
            Err(Bad::Hash)
        }
    }

    fn check_day(&self, written: &str, now: Timestamp) -> Result<(), Bad> {
        const TOMORROW: u32 = DAYS - 1;
        let written = day_of(written).ok_or(Bad::Form)?;
        match (day(now) + DAYS - written) % DAYS {
            TOMORROW => Ok(()),
            age if age <= self.ttl_days => Ok(()),
            _ => Err(Bad::Day),
        }
    }
}

/// Whether an address has the form of a rewritten one that leads back to us.
pub fn is_rewritten(address: &MailAddr) -> bool {
    Kind::of(address.user()).is_some_and(|(_, rest)| rest.starts_with('='))
}

/// Longest address, in bytes.
const ADDRESS_BYTES: usize = 255;
const HASH_BYTES: usize = 4;
const STAMP_BYTES: usize = 2;
/// Days are counted modulo this.
const DAYS: u32 = 1024;
const DAY_S: u64 = 86_400;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// SRS0: rewritten once.
    First,
    /// SRS1: rewritten by several hosts.
    Again,
}

impl Kind {
    /// What a local part is, and what follows the word, its separator first.
    fn of(user: &str) -> Option<(Kind, &str)> {
        let (word, rest) = user.split_at_checked(4)?;
        if !rest.starts_with(['=', '+', '-']) {
            return None;
        }
        match word {
            word if word.eq_ignore_ascii_case("SRS0") => Some((Kind::First, rest)),
            word if word.eq_ignore_ascii_case("SRS1") => Some((Kind::Again, rest)),
            _ => None,
        }
    }
}

fn day(now: Timestamp) -> u32 {
    (now.0 / DAY_S % u64::from(DAYS)) as u32
}

/// Five bits each, high ones first.
fn stamp(day: u32) -> String {
    const DIGITS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let digit = |bits: u32| char::from(DIGITS[(bits & 31) as usize]);
    [digit(day >> 5), digit(day)].iter().collect()
}

fn day_of(stamp: &str) -> Option<u32> {
    let [high, low] = stamp.as_bytes() else {
        return None;
    };
    let bits = |byte: u8| match byte.to_ascii_uppercase() {
        letter @ b'A'..=b'Z' => Some(u32::from(letter - b'A')),
        digit @ b'2'..=b'7' => Some(u32::from(digit - b'2') + 26),
        _ => None,
    };
    Some(bits(*high)? << 5 | bits(*low)?)
}

/// The first four characters of the digest in base64, with those that are no part of an atom
/// replaced.
fn hash(key: &str, body: &str, domain: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    for part in [key, body, "@", domain] {
        context.update(part.as_bytes());
    }
    let digest = context.finish();
    let first = digest.as_ref().iter().take(3);
    let bits = first.fold(0u32, |bits, byte| bits << 8 | u32::from(*byte));
    let digit = |shift: u32| char::from(DIGITS[(bits >> shift & 63) as usize]);
    [digit(18), digit(12), digit(6), digit(0)].iter().collect()
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Bad::Form => "not a rewritten address",
            Bad::Hash => "not made with a key of ours",
            Bad::Day => "expired",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::util::dice::Dice;

    /// A day whose stamp is `JK`.
    const JK: Timestamp = Timestamp((9 * 32 + 10) * DAY_S + 3600);

    const SECRET: Keys<'_> = Keys {
        key: "secret",
        backup: None,
        ttl_days: 4,
    };

    fn addr(text: &str) -> MailAddr {
        MailAddr::from_stored(text).unwrap()
    }

    fn encoded(sender: &str, domain: &str) -> Option<String> {
        let address = SECRET.encode(&addr(sender), domain, JK);
        address.map(|address| address.to_string())
    }

    fn decoded(rcpt: &str) -> Result<String, Bad> {
        SECRET.decode(&addr(rcpt), JK).map(|back| back.to_string())
    }

    const ONCE: &str = "SRS0=bflR=JK=Origin.org=bob@fwd.net";
    const TWICE: &str = "SRS1=xdjs=fwd.net==bflR=JK=Origin.org=bob@third.com";
    const THRICE: &str = "SRS1=Jp54=fwd.net==bflR=JK=Origin.org=bob@fourth.com";

    // smtpd.conf(5), srs: the form that OpenSMTPD gives to addresses, with its digests.
    #[test]
    fn a_sender_is_rewritten_at_every_host() {
        assert_eq!(encoded("bob@Origin.org", "fwd.net").as_deref(), Some(ONCE));
        assert_eq!(encoded(ONCE, "third.com").as_deref(), Some(TWICE));
        assert_eq!(encoded(TWICE, "fourth.com").as_deref(), Some(THRICE));
    }

    #[test]
    fn a_bounce_finds_its_way_back() {
        assert_eq!(decoded(ONCE).as_deref(), Ok("bob@Origin.org"));
        assert_eq!(decoded(TWICE).as_deref(), Ok(ONCE));
        assert_eq!(decoded(THRICE).as_deref(), Ok(ONCE));
        // The word in any case.
        assert_eq!(
            decoded(&ONCE.replace("SRS0", "srs0")).as_deref(),
            Ok("bob@Origin.org")
        );
    }

    #[test]
    fn what_nobody_here_has_made_leads_nowhere() {
        for (rcpt, why) in [
            ("SRS0=bflS=JK=Origin.org=bob@fwd.net", Bad::Hash),
            ("SRS0=bflR=JK=Origin.org=eve@fwd.net", Bad::Hash),
            ("SRS0=bflR=JK=Origin.org=bob@fwd.com", Bad::Hash),
            ("SRS0=bflR=JL=Origin.org=bob@fwd.net", Bad::Hash),
            // Whatever has capitals was not folded on its way.
            ("SRS0=BFLR=JK=Origin.org=bob@fwd.net", Bad::Hash),
            (
                "SRS1=xdjs=fwd.net==bflR=JK=Origin.org=eve@third.com",
                Bad::Hash,
            ),
            ("SRS0=bfl=JK=Origin.org=bob@fwd.net", Bad::Form),
            ("SRS0+bflR=JK=Origin.org=bob@fwd.net", Bad::Form),
            ("SRS0=bflR@fwd.net", Bad::Form),
            ("SRS0=@fwd.net", Bad::Form),
            ("SRS@fwd.net", Bad::Form),
            ("bob@fwd.net", Bad::Form),
        ] {
            assert_eq!(decoded(rcpt), Err(why), "{rcpt}");
        }
        // Made with our key and yet without what it should lead to.
        for body in ["JK=Origin.org", "JK", "JK==bob", "J1=a=b", "JK=a="] {
            let rcpt = format!("SRS0={}={body}@x", hash("secret", body, "x"));
            assert_eq!(decoded(&rcpt), Err(Bad::Form), "{rcpt}");
            let rcpt = format!("SRS1={}={body}@x", hash("secret", body, "x"));
            assert_eq!(decoded(&rcpt), Err(Bad::Form), "{rcpt}");
        }
    }

    // smtpd.conf(5), srs ttl: days that an address is good for.
    #[test]
    fn an_address_is_good_for_its_days() {
        let mut keys = SECRET;
        for ttl_days in [0, 1, 4, 30] {
            keys.ttl_days = ttl_days;
            for (later, good) in [
                (0, true),
                (u64::from(ttl_days), true),
                (u64::from(ttl_days) + 1, false),
                (1023, true),
                (1022, false),
                (1024, true),
            ] {
                let now = JK.plus(later * DAY_S);
                assert_eq!(keys.decode(&addr(ONCE), now).is_ok(), good, "{later}");
                assert_eq!(keys.decode(&addr(THRICE), now).is_ok(), good, "{later}");
            }
        }
        let late = JK.plus(10 * DAY_S);
        assert_eq!(SECRET.decode(&addr(ONCE), late), Err(Bad::Day));
    }

    // smtpd.conf(5), srs key backup: addresses made before the key was changed.
    #[test]
    fn the_key_before_still_leads_back() {
        let mut keys = Keys {
            key: "new",
            backup: None,
            ttl_days: 4,
        };
        assert_eq!(keys.decode(&addr(ONCE), JK), Err(Bad::Hash));
        keys.backup = Some("secret");
        assert_eq!(keys.decode(&addr(ONCE), JK), Ok(addr("bob@Origin.org")));
    }

    // A host on the way may have written the whole address in lower case.
    #[test]
    fn lower_case_throughout_is_forgiven() {
        let sent = encoded("bob@origin.org", "fwd.net").unwrap();
        assert_eq!(
            decoded(&sent.to_ascii_lowercase()).as_deref(),
            Ok("bob@origin.org")
        );
    }

    // RFC 5321 section 2.4: the case of a domain means nothing, and any host may change it.
    #[test]
    fn the_case_of_the_domain_means_nothing() {
        for domain in ["fwd.net", "Fwd.Net"] {
            assert_eq!(encoded("bob@Origin.org", domain).as_deref(), Some(ONCE));
        }
        assert_eq!(
            decoded(&ONCE.replace("fwd.net", "FWD.net")).as_deref(),
            Ok("bob@Origin.org")
        );
        // Made before domains were put into lower case.
        let body = "JK=Origin.org=bob";
        let old = format!("SRS0={}={body}@Fwd.Net", hash("secret", body, "Fwd.Net"));
        assert_eq!(decoded(&old).as_deref(), Ok("bob@Origin.org"));
    }

    #[test]
    fn what_cannot_be_rewritten_stays() {
        for sender in ["@", "bob@", "@x.org", "SRS1=nothing@x.org"] {
            assert_eq!(encoded(sender, "fwd.net"), None, "{sender}");
        }
        let long = format!("{}@origin.org", "x".repeat(240));
        assert_eq!(encoded(&long, "fwd.net"), None);
        assert_eq!(encoded("bob@origin.org", ""), None);
        // SRS0 with another separator keeps it.
        let again = encoded("SRS0+abcd=JK=o.org=bob@fwd.net", "third.com").unwrap();
        assert_eq!(
            decoded(&again).as_deref(),
            Ok("SRS0+abcd=JK=o.org=bob@fwd.net")
        );
    }

    #[test]
    fn any_address_gives_an_answer_and_what_is_encoded_is_decoded() {
        let mut dice = Dice::new(7);
        for _ in 0..3000 {
            let mut text = |alphabet: &[u8], most: usize| -> String {
                let length = dice.roll(most) + 1;
                (0..length)
                    .map(|_| char::from(alphabet[dice.roll(alphabet.len())]))
                    .collect()
            };
            let host = text(b"abXY1-.", 12);
            let plain = MailAddr::new(&text(b"abXY1=+-.", 12), &host).unwrap();
            let strange = MailAddr::new(&format!("sRs{}", text(b"01=+-AZ27az", 24)), &host);
            let strange = strange.unwrap();
            for keys in [SECRET, Keys { key: "", ..SECRET }] {
                let _ = keys.decode(&strange, JK);
                let _ = keys.encode(&strange, &host, JK);
                if let Some(sent) = keys.encode(&plain, "fwd.net", JK) {
                    assert!(is_rewritten(&sent));
                    assert_eq!(keys.decode(&sent, JK), Ok(plain.clone()));
                }
            }
        }
    }
}
