//! `match`.

use crate::config::ast::{CriterionKind, CriterionText, MatchText, PatternText};
use crate::config::diagnostic::TokenPosition;
use crate::config::model::{Criterion, Rule, Test};
use crate::config::print;
use crate::util::Line;

use super::table::Service;
use super::{Checker, did_you_mean};

/// What a rule asks for, one slot per criterion. The slots stand in the order of evaluation, the
/// same for every rule however it is written: it decides which table is asked first.
#[derive(Default)]
struct Slots {
    tag: Option<Criterion>,
    from: Option<Criterion>,
    for_: Option<Criterion>,
    helo: Option<Criterion>,
    auth: Option<Criterion>,
    tls: Option<Criterion>,
    mail_from: Option<Criterion>,
    rcpt_to: Option<Criterion>,
}

fn plain(test: Test) -> Option<Criterion> {
    Some(Criterion {
        negated: false,
        test,
    })
}

impl Slots {
    /// smtpd.conf(5): without `from` a rule is for local sources, without `for` for local domains.
    fn into_criteria(self) -> Vec<Criterion> {
        let from = self.from.or_else(|| plain(Test::FromLocal));
        let for_ = self.for_.or_else(|| plain(Test::ForLocal));
        let slots = [
            self.tag,
            from,
            for_,
            self.helo,
            self.auth,
            self.tls,
            self.mail_from,
            self.rcpt_to,
        ];
        slots.into_iter().flatten().collect()
    }
}

impl Checker<'_> {
    pub(super) fn rule(&mut self, text: &MatchText, at: TokenPosition) {
        self.declared.any_rule = true;
        let mut slots = Slots::default();
        for criterion in &text.criteria {
            self.criterion(&mut slots, criterion);
        }
        if let Some(action) = &text.action {
            if self.config.actions.contains_key(&action.value) {
                self.used.actions.insert(action.value.clone());
            } else {
                let known = self.config.actions.keys().map(String::as_str);
                let hint = did_you_mean(&action.value, known);
                let text = format!("no such dispatcher: {}{hint}", action.value);
                self.unknown(action, text);
            }
        }
        if let Some((at, _)) = text.filters.get(1) {
            self.error(*at, "filter already specified for this rule".to_owned());
        }
        let filter = text.filters.first();
        let filter = filter.and_then(|(_, filter)| self.filter_ref(filter));
        self.declared.rules.push(at);
        self.config.rules.push(Rule {
            criteria: slots.into_criteria(),
            action: text.action.as_ref().map(|action| action.value.clone()),
            filter,
            text: Line::sanitize(print::rule(text).as_bytes()),
            at: self.position(at),
        });
    }

    fn criterion(&mut self, slots: &mut Slots, text: &CriterionText) {
        let (at, negated) = (text.at, text.negated);
        let is = |test: Option<Test>| test.map(|test| Criterion { negated, test });
        match &text.kind {
            CriterionKind::Tag(p) => {
                let test = self.tested(p, Service::Text, "tag", Test::Tag);
                self.set(&mut slots.tag, is(test), "tag", at);
            }
            CriterionKind::Helo(p) => {
                let test = self.tested(p, Service::Domain, "helo", Test::Helo);
                self.set(&mut slots.helo, is(test), "helo", at);
            }
            CriterionKind::Tls => self.set(&mut slots.tls, is(Some(Test::Tls)), "tls", at),
            CriterionKind::Auth(p) => {
                let test = self.auth(p.as_ref());
                self.set(&mut slots.auth, is(test), "auth", at);
            }
            CriterionKind::MailFrom(p) => {
                let test = self.tested(p, Service::Mailaddr, "mail-from", Test::MailFrom);
                self.set(&mut slots.mail_from, is(test), "mail-from", at);
            }
            CriterionKind::RcptTo(p) => {
                let test = self.tested(p, Service::Mailaddr, "rcpt-to", Test::RcptTo);
                self.set(&mut slots.rcpt_to, is(test), "rcpt-to", at);
            }
            // These say any source, or any destination, and negate only what they ask for.
            CriterionKind::FromAuth(p) => {
                self.set(&mut slots.from, plain(Test::FromAny), "from", at);
                let test = self.auth(p.as_ref());
                self.set(&mut slots.auth, is(test), "auth", at);
            }
            CriterionKind::FromMailFrom(p) => {
                self.set(&mut slots.from, plain(Test::FromAny), "from", at);
                let test = self.tested(p, Service::Mailaddr, "mail-from", Test::MailFrom);
                self.set(&mut slots.mail_from, is(test), "mail-from", at);
            }
            CriterionKind::ForRcptTo(p) => {
                self.set(&mut slots.for_, plain(Test::ForAny), "for", at);
                let test = self.tested(p, Service::Mailaddr, "rcpt-to", Test::RcptTo);
                self.set(&mut slots.rcpt_to, is(test), "rcpt-to", at);
            }
            from => {
                let (slot, word) = match from {
                    CriterionKind::ForLocal
                    | CriterionKind::ForAny
                    | CriterionKind::ForDomain(_) => (&mut slots.for_, "for"),
                    _ => (&mut slots.from, "from"),
                };
                let test = self.source_or_domain(from);
                self.set(slot, is(test), word, at);
            }
        }
    }

    fn source_or_domain(&mut self, kind: &CriterionKind) -> Option<Test> {
        match kind {
            CriterionKind::FromSocket => Some(Test::FromSocket),
            CriterionKind::FromLocal => Some(Test::FromLocal),
            CriterionKind::FromSrc(p) => self.tested(p, Service::Netaddr, "from", Test::FromSrc),
            CriterionKind::FromRdns(None) => Some(Test::FromRdns(None)),
            CriterionKind::FromRdns(Some(p)) => {
                self.tested(p, Service::Domain, "rdns", |p| Test::FromRdns(Some(p)))
            }
            CriterionKind::ForLocal => Some(Test::ForLocal),
            CriterionKind::ForAny => Some(Test::ForAny),
            CriterionKind::ForDomain(p) => {
                let what = if p.regex { "for" } else { "'for'" };
                self.tested(p, Service::Domain, what, Test::ForDomain)
            }
            _ => Some(Test::FromAny),
        }
    }

    fn auth(&mut self, pattern: Option<&PatternText>) -> Option<Test> {
        match pattern {
            None => Some(Test::Auth(None)),
            // A user may be named as an address; keys of a credentials table will do as well.
            Some(p) => self.tested(p, Service::Mailaddr, "auth", |p| Test::Auth(Some(p))),
        }
    }

    fn tested(
        &mut self,
        pattern: &PatternText,
        service: Service,
        what: &str,
        test: impl Fn(crate::config::model::Pattern) -> Test,
    ) -> Option<Test> {
        self.pattern(pattern, service, what).map(test)
    }

    fn set(
        &mut self,
        slot: &mut Option<Criterion>,
        criterion: Option<Criterion>,
        word: &str,
        at: TokenPosition,
    ) {
        if slot.is_some() {
            self.error(at, format!("{word} already specified for this rule"));
        }
        *slot = criterion;
    }
}
