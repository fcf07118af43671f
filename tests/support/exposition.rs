//! The text exposition format of Prometheus, version 0.0.4, read as strictly as promtool does.

#![allow(dead_code)]

use std::collections::{BTreeMap, BTreeSet};

/// All samples of one name, with what is said about it.
#[derive(Debug)]
pub struct Family {
    pub name: String,
    pub kind: String,
    pub help: String,
    pub samples: Vec<Sample>,
}

#[derive(Debug)]
pub struct Sample {
    pub name: String,
    pub labels: Vec<Label>,
    pub value: f64,
}

/// A name and a value.
pub type Label = (String, String);

/// Reads a page; says what is wrong with it.
pub fn parse(text: &str) -> Result<Vec<Family>, String> {
    if !text.is_empty() && !text.ends_with('\n') {
        return Err("the last line does not end".to_owned());
    }
    let mut families: Vec<Family> = Vec::new();
    let mut series = BTreeSet::new();
    for line in text.lines() {
        let wrong = |what: &str| format!("{what}: {line}");
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').ok_or_else(|| wrong("no help"))?;
            check_name(name, true).map_err(|what| wrong(&what))?;
            if families.iter().any(|family| family.name == name) {
                return Err(wrong("a second HELP, or samples of a name apart"));
            }
            families.push(Family {
                name: name.to_owned(),
                kind: String::new(),
                help: unescape(help, false).map_err(|what| wrong(&what))?,
                samples: Vec::new(),
            });
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').ok_or_else(|| wrong("no type"))?;
            let family = families.last_mut().filter(|family| family.name == name);
            let family = family.ok_or_else(|| wrong("TYPE without its HELP"))?;
            if !family.kind.is_empty() || !family.samples.is_empty() {
                return Err(wrong("TYPE twice, or behind samples"));
            }
            if !["counter", "gauge", "histogram", "summary", "untyped"].contains(&kind) {
                return Err(wrong("unknown type"));
            }
            kind.clone_into(&mut family.kind);
        } else if line.starts_with('#') || line.trim().is_empty() {
            // A comment.
        } else {
            let sample = sample(line).map_err(|what| wrong(&what))?;
            let family = families.last_mut().filter(|family| {
                let end = sample.name.strip_prefix(family.name.as_str());
                match family.kind.as_str() {
                    "histogram" => matches!(end, Some("_bucket" | "_sum" | "_count")),
                    "summary" => matches!(end, Some("" | "_sum" | "_count")),
                    _ => end == Some(""),
                }
            });
            let family = family.ok_or_else(|| wrong("a sample without HELP and TYPE"))?;
            if family.kind.is_empty() {
                return Err(wrong("a sample before its TYPE"));
            }
            if !series.insert((sample.name.clone(), sample.labels.clone())) {
                return Err(wrong("a series twice"));
            }
            family.samples.push(sample);
        }
    }
    families.iter().try_for_each(check_family)?;
    Ok(families)
}

/// `name{label="value",…} value`, without a time.
fn sample(line: &str) -> Result<Sample, String> {
    let (name, labels, value) = match line.split_once('{') {
        Some((name, rest)) => {
            let (labels, rest) = labels(rest)?;
            (name, labels, rest)
        }
        None => {
            let (name, value) = line.split_once(' ').ok_or("no value")?;
            (name, Vec::new(), value)
        }
    };
    check_name(name, true)?;
    let value = match value.trim() {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        value if value.contains(' ') => return Err("a time".to_owned()),
        value => value.parse().map_err(|_| "no number".to_owned())?,
    };
    Ok(Sample {
        name: name.to_owned(),
        labels,
        value,
    })
}

/// What stands behind `{`, and what behind `}`.
fn labels(mut rest: &str) -> Result<(Vec<Label>, &str), String> {
    let mut labels: Vec<Label> = Vec::new();
    loop {
        if let Some(behind) = rest.strip_prefix('}') {
            return Ok((labels, behind));
        }
        let (name, behind) = rest.split_once("=\"").ok_or("no label")?;
        check_name(name, false)?;
        if labels.iter().any(|(known, _)| known == name) {
            return Err("a label twice".to_owned());
        }
        let mut escaped = false;
        let end = behind.find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        let end = end.ok_or("a label that does not end")?;
        labels.push((name.to_owned(), unescape(&behind[..end], true)?));
        rest = &behind[end + 1..];
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None if rest.starts_with('}') => {}
            None => return Err("no comma".to_owned()),
        }
    }
}

fn unescape(text: &str, quoted: bool) -> Result<String, String> {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('\\') => out.push('\\'),
                Some('n') => out.push('\n'),
                Some('"') if quoted => out.push('"'),
                other => return Err(format!("a bad escape: {other:?}")),
            },
            c => out.push(c),
        }
    }
    Ok(out)
}

/// Of metrics a name may hold a colon.
fn check_name(name: &str, colon: bool) -> Result<(), String> {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_' || colon && c == ':';
    match name.chars().next() {
        Some(first) if !first.is_ascii_digit() && name.chars().all(good) => Ok(()),
        _ => Err(format!("a bad name: {name:?}")),
    }
}

fn check_family(family: &Family) -> Result<(), String> {
    let name = &family.name;
    if family.samples.is_empty() {
        return Err(format!("{name} has no samples"));
    }
    match family.kind.as_str() {
        "counter" => {
            let grows = |sample: &Sample| sample.value >= 0.0;
            if family.samples.iter().all(grows) && name.ends_with("_total") {
                Ok(())
            } else {
                Err(format!("{name} is no counter"))
            }
        }
        "histogram" => check_histogram(family),
        _ => Ok(()),
    }
}

/// Buckets by growing `le`, none less than the one before, the last `+Inf` and equal to the count.
fn check_histogram(family: &Family) -> Result<(), String> {
    let name = &family.name;
    // The limit and the count of each, by the other labels.
    let mut buckets: BTreeMap<Vec<&Label>, Vec<(f64, f64)>> = BTreeMap::new();
    for sample in &family.samples {
        if sample.name.ends_with("_bucket") {
            let (le, others): (Vec<_>, Vec<_>) =
                sample.labels.iter().partition(|(label, _)| label == "le");
            let [(_, le)] = le.as_slice() else {
                return Err(format!("{name}: a bucket without le"));
            };
            let le = match le.as_str() {
                "+Inf" => f64::INFINITY,
                le => le.parse().map_err(|_| format!("{name}: le={le}"))?,
            };
            buckets.entry(others).or_default().push((le, sample.value));
        }
    }
    if buckets.is_empty() {
        return Err(format!("{name} has no buckets"));
    }
    for (labels, buckets) in buckets {
        let of = |end: &str| {
            let named = |s: &&Sample| s.name == format!("{name}{end}");
            let found = family.samples.iter().filter(named);
            let found = found.filter(|s| s.labels.iter().eq(labels.iter().copied()));
            found
                .map(|s| s.value)
                .next()
                .ok_or(format!("{name}{end} is missing"))
        };
        of("_sum")?;
        let grow = |pair: &[(f64, f64)]| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1;
        if !buckets.windows(2).all(grow) {
            return Err(format!("{name}: buckets do not grow"));
        }
        if buckets.last() != Some(&(f64::INFINITY, of("_count")?)) {
            return Err(format!("{name}: the last bucket is not all"));
        }
    }
    Ok(())
}
