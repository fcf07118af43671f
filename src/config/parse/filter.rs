//! `filter`.

use crate::config::ast::{Body, Condition, ConditionKind, Decision, FilterValue, Phase};

use super::{Parsed, Parser};

impl Parser<'_> {
    pub(super) fn filter(&mut self) -> Parsed<Body> {
        let name = self.string("the name of a filter")?;
        let value = match self.one_of(&["proc", "proc-exec", "chain", "phase"])?.0 {
            "proc" => FilterValue::Proc(self.string("the name of a processor")?),
            "proc-exec" => {
                let command = self.string("a command")?;
                FilterValue::ProcExec(command, self.proc_options()?)
            }
            "chain" => {
                self.expect_punct(b'{')?;
                FilterValue::Chain(self.braced_names("the name of a filter")?)
            }
            _ => self.phase()?,
        };
        Ok(Body::Filter(name, value))
    }

    fn phase(&mut self) -> Parsed<FilterValue> {
        let words = Phase::ALL.map(Phase::word);
        let word = self.one_of(&words)?.0;
        let phase = Phase::ALL.into_iter().find(|phase| phase.word() == word);
        let phase = phase.unwrap_or(Phase::Connect);
        self.expect("match")?;
        let condition = self.condition(phase)?;
        Ok(FilterValue::Phase(phase, condition, self.decision(phase)?))
    }

    fn condition(&mut self, phase: Phase) -> Parsed<Condition> {
        let negated = self.accept_punct(b'!');
        let kind = match self.one_of(conditions(phase))?.0 {
            "fcrdns" => ConditionKind::Fcrdns,
            "rdns" => ConditionKind::Rdns(self.optional_pattern()?),
            "src" => ConditionKind::Src(self.pattern()?),
            "helo" => ConditionKind::Helo(self.pattern()?),
            "auth" => ConditionKind::Auth(self.optional_pattern()?),
            "mail-from" => ConditionKind::MailFrom(self.pattern()?),
            _ => ConditionKind::RcptTo(self.pattern()?),
        };
        Ok(Condition { negated, kind })
    }

    fn decision(&mut self, phase: Phase) -> Parsed<Decision> {
        let all = [
            "reject",
            "disconnect",
            "rewrite",
            "report",
            "junk",
            "bypass",
        ];
        let words = match phase {
            Phase::Commit => all.get(..4).unwrap_or(&all),
            _ => &all,
        };
        Ok(match self.one_of(words)?.0 {
            "reject" => Decision::Reject(self.string("a message")?),
            "disconnect" => Decision::Disconnect(self.string("a message")?),
            "rewrite" => Decision::Rewrite(self.string("a value")?),
            "report" => Decision::Report(self.string("a text")?),
            "junk" => Decision::Junk,
            _ => Decision::Bypass,
        })
    }
}

/// What is known at a phase: each knows what the ones before it did.
fn conditions(phase: Phase) -> &'static [&'static str] {
    let all = &[
        "fcrdns",
        "rdns",
        "src",
        "helo",
        "auth",
        "mail-from",
        "rcpt-to",
    ];
    let known = match phase {
        Phase::Connect => 3,
        Phase::Helo | Phase::Ehlo => 4,
        Phase::Auth => 5,
        Phase::MailFrom | Phase::Data | Phase::Commit => 6,
        Phase::RcptTo => 7,
    };
    all.get(..known).unwrap_or(all)
}
