//! Whatever tables and .forward files hold: an answer, in bounded time, without a panic.

use crate::config::Srs;
use crate::expansion::tree::NODES;
use crate::mail::item::ITEM_BYTES;
use crate::util::Secret;
use crate::util::dice::Dice;

use super::*;

const PIECES: &[&str] = &[
    "a",
    "b",
    "c",
    "a@x.org",
    "b@x.org",
    "c@y.org",
    "|cmd",
    "/f",
    "error:550 x",
    "error:421 5.0.0 ",
    ":include:/lists/members",
    "include:/lists/empty",
    "a+t",
    "+",
    "@",
    "\\",
    "'",
    "\"",
    ",",
    " ",
    "root",
    "x@y@z",
    "#",
    "SRS0=bflR=JK=x.org=a@x.org",
    "\t",
    ":",
    "\u{e9}",
    "..",
    "@x.org",
];

const KEYS: &[&str] = &[
    "a", "b", "c", "a+t", "a@x.org", "@x.org", "@", "root", "b@", "+",
];

struct Chance(Dice);

impl Chance {
    fn roll(&mut self, sides: usize) -> usize {
        self.0.roll(sides)
    }

    fn of<'t>(&mut self, choices: &[&'t str]) -> &'t str {
        choices[self.roll(choices.len())]
    }

    fn value(&mut self, most: usize) -> String {
        let mut text = String::new();
        for _ in 0..self.roll(most) {
            text.push_str(self.of(PIECES));
            text.push_str(self.of(&["", ",", ", "]));
        }
        text
    }

    fn table(&mut self, name: &str) -> String {
        let mut text = format!("table {name} {{\n");
        for key in KEYS {
            let value = self.value(6).replace('\\', "\\\\").replace('"', "\\\"");
            // A quote behind a backslash does not end a string.
            let value = value.trim_end_matches('\\');
            text.push_str(&format!("\"{key}\" = \"{value}\"\n"));
        }
        text + "}\n"
    }

    fn config(&mut self) -> String {
        let mut text = String::from(
            "table u { a = \"1:1:/\", b = \"2:2:/\", c = \"x\", root = \"0:0:/root\" }\n",
        );
        if self.roll(3) == 0 {
            text = format!("smtp sub-addr-delim \"-\"\n{text}");
        }
        text.push_str(&self.table("t"));
        text.push_str(&self.table("o"));
        for name in ["one", "two", "out"] {
            let method = self.of(&["maildir", "expand-only", "mbox", "forward-only"]);
            let table = self.of(&["alias <t>", "virtual <t>", "alias <o>", "virtual <o>", ""]);
            text.push_str(&format!("action {name} {method} {table} userbase <u>\n"));
        }
        for domain in ["x.org", "y.org"] {
            let action = self.of(&["one", "two", "out"]);
            text.push_str(&format!(
                "match from any for domain {domain} action {action}\n"
            ));
        }
        text + "match from local for any action out\nmatch from any for any action one\n"
    }

    fn forward(&mut self) -> Option<Found> {
        Some(match self.roll(12) {
            0..=2 => return None,
            3 => Found::Unusable,
            4 => Found::NoAnswer,
            5 => Found::Text((0..self.roll(300)).map(|_| self.0.number() as u8).collect()),
            6 => Found::Text(vec![b'x'; 4000 + self.roll(200)]),
            _ => {
                let lines: Vec<String> = (0..self.roll(5)).map(|_| self.value(5)).collect();
                Found::Text(lines.join(self.of(&["\n", "\\\n", "\r\n"])).into_bytes())
            }
        })
    }
}

// Any tables, any .forward files and any recipient: an answer, no panic, bounds kept.
#[test]
fn any_entries_give_an_answer() {
    let mut chance = Chance(Dice::new(1));
    let mut delivered = 0;
    for round in 0..200 {
        let mut bench = Bench::new(&chance.config());
        for user in ["a", "b", "c", "root"] {
            if let Some(found) = chance.forward() {
                bench.homes.0.insert(user.to_owned(), found);
            }
        }
        bench.config.srs = (chance.roll(2) == 0).then(|| Srs {
            key: Secret::new(Line::new("secret").unwrap()),
            backup: None,
            ttl_days: 4,
        });
        bench.now = Timestamp(298 * 86_400);
        for rcpt in [
            "a@x.org",
            "b+t@x.org",
            "c@",
            "root@y.org",
            "'@x.org",
            "a-t@y.org",
            "SRS0=bflR=JK=x.org=a@x.org",
        ] {
            match bench.expand(rcpt) {
                Ok(found) => {
                    delivered += 1;
                    assert!(
                        !found.is_empty() && found.len() <= NODES,
                        "round {round}: {rcpt}"
                    );
                    for destination in &found {
                        bounded(destination);
                    }
                }
                Err(refusal) => assert!((400..600).contains(&refusal.code)),
            }
        }
    }
    assert!(delivered > 50, "only {delivered} recipients led anywhere");
}

fn bounded(destination: &crate::mail::Destination) {
    if let Kind::Local(local) = &destination.kind {
        assert!(local.user.len() < 256);
        match &local.command {
            Some(Command::Pipe(text) | Command::File(text)) => assert!(text.len() < ITEM_BYTES),
            None => {}
        }
    }
}

// Users whose files name all the others: every file is opened once, and it ends.
#[test]
fn a_crowd_that_forwards_to_itself_is_bounded() {
    let users: Vec<String> = (0..60).map(|n| format!("u{n}")).collect();
    let entries: Vec<String> = users.iter().map(|u| format!("{u} = \"1:1:/\"")).collect();
    let text = format!(
        "table u {{ {} }}\naction one maildir userbase <u>\nmatch from any for any action one\n",
        entries.join(", ")
    );
    let mut bench = Bench::new(&text);
    for user in &users {
        let everybody = Found::Text(users.join(", ").into_bytes());
        bench.homes.0.insert(user.clone(), everybody);
    }
    let found = bench.run("u0@x.org");
    assert_eq!(found.split("; ").count(), 60, "{found}");
}
