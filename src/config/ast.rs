//! smtpd.conf(5) as it was written: every statement in its order, macros and includes replaced,
//! nothing yet looked up.

use super::diagnostic::Pos;
pub use super::model::Phase;

/// The statements of a configuration, in their order.
#[derive(Clone, Debug, Default)]
pub struct Ast {
    /// Statements in the order of the text.
    pub statements: Vec<Statement>,
    /// Names that wrong statements would have declared: a use of one of these is not a second error.
    pub broken: Vec<String>,
}

/// A string and where it stands.
#[derive(Clone, Debug)]
pub struct Text {
    /// The value, without quotes.
    pub value: String,
    /// Its place.
    pub at: Pos,
}

/// A number and where it stands.
#[derive(Clone, Copy, Debug)]
pub struct Number {
    /// The value.
    pub value: i64,
    /// Its place.
    pub at: Pos,
}

/// A statement, and where it stands.
#[derive(Clone, Debug)]
pub struct Statement {
    /// Where its first word stands.
    pub at: Pos,
    /// What it says.
    pub body: Body,
}

/// What a statement says.
#[derive(Clone, Debug)]
pub enum Body {
    /// `bounce warn-interval`.
    BounceWarn(Vec<Text>),
    /// `admd`.
    Admd(Text),
    /// `ca NAME cert FILE`.
    Ca(Text, Text),
    /// `pki NAME …`.
    Pki(Text, Vec<PkiOption>),
    /// `mda limit`.
    MdaLimit(Vec<Limit>),
    /// `mda wrapper NAME COMMAND`.
    MdaWrapper(Text, Text),
    /// `mta max-deferred`.
    MtaMaxDeferred(Number),
    /// `mta limit [for domain DOMAIN]`.
    MtaLimit(Option<Text>, Vec<MtaLimit>),
    /// `proc NAME COMMAND …`.
    Proc(Text, Text, Vec<ProcOption>),
    /// `queue compression`.
    QueueCompression,
    /// `queue encryption [KEY]`.
    QueueEncryption(Option<Text>),
    /// `queue ttl`.
    QueueTtl(Text),
    /// `scheduler limit`.
    SchedulerLimit(Vec<Limit>),
    /// `smtp limit`.
    SmtpLimit(Vec<Limit>),
    /// `smtp limit bypass <table>`.
    SmtpLimitBypass(TableRef),
    /// `smtp ciphers`.
    SmtpCiphers(Text),
    /// `smtp max-message-size`.
    SmtpMaxMessageSize(Size),
    /// `smtp sub-addr-delim`.
    SmtpSubAddrDelim(Text),
    /// `srs key SECRET`.
    SrsKey(Text),
    /// `srs key backup SECRET`.
    SrsKeyBackup(Text),
    /// `srs ttl`.
    SrsTtl(Text),
    /// `listen on INTERFACE …`.
    Listen(Text, Vec<ListenOption>),
    /// `listen on socket …`.
    ListenSocket(Vec<ListenOption>),
    /// `table NAME …`.
    Table(Text, TableValue),
    /// `action NAME METHOD …`.
    Action(ActionText),
    /// `match …`.
    Match(MatchText),
    /// `filter NAME …`.
    Filter(Text, FilterValue),
}

/// The argument of `max-message-size`.
#[derive(Clone, Debug)]
pub enum Size {
    /// Bytes.
    Bytes(Number),
    /// With a unit.
    Scaled(Text),
}

/// `key number` of a limit.
#[derive(Clone, Debug)]
pub struct Limit {
    /// Which limit.
    pub key: Text,
    /// Its value.
    pub value: Number,
}

/// An item of `mta limit`.
#[derive(Clone, Debug)]
pub enum MtaLimit {
    /// `key number`.
    Limit(Limit),
    /// `inet4`.
    Inet4,
    /// `inet6`.
    Inet6,
}

/// An option of `pki`.
#[derive(Clone, Debug)]
pub enum PkiOption {
    /// `cert FILE`.
    Cert(Text),
    /// `key FILE`.
    Key(Text),
    /// `dhe PARAMS`.
    Dhe(Text),
}

/// An option of `proc` and `proc-exec`.
#[derive(Clone, Debug)]
pub struct ProcOption {
    /// Which.
    pub kind: ProcOptionKind,
    /// Its argument.
    pub value: Text,
    /// Where its word stands.
    pub at: Pos,
}

/// Which option of `proc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcOptionKind {
    /// `user`.
    User,
    /// `group`.
    Group,
    /// `chroot`.
    Chroot,
    /// `on failure`.
    OnFailure,
}

