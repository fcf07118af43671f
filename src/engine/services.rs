//! What sessions and reports call: the rules, the queue and the runner behind one face.

use crate::auth::{self, Attempt, Verdict};
use crate::expansion::{self, Context};
use crate::log;
use crate::mail::{Expanded, Facts, MailAddr, Peer, Refusal};
use crate::privsep::Client;
use crate::queue::{BeginError, Committed, Incoming, Queue};
use crate::runner;
use crate::session::{self, Login, Refusals};
use crate::table::Snapshot;
use crate::table::include::Disk;
use crate::util::{Line, Live, Timestamp};

/// The context of a session in the engine.
pub struct Services {
    /// Rules, actions and tables.
    pub live: Live<Snapshot>,
    /// Where messages go.
    pub queue: Queue,
    /// Who carries them on.
    pub runner: runner::Handle,
    /// Who opens .forward files.
    pub parent: Client,
    /// Users who have had mail a moment ago.
    pub recent: expansion::Recent,
    /// Who checks passwords.
    pub passwords: auth::Checker,
    /// The user that runs commands of aliases.
    pub daemon_user: String,
    /// Recipients that were refused, by client.
    pub refusals: Refusals,
}

impl Services {
    /// What expansion looks at, with the rules and tables of `now`. Nobody watches.
    pub fn context<'w>(&'w self, now: &'w Snapshot) -> Context<'w> {
        Context {
            config: &now.config,
            tables: &now.tables,
            includes: &Disk,
            forwards: &self.parent,
            daemon_user: &self.daemon_user,
            now: Timestamp::now(),
            recent: Some(&self.recent),
            watch: None,
        }
    }
}

impl session::Services for Services {
    fn begin(&self) -> Result<Incoming, BeginError> {
        self.queue.begin()
    }

    fn expand(&self, facts: &Facts, rcpt: &MailAddr) -> Result<Expanded, Refusal> {
        let (now, log) = (self.live.get(), expansion::trace::Log::of(facts));
        let watched = Context {
            watch: log.as_ref().map(|log| log as _),
            ..self.context(&now)
        };
        expansion::expand(&watched, facts, rcpt)
    }

    fn expand_at_once(&self, facts: &Facts, rcpt: &MailAddr) -> Option<Result<Expanded, Refusal>> {
        if expansion::trace::Log::of(facts).is_some() {
            return None;
        }
        let now = self.live.get();
        expansion::expand_at_once(&self.context(&now), facts, rcpt)
    }

    fn refused(&self, peer: &Peer, more: u32) -> u32 {
        self.refusals.add(peer, more, self.now())
    }

    fn announce(&self, message: Committed) -> Result<(), Committed> {
        self.runner.try_committed(message)
    }

    fn withdraw(&self, message: Committed) {
        for envelope in message.into_envelopes() {
            if let Err(error) = self.queue.remove(envelope.id) {
                log::warn(format_args!("withdraw {}: {error}", envelope.id));
            }
        }
    }

    fn committed(&self, message: Committed) {
        self.runner.committed(message);
    }

    /// smtpd.conf(5), hostnames: an address that is not in the table keeps the listener's name.
    fn name_of(&self, table: &str, address: &Peer) -> Option<Line> {
        self.live
            .get()
            .tables
            .addrname(table, address)
            .unwrap_or_else(|error| {
                log::warn(format_args!("hostnames: {error}"));
                None
            })
    }

    /// smtpd.conf(5), senders: a user that is not in the table may send as nobody.
    fn may_send(&self, table: &str, user: &Line, sender: &MailAddr) -> Option<bool> {
        match self.live.get().tables.mailaddrmap(table, user, sender) {
            Ok(found) => Some(found.unwrap_or(false)),
            Err(error) => {
                log::warn(format_args!("senders: {error}"));
                None
            }
        }
    }

    fn check_password(&self, login: Login, answer: Box<dyn FnOnce(Verdict) + Send>) {
        let now = self.live.get();
        let smtp = &now.config.smtp;
        let bypasses = |table: &String| match now.tables.netaddr(table, &login.peer) {
            Ok(found) => found,
            Err(error) => {
                log::warn(format_args!("smtp limit bypass: {error}"));
                false
            }
        };
        let bypassed = smtp.bypass.as_ref().is_some_and(bypasses);
        let attempt = Attempt {
            peer: login.peer,
            user: login.credentials.user,
            password: login.credentials.password,
            table: login.table.map(|table| (now.clone(), table)),
            failures_max: (!bypassed).then_some(smtp.max_auth_failures),
        };
        self.passwords.check(attempt, answer, self.now());
    }

    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}
