//! Files that import each other in a circle can only be read together, and moved together.
//!
//! Which file takes a name from which is read out of the text: the paths in `use` and in the code,
//! followed through re-exports to the file that defines the name. Handing a name on with `use` is
//! no import by itself; naming it in the code is. What a file takes from the module that it is a part
//! of does not count: a module and its parts are one thing.

use std::collections::{BTreeMap, BTreeSet};

/// A module: its file, and the names that `use` brings into it.
struct Module {
    file: usize,
    code: String,
    children: BTreeSet<String>,
    names: BTreeMap<String, Vec<String>>,
}

/// The modules by their paths below `crate`.
type House = BTreeMap<Vec<String>, Module>;

/// The circles among `files` (their paths below src, and their texts): each as its files in order,
/// with the names that tie one file to the next.
pub fn circles(files: &[(&str, &str)]) -> Vec<String> {
    let house = house(files);
    let mut ties: Vec<BTreeMap<usize, BTreeSet<String>>> = vec![BTreeMap::new(); files.len()];
    for (here, module) in &house {
        for path in paths(&module.code) {
            let Some((there, name)) = target(&house, here, &path) else {
                continue;
            };
            if !here.starts_with(&there) {
                let other = house[&there].file;
                ties[module.file].entry(other).or_default().insert(name);
            }
        }
    }
    let mut found = Vec::new();
    let mut seen = BTreeSet::<usize>::new();
    for start in 0..files.len() {
        if seen.contains(&start) {
            continue;
        }
        let Some(round) = way_back(&ties, start) else {
            continue;
        };
        seen.extend(round.iter().copied());
        let mut text = files[start].0.to_string();
        for (from, to) in round.iter().zip(round.iter().cycle().skip(1)) {
            let names: Vec<_> = ties[*from][to].iter().map(String::as_str).collect();
            text += &format!(" -> {} ({})", files[*to].0, names.join(", "));
        }
        found.push(text);
    }
    found
}

/// The shortest way from a file back to itself.
fn way_back(ties: &[BTreeMap<usize, BTreeSet<String>>], start: usize) -> Option<Vec<usize>> {
    let mut ways = vec![vec![start]];
    let mut seen = BTreeSet::new();
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in ways {
            for next in ties[*way.last()?].keys() {
                if *next == start {
                    return Some(way);
                }
                if seen.insert(*next) {
                    longer.push([way.as_slice(), &[*next]].concat());
                }
            }
        }
        ways = longer;
    }
    None
}

fn house(files: &[(&str, &str)]) -> House {
    let mut house = House::new();
    for (file, (path, text)) in files.iter().enumerate() {
        let path = path.trim_end_matches(".rs").trim_end_matches("/mod");
        let path: Vec<_> = match path {
            "lib" => Vec::new(),
            path => path.split('/').map(str::to_string).collect(),
        };
        let mut module = Module {
            file,
            code: String::new(),
            children: BTreeSet::new(),
            names: BTreeMap::new(),
        };
        let text: String = text
            .lines()
            .map(|line| line.split("//").next().unwrap_or_default())
            .collect::<Vec<_>>()
            .join("\n");
        let mut rest = text.as_str();
        while let Some((before, statement, after)) = next_use(rest) {
            module.code += before;
            for mut used in branches(statement) {
                let name = match used.iter().position(|part| part == "as") {
                    Some(at) => used.split_off(at).pop(),
                    None => used.last().cloned(),
                };
                if let Some(name) = name {
                    module.names.insert(name, used);
                }
            }
            rest = after;
        }
        module.code += rest;
        for line in module.code.lines() {
            let line = line.trim_end();
            let declared = ["", "pub ", "pub(super) ", "pub(crate) "]
                .iter()
                .find_map(|seen| line.strip_prefix(seen)?.strip_prefix("mod "));
            if let Some(name) = declared.and_then(|rest| rest.strip_suffix(';')) {
                module.children.insert(name.to_string());
            }
        }
        house.insert(path, module);
    }
    house
}

/// The next `use` statement: what is before it, its tree of names, and what follows.
fn next_use(text: &str) -> Option<(&str, &str, &str)> {
    let mut at = 0;
    loop {
        let start = at + text[at..].find("use ")?;
        let line = text[..start].rfind('\n').map_or(0, |end| end + 1);
        let head = text[line..start].trim();
        if head.is_empty() || head == "pub" || head.starts_with("pub(") && head.ends_with(')') {
            let (tree, after) = text[start + 4..].split_once(';')?;
            return Some((&text[..line], tree, after));
        }
        at = start + 4;
    }
}

