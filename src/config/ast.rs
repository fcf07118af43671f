//! smtpd.conf(5) as it was written: every statement in its order, macros and includes replaced,
//! nothing yet looked up.

use super::diagnostic::TokenPosition;
pub use super::model::Phase;

/// The statements of a configuration, in their order.
#[derive(Clone, Debug, Default)]
pub struct Ast {
    /// Statements in the order of the text.
    pub statements: Vec<Statement>,
    /// Names that wrong statements would have declared: a use of one of these is not a second
    /// error.
    pub broken: Vec<String>,
}

/// A string and where it stands.
#[derive(Clone, Debug)]
pub struct Text {
    /// The value, without quotes.
    pub value: String,
    pub at: TokenPosition,
}

/// A number and where it stands.
#[derive(Clone, Copy, Debug)]
pub struct Number {
    pub value: i64,
    pub at: TokenPosition,
}

/// A statement, and where it stands.
#[derive(Clone, Debug)]
pub struct Statement {
    /// Where its first word stands.
    pub at: TokenPosition,
    pub body: Body,
}

/// What a statement says.
#[derive(Clone, Debug)]
pub enum Body {
    /// `bounce warn-interval`.
    BounceWarn(Vec<Text>),
    Admd(Text),
    /// `ca NAME cert FILE`.
    Ca(Text, Text),
    /// `pki NAME …`.
    Pki(Text, Vec<PkiOption>),
    MdaLimit(Vec<Limit>),
    /// `mda wrapper NAME COMMAND`.
    MdaWrapper(Text, Text),
    MtaMaxDeferred(Number),
    /// `mta limit [for domain DOMAIN]`.
    MtaLimit(Option<Text>, Vec<MtaLimit>),
    /// `proc NAME COMMAND …`.
    Proc(Text, Text, Vec<ProcOption>),
    QueueCompression,
    /// `queue encryption [KEY]`.
    QueueEncryption(Option<Text>),
    QueueTtl(Text),
    SchedulerLimit(Vec<Limit>),
    SmtpLimit(Vec<Limit>),
    /// `smtp limit bypass <table>`.
    SmtpLimitBypass(TableRef),
    SmtpCiphers(Text),
    SmtpMaxMessageSize(Size),
    SmtpSubAddrDelim(Text),
    /// `srs key SECRET`.
    SrsKey(Text),
    /// `srs key backup SECRET`.
    SrsKeyBackup(Text),
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
    Bytes(Number),
    /// With a unit.
    Scaled(Text),
}

/// `key number` of a limit.
#[derive(Clone, Debug)]
pub struct Limit {
    /// Which limit.
    pub key: Text,
    pub value: Number,
}

/// An item of `mta limit`.
#[derive(Clone, Debug)]
pub enum MtaLimit {
    /// `key number`.
    Limit(Limit),
    Inet4,
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
    pub kind: ProcOptionKind,
    /// Its argument.
    pub value: Text,
    pub at: TokenPosition,
}

/// Which option of `proc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcOptionKind {
    User,
    Group,
    Chroot,
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
    pub at: TokenPosition,
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
    pub table: TableRef,
}

/// An option of `listen on`.
#[derive(Clone, Debug)]
pub struct ListenOption {
    pub at: TokenPosition,
    pub kind: ListenKind,
}

/// What an option of `listen on` says.
#[derive(Clone, Debug)]
pub enum ListenKind {
    Inet4,
    Inet6,
    /// `port NUMBER`.
    PortNumber(Number),
    /// `port NAME`.
    PortName(Text),
    /// `smtps [verify]`.
    Smtps(Verify),
    Tls,
    /// `tls-require [verify]`.
    TlsRequire(Verify),
    Ciphers(Text),
    Protocols(Text),
    Pki(Text),
    Ca(Text),
    /// `auth [TABLE]`.
    Auth(Option<TableRef>),
    /// `auth-optional [TABLE]`.
    AuthOptional(Option<TableRef>),
    Hostname(Text),
    Hostnames(TableRef),
    ReceivedAuth,
    ProxyV2(Option<TableRef>),
    /// `senders TABLE [masquerade]`.
    Senders(TableRef, bool),
    Filter(FilterRef),
    MaskSrc,
    NoDsn,
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
    Named(Text),
    /// `{ a, b }`.
    Chain(Vec<Text>),
}

