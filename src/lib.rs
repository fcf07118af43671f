//! smtpd(8): mail comes in by SMTP and sendmail(8), is made durable, and is delivered.
//!
//! # The road of a message
//!
//! ```text
//! socket → accept → session → transaction → expansion (ruleset, table) → queue ═ committed, 250 ═>
//!          scheduler → runner → deliver/local, lmtp, relay (client) | bounce → transaction …
//! ```
//!
//! [`accept`] lets connections in and gives each to a worker, which owns it until it is closed;
//! what a session has to know from elsewhere it asks, and is parked. [`session`] is the
//! conversation, [`transaction`] what it says about one message. Each recipient goes through
//! [`expansion`], which asks [`ruleset`] and [`table`], and comes out as destinations; each
//! destination becomes an envelope. At the final dot the [`queue`] makes body and envelopes
//! durable, and only its `Committed` entitles the session to
//! say 250. From there the [`runner`] carries the message: the [`scheduler`] says when, an agent
//! of [`deliver`] carries out, and what comes back is settled on disk, a [`bounce`] first.
//!
//! # Processes
//!
//! ```text
//! smtpd            root, one thread: binds, starts, forks and execs deliveries,
//!  │               opens ~/.forward as its owner                                 [parent]
//!  ├─ engine       _smtpq, the queue's owner, many threads: everything else      [engine]
//!  ├─ keys         _smtpd: holds private keys and signs                          [tls]
//!  ├─ auth         root, one for each password of the system's: bsd_auth, PAM    [parent]
//!  ├─ forward      the recipient, one for each look at a home that may hang      [parent]
//!  ├─ purge        _smtpq, at the start: deletes what a crash left behind        [parent]
//!  ├─ programs     _smtpd, or the user of smtpd.conf: tables and filters; a table
//!  │               that is a userbase has a second one, which the parent asks    [proc]
//!  └─ deliveries   the recipient: maildirs, mail.local, commands                 [mda]
//!                  _smtpd: commands and files of aliases
//! ```
//!
//! Children are started by fork and exec of the same binary, so that their address spaces differ.
//! Between parent and engine lies a closed list of requests that name things ([`privsep`]).
//!
//! # What a compromised engine can still do
//!
//! It has all mail that passes and the queue, the passwords that relaying needs, the key of queue
//! encryption and that of SRS, and the passwords that clients send while it lives; it can have
//! anything signed, but learns no private key, and no hash of the system's. It can
//! read any user's .forward that its owner alone can write. It can have
//! any message delivered to any user in the ways that the configuration and that user's .forward
//! name, with addresses of its choice in the values of format specifiers. As `_smtpd` it can run
//! commands and append to files, for what an alias says is known to it alone. It runs no other
//! user's command: the parent takes an action's from the configuration, and the delivery, which
//! has become the user, looks for the command in that user's own .forward. It is not root, starts
//! no process, and reads no file but those of the system and those of the configuration.
//! SECURITY.md has the test of each of these, and what others than the engine can do.
//!
//! # Threads of the engine
//!
//! A thread is named as here; most have a number behind it, and systems cut long names short. Those
//! that come "as needed" end when they have nothing left to do, but for local deliveries, which
//! stay.
//!
//! | Thread | How many | Owns | May block on |
//! |---|---|---|---|
//! | `smtpd: engine` | 1 | the event loop: listeners, control connections | nothing |
//! | `session` | one a processor | its sessions, from admission to close, and their timers | the disk, for a look at MAIL: whether an ID is free, and once a second how much room there is |
//! | `lookup` | 16 | a session's question about names, rules, users, unless its answer is at hand; who is exempt from counting log-ins | tables, the parent for a .forward |
//! | `handshake` | 8 | a TLS handshake that wants a signature | the process that holds the keys |
//! | `auth hash` | half of the processors | a password that is compared with a hash | nothing, but it takes its time |
//! | `auth system` | 16 | a password that the system or a program judges, a hash that is not in memory; at most eight ask the system, or one table | the parent, tables |
//! | `auth refusals` | 1 | refusals until they are due | nothing |
//! | `commit` | 16 | messages on their way to the disk: the small ones of a moment together | the disk |
//! | `resolver` | 1 | queries under way, the cache | nothing |
//! | `runner` | 1 | the scheduler, the agents' queues | the disk |
//! | `scan` | as needed | the walk over the spool at the start, at most four share it | the disk, the runner |
//! | `settle` | 4 | outcomes on their way to the disk, listings | the disk |
//! | `list` | as needed | a part of a long listing | the disk |
//! | `purge` | 1 | tables of bags at the start; files of settled messages, what is left of old bags | the disk |
//! | `unpack` | as needed | messages that leave bags when the engine ends | the disk |
//! | `local delivery` | as needed | one delivery each | the delivery, with a time-out |
//! | `relay` | 1 | which host gets what when, as a machine without sockets | nothing |
//! | `relay tables` | as needed | questions of relays about a table that is not in memory; at most eight ask one table, and end when nobody has asked it for a while | the table |
//! | `relay session` | as needed | one connection to a host | the host, with a time-out on every phase |
//! | `bounce` | 1 | reports being composed | the disk |
//! | `proc` | one a program | a program behind a table or filter, and what waits for it | the program |
//! | `admin` | 1 | what smtpctl(8) asks that takes time: tables, reload, explain | the disk, the parent |
//! | `privsep` | 1 | answers of the parent | nothing |
//! | `shutdown` | 1 | the parent's word to stop | the parent |
//! | `log` | 1 | the lines for standard error or syslogd(8) | syslogd(8) |
//!
//! One thread owns each changing structure; what travels between them does so over bounded
//! channels. The few locks (queue's names, the privsep client's calls, tables, who waits for a
//! table, the workers' letters, the count of sessions) are leaves: no other lock is taken under
//! one. Only the lock of a message that filters have is held over that of what waits for their
//! programs.
//!
//! # Invariants
//!
//! 1. 250 after the dot needs a `queue::Committed`, and only a finished rename and sync make one.
//! 2. A message directory in `queue/`, or a file of several messages in `bags/`, appears whole or
//!    not at all; what is in `incoming/` at start was never promised.
//! 3. A failure is on disk as a bounce envelope before the envelope that failed is deleted, or
//!    nothing is deleted.
//! 4. The parent parses nothing a stranger wrote; requests name actions and users; a
//!    user and password of AUTH pass through as lines. The command of
//!    a .forward travels to be compared with the file, not to be believed.
//! 5. The parent never has a second thread; fork happens nowhere else.
//! 6. Malformed input from outside costs the peer its connection, never the process.
//! 7. Every envelope is in exactly one scheduler state; only the runner moves it out of inflight.
//!
//! 1–3 are enumerated crash point by crash point in `tests/simulation`, 6 by the garbage and
//! smuggling tests of `tests/integration`, 7 by the scheduler's storms; 4 and 5 are kept by
//! `tests/tidy.rs`, which also checks which room may import which.

#![deny(unsafe_code)]

// So that mail::samples names us as the tests outside do.
#[cfg(test)]
extern crate self as smtpd;

// THE ROAD OF A MESSAGE
pub mod accept;
pub mod session;
pub mod transaction;
pub mod expansion;
pub mod ruleset;
pub mod queue;
pub mod scheduler;
pub mod runner;
pub mod deliver;
pub mod bounce;

// ROOMS BESIDE THE ROAD
pub mod auth;
pub mod client;
pub mod config;
pub mod control;
pub mod dns;
pub mod explain;
pub mod log;
pub mod proc;
pub mod filter;
pub mod table;
pub mod tls;

// TRIALS
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzz;

// PRIVILEGE
pub mod engine;
pub mod parent;
pub mod privsep;

// WORDS AND TOOLS
pub mod cli;
pub mod mail;
pub mod mda;
pub mod rfc5322;
pub mod smtp;
#[allow(unsafe_code)]
pub mod sys;
pub mod util;
