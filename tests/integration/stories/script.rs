//! The format of a story file.
//!
//! A line that starts in the first column begins a block, tab-indented lines are its contents; a
//! `#` in the first column starts a comment.
//!
//! ```text
//! config                          smtpd.conf; `listen on` is added when it has none
//! needs PROGRAM                   without it none of the file can happen
//! network                         a network of its own, and an /etc: `etc/NAME` is `/etc/NAME`
//! map PATH TYPE                   makemap(8) makes PATH.db of the file; TYPE is aliases, set or mapping
//! user NAME                       one more user of the system, with a home
//! file PATH [mode=M] [owner=U] [size=N]  a file with the text that follows, filled up with `#`
//! dir PATH [mode=M] [owner=U]     a directory
//! link PATH to=TARGET             a symbolic link
//! remove PATH                     removes a home
//! lmtp PATH                       an LMTP server on a socket: full* 4xx, never* and unknown* 5xx
//! story WORDS                     one message:
//!     source ADDR                 where its client is: 127.0.0.2, a stranger; `socket` is sendmail(8)
//!     server ADDR                 which listener it goes to (127.0.0.1)
//!     helo NAME                   client.example.net
//!     sender ADDR                 s@example.net; `<>` is the null sender
//!     header LINE                 a field of its header
//!     remove PATH                 removes a file before the client comes
//!     write PATH LINE             replaces a file's contents before the client comes
//!     map PATH TYPE               makemap(8), once more
//!     ctl WORDS                   smtpctl, which must succeed, or must fail after `!`
//!     rcpt ADDR                   a recipient, and
//!     reply LINE                  what the client hears; `250` alone is the usual one
//!     maildir OWNER DIR [| LINE]  what came of it: a message in a maildir that holds these lines,
//!     append OWNER FILE [| LINE]  text at the end of a file,
//!     ran USER ARGS [| K=V] [| !K]  the command `$show` was run, with this environment,
//!     lmtp PATH RCPT,RCPT         a message for these recipients came to the server,
//!     relay ADDR [FLAGS]          an envelope for another host is in the queue,
//!     fails USER RESULT TEXT      a delivery had another outcome than `Ok`
//!     log TEXT                    the daemon said this
//! ```
//!
//! Paths are below the instance root, `$dir`; homes are `home/NAME`, system mailboxes are
//! `mailboxes/NAME`. In files `$x(N)` is N times `x`. Arguments of `ran` are written in brackets, one pair each.

/// A whole file.
pub struct Script {
    pub name: String,
    pub needs: Vec<String>,
    pub network: bool,
    pub config: String,
    pub users: Vec<String>,
    pub things: Vec<Thing>,
    pub stories: Vec<Story>,
}

/// Something in the file system.
pub enum Thing {
    File(Entry, String),
    Dir(Entry),
    Link(String, String),
    Remove(String),
    Map(String, String),
    Lmtp(String),
}

/// Where it is and whose.
pub struct Entry {
    pub path: String,
    pub mode: Option<u32>,
    pub owner: Option<String>,
    /// Filled up with a comment to so many bytes.
    pub size: usize,
}

/// One message and what comes of it.
pub struct Story {
    pub name: String,
    pub line: usize,
    pub source: String,
    pub server: String,
    pub helo: String,
    pub sender: String,
    pub header: Vec<String>,
    pub steps: Vec<Step>,
    /// Recipients with the replies to them.
    pub rcpts: Vec<(String, String)>,
    pub expected: Vec<Expected>,
    pub said: Vec<String>,
}

/// Done before the client comes.
pub enum Step {
    Remove(String),
    Write(String, String),
    Ctl(String),
    Map(String, String),
}

/// Something that comes of a message.
pub struct Expected {
    /// Kind, owner and place.
    pub head: String,
    /// Lines that it must hold, or must not after `!`.
    pub lines: Vec<String>,
}

impl Script {
    /// Reads a file; an error says `:LINE: what`.
    pub fn parse(name: &str, text: &str) -> Result<Script, String> {
        let mut script = Script {
            name: name.to_owned(),
            needs: Vec::new(),
            network: false,
            config: String::new(),
            users: Vec::new(),
            things: Vec::new(),
            stories: Vec::new(),
        };
        for block in blocks(text)? {
            script
                .block(&block)
                .map_err(|(line, what)| format!(":{line}: {what}"))?;
        }
        Ok(script)
    }

    fn block(&mut self, block: &Block<'_>) -> Result<(), (usize, String)> {
        let (word, rest) = block.head.split_once(' ').unwrap_or((block.head, ""));
        let text = || block.lines.iter().map(|(_, line)| format!("{line}\n"));
        match word {
            "config" => self.config.extend(text()),
            "network" => self.network = true,
            "map" => {
                let (path, kind) = rest
                    .split_once(' ')
                    .ok_or((block.line, "a map of what type?".to_owned()))?;
                let thing = Thing::Map(path.to_owned(), kind.to_owned());
                self.things.push(thing);
            }
            "needs" => self.needs.push(rest.to_owned()),
            "user" => self.users.extend(rest.split(' ').map(str::to_owned)),
            "file" => {
                let thing = Thing::File(entry(rest), text().collect());
                self.things.push(thing);
            }
            "dir" => self.things.push(Thing::Dir(entry(rest))),
            "link" => {
                let (path, to) = rest
                    .split_once(" to=")
                    .ok_or((block.line, "to= is missing".to_owned()))?;
                self.things
                    .push(Thing::Link(path.to_owned(), to.to_owned()));
            }
            "remove" => self.things.push(Thing::Remove(rest.to_owned())),
            "lmtp" => self.things.push(Thing::Lmtp(rest.to_owned())),
            "story" => self.stories.push(story(rest, block)?),
            other => return Err((block.line, format!("{other}: what is that?"))),
        }
        Ok(())
    }
}