/// The paths of a tree such as `a::{b, c::d as e}`.
fn branches(tree: &str) -> Vec<Vec<String>> {
    let tree = tree.trim();
    let Some((stem, rest)) = tree.split_once('{') else {
        let words = tree.split("::").flat_map(str::split_whitespace);
        return vec![words.map(str::to_string).collect()];
    };
    let stem: Vec<_> = stem
        .split("::")
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .collect();
    let inner = rest.trim_end().strip_suffix('}').unwrap_or(rest);
    let (mut found, mut depth, mut from) = (Vec::new(), 0, 0);
    for (at, c) in inner.char_indices().chain([(inner.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                for branch in branches(&inner[from..at])
                    .into_iter()
                    .filter(|b| !b.is_empty())
                {
                    let stem = stem.iter().map(|part| part.to_string());
                    let branch = branch.into_iter().filter(|part| part != "self");
                    found.push(stem.chain(branch).collect());
                }
                from = at + 1;
            }
            _ => {}
        }
    }
    found
}

/// The paths that a code names: each word with what is tied to it by `::`.
fn paths(code: &str) -> BTreeSet<Vec<String>> {
    let mut paths = BTreeSet::new();
    let mut words = code
        .split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':')
        .filter(|word| !word.is_empty());
    for word in &mut words {
        let path: Vec<_> = word
            .split("::")
            .map(|part| part.trim_matches(':').to_string())
            .take_while(|part| !part.is_empty())
            .collect();
        if !path.is_empty() {
            paths.insert(path);
        }
    }
    paths
}

/// The module in which the name that `path` begins with is defined, seen from the module `here`.
fn target(house: &House, here: &[String], path: &[String]) -> Option<(Vec<String>, String)> {
    let (first, rest) = path.split_first()?;
    let module = house.get(here)?;
    match first.as_str() {
        "crate" => below(house, &[], rest),
        "self" => below(house, here, rest),
        "super" => below(house, here.split_last()?.1, rest),
        name => match module.names.get(name) {
            Some(used) if used.first().map(String::as_str) != Some(name) => {
                target(house, here, &[used.as_slice(), rest].concat())
            }
            _ if module.children.contains(name) && !rest.is_empty() => below(house, here, path),
            _ => None,
        },
    }
}

fn below(house: &House, start: &[String], rest: &[String]) -> Option<(Vec<String>, String)> {
    let module = house.get(start)?;
    let (first, more) = rest.split_first()?;
    if first == "super" {
        return below(house, start.split_last()?.1, more);
    }
    if module.children.contains(first) && !more.is_empty() {
        return below(house, &[start, std::slice::from_ref(first)].concat(), more);
    }
    if module.names.contains_key(first) {
        return target(house, start, rest).or(Some((start.to_vec(), first.clone())));
    }
    Some((start.to_vec(), first.clone()))
}

#[test]
fn a_circle_is_found_also_behind_a_name_that_is_handed_on() {
    let lib = ("lib.rs", "pub mod road;\n");
    let road = (
        "road/mod.rs",
        "pub mod car;\nmod lane;\npub use {car::Car, lane::side::Side};\npub struct Road(Car);\n",
    );
    let lane = (
        "road/lane.rs",
        "pub mod side;\n// use super::car;\nuse super::Road;\npub struct Lane(Road);\n",
    );
    let side = (
        "road/lane/side.rs",
        "use crate::road::Road as R;\npub struct Side(R);\n",
    );
    let car = "use super::{lane as l, lane::Lane};\nfn f(_: Lane) -> l::side::Side {}\n";
    let files = [lib, road, lane, side, ("road/car.rs", car)];
    assert_eq!(circles(&files), Vec::<String>::new());

    let side = (
        "road/lane/side.rs",
        "use crate::road::Car as C;\npub struct Side(C);\n",
    );
    let files = [lib, road, lane, side, ("road/car.rs", car)];
    assert_eq!(
        circles(&files),
        ["road/lane/side.rs -> road/car.rs (Car) -> road/lane/side.rs (Side)"]
    );
}
