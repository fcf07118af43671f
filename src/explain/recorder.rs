//! Hears an expansion and keeps it as a tree: each node with what happened to it.

use std::cell::RefCell;

use crate::config::{Config, Criterion, Rule, TableSource, built_in};
use crate::expansion::watch::{Event, Watch};
use crate::ruleset::watch::{Answer, Lookup, Watch as RuleWatch};
use crate::ruleset::{Decision, Unanswered};
use crate::table::{TableError, Tables};

use super::page::Page;

/// Notes the steps of one expansion.
pub struct Recorder<'r> {
    config: &'r Config,
    tables: &'r Tables,
    heard: RefCell<Heard>,
}

#[derive(Default)]
struct Heard {
    nodes: Vec<Node>,
    /// The node that is worked on.
    current: usize,
    /// What tables were asked since the last criterion or event.
    lookups: Vec<String>,
    rule: Option<Tried>,
    skipped: Budget,
    rest: Budget,
}

#[derive(Default)]
struct Node {
    item: String,
    children: Vec<usize>,
    lines: Vec<(usize, String)>,
    taken: bool,
}

/// A rule that is being tried.
struct Tried {
    head: String,
    /// Criteria that hold so far, with their lookups.
    lines: Vec<(usize, String)>,
    verdict: &'static str,
}

/// How much is kept. Rules that do not hold have a budget of their own, so that many of them leave
/// room for the one that does.
struct Budget {
    bytes: usize,
    omitted: usize,
}

impl Default for Budget {
    fn default() -> Budget {
        Budget {
            bytes: 90 * 1024,
            omitted: 0,
        }
    }
}

impl Budget {
    fn allows(&mut self, bytes: usize) -> bool {
        match self.bytes.checked_sub(bytes + LINE_OVERHEAD) {
            Some(left) => self.bytes = left,
            None => self.omitted += 1,
        }
        self.omitted == 0
    }
}

/// What a line costs besides its text.
const LINE_OVERHEAD: usize = 20;
/// Longest text kept of one value or line, in characters.
const KEPT_CHARS: usize = 1100;

impl<'r> Recorder<'r> {
    /// Has heard nothing yet.
    pub fn new(config: &'r Config, tables: &'r Tables) -> Recorder<'r> {
        Recorder {
            config,
            tables,
            heard: RefCell::default(),
        }
    }

    /// Writes what was noted as a tree of recipients.
    pub fn write(&self, page: &mut Page) {
        let mut heard = self.heard.borrow_mut();
        heard.close_rule();
        heard.flush_lookups();
        if !heard.nodes.is_empty() {
            heard.write(0, 0, page);
        }
        for (what, budget) in [
            ("rules that do not hold", &heard.skipped),
            ("steps", &heard.rest),
        ] {
            if budget.omitted > 0 {
                page.line(0, &format!("({} more {what})", budget.omitted));
            }
        }
    }

    /// A criterion, with the values of its table where they have no other name.
    fn words(&self, criterion: &Criterion) -> String {
        let words = criterion.to_string();
        let Some((head, name)) = built_in::split_at_anonymous(&words) else {
            return words;
        };
        match self.config.tables.get(name) {
            Some(TableSource::List(values)) => format!("{head}{}", list(values)),
            _ => words,
        }
    }
}

/// `{ "a", "b" }`, as long as it is short.
fn list(values: &[String]) -> String {
    const SHOWN: usize = 8;
    let mut shown: Vec<String> = values
        .iter()
        .take(SHOWN)
        .map(|v| format!("\"{v}\""))
        .collect();
    if values.len() > SHOWN {
        shown.push("...".to_owned());
    }
    match shown.as_slice() {
        [one] => one.clone(),
        several => format!("{{ {} }}", several.join(", ")),
    }
}

impl RuleWatch for Recorder<'_> {
    fn rule(&self, rule: &Rule) {
        let mut heard = self.heard.borrow_mut();
        heard.close_rule();
        heard.rule = Some(Tried {
            head: format!("{}: {}", rule.at, rule.text),
            lines: Vec::new(),
            verdict: HOLDS,
        });
    }

    fn criterion(&self, criterion: &Criterion, holds: Result<bool, &TableError>) {
        let words = self.words(criterion);
        let mut heard = self.heard.borrow_mut();
        let lookups = std::mem::take(&mut heard.lookups);
        let Some(tried) = &mut heard.rule else { return };
        let answer = match holds {
            Ok(true) => "yes",
            Ok(false) => {
                tried.verdict = SKIPPED;
                tried.lines.clear();
                "no"
            }
            Err(_) => {
                tried.verdict = FAILED;
                "no answer"
            }
        };
        tried.lines.push((2, format!("{words}: {answer}")));
        tried
            .lines
            .extend(lookups.into_iter().map(|line| (3, line)));
    }

    fn lookup(&self, lookup: &Lookup<'_>) {
        let name = lookup.table.trim_matches(['<', '>']);
        let answer = match lookup.answer {
            Answer::Found(Some(value)) => format!("found \"{value}\""),
            Answer::Found(None) => {
                match self.tables.entry(lookup.service, lookup.table, lookup.key) {
                    Some(entry) => format!("found, entry \"{entry}\""),
                    None => "found".to_owned(),
                }
            }
            Answer::NotFound => "not found".to_owned(),
            Answer::Failed(error) => format!("error: {error}"),
        };
        let (service, key) = (lookup.service, lookup.key);
        let line = format!("lookup {service} <{name}> \"{key}\": {answer}");
        self.heard.borrow_mut().lookups.push(kept(&line));
    }
}