impl ProcOptionKind {
    /// The word in the text.
    pub fn word(self) -> &'static str {
        match self {
            ProcOptionKind::User => "user",
            ProcOptionKind::Group => "group",
            ProcOptionKind::Chroot => "chroot",
            ProcOptionKind::OnFailure => "on failure",
        }
    }
}

/// A table where an option wants one.
#[derive(Clone, Debug)]
pub struct TableRef {
    /// What is written.
    pub value: TableValue,
    /// Where.
    pub at: Pos,
}

/// The contents of a table, or its name.
#[derive(Clone, Debug)]
pub enum TableValue {
    /// A string: a list of one value where an option stands, a path or `backend:config` after
    /// `table NAME`.
    One(Text),
    /// `{ a, b }`.
    List(Vec<Text>),
    /// `{ a = b, c = d }`.
    Map(Vec<(Text, Text)>),
    /// `<name>`.
    Named(Text),
}

/// A table and how its entries are read.
#[derive(Clone, Debug)]
pub struct PatternText {
    /// Written with `regex`.
    pub regex: bool,
    /// The table.
    pub table: TableRef,
}

/// An option of `listen on`.
#[derive(Clone, Debug)]
pub struct ListenOption {
    /// Where its word stands.
    pub at: Pos,
    /// What it says.
    pub kind: ListenKind,
}

/// What an option of `listen on` says.
#[derive(Clone, Debug)]
pub enum ListenKind {
    /// `inet4`.
    Inet4,
    /// `inet6`.
    Inet6,
    /// `port NUMBER`.
    PortNumber(Number),
    /// `port NAME`.
    PortName(Text),
    /// `smtps [verify]`.
    Smtps(Verify),
    /// `tls`.
    Tls,
    /// `tls-require [verify]`.
    TlsRequire(Verify),
    /// `ciphers`.
    Ciphers(Text),
    /// `protocols`.
    Protocols(Text),
    /// `pki`.
    Pki(Text),
    /// `ca`.
    Ca(Text),
    /// `auth [TABLE]`.
    Auth(Option<TableRef>),
    /// `auth-optional [TABLE]`.
    AuthOptional(Option<TableRef>),
    /// `hostname`.
    Hostname(Text),
    /// `hostnames`.
    Hostnames(TableRef),
    /// `received-auth`.
    ReceivedAuth,
    /// `proxy-v2`.
    ProxyV2(Option<TableRef>),
    /// `senders TABLE [masquerade]`.
    Senders(TableRef, bool),
    /// `filter`.
    Filter(FilterRef),
    /// `mask-src`.
    MaskSrc,
    /// `no-dsn`.
    NoDsn,
    /// `tag`.
    Tag(Text),
}

/// Whether a client must show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// `verify`.
    Yes,
    /// Without it.
    No,
}

/// A filter where an option wants one.
#[derive(Clone, Debug)]
pub enum FilterRef {
    /// By name.
    Named(Text),
    /// `{ a, b }`.
    Chain(Vec<Text>),
}

/// `action NAME METHOD OPTIONS`.
#[derive(Clone, Debug)]
pub struct ActionText {
    /// Its name.
    pub name: Text,
    /// Where the method's word stands.
    pub method_at: Pos,
    /// How mail is settled.
    pub method: MethodText,
    /// `ttl`, as often as it stands there.
    pub ttl: Vec<Text>,
}

/// A method with its options.
#[derive(Clone, Debug)]
pub enum MethodText {
    /// A local one.
    Local(LocalMethod, Vec<LocalOption>),
    /// `relay`.
    Relay(Vec<RelayOption>),
}

/// A local method.
#[derive(Clone, Debug)]
pub enum LocalMethod {
    /// `mbox`.
    Mbox,
    /// `maildir [PATH] [junk]`.
    Maildir(Option<Text>, bool),
    /// `lmtp DEST [rcpt-to]`.
    Lmtp(Text, bool),
    /// `mda COMMAND`.
    Mda(Text),
    /// `forward-only`.
    ForwardOnly,
    /// `expand-only`.
    ExpandOnly,
}

/// An option of a local action.
#[derive(Clone, Debug)]
pub struct LocalOption {
    /// Where its word stands.
    pub at: Pos,
    /// What it says.
    pub kind: LocalKind,
}

/// What an option of a local action says.
#[derive(Clone, Debug)]
pub enum LocalKind {
    /// `user`.
    User(Text),
    /// `alias`.
    Alias(TableRef),
    /// `virtual`.
    Virtual(TableRef),
    /// `userbase`.
    Userbase(TableRef),
    /// `wrapper`.
    Wrapper(Text),
}

