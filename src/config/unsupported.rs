//! What the language has and this version does not.
//!
//! These options are parsed and checked like all others, and then refused: mail must never be
//! treated in a way the configuration did not ask for. A feature that has come to work loses its
//! line in [`LIST`]; nothing else changes.

use super::ast::{ActionText, Ast, Body, MethodText, RelayKind, RelayOption, Statement};
use super::diagnostic::Diagnostics;
use super::diagnostic::Pos;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Feature {
    RelayFilter,
}

/// Every feature that is missing, with the words for it.
const LIST: &[(Feature, &str)] = &[(Feature::RelayFilter, "\"filter\" of a relay is")];

/// Complains about every use of a missing feature.
pub fn refuse(ast: &Ast, diagnostics: &mut Diagnostics) {
    for statement in &ast.statements {
        for (feature, at) in features(statement) {
            if let Some((_, words)) = LIST.iter().find(|(missing, _)| *missing == feature) {
                diagnostics.error(at, format!("{words} not available in this version"));
            }
        }
    }
}

fn features(statement: &Statement) -> Vec<(Feature, Pos)> {
    match &statement.body {
        Body::Action(action) => of_action(action),
        _ => Vec::new(),
    }
}

fn of_action(action: &ActionText) -> Vec<(Feature, Pos)> {
    match &action.method {
        MethodText::Relay(options) => options.iter().filter_map(of_relay).collect(),
        MethodText::Local(..) => Vec::new(),
    }
}

fn of_relay(option: &RelayOption) -> Option<(Feature, Pos)> {
    let feature = match &option.kind {
        RelayKind::Filter(_) => Feature::RelayFilter,
        _ => return None,
    };
    Some((feature, option.at))
}
