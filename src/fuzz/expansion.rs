//! Aliases: items, lines of them, and whole expansions.

use std::io::{self, Write};
use std::path::Path;

use crate::config::{self, Sources};
use crate::expansion::{self, Context};
use crate::mail::{Facts, MailAddr, Peer};
use crate::privsep::{Forward, Forwards};
use crate::table::Tables;
use crate::table::include::{Author, Included, Includes};
use crate::util::{Line, Timestamp};

use super::{halves, text, text_of};

/// A value of an alias table, a line of .forward or an include file: items, or a reason.
pub(super) fn items(bytes: &[u8]) {
    let line = text_of(bytes);
    expansion::fuzz_items(&line);
    for path in expansion::included_files(&line) {
        assert!(path.is_absolute());
    }
}

/// A recipient against an alias table and an include file, both of the fuzzer's, the latter being
/// everybody's .forward as well: an end, and no more destinations than an expansion may have.
pub(super) fn expand(bytes: &[u8]) {
    let (table, rest) = halves(bytes);
    let (included, rcpt) = halves(rest);
    let mut sources = Sources::alone(CONF);
    sources.insert(Path::new("/t"), table.to_vec());
    let Ok(loaded) = config::load(&sources, &text::defaults()) else {
        return;
    };
    let Ok(tables) = Tables::load(&loaded.config, &sources) else {
        return;
    };
    let includes = Same(included.to_vec());
    let context = Context {
        config: &loaded.config,
        tables: &tables,
        includes: &includes,
        forwards: &NoHomes,
        daemon_user: "root",
        now: Timestamp(1_763_754_192),
        recent: None,
        watch: None,
    };
    let facts = Facts {
        peer: Peer::Local,
        rdns: None,
        rdns_failed: false,
        helo: Line::sanitize(b"localhost"),
        authenticated: true,
        username: None,
        tls: false,
        tag: None,
        sender: MailAddr::null(),
    };
    let rcpt = text_of(rcpt);
    for domain in ["localhost", "virtual.example.org"] {
        for user in ["a", rcpt.as_ref()] {
            if let Ok(rcpt) = MailAddr::new(user, domain)
                && let Ok(found) = expansion::expand(&context, &facts, &rcpt)
            {
                let count = found.destinations.len();
                assert!((1..=10_000).contains(&count));
            }
        }
    }
}

const CONF: &[u8] = b"table t file:/t\naction l mbox alias <t>\naction v maildir virtual <t>\n\
    match from any for domain virtual.example.org action v\nmatch from any for local action l\n";

/// Nobody has a .forward: what is in one is an item like others.
struct NoHomes;

impl Forwards for NoHomes {
    fn open_forward(&self, _: &Line, _: &Line) -> io::Result<Forward> {
        Ok(Forward::Absent(None))
    }
}

/// Every include file is the same, so it may include itself.
struct Same(Vec<u8>);

impl Includes for Same {
    fn read(&self, _: &Path) -> io::Result<Included> {
        Ok(Included {
            bytes: self.0.clone(),
            author: Author::Trusted,
        })
    }
}

impl Forwards for Same {
    fn open_forward(&self, _: &Line, _: &Line) -> io::Result<Forward> {
        // More than a file may have, and less than a pipe takes.
        const MOST: usize = 5000;
        let (read, mut write) = io::pipe()?;
        write.write_all(self.0.get(..MOST).unwrap_or(&self.0))?;
        Ok(Forward::File(read.into()))
    }
}
