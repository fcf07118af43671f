//! From a recipient to its destinations, while the client waits.
//!
//! All or nothing: one branch that fails refuses the whole recipient. Every destination comes out
//! once, however many entries lead to it (`sameness` tells which are one). Depth and number of
//! nodes are bounded, so every loop ends. Nothing is expanded again at delivery.

#![forbid(unsafe_code)]

mod aliases;
mod forward;
mod patience;
mod recent;
mod replies;
mod sameness;
mod subaddress;
#[cfg(test)]
mod tests;
pub mod trace;
mod tree;
mod users;
pub mod watch;

pub use self::forward::names as forward_names;
pub use self::recent::Recent;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use crate::config::{Action, Config, Delivery, FilterName, LocalAction, Method, Position};
use crate::log;
use crate::mail::item::{self, Item};
use crate::mail::srs;
use crate::mail::{Command, Destination, Expanded, Facts, Kind, Local, MailAddr, Refusal};
use crate::privsep::Forwards;
use crate::ruleset::{self, Decision, Origin, Question, Unanswered};
use crate::table::Tables;
use crate::table::include::Includes;
use crate::util::{Line, Timestamp};

use aliases::Aliases;
use patience::Patience;
use tree::{DEPTH, Node, Tree};
use watch::{Event, Watch};

/// The files that one value of an alias table includes.
pub fn included_files(value: &str) -> Vec<PathBuf> {
    let items = Item::list(value).unwrap_or_default();
    let included = |item| match item {
        Item::Include(path) => Some(path),
        _ => None,
    };
    items.into_iter().filter_map(included).collect()
}

/// Whether a value of an alias table can be read; what is wrong with it otherwise.
pub fn check_value(value: &str) -> Result<(), String> {
    Item::list(value).map(drop).map_err(|bad| bad.text)
}

/// An entry for the fuzzer: a line of items. What an item is does not change when it is told again.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz_items(line: &str) {
    for item in Item::list(line).unwrap_or_default() {
        match item {
            Item::User(name) => {
                assert_eq!(Item::classify(&name), Ok(Item::User(name)));
            }
            Item::Address(address) => {
                let text = address.to_string();
                assert_eq!(Item::classify(&text), Ok(Item::Address(address)));
            }
            Item::File(path) => assert!(path.starts_with('/')),
            Item::Include(path) => assert!(path.is_absolute()),
            Item::Error(code, _) => assert!((400..600).contains(&code)),
            Item::Pipe(command) => assert!(!command.trim().is_empty()),
        }
    }
}

/// What expansion looks at.
#[derive(Clone, Copy)]
pub struct Context<'w> {
    /// Rules and actions.
    pub config: &'w Config,
    pub tables: &'w Tables,
    /// Files that alias values include.
    pub includes: &'w dyn Includes,
    /// Who opens .forward files.
    pub forwards: &'w dyn Forwards,
    /// The user that runs commands of aliases, `_smtpd`.
    pub daemon_user: &'w str,
    /// The day decides whether a rewritten sender still leads back.
    pub now: Timestamp,
    /// What was found a moment ago.
    pub recent: Option<&'w Recent>,
    /// Who hears of every step.
    pub watch: Option<&'w dyn Watch>,
}

/// The same as [`expand`] without waiting for anybody: `None` where that takes a table, a file or
/// the parent that may not be at hand, and where the log is to be told of something. Who may wait
/// begins again then.
pub fn expand_at_once(
    context: &Context<'_>,
    facts: &Facts,
    rcpt: &MailAddr,
) -> Option<Result<Expanded, Refusal>> {
    if context.watch.is_some() || log::is_verbose() || context.tables.rules_may_wait() {
        return None;
    }
    let patience = Patience::at_once();
    let result = run(context, &patience, facts, rcpt);
    (!patience.gave_up()).then_some(result)
}

/// The destinations of `rcpt`, at least one of them, or why it is refused. The refusal's text does
/// not name the recipient: the session appends it.
pub fn expand(context: &Context<'_>, facts: &Facts, rcpt: &MailAddr) -> Result<Expanded, Refusal> {
    run(context, &Patience::Waits, facts, rcpt)
}

fn run(
    context: &Context<'_>,
    patience: &Patience,
    facts: &Facts,
    rcpt: &MailAddr,
) -> Result<Expanded, Refusal> {
    let rcpt = with_domain(context, rcpt);
    let mut expansion = Expansion {
        context,
        patience,
        facts,
        rcpt: rcpt.clone(),
        tree: Tree::new(&rcpt),
        found: Vec::new(),
        filter: None,
        known: HashSet::new(),
        forwards: HashMap::new(),
    };
    expansion.tell(Event::Added {
        at: 0,
        parent: None,
        item: &Item::Address(rcpt),
    });
    while let Some(at) = expansion.tree.take() {
        expansion.tell(Event::Taken { at });
        let result = expansion.step(at);
        result.map_err(|refusal| expansion.with_rule(at, refusal))?;
    }
    if expansion.found.is_empty() {
        let refusal = replies::list_permanent().because("it expands to nothing");
        return Err(expansion.with_rule(0, refusal));
    }
    Ok(Expanded {
        destinations: expansion.found,
        filter: expansion.filter.cloned(),
    })
}