/// `action NAME METHOD OPTIONS`.
#[derive(Clone, Debug)]
pub struct ActionText {
    pub name: Text,
    /// Where the method's word stands.
    pub method_at: TokenPosition,
    /// How mail is settled.
    pub method: MethodText,
    /// `ttl`, as often as it stands there.
    pub ttl: Vec<Text>,
}

/// A method with its options.
#[derive(Clone, Debug)]
pub enum MethodText {
    Local(LocalMethod, Vec<LocalOption>),
    Relay(Vec<RelayOption>),
}

/// A local method.
#[derive(Clone, Debug)]
pub enum LocalMethod {
    Mbox,
    /// `maildir [PATH] [junk]`.
    Maildir(Option<Text>, bool),
    /// `lmtp DEST [rcpt-to]`.
    Lmtp(Text, bool),
    /// `mda COMMAND`.
    Mda(Text),
    ForwardOnly,
    ExpandOnly,
}

/// An option of a local action.
#[derive(Clone, Debug)]
pub struct LocalOption {
    pub at: TokenPosition,
    pub kind: LocalKind,
}

/// What an option of a local action says.
#[derive(Clone, Debug)]
pub enum LocalKind {
    User(Text),
    Alias(TableRef),
    Virtual(TableRef),
    Userbase(TableRef),
    Wrapper(Text),
}

/// An option of a relay action.
#[derive(Clone, Debug)]
pub struct RelayOption {
    pub at: TokenPosition,
    pub kind: RelayKind,
}

/// What an option of a relay action says.
#[derive(Clone, Debug)]
pub enum RelayKind {
    Helo(Text),
    HeloSrc(TableRef),
    Pki(Text),
    Ca(Text),
    Ciphers(Text),
    Protocols(Text),
    Src(TableRef),
    MailFrom(Text),
    /// `backup [mx NAME]`.
    Backup(Option<Text>),
    Host(TableRef),
    Domain(TableRef),
    /// `tls [no-verify]`.
    Tls(Verify),
    Auth(TableRef),
    Filter(FilterRef),
    Srs,
}

/// `match CRITERIA reject` or `match CRITERIA [filter NAME] action NAME`.
#[derive(Clone, Debug)]
pub struct MatchText {
    /// Criteria in their order.
    pub criteria: Vec<CriterionText>,
    /// `filter`, with where its word stands; each of them, for there may be one.
    pub filters: Vec<(TokenPosition, FilterRef)>,
    /// The action; `None` for `reject`.
    pub action: Option<Text>,
}

/// One criterion.
#[derive(Clone, Debug)]
pub struct CriterionText {
    pub at: TokenPosition,
    /// Written with `!`.
    pub negated: bool,
    /// What is asked.
    pub kind: CriterionKind,
}

/// What a criterion asks.
#[derive(Clone, Debug)]
pub enum CriterionKind {
    Tag(PatternText),
    Helo(PatternText),
    MailFrom(PatternText),
    RcptTo(PatternText),
    Tls,
    /// `auth [TABLE]`.
    Auth(Option<PatternText>),
    FromSocket,
    FromLocal,
    FromAny,
    FromSrc(PatternText),
    /// `from rdns [TABLE]`.
    FromRdns(Option<PatternText>),
    /// `from auth [TABLE]`.
    FromAuth(Option<PatternText>),
    FromMailFrom(PatternText),
    ForLocal,
    ForAny,
    ForDomain(PatternText),
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
    Junk,
    Bypass,
}
