//! From statements to the [`Config`]: names are looked up, tables are given their kinds, limits
//! and exclusions are kept. Every complaint has a place; checking never stops at the first.
//!
//! Names must be declared before they are used, as smtpd.conf(5) has it, but for the certificates of
//! a relay, which may stand anywhere.

mod action;
mod filter;
mod global;
mod listen;
mod pattern;
mod pki;
mod reach;
mod rule;
mod table;

use std::collections::{BTreeMap, BTreeSet};

use crate::util::{Line, Secret};

use super::ast::{Ast, Body, Text};
use super::diagnostic::{Diagnostics, TokenPosition};
use super::model::{
    Config, MdaLimits, MtaOptions, Position, QueueOptions, SchedulerLimits, Smtp, SocketListener,
};
use super::sources::Sources;
use super::words::nearest;
use super::{Defaults, limits};

use pki::SrsText;
use table::Kind;

/// Builds the configuration. It is whole only if `diagnostics` has no error afterwards.
pub fn check(
    ast: &Ast,
    sources: &Sources,
    defaults: &Defaults,
    diagnostics: &mut Diagnostics,
) -> Config {
    let mut checker = Checker {
        sources,
        diagnostics,
        config: empty(defaults),
        kinds: BTreeMap::new(),
        declared: Declared::default(),
        used: Used::default(),
        anonymous: 0,
        relay_pki: Vec::new(),
        relay_ca: Vec::new(),
        broken: &ast.broken,
    };
    checker.builtin_tables(defaults);
    for statement in &ast.statements {
        checker.statement(&statement.body, statement.at);
    }
    checker.config.srs = checker.declared.srs.finished();
    checker.whole_pairs();
    checker.certificates_of_relays();
    checker.unused();
    checker.unreachable();
    if !checker.declared.any_rule && !checker.diagnostics.failed() {
        checker.diagnostics.error(
            TokenPosition::default(),
            "no rules, nothing to do: a match line says what mail to take",
        );
    }
    checker.config
}

/// Where things were declared, for messages and for finding them.
#[derive(Default)]
struct Declared {
    tables: BTreeMap<String, TokenPosition>,
    actions: BTreeMap<String, TokenPosition>,
    wrappers: BTreeMap<String, TokenPosition>,
    pki: BTreeMap<String, TokenPosition>,
    ca: BTreeMap<String, TokenPosition>,
    procs: BTreeMap<String, TokenPosition>,
    filters: BTreeMap<String, TokenPosition>,
    srs: SrsText,
    socket: bool,
    any_rule: bool,
    rules: Vec<TokenPosition>,
}

#[derive(Default)]
struct Used {
    tables: BTreeSet<String>,
    actions: BTreeSet<String>,
    wrappers: BTreeSet<String>,
    pki: BTreeSet<String>,
    ca: BTreeSet<String>,
    procs: BTreeSet<String>,
    filters: BTreeSet<String>,
}

struct Checker<'c> {
    sources: &'c Sources,
    diagnostics: &'c mut Diagnostics,
    config: Config,
    kinds: BTreeMap<String, Kind>,
    declared: Declared,
    used: Used,
    anonymous: u32,
    /// What actions name, looked up when everything has been declared.
    relay_pki: Vec<Text>,
    relay_ca: Vec<Text>,
    broken: &'c [String],
}

