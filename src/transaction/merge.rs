//! One envelope for two recipients whose mail goes to the same place.
//!
//! The place gets one copy. What the sender wants to be told of either is told, in the name of the
//! one that more is to be told of; only where both are to be told of a success (RFC 3461 §5.2.7)
//! does each keep an envelope, for a report names one.

use crate::mail::{MailAddr, Notify};

use super::Asked;

/// A recipient, and what is to be told of it.
type Recipient<'r> = (&'r MailAddr, &'r Asked);

/// The recipient for which an envelope is that serves both; `None` if they need one each.
pub fn merge(first: Recipient<'_>, second: Recipient<'_>) -> Option<(MailAddr, Asked)> {
    let ((rcpt, asked), (other, wanted)) = (first, second);
    let success = |asked: &Asked| asked.notify.has(Notify::SUCCESS);
    let never = |asked: &Asked| asked.notify.has(Notify::NEVER);
    let same_name = rcpt.is_same(other) && asked.orcpt == wanted.orcpt;
    if !same_name && success(asked) && success(wanted) {
        return None;
    }
    let more = (success(wanted) && !success(asked)) || (never(asked) && !never(wanted));
    let (name, orcpt) = if more {
        (other, &wanted.orcpt)
    } else {
        (rcpt, &asked.orcpt)
    };
    let asked = Asked {
        notify: both(asked.notify, wanted.notify),
        orcpt: orcpt.clone(),
    };
    Some((name.clone(), asked))
}

/// What one of the two asks for. Who asks for nothing hears of failures and delays.
fn both(a: Notify, b: Notify) -> Notify {
    let bits = |notify: Notify| match notify.0 {
        0 => Notify::FAILURE | Notify::DELAY,
        bits => bits,
    };
    match (a.has(Notify::NEVER), b.has(Notify::NEVER)) {
        _ if a == b => a,
        (true, _) => b,
        (_, true) => a,
        _ => Notify(bits(a) | bits(b)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: u8 = 0;

    fn asked(notify: u8) -> Asked {
        Asked {
            notify: Notify(notify),
            orcpt: None,
        }
    }

    fn merged(first: (&str, u8), second: (&str, u8)) -> Option<(String, u8)> {
        let address = |user: &str| MailAddr::new(user, "example.org").unwrap();
        let ((a, first), (b, second)) = (
            (address(first.0), asked(first.1)),
            (address(second.0), asked(second.1)),
        );
        let (name, asked) = merge((&a, &first), (&b, &second))?;
        Some((name.user().to_owned(), asked.notify.0))
    }

    // smtpd.conf(5), COPIES: one copy, and no report that was asked for is lost.
    #[test]
    fn one_envelope_serves_both_unless_each_is_owed_a_success() {
        const SUCCESS: u8 = Notify::SUCCESS;
        const FAILURE: u8 = Notify::FAILURE;
        const NEVER: u8 = Notify::NEVER;
        let usual = FAILURE | Notify::DELAY;
        for (a, b, expected) in [
            (DEFAULT, DEFAULT, Some(("a", DEFAULT))),
            (DEFAULT, SUCCESS, Some(("b", usual | SUCCESS))),
            (SUCCESS, DEFAULT, Some(("a", usual | SUCCESS))),
            (SUCCESS, FAILURE, Some(("a", SUCCESS | FAILURE))),
            (NEVER, DEFAULT, Some(("b", DEFAULT))),
            (DEFAULT, NEVER, Some(("a", DEFAULT))),
            (NEVER, SUCCESS, Some(("b", SUCCESS))),
            (NEVER, NEVER, Some(("a", NEVER))),
            (DEFAULT, FAILURE, Some(("a", usual))),
            (SUCCESS, SUCCESS, None),
        ] {
            let expected = expected.map(|(name, bits)| (name.to_owned(), bits));
            assert_eq!(merged(("a", a), ("b", b)), expected, "{a} {b}");
        }
        let same = merged(("a", SUCCESS), ("a", SUCCESS));
        assert_eq!(same, Some(("a".to_owned(), SUCCESS)));
    }
}
