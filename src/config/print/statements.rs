//! All statements as text again, for trials: what is printed must be read back as the same.

use std::fmt::Write;

use crate::config::ast::{
    Ast, Body, Condition, ConditionKind, Decision, FilterValue, Limit, ListenKind, LocalKind,
    LocalMethod, MethodText, MtaLimit, PkiOption, ProcOption, RelayKind, Size, Text, Verify,
};

use super::Printer;

/// The text of a whole configuration.
pub fn print(ast: &Ast) -> String {
    let mut out = Printer::default();
    for statement in &ast.statements {
        out.body(&statement.body);
        out.text.push('\n');
    }
    out.text
}

impl Printer {
    fn body(&mut self, body: &Body) {
        match body {
            Body::BounceWarn(delays) => {
                self.word("bounce warn-interval");
                self.listed(delays);
            }
            Body::Admd(name) => self.pair("admd", name),
            Body::Ca(name, file) => {
                self.pair("ca", name);
                self.pair("cert", file);
            }
            Body::Pki(name, options) => {
                self.pair("pki", name);
                for option in options {
                    match option {
                        PkiOption::Cert(file) => self.pair("cert", file),
                        PkiOption::Key(file) => self.pair("key", file),
                        PkiOption::Dhe(params) => self.pair("dhe", params),
                    }
                }
            }
            Body::MdaLimit(items) => self.limits("mda limit", items),
            Body::MdaWrapper(name, command) => {
                self.pair("mda wrapper", name);
                self.string(command);
            }
            Body::MtaMaxDeferred(number) => {
                self.word("mta max-deferred");
                self.number(number.value);
            }
            Body::MtaLimit(domain, items) => {
                self.word("mta limit");
                if let Some(domain) = domain {
                    self.pair("for domain", domain);
                }
                for item in items {
                    match item {
                        MtaLimit::Limit(item) => self.limit(item),
                        MtaLimit::Inet4 => self.word("inet4"),
                        MtaLimit::Inet6 => self.word("inet6"),
                    }
                }
            }
            Body::Proc(name, command, options) => {
                self.pair("proc", name);
                self.string(command);
                self.proc_options(options);
            }
            Body::QueueCompression => self.word("queue compression"),
            Body::QueueEncryption(key) => {
                self.word("queue encryption");
                self.strings(key.as_slice());
            }
            Body::QueueTtl(delay) => self.pair("queue ttl", delay),
            Body::SchedulerLimit(items) => self.limits("scheduler limit", items),
            Body::SmtpLimit(items) => self.limits("smtp limit", items),
            Body::SmtpLimitBypass(table) => {
                self.word("smtp limit bypass");
                self.table(&table.value);
            }
            Body::SmtpCiphers(ciphers) => self.pair("smtp ciphers", ciphers),
            Body::SmtpMaxMessageSize(size) => {
                self.word("smtp max-message-size");
                match size {
                    Size::Bytes(number) => self.number(number.value),
                    Size::Scaled(text) => self.string(text),
                }
            }
            Body::SmtpSubAddrDelim(text) => self.pair("smtp sub-addr-delim", text),
            Body::SrsKey(key) => self.pair("srs key", key),
            Body::SrsKeyBackup(key) => self.pair("srs key backup", key),
            Body::SrsTtl(delay) => self.pair("srs ttl", delay),
            Body::Listen(on, options) => {
                self.pair("listen on", on);
                options.iter().for_each(|option| self.listen(&option.kind));
            }
            Body::ListenSocket(options) => {
                self.word("listen on socket");
                options.iter().for_each(|option| self.listen(&option.kind));
            }
            Body::Table(name, value) => {
                self.pair("table", name);
                self.table(value);
            }
            Body::Action(action) => {
                self.pair("action", &action.name);
                self.method(&action.method);
                action.ttl.iter().for_each(|ttl| self.pair("ttl", ttl));
            }
            Body::Match(rule) => self.rule(rule),
            Body::Filter(name, value) => {
                self.pair("filter", name);
                self.filter(value);
            }
        }
    }

    fn listen(&mut self, option: &ListenKind) {
        match option {
            ListenKind::Inet4 => self.word("inet4"),
            ListenKind::Inet6 => self.word("inet6"),
            ListenKind::PortNumber(number) => {
                self.word("port");
                self.number(number.value);
            }
            ListenKind::PortName(name) => self.pair("port", name),
            ListenKind::Smtps(verify) => self.verify("smtps", *verify),
            ListenKind::Tls => self.word("tls"),
            ListenKind::TlsRequire(verify) => self.verify("tls-require", *verify),
            ListenKind::Ciphers(text) => self.pair("ciphers", text),
            ListenKind::Protocols(text) => self.pair("protocols", text),
            ListenKind::Pki(name) => self.pair("pki", name),
            ListenKind::Ca(name) => self.pair("ca", name),
            ListenKind::Auth(table) => {
                self.word("auth");
                table.iter().for_each(|table| self.table(&table.value));
            }
            ListenKind::AuthOptional(table) => {
                self.word("auth-optional");
                table.iter().for_each(|table| self.table(&table.value));
            }
            ListenKind::Hostname(name) => self.pair("hostname", name),
            ListenKind::Hostnames(table) => {
                self.word("hostnames");
                self.table(&table.value);
            }
            ListenKind::ReceivedAuth => self.word("received-auth"),
            ListenKind::ProxyV2(from) => {
                self.word("proxy-v2");
                if let Some(table) = from {
                    self.word("from");
                    self.table(&table.value);
                }
            }
            ListenKind::Senders(table, masquerade) => {
                self.word("senders");
                self.table(&table.value);
                if *masquerade {
                    self.word("masquerade");
                }
            }
            ListenKind::Filter(filter) => self.filter_ref(filter),
            ListenKind::MaskSrc => self.word("mask-src"),
            ListenKind::NoDsn => self.word("no-dsn"),
            ListenKind::Tag(tag) => self.pair("tag", tag),
        }
    }

