//! Texts by chance: every statement of the grammar, written in every way it can be, and the files
//! of tests/configs with something changed.

use crate::config::{Sources, load, reads_back};
use crate::util::dice::Dice;

use super::{corpus, defaults};

/// Writes statements. What it writes is always well formed.
struct Scribe {
    dice: Dice,
    text: String,
}

const WORDS: [&str; 12] = [
    "example.org",
    "a",
    "_x",
    ":y",
    "10.0.0.0/8",
    "4d",
    "it's",
    "b$c",
    "2001:db8::1",
    "smtp+tls",
    "x\\\\y",
    "a;b|c",
];

impl Scribe {
    fn pick<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.dice.roll(words.len())]
    }

    fn gap(&mut self) {
        let gap = self.pick(&[" ", " ", " ", "\t", " \\\n ", "  "]);
        self.text.push_str(gap);
    }

    fn words(&mut self, words: &str) {
        for word in words.split(' ') {
            self.gap();
            self.text.push_str(word);
        }
    }

    fn number(&mut self) {
        let number = self.pick(&["0", "1", "25", "-3", "9223372036854775807"]);
        self.words(number);
    }

    fn string(&mut self) {
        self.gap();
        if self.dice.roll(2) == 0 {
            let word = self.pick(&WORDS);
            self.text.push_str(word);
            return;
        }
        let quote = self.pick(&["\"", "'"]);
        self.text.push_str(quote);
        for _ in 0..self.dice.roll(6) {
            let piece = self.pick(&[
                "match",
                "\\",
                "\\\\",
                " ",
                "\t",
                "\n",
                "\\\n",
                "#",
                "$a",
                "é",
                "{",
                "=",
                "\"",
                "'",
                "TokenPosition {",
                "x",
            ]);
            let piece = if piece == quote {
                ["\\", quote].concat()
            } else {
                piece.to_owned()
            };
            self.text.push_str(&piece);
        }
        // A backslash in front of the end would take it away.
        if self.text.ends_with('\\') {
            self.text.push('x');
        }
        self.text.push_str(quote);
    }

    fn maybe(&mut self, write: impl Fn(&mut Scribe)) {
        if self.dice.roll(2) == 0 {
            write(self);
        }
    }

    fn some(&mut self, write: impl Fn(&mut Scribe)) {
        for _ in 0..self.dice.roll(4) {
            write(self);
        }
    }

    fn separator(&mut self) {
        let separator = self.pick(&[",", ", ", ",\n", "\n", " "]);
        self.text.push_str(separator);
    }

    fn braces(&mut self, entry: impl Fn(&mut Scribe)) {
        self.words("{");
        self.maybe(|s| s.text.push('\n'));
        entry(self);
        for _ in 0..self.dice.roll(3) {
            self.separator();
            entry(self);
        }
        self.maybe(|s| s.text.push('\n'));
        self.words("}");
    }

    fn inline_table(&mut self) {
        match self.dice.roll(2) {
            0 => self.braces(Scribe::string),
            _ => self.braces(|s| {
                s.string();
                let arrow = s.pick(&["=", "=>"]);
                s.words(arrow);
                s.string();
            }),
        }
    }

    fn table(&mut self) {
        match self.dice.roll(3) {
            0 => self.string(),
            1 => self.inline_table(),
            _ => {
                self.words("<");
                self.string();
                self.words(">");
            }
        }
    }

    fn pattern(&mut self) {
        self.maybe(|s| s.words("regex"));
        self.table();
    }

    fn filter_names(&mut self) {
        self.words("filter");
        match self.dice.roll(2) {
            0 => self.string(),
            _ => self.braces(Scribe::string),
        }
    }

    fn limits(&mut self) {
        self.some(|s| {
            s.string();
            s.number();
        });
    }

    fn proc_options(&mut self) {
        self.some(|s| {
            let word = s.pick(&["user", "group", "chroot", "on failure"]);
            s.words(word);
            match word {
                "on failure" => {
                    let word = s.pick(&["tempfail", "bypass", "reject"]);
                    s.words(word);
                }
                _ => s.string(),
            }
        });
    }

    fn statement(&mut self) {
        match self.dice.roll(22) {
            0 => {
                self.words("bounce warn-interval");
                self.string();
                self.some(|s| {
                    s.words(",");
                    s.string();
                });
            }
            1 => self.one_string(&["admd", "queue ttl", "smtp ciphers", "srs key", "srs ttl"]),
            2 => self.one_string(&["srs key backup", "smtp sub-addr-delim", "queue encryption"]),
            3 => {
                self.one_string(&["ca"]);
                self.one_string(&["cert"]);
            }
            4 => {
                self.one_string(&["pki"]);
                self.some(|s| s.one_string(&["cert", "key", "dhe"]));
            }
            5 => {
                let word = self.pick(&["mda limit", "scheduler limit", "smtp limit"]);
                self.words(word);
                self.limits();
            }
            6 => {
                self.one_string(&["mda wrapper"]);
                self.string();
            }
            7 => {
                self.words("mta max-deferred");
                self.number();
            }
            8 => {
                self.words("mta limit");
                self.maybe(|s| s.one_string(&["for domain"]));
                self.limits();
                self.maybe(|s| s.words("inet4"));
                self.maybe(|s| s.words("inet6"));
            }
            9 => {
                self.one_string(&["proc"]);
                self.string();
                self.proc_options();
            }
            10 => {
                let word = self.pick(&["queue compression", "queue encryption"]);
                self.words(word);
            }
            11 => {
                self.words("smtp max-message-size");
                match self.dice.roll(2) {
                    0 => self.number(),
                    _ => self.string(),
                }
            }
            12 | 13 => self.listen(),
            14 => {
                self.one_string(&["table"]);
                match self.dice.roll(2) {
                    0 => self.string(),
                    _ => self.inline_table(),
                }
            }
            15 => self.action(),
            16 => self.relay(),
            17..=19 => self.rule(),
            _ => self.filter(),
        }
        let end = self.pick(&["\n", "\n", "\r\n", " # x\n", "\n\n# y \\\n z\n"]);
        self.text.push_str(end);
    }

    fn one_string(&mut self, words: &[&str]) {
        let words = self.pick(words).to_owned();
        self.words(&words);
        self.string();
    }

    fn listen(&mut self) {
        if self.dice.roll(4) == 0 {
            self.words("listen on socket");
        } else {
            self.one_string(&["listen on"]);
            self.some(|s| match s.dice.roll(6) {
                0 => s.words("inet6 proxy-v2 received-auth"),
                1 => s.one_string(&["pki", "ca", "ciphers", "protocols", "hostname", "port"]),
                2 => {
                    let word =
                        s.pick(&["port smtp", "tls", "smtps", "tls-require verify", "port 25"]);
                    s.words(word);
                }
                3 => {
                    let word = s.pick(&["auth", "auth-optional"]);
                    s.words(word);
                    s.maybe(Scribe::table);
                }
                4 => {
                    s.words("hostnames");
                    s.table();
                }
                _ => {
                    s.words("senders");
                    s.table();
                    s.maybe(|s| s.words("masquerade"));
                }
            });
        }
        self.some(|s| match s.dice.roll(3) {
            0 => s.words("mask-src no-dsn"),
            1 => s.one_string(&["tag"]),
            _ => s.filter_names(),
        });
    }

    fn action(&mut self) {
        self.one_string(&["action"]);
        match self.dice.roll(4) {
            0 => self.one_string(&["maildir", "lmtp", "mda"]),
            1 => {
                self.words("maildir");
                self.maybe(|s| s.words("junk"));
            }
            2 => self.one_string(&["lmtp"]),
            _ => {
                let word = self.pick(&["mbox", "forward-only", "expand-only"]);
                self.words(word);
            }
        }
        self.some(|s| match s.dice.roll(2) {
            0 => s.one_string(&["user", "wrapper"]),
            _ => {
                let word = s.pick(&["alias", "virtual", "userbase"]);
                s.words(word);
                s.table();
            }
        });
        self.some(|s| s.one_string(&["ttl"]));
    }

    fn relay(&mut self) {
        self.one_string(&["action"]);
        self.words("relay");
        self.some(|s| match s.dice.roll(4) {
            0 => {
                let word = s.pick(&["srs", "tls", "tls no-verify", "backup"]);
                s.words(word);
            }
            1 => s.one_string(&[
                "helo",
                "pki",
                "ca",
                "ciphers",
                "protocols",
                "mail-from",
                "backup mx",
            ]),
            2 => {
                let word = s.pick(&["helo-src", "src", "host", "domain", "auth"]);
                s.words(word);
                s.table();
            }
            _ => s.filter_names(),
        });
        self.some(|s| s.one_string(&["ttl"]));
    }

    fn rule(&mut self) {
        self.words("match");
        self.some(|s| {
            s.maybe(|s| s.words("!"));
            match s.dice.roll(3) {
                0 => {
                    let word = s.pick(&[
                        "tls",
                        "auth",
                        "from socket",
                        "from local",
                        "from any",
                        "from rdns",
                        "from auth",
                        "for local",
                        "for any",
                    ]);
                    s.words(word);
                }
                _ => {
                    let word = s.pick(&[
                        "tag",
                        "helo",
                        "mail-from",
                        "rcpt-to",
                        "auth",
                        "from src",
                        "from rdns",
                        "from auth",
                        "from mail-from",
                        "for domain",
                        "for rcpt-to",
                    ]);
                    s.words(word);
                    s.pattern();
                }
            }
        });
        match self.dice.roll(3) {
            0 => self.words("reject"),
            _ => self.one_string(&["action"]),
        }
    }

    fn filter(&mut self) {
        self.one_string(&["filter"]);
        match self.dice.roll(4) {
            0 => self.one_string(&["proc"]),
            1 => {
                self.one_string(&["proc-exec"]);
                self.proc_options();
            }
            2 => {
                self.words("chain");
                self.braces(Scribe::string);
            }
            _ => {
                let phase = self.pick(&[
                    "connect",
                    "helo",
                    "ehlo",
                    "auth",
                    "mail-from",
                    "rcpt-to",
                    "data",
                    "commit",
                ]);
                self.words("phase");
                self.words(phase);
                self.words("match");
                self.maybe(|s| s.words("!"));
                match self.dice.roll(3) {
                    0 => self.words("fcrdns"),
                    1 => self.words("rdns"),
                    _ => {
                        let word = self.pick(&["src", "rdns"]);
                        self.words(word);
                        self.pattern();
                    }
                }
                self.one_string(&["reject", "disconnect", "rewrite", "report"]);
            }
        }
    }
}