/// RFC 5321 §4.5.1: a recipient without domain (postmaster) is one of this server.
fn with_domain(context: &Context<'_>, rcpt: &MailAddr) -> MailAddr {
    if !rcpt.domain().is_empty() {
        return rcpt.clone();
    }
    MailAddr::new(rcpt.user(), &context.config.server_name).unwrap_or_else(|_| rcpt.clone())
}

struct Expansion<'e, 'w> {
    context: &'e Context<'w>,
    patience: &'e Patience,
    facts: &'e Facts,
    rcpt: MailAddr,
    tree: Tree<'e>,
    found: Vec<Destination>,
    /// The filters of the rule that the recipient itself has met.
    filter: Option<&'e FilterName>,
    known: HashSet<String>,
    /// What .forward files say, by action and user: each is opened once.
    forwards: HashMap<(Line, Line), Option<Vec<Item>>>,
}

/// What a rule says: its action, where it stands, and its filters.
type Judged<'e> = (&'e Action, &'e Position, Option<&'e FilterName>);

impl<'e> Expansion<'e, '_> {
    fn step(&mut self, at: usize) -> Result<(), Refusal> {
        let Some(node) = self.tree.node(at) else {
            return Ok(());
        };
        if node.depth >= DEPTH {
            self.patience.info(format_args!(
                "expansion of <{}> is nested too deeply",
                node.dest
            ));
            return Err(replies::list_permanent().because("it is nested too deeply"));
        }
        match node.item.clone() {
            Item::Address(address) => self.address(at, &address),
            Item::User(name) => self.user(at, &name),
            Item::File(path) => self.command(at, Command::File(path)),
            Item::Pipe(command) => self.command(at, Command::Pipe(command)),
            Item::Error(code, text) => Err(Item::refusal(code, &text).because("an error entry")),
            // Their items took their place when the value was read.
            Item::Include(_) => Ok(()),
        }
    }

    fn address(&mut self, at: usize, address: &MailAddr) -> Result<(), Refusal> {
        let address = &self.lead_back(at, address);
        let (action, rule, filter) = self.judge(at, address)?;
        if at == 0 {
            self.filter = filter;
        }
        self.tree.settle(at, action, rule);
        let local = match &action.method {
            Method::Relay(_) => return self.destination(at, Kind::Relay),
            Method::Local(local) => local,
        };
        if let Some(table) = &local.virtuals {
            let found = self.aliases().virtual_address(table, address)?;
            let items = found.ok_or_else(|| {
                replies::list_permanent().because(&format!("no entry for <{address}>"))
            })?;
            return self.children(at, items);
        }
        let name = address.user().to_ascii_lowercase();
        if name.is_empty() || name.len() >= item::USER_BYTES {
            return Err(replies::invalid().because("no user name"));
        }
        self.children(at, vec![Item::User(name)])
    }

    /// A report on mail that went out under a rewritten sender goes on to the sender it had. Only
    /// reports come to such an address.
    fn lead_back(&mut self, at: usize, address: &MailAddr) -> MailAddr {
        let keys = match &self.context.config.srs {
            Some(srs) if self.facts.sender.user().is_empty() => srs.keys(),
            _ => return address.clone(),
        };
        if !srs::is_rewritten(address) {
            return address.clone();
        }
        match keys.decode(address, self.context.now) {
            Ok(back) => {
                self.tree.replace(at, back.clone());
                self.tell(Event::LedBack(&back));
                back
            }
            Err(why) => {
                let text = format!("SRS failed to decode: {address}: {why}");
                self.patience.info(format_args!("{text}"));
                self.tell(Event::Warning(format_args!("{text}")));
                address.clone()
            }
        }
    }

    /// Asks the rules which action takes this address.
    fn judge(&self, at: usize, address: &MailAddr) -> Result<Judged<'e>, Refusal> {
        let origin = self
            .tree
            .node(at)
            .map_or(Origin::Client, |node| node.origin);
        let question = Question {
            tables: self.context.tables,
            facts: self.facts,
            dest: address,
            origin,
            watch: self.context.watch.map(|watch| watch as _),
        };
        let decision = ruleset::decide(self.context.config, &question);
        self.tell(Event::Decided(&decision));
        match decision {
            Ok(Decision::Accept {
                action,
                rule,
                filter,
            }) => {
                log::debug(format_args!(
                    "<{address}>: rule at {rule}, action {}",
                    action.name
                ));
                Ok((action, rule, filter))
            }
            Ok(Decision::Reject { rule }) => {
                log::debug(format_args!("<{address}>: rejected by the rule at {rule}"));
                Err(by(rule, replies::invalid().because("rejected by the rule")))
            }
            Ok(Decision::NoRule) => {
                log::debug(format_args!("<{address}>: no rule matches"));
                let why = format!("no rule matches <{address}>");
                Err(replies::invalid().because(&why))
            }
            Err(Unanswered { error, rule }) => {
                self.patience.warn(format_args!("<{address}>: {error}"));
                Err(by(rule, replies::temporary().because(&error.text)))
            }
        }
    }

    /// What the alias or virtual table of the action says of a plain name.
    fn entry(&self, local: &LocalAction, name: &str) -> aliases::AliasResult {
        match (&local.alias, &local.virtuals) {
            (Some(table), _) => self.aliases().alias(table, name),
            (None, Some(table)) => self.aliases().virtual_user(table, name),
            (None, None) => Ok(None),
        }
    }

    /// A file or command runs as the user whose .forward names it, else as the daemon's user.
    fn command(&mut self, at: usize, command: Command) -> Result<(), Refusal> {
        let Some((local, _)) = self.local(at) else {
            return Err(replies::temporary());
        };
        let owner = self.parent(at).and_then(|above| above.resolved.clone());
        let of_root = owner.as_ref().is_some_and(|owner| owner.uid == 0);
        if local.delivery == Delivery::ForwardOnly || of_root {
            let why = "a command or file where none is allowed";
            return Err(replies::temporary().because(why));
        }
        let user = match owner {
            Some(owner) => owner.name,
            None => {
                if let Command::Pipe(_) = command {
                    self.patience.info(format_args!(
                        "commands executed from aliases run with {} privileges",
                        self.context.daemon_user
                    ));
                }
                Line::sanitize(self.context.daemon_user.as_bytes())
            }
        };
        let local = Local {
            user,
            subaddress: None,
            command: Some(command),
        };
        self.destination(at, Kind::Local(local))
    }

    fn children(&mut self, at: usize, items: Vec<Item>) -> Result<(), Refusal> {
        for item in items {
            let told = self.context.watch.map(|watch| (watch, item.clone()));
            let added = self.tree.add(at, item)?;
            if let Some((watch, item)) = told {
                watch.event(&match added {
                    Some(new) => Event::Added {
                        at: new,
                        parent: Some(at),
                        item: &item,
                    },
                    None => Event::Repeated { item: &item },
                });
            }
        }
        Ok(())
    }

    /// Keeps a destination, unless the same mail is on its way there already.
    fn destination(&mut self, at: usize, kind: Kind) -> Result<(), Refusal> {
        let Some(Node {
            action: Some(action),
            dest,
            origin,
            ..
        }) = self.tree.node(at)
        else {
            return Err(replies::temporary());
        };
        let addresses = sameness::Addresses {
            sender: &self.facts.sender,
            rcpt: &self.rcpt,
            dest,
            delimiter: self.context.config.smtp.sub_addr_delim,
        };
        let sameness = sameness::of(action, &kind, &addresses);
        let new = self.known.insert(sameness.clone());
        if new {
            self.found.push(Destination {
                action: action.name.clone(),
                dest: dest.clone(),
                kind,
                internal: *origin == Origin::Internal,
                sameness,
            });
        }
        self.tell(if new {
            Event::Destination(self.found.len())
        } else {
            Event::SameDestination
        });
        Ok(())
    }

    /// A refusal that comes of a rule's action names the rule.
    fn with_rule(&self, at: usize, refusal: Refusal) -> Refusal {
        let rule = self.tree.node(at).and_then(|node| node.rule);
        match (rule, &refusal.rule) {
            (Some(rule), None) => by(rule, refusal),
            _ => refusal,
        }
    }

    fn tell(&self, event: Event<'_>) {
        if let Some(watch) = self.context.watch {
            watch.event(&event);
        }
    }

    /// The local action of a node, and whether the node is named by its own entry.
    fn local(&self, at: usize) -> Option<(&'e LocalAction, bool)> {
        let node = self.tree.node(at)?;
        local_of(node).map(|local| (local, node.same))
    }

    fn parent(&self, at: usize) -> Option<&Node<'e>> {
        self.tree.node(self.tree.node(at)?.parent?)
    }

    fn aliases(&self) -> Aliases<'e> {
        Aliases {
            patience: self.patience,
            tables: self.context.tables,
            includes: self.context.includes,
            delimiter: self.context.config.smtp.sub_addr_delim,
            watch: self.context.watch,
        }
    }
}

fn by(rule: &Position, refusal: Refusal) -> Refusal {
    Refusal {
        rule: Some(Line::sanitize(rule.to_string().as_bytes())),
        ..refusal
    }
}

fn local_of<'c>(node: &Node<'c>) -> Option<&'c LocalAction> {
    match &node.action?.method {
        Method::Local(local) => Some(local),
        Method::Relay(_) => None,
    }
}