/// An option of a relay action.
#[derive(Clone, Debug)]
pub struct RelayOption {
    /// Where its word stands.
    pub at: Pos,
    /// What it says.
    pub kind: RelayKind,
}

/// What an option of a relay action says.
#[derive(Clone, Debug)]
pub enum RelayKind {
    /// `helo`.
    Helo(Text),
    /// `helo-src`.
    HeloSrc(TableRef),
    /// `pki`.
    Pki(Text),
    /// `ca`.
    Ca(Text),
    /// `ciphers`.
    Ciphers(Text),
    /// `protocols`.
    Protocols(Text),
    /// `src`.
    Src(TableRef),
    /// `mail-from`.
    MailFrom(Text),
    /// `backup [mx NAME]`.
    Backup(Option<Text>),
    /// `host`.
    Host(TableRef),
    /// `domain`.
    Domain(TableRef),
    /// `tls [no-verify]`.
    Tls(Verify),
    /// `auth`.
    Auth(TableRef),
    /// `filter`.
    Filter(FilterRef),
    /// `srs`.
    Srs,
}

/// `match CRITERIA reject` or `match CRITERIA [filter NAME] action NAME`.
#[derive(Clone, Debug)]
pub struct MatchText {
    /// Criteria in their order.
    pub criteria: Vec<CriterionText>,
    /// `filter`, with where its word stands; each of them, for there may be one.
    pub filters: Vec<(Pos, FilterRef)>,
    /// The action; `None` for `reject`.
    pub action: Option<Text>,
}

/// One criterion.
#[derive(Clone, Debug)]
pub struct CriterionText {
    /// Where its word stands.
    pub at: Pos,
    /// Written with `!`.
    pub negated: bool,
    /// What is asked.
    pub kind: CriterionKind,
}

/// What a criterion asks.
#[derive(Clone, Debug)]
pub enum CriterionKind {
    /// `tag`.
    Tag(PatternText),
    /// `helo`.
    Helo(PatternText),
    /// `mail-from`.
    MailFrom(PatternText),
    /// `rcpt-to`.
    RcptTo(PatternText),
    /// `tls`.
    Tls,
    /// `auth [TABLE]`.
    Auth(Option<PatternText>),
    /// `from socket`.
    FromSocket,
    /// `from local`.
    FromLocal,
    /// `from any`.
    FromAny,
    /// `from src`.
    FromSrc(PatternText),
    /// `from rdns [TABLE]`.
    FromRdns(Option<PatternText>),
    /// `from auth [TABLE]`.
    FromAuth(Option<PatternText>),
    /// `from mail-from`.
    FromMailFrom(PatternText),
    /// `for local`.
    ForLocal,
    /// `for any`.
    ForAny,
    /// `for domain`.
    ForDomain(PatternText),
    /// `for rcpt-to`.
    ForRcptTo(PatternText),
}

/// What a filter is.
#[derive(Clone, Debug)]
pub enum FilterValue {
    /// `proc NAME`.
    Proc(Text),
    /// `proc-exec COMMAND …`.
    ProcExec(Text, Vec<ProcOption>),
    /// `chain { a, b }`.
    Chain(Vec<Text>),
    /// `phase PHASE match …`.
    Phase(Phase, Condition, Decision),
}

/// The condition of a filter phase.
#[derive(Clone, Debug)]
pub struct Condition {
    /// Written with `!`.
    pub negated: bool,
    /// What is asked.
    pub kind: ConditionKind,
}

/// What a filter's condition asks.
#[derive(Clone, Debug)]
pub enum ConditionKind {
    /// `fcrdns`.
    Fcrdns,
    /// `rdns [TABLE]`.
    Rdns(Option<PatternText>),
    /// `src TABLE`.
    Src(PatternText),
    /// `helo TABLE`.
    Helo(PatternText),
    /// `auth [TABLE]`.
    Auth(Option<PatternText>),
    /// `mail-from TABLE`.
    MailFrom(PatternText),
    /// `rcpt-to TABLE`.
    RcptTo(PatternText),
}

/// What a filter decides.
#[derive(Clone, Debug)]
pub enum Decision {
    /// `reject MESSAGE`.
    Reject(Text),
    /// `disconnect MESSAGE`.
    Disconnect(Text),
    /// `rewrite VALUE`.
    Rewrite(Text),
    /// `report TEXT`.
    Report(Text),
    /// `junk`.
    Junk,
    /// `bypass`.
    Bypass,
}