// smtpd.conf(5): whatever can be written is understood, and what was understood reads back.
#[test]
fn every_statement_in_every_spelling_reads_back() {
    for seed in 1..=2000 {
        let mut scribe = Scribe {
            dice: Dice::new(seed),
            text: String::new(),
        };
        for _ in 0..=scribe.dice.roll(6) {
            scribe.statement();
        }
        assert!(
            reads_back(scribe.text.as_bytes()),
            "seed {seed}: {}",
            scribe.text
        );
    }
}

// Any bytes: an answer, in bounded time. What parses prints, and reads back the same.
#[test]
fn any_text_is_answered() {
    let cases = [corpus::cases("good"), corpus::cases("bad")].concat();
    let corpus: Vec<String> = cases.into_iter().map(|case| case.text).collect();
    let words: Vec<&str> = corpus
        .iter()
        .flat_map(|text| text.split_inclusive(' '))
        .collect();
    let mut parsed = 0;
    for seed in 1..=3000 {
        let mut dice = Dice::new(seed);
        let mut text = corpus[dice.roll(corpus.len())].clone().into_bytes();
        for _ in 0..dice.roll(6) {
            let at = dice.roll(text.len() + 1);
            match dice.roll(4) {
                0 => text.truncate(at),
                1 => {
                    let word = words[dice.roll(words.len())].bytes();
                    text.splice(at..at, word);
                }
                2 => text.insert(at, b"\"'\\\n{}<>!=,#$- \r\0\xff9"[dice.roll(19)]),
                _ => {
                    let end = (at + dice.roll(9)).min(text.len());
                    text.drain(at..end);
                }
            }
        }
        let _ = load(&Sources::alone(&text), &defaults());
        parsed += usize::from(reads_back(&text));
    }
    assert!(parsed > 300, "{parsed}");
}