    fn method(&mut self, method: &MethodText) {
        match method {
            MethodText::Local(method, options) => {
                self.local(method);
                for option in options {
                    match &option.kind {
                        LocalKind::User(user) => self.pair("user", user),
                        LocalKind::Alias(table) => {
                            self.word("alias");
                            self.table(&table.value);
                        }
                        LocalKind::Virtual(table) => {
                            self.word("virtual");
                            self.table(&table.value);
                        }
                        LocalKind::Userbase(table) => {
                            self.word("userbase");
                            self.table(&table.value);
                        }
                        LocalKind::Wrapper(name) => self.pair("wrapper", name),
                    }
                }
            }
            MethodText::Relay(options) => {
                self.word("relay");
                options.iter().for_each(|option| self.relay(&option.kind));
            }
        }
    }

    fn local(&mut self, method: &LocalMethod) {
        match method {
            LocalMethod::Mbox => self.word("mbox"),
            LocalMethod::Maildir(path, junk) => {
                self.word("maildir");
                self.strings(path.as_slice());
                if *junk {
                    self.word("junk");
                }
            }
            LocalMethod::Lmtp(dest, rcpt_to) => {
                self.pair("lmtp", dest);
                if *rcpt_to {
                    self.word("rcpt-to");
                }
            }
            LocalMethod::Mda(command) => self.pair("mda", command),
            LocalMethod::ForwardOnly => self.word("forward-only"),
            LocalMethod::ExpandOnly => self.word("expand-only"),
        }
    }

    fn relay(&mut self, option: &RelayKind) {
        let (word, table) = match option {
            RelayKind::Helo(name) => return self.pair("helo", name),
            RelayKind::Pki(name) => return self.pair("pki", name),
            RelayKind::Ca(name) => return self.pair("ca", name),
            RelayKind::Ciphers(text) => return self.pair("ciphers", text),
            RelayKind::Protocols(text) => return self.pair("protocols", text),
            RelayKind::MailFrom(addr) => return self.pair("mail-from", addr),
            RelayKind::Backup(None) => return self.word("backup"),
            RelayKind::Backup(Some(name)) => return self.pair("backup mx", name),
            RelayKind::Tls(Verify::Yes) => return self.word("tls"),
            RelayKind::Tls(Verify::No) => return self.word("tls no-verify"),
            RelayKind::Filter(filter) => return self.filter_ref(filter),
            RelayKind::Srs => return self.word("srs"),
            RelayKind::HeloSrc(table) => ("helo-src", table),
            RelayKind::Src(table) => ("src", table),
            RelayKind::Host(table) => ("host", table),
            RelayKind::Domain(table) => ("domain", table),
            RelayKind::Auth(table) => ("auth", table),
        };
        self.word(word);
        self.table(&table.value);
    }

    fn filter(&mut self, value: &FilterValue) {
        match value {
            FilterValue::Proc(name) => self.pair("proc", name),
            FilterValue::ProcExec(command, options) => {
                self.pair("proc-exec", command);
                self.proc_options(options);
            }
            FilterValue::Chain(names) => {
                self.word("chain");
                self.braced(names);
            }
            FilterValue::Phase(phase, condition, decision) => {
                self.word("phase");
                self.word(phase.word());
                self.word("match");
                self.condition(condition);
                match decision {
                    Decision::Reject(text) => self.pair("reject", text),
                    Decision::Disconnect(text) => self.pair("disconnect", text),
                    Decision::Rewrite(text) => self.pair("rewrite", text),
                    Decision::Report(text) => self.pair("report", text),
                    Decision::Junk => self.word("junk"),
                    Decision::Bypass => self.word("bypass"),
                }
            }
        }
    }

    fn condition(&mut self, condition: &Condition) {
        self.negation(condition.negated);
        match &condition.kind {
            ConditionKind::Fcrdns => self.word("fcrdns"),
            ConditionKind::Rdns(p) => self.pattern("rdns", p.as_ref()),
            ConditionKind::Src(p) => self.pattern("src", Some(p)),
            ConditionKind::Helo(p) => self.pattern("helo", Some(p)),
            ConditionKind::Auth(p) => self.pattern("auth", p.as_ref()),
            ConditionKind::MailFrom(p) => self.pattern("mail-from", Some(p)),
            ConditionKind::RcptTo(p) => self.pattern("rcpt-to", Some(p)),
        }
    }

    fn proc_options(&mut self, options: &[ProcOption]) {
        for option in options {
            self.pair(option.kind.word(), &option.value);
        }
    }

    fn limits(&mut self, words: &str, items: &[Limit]) {
        self.word(words);
        items.iter().for_each(|item| self.limit(item));
    }

    fn limit(&mut self, item: &Limit) {
        self.string(&item.key);
        self.number(item.value.value);
    }

    fn verify(&mut self, word: &str, verify: Verify) {
        self.word(word);
        if verify == Verify::Yes {
            self.word("verify");
        }
    }

    fn strings(&mut self, texts: &[Text]) {
        texts.iter().for_each(|text| self.string(text));
    }

    fn number(&mut self, number: i64) {
        self.blank();
        // Writing to a string cannot fail.
        let _ = write!(self.text, "{number}");
    }
}