const HOLDS: &str = "holds";
const SKIPPED: &str = "skipped";
const FAILED: &str = "no answer";

impl Watch for Recorder<'_> {
    fn event(&self, event: &Event<'_>) {
        let mut heard = self.heard.borrow_mut();
        heard.close_rule();
        heard.flush_lookups();
        match event {
            Event::Added { at, parent, item } => heard.added(*at, *parent, item.to_string()),
            Event::Repeated { item } => heard.say(format!("{item}: known already")),
            Event::Taken { at } => {
                heard.current = *at;
                if let Some(node) = heard.nodes.get_mut(*at) {
                    node.taken = true;
                }
            }
            Event::Decided(Ok(Decision::Accept { action, .. })) => {
                heard.say(format!("action \"{}\", {}", action.name, action.at));
            }
            Event::Decided(Ok(Decision::Reject { .. })) => heard.say("rejected".to_owned()),
            Event::Decided(Ok(Decision::NoRule)) => heard.say("no rule matches".to_owned()),
            Event::Decided(Err(Unanswered { error, .. })) => {
                heard.say(format!("no answer: {error}"));
            }
            Event::User(user) => heard.say(format!(
                "user {}: uid {}, gid {}, home {}",
                user.name,
                user.uid,
                user.gid,
                user.home.display()
            )),
            Event::LedBack(address) => heard.say(format!("SRS leads back to {address}")),
            Event::Forwarded => heard.say(".forward takes the user's place".to_owned()),
            Event::NotForwarded => heard.say("no .forward".to_owned()),
            Event::Warning(text) => heard.say(format!("warning: {text}")),
            Event::Destination(number) => heard.say(format!("destination {number}")),
            Event::SameDestination => heard.say("destination known already".to_owned()),
        }
    }
}

impl Heard {
    fn added(&mut self, at: usize, parent: Option<usize>, item: String) {
        let kept = self.rest.allows(item.len().min(KEPT_CHARS));
        let item = if kept { item } else { String::new() };
        // Numbers are given in order; a node that is not kept still has its place.
        debug_assert_eq!(at, self.nodes.len());
        self.nodes.push(Node {
            item,
            ..Node::default()
        });
        let above = parent.and_then(|parent| self.nodes.get_mut(parent));
        if let (true, Some(above)) = (kept, above) {
            above.children.push(at);
        }
    }

    fn say(&mut self, line: String) {
        let line = kept(&line);
        if self.rest.allows(line.len()) {
            self.put(1, line);
        }
    }

    fn put(&mut self, indent: usize, line: String) {
        if let Some(node) = self.nodes.get_mut(self.current) {
            node.lines.push((indent, line));
        }
    }

    /// Lookups that belong to no criterion are the node's.
    fn flush_lookups(&mut self) {
        for line in std::mem::take(&mut self.lookups) {
            self.say(line);
        }
    }

    /// A rule is told when its last criterion has been.
    fn close_rule(&mut self) {
        let Some(Tried {
            head,
            lines,
            verdict,
        }) = self.rule.take()
        else {
            return;
        };
        let head = kept(&format!("rule {verdict}: {head}"));
        let bytes = lines.iter().fold(head.len(), |sum, (_, line)| {
            sum + line.len() + LINE_OVERHEAD
        });
        let budget = match verdict {
            SKIPPED => &mut self.skipped,
            _ => &mut self.rest,
        };
        if budget.allows(bytes) {
            self.put(1, head);
            lines
                .into_iter()
                .for_each(|(indent, line)| self.put(indent, line));
        }
    }

    /// The depth of the tree is bounded by the expansion's.
    fn write(&self, at: usize, depth: usize, page: &mut Page) {
        let Some(node) = self.nodes.get(at) else {
            return;
        };
        let not_reached = if node.taken { "" } else { ": not reached" };
        page.line(depth, &format!("{}{not_reached}", node.item));
        for (indent, line) in &node.lines {
            page.line(depth + indent, line);
        }
        for child in &node.children {
            self.write(*child, depth + 1, page);
        }
    }
}

fn kept(text: &str) -> String {
    text.chars().take(KEPT_CHARS).collect()
}
