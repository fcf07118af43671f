//! smtpd.conf(5) has every directive of the parser, in order, each with an example.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// An entry of the list of directives.
struct Item {
    /// The words of the directive up to its first argument: `smtp max-message-size`.
    words: String,
    line: usize,
    /// Without text it shares that of the next entry.
    has_text: bool,
    /// The lines of its examples; what begins with a blank goes on with the line before.
    examples: Vec<String>,
}

#[test]
fn every_directive_is_in_the_manual_in_order_with_an_example() {
    let items = items(&read("man/smtpd.conf.5"));
    let mut wrong = Vec::new();
    for pair in items.windows(2) {
        if pair[0].words > pair[1].words {
            let (line, words, before) = (pair[1].line, &pair[1].words, &pair[0].words);
            wrong.push(format!("line {line}: {words} stands behind {before}"));
        }
    }
    for item in items.iter().filter(|item| item.has_text) {
        let is_of_it = |example: &String| first(example) == first(&item.words);
        if item.examples.is_empty() || !item.examples.iter().all(is_of_it) {
            let (line, words) = (item.line, &item.words);
            wrong.push(format!("line {line}: {words} has no example of its own"));
        }
    }
    let documented: BTreeSet<&str> = items.iter().map(|item| first(&item.words)).collect();
    let source = read("src/config/parse/mod.rs");
    let (_, list) = source
        .split_once("pub const DIRECTIVES: &[&str] = &[")
        .expect("the parser's list");
    let (list, _) = list.split_once("];").expect("its end");
    let parsed: BTreeSet<&str> = list.split('"').skip(1).step_by(2).collect();
    for word in parsed.symmetric_difference(&documented) {
        wrong.push(format!("{word} is in one of parser and manual alone"));
    }
    assert!(wrong.is_empty(), "man/smtpd.conf.5:\n{}", wrong.join("\n"));
}

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect(path)
}

fn first(words: &str) -> &str {
    words.split(' ').next().unwrap_or_default()
}

fn items(manual: &str) -> Vec<Item> {
    let (before, rest) = manual
        .split_once(".Sh DIRECTIVES\n")
        .expect("the directives");
    let (section, _) = rest.split_once("\n.Sh ").expect("the next section");
    let above = before.lines().count() + 1;
    let (mut items, mut depth, mut literal): (Vec<Item>, usize, bool) = (Vec::new(), 0, false);
    for (line, number) in section.lines().zip(above + 1..) {
        let word = first(line);
        match (word, depth) {
            (".Bl", _) => depth += 1,
            (".El", _) => depth -= 1,
            (".Bd", 1) => literal = true,
            (".Ed", 1) => literal = false,
            (".It", 1) => {
                items.push(Item {
                    words: leading(line),
                    line: number,
                    has_text: false,
                    examples: Vec::new(),
                });
                continue;
            }
            _ => {}
        }
        if let Some(item) = items.last_mut() {
            item.has_text = true;
            let is_example = literal && depth == 1 && word != ".Bd";
            if is_example && !line.starts_with(' ') {
                item.examples.push(line.to_owned());
            }
        }
    }
    items
}

/// The words of `.It Ic words Ar argument …` up to the first argument.
fn leading(item: &str) -> String {
    let macros = ["Ar", "Cm", "Op", "Oo", "{"];
    let words = item.split(' ').skip(2);
    let words: Vec<&str> = words.take_while(|word| !macros.contains(word)).collect();
    words.join(" ")
}
