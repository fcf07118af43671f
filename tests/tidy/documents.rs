//! Comments, CONTRIBUTING.md, SECURITY.md and the map in src/lib.rs say what is there.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::{collect, sources};

#[test]
fn every_document_that_is_cited_is_here() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    for folder in ["src", "tests", "man", "etc"] {
        collect(
            &root.join(folder),
            &["rs", "dialog", "conf", "5", "8"],
            &mut paths,
        );
    }
    let mut wrong = Vec::new();
    for path in paths {
        let text = fs::read_to_string(&path).expect("a text file");
        for (number, line) in text.lines().enumerate() {
            for word in line.split(|c: char| !c.is_alphanumeric() && !"-_.".contains(c)) {
                let name = word.trim_end_matches('.');
                if name.ends_with(".md") && name.len() > 3 && !root.join(name).exists() {
                    wrong.push(format!("{}:{}: {name}", path.display(), number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn modules_types_and_functions_say_what_they_are() {
    // A field or a variant has a comment only where its name does not say it all.
    let starts = [
        "fn",
        "unsafe fn",
        "const fn",
        "struct",
        "enum",
        "trait",
        "type",
        "const",
        "static",
    ];
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|s| s.room != "bin") {
        if !source
            .lines
            .first()
            .is_some_and(|line| line.starts_with("//!"))
        {
            wrong.push(format!("{}: no //! at the head of the file", source.path));
        }
        // What a platform has in its own file or module says the same as that of the others.
        if ["sys/login/", "sys/sandbox/"]
            .iter()
            .any(|dir| source.path.starts_with(dir))
            && !source.path.ends_with("mod.rs")
        {
            continue;
        }
        let mut documented = false;
        let (mut in_trait, mut in_module) = (false, false);
        for (number, line) in source.lines.iter().enumerate() {
            let code = line.trim_start();
            let item = match in_trait && line.starts_with("    fn ") {
                true => Some(code),
                false => code.strip_prefix("pub "),
            };
            let is_item = item.is_some_and(|item| {
                let starts_with = |word: &&str| {
                    item.strip_prefix(word)
                        .is_some_and(|rest| rest.starts_with(' '))
                };
                starts.iter().any(starts_with)
            });
            let opens = !line.starts_with(' ') && line.contains("mod ") && line.ends_with('{');
            in_module = opens || in_module && line != "}";
            if is_item && !documented && !in_module {
                wrong.push(format!(
                    "{}:{}: {code}: no comment",
                    source.path,
                    number + 1
                ));
            }
            in_trait = line.starts_with("pub trait ") || in_trait && line != "}";
            documented = code.starts_with("///") || documented && code.starts_with("#[");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What stands between backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn contributing_names_what_is_here() {
    // Every path is there; a name stands in the file that is told before it.
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("CONTRIBUTING.md")).expect("CONTRIBUTING.md");
    let mut wrong = Vec::new();
    let mut names = 0;
    let (_, lists) = text.split_once("## To add ").expect("what is added where");
    for path in quoted(&text).filter(|word| word.contains('/')) {
        if !root.join(path).exists() {
            wrong.push(format!("{path} is not there"));
        }
    }
    for item in lists.split("\n- ").skip(1) {
        let item = item.split("\n\n").next().unwrap_or_default();
        let mut file = None;
        for word in quoted(item) {
            match word.contains('/') {
                true => file = Some(word),
                false => {
                    names += 1;
                    let text = file.map(|path| fs::read_to_string(root.join(path)));
                    let text = text.and_then(Result::ok).unwrap_or_default();
                    let mut words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
                    if !words.any(|found| found == word) {
                        wrong.push(format!("{}: no {word}", file.unwrap_or_default()));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(names > 30, "only {names} names in the lists");
}

#[test]
fn every_claim_of_security_has_its_test() {
    // SECURITY.md: each row of its tables names a test that is there.
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("SECURITY.md")).expect("SECURITY.md");
    let (mut wrong, mut rows) = (Vec::new(), 0);
    for row in text.lines().filter(|line| line.starts_with("| ")) {
        let tests: Vec<_> = quoted(row)
            .filter_map(|word| word.split_once("::"))
            .collect();
        if tests.is_empty() {
            let is_head = row.ends_with("| Test |") || row.ends_with("| Tests |");
            if !is_head {
                wrong.push(format!("no test: {row}"));
            }
            continue;
        }
        rows += 1;
        for (path, name) in tests {
            let text = fs::read_to_string(root.join(path)).unwrap_or_default();
            let function = format!("fn {name}() {{");
            let before = text
                .split(&function)
                .next()
                .filter(|before| *before != text);
            if !before.is_some_and(|before| before.trim_end().ends_with("#[test]")) {
                wrong.push(format!("{path} has no test {name}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(rows > 50, "only {rows} rows");
}

#[test]
fn threads_are_those_of_the_map() {
    // src/lib.rs, Threads of the engine. Of processes without an engine it does not tell.
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let map = fs::read_to_string(root.join("src/lib.rs")).expect("src/lib.rs");
    let rows = map.lines().filter_map(|line| line.strip_prefix("//! | `"));
    let known: BTreeSet<&str> = rows.filter_map(|row| row.split('`').next()).collect();
    let mut wrong = Vec::new();
    for source in sources()
        .iter()
        .filter(|s| s.room != "cli" && s.room != "mda" && s.path != "tls/keys/agent.rs")
    {
        let text = source.lines.join("\n");
        for after in text.split("thread::Builder::new()").skip(1) {
            let name = after.split_once(".name(").map_or("", |(_, after)| after);
            // `session {number}`; one that is made at run time is for the integration test.
            let name = name.trim_start_matches("format!(");
            let name = name.strip_prefix('"').unwrap_or_default();
            let name = name.split(['"', '{']).next().unwrap_or_default().trim_end();
            if name.is_empty() {
                continue;
            }
            if !known.contains(name) {
                wrong.push(format!(
                    "{}: the thread {name} is not in src/lib.rs",
                    source.path
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