struct Block<'t> {
    line: usize,
    head: &'t str,
    lines: Vec<(usize, &'t str)>,
}

fn blocks(text: &str) -> Result<Vec<Block<'_>>, String> {
    let mut blocks: Vec<Block<'_>> = Vec::new();
    for (number, line) in text.lines().enumerate().map(|(at, line)| (at + 1, line)) {
        match (line.strip_prefix('\t'), blocks.last_mut()) {
            (Some(inner), Some(block)) => block.lines.push((number, inner)),
            (Some(_), None) => return Err(format!(":{number}: a line of no block")),
            (None, _) if line.trim().is_empty() || line.starts_with('#') => {}
            (None, _) => blocks.push(Block {
                line: number,
                head: line.trim_end(),
                lines: Vec::new(),
            }),
        }
    }
    Ok(blocks)
}

fn entry(words: &str) -> Entry {
    let mut words = words.split(' ');
    let mut entry = Entry {
        path: words.next().unwrap_or_default().to_owned(),
        mode: None,
        owner: None,
        size: 0,
    };
    for word in words {
        match word.split_once('=') {
            Some(("mode", mode)) => entry.mode = u32::from_str_radix(mode, 8).ok(),
            Some(("owner", owner)) => entry.owner = Some(owner.to_owned()),
            Some(("size", size)) => entry.size = size.parse().unwrap_or_default(),
            _ => panic!("{word}: mode=, owner= or size="),
        }
    }
    entry
}

fn story(name: &str, block: &Block<'_>) -> Result<Story, (usize, String)> {
    let mut story = Story {
        name: name.to_owned(),
        line: block.line,
        source: "127.0.0.2".to_owned(),
        server: "127.0.0.1".to_owned(),
        helo: "client.example.net".to_owned(),
        sender: "s@example.net".to_owned(),
        header: Vec::new(),
        steps: Vec::new(),
        rcpts: Vec::new(),
        expected: Vec::new(),
        said: Vec::new(),
    };
    for (number, line) in &block.lines {
        story.line(line).map_err(|what| (*number, what))?;
    }
    story.check().map_err(|what| (block.line, what))?;
    Ok(story)
}

impl Story {
    fn line(&mut self, line: &str) -> Result<(), String> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let value = rest.to_owned();
        match word {
            "source" => self.source = value,
            "server" => self.server = value,
            "helo" => self.helo = value,
            "sender" => self.sender = value.trim_matches(['<', '>']).to_owned(),
            "header" => self.header.push(value),
            "remove" => self.steps.push(Step::Remove(value)),
            "write" => {
                let (path, text) = rest.split_once(' ').ok_or("write what?")?;
                self.steps
                    .push(Step::Write(path.to_owned(), text.to_owned()));
            }
            "map" => {
                let (path, kind) = rest.split_once(' ').ok_or("a map of what type?")?;
                self.steps.push(Step::Map(path.to_owned(), kind.to_owned()));
            }
            "ctl" => self.steps.push(Step::Ctl(value)),
            "rcpt" => self.rcpts.push((value, String::new())),
            "reply" => self.reply(rest)?,
            "maildir" | "append" | "ran" | "lmtp" | "relay" | "fails" => self.expect(line),
            "log" => self.said.push(value),
            other => return Err(format!("{other}: what is that?")),
        }
        Ok(())
    }

    fn reply(&mut self, text: &str) -> Result<(), String> {
        let (_, reply) = self.rcpts.last_mut().ok_or("a reply to no recipient")?;
        *reply = match text {
            "250" => "250 2.1.5 Destination address valid: Recipient ok".to_owned(),
            text => text.to_owned(),
        };
        Ok(())
    }

    fn expect(&mut self, line: &str) {
        let mut parts = line.split(" | ").map(|part| part.trim().to_owned());
        self.expected.push(Expected {
            head: parts.next().unwrap_or_default(),
            lines: parts.collect(),
        });
    }

    /// Every recipient has a reply, and every accepted message comes to something.
    fn check(&self) -> Result<(), String> {
        if self.rcpts.is_empty() || self.rcpts.iter().any(|(_, reply)| reply.is_empty()) {
            return Err("a recipient and a reply are wanted".to_owned());
        }
        let accepted = self.rcpts.iter().any(|(_, reply)| reply.starts_with('2'));
        if accepted == self.expected.is_empty() {
            return Err("something comes of what is accepted, and of nothing else".to_owned());
        }
        Ok(())
    }
}