impl Checker<'_> {
    fn statement(&mut self, body: &Body, at: TokenPosition) {
        match body {
            Body::BounceWarn(delays) => self.bounce_warn(delays),
            Body::Admd(name) => self.admd(name),
            Body::Ca(name, file) => self.ca(name, file),
            Body::Pki(name, options) => self.pki(name, options),
            Body::MdaLimit(items) => self.mda_limit(items),
            Body::MdaWrapper(name, command) => self.mda_wrapper(name, command),
            Body::MtaMaxDeferred(number) => self.mta_max_deferred(*number),
            Body::MtaLimit(domain, items) => self.mta_limit(domain.as_ref(), items),
            Body::Proc(name, command, options) => self.proc(name, command, options, at),
            Body::QueueCompression => self.config.queue.compression = true,
            Body::QueueEncryption(key) => self.queue_encryption(key.as_ref()),
            Body::QueueTtl(delay) => self.queue_ttl(delay),
            Body::SchedulerLimit(items) => self.scheduler_limit(items),
            Body::SmtpLimit(items) => self.smtp_limit(items),
            Body::SmtpLimitBypass(table) => self.smtp_limit_bypass(table),
            Body::SmtpCiphers(names) => {
                self.config.smtp.ciphers = Some(line(names));
                self.config.smtp.ciphers_at = self.position(at);
            }
            Body::SmtpMaxMessageSize(size) => self.max_message_size(size),
            Body::SmtpSubAddrDelim(text) => self.sub_addr_delim(text),
            Body::SrsKey(key) => self.declared.srs.key = Some(Secret::new(line(key))),
            Body::SrsKeyBackup(key) => self.declared.srs.backup = Some(Secret::new(line(key))),
            Body::SrsTtl(delay) => self.srs_ttl(delay),
            Body::Listen(on, options) => self.listen(on, options, at),
            Body::ListenSocket(options) => self.listen_socket(options, at),
            Body::Table(name, value) => self.table(name, value),
            Body::Action(action) => self.action(action, at),
            Body::Match(rule) => self.rule(rule, at),
            Body::Filter(name, value) => self.filter(name, value, at),
        }
    }

    fn error(&mut self, at: TokenPosition, text: impl Into<String>) {
        self.diagnostics.error(at, text);
    }

    /// Complains of a name that was never declared, unless the statement that would have declared
    /// it is known to be wrong.
    fn unknown(&mut self, name: &Text, text: String) {
        if !self.broken.contains(&name.value) {
            self.error(name.at, text);
        }
    }

    fn position(&self, at: TokenPosition) -> Position {
        let file = self.diagnostics.files.get(at.file as usize);
        Position {
            file: file.cloned().unwrap_or_default(),
            line: at.line,
            column: at.column,
        }
    }

    /// Warns about what is declared and has no effect.
    fn unused(&mut self) {
        let (declared, used) = (&self.declared, &self.used);
        let kinds = [
            (
                "action",
                &declared.actions,
                &used.actions,
                " by any match rule",
            ),
            ("table", &declared.tables, &used.tables, ""),
            (
                "mda wrapper",
                &declared.wrappers,
                &used.wrappers,
                " by any action",
            ),
            (
                "pki",
                &declared.pki,
                &used.pki,
                " by any listener or action",
            ),
            ("ca", &declared.ca, &used.ca, " by any listener or action"),
            ("processor", &declared.procs, &used.procs, " by any filter"),
            (
                "filter",
                &declared.filters,
                &used.filters,
                " by any listener or action",
            ),
        ];
        for (what, declared, used, by) in kinds {
            for (name, at) in declared {
                if !used.contains(name) {
                    let text = format!("{what} \"{name}\" is not used{by}");
                    self.diagnostics.warning(*at, text);
                }
            }
        }
    }
}

/// A string of the text as a [`Line`]: the lexer lets no line end or NUL through.
fn line(text: &Text) -> Line {
    Line::new(&text.value).unwrap_or_else(|_| Line::sanitize(text.value.as_bytes()))
}

/// `; did you mean "x"?` when one of the names is close.
fn did_you_mean<'n>(name: &str, names: impl Iterator<Item = &'n str>) -> String {
    nearest(name, names).map_or(String::new(), |near| format!("; did you mean \"{near}\"?"))
}

fn empty(defaults: &Defaults) -> Config {
    Config {
        server_name: defaults.server_name.clone(),
        listeners: Vec::new(),
        socket: SocketListener::default(),
        tables: BTreeMap::new(),
        actions: BTreeMap::new(),
        rules: Vec::new(),
        mda_wrappers: BTreeMap::new(),
        smtp: Smtp::default(),
        queue: QueueOptions::default(),
        mda: MdaLimits::default(),
        scheduler: SchedulerLimits::default(),
        bounce_warn_s: vec![4 * 3600],
        mta: MtaOptions::default(),
        pki: BTreeMap::new(),
        ca: BTreeMap::new(),
        procs: BTreeMap::new(),
        filters: BTreeMap::new(),
        srs: None,
        admd: None,
    }
}
