//! Where result columns come from.
//!
//! The server itself says which table column a plain result column is, through subqueries and joins; it says nothing
//! about expressions. For those, names count: every column that the expression names, and, where such a name is an alias
//! given elsewhere in the statement, every column behind the alias. Scopes are not told apart: more names, never fewer.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the parser's enum has 270 variants; what is not named is refused or has no part in the question"
)]

use std::collections::{BTreeMap, BTreeSet};

use pg_raw_parse::{Node, nodes};

use super::NotUnderstood;
use super::walk::walk;

/// Where the result columns of a statement may come from, for those that the server calls expressions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outputs {
    /// For each expression in the result list, by position, the column names behind it. Empty where positions cannot be
    /// known (`*`, set operations, no result list): then `all` counts for every column.
    pub positions: Vec<BTreeSet<String>>,
    /// Every column name of the statement.
    pub all: BTreeSet<String>,
    /// Whether a whole row (`t.*`, a table's name as a value, positional aliases) may be behind any expression.
    pub whole_rows: bool,
}

impl Outputs {
    /// The column names behind the result column at `position`.
    #[must_use]
    pub fn behind(&self, position: usize) -> &BTreeSet<String> {
        self.positions.get(position).unwrap_or(&self.all)
    }
}

/// The name of the column that a reference means; `None` for `*`.
pub(super) fn column_name(reference: &nodes::ColumnRef) -> Option<String> {
    reference
        .fields()
        .iter()
        .next_back()
        .and_then(Node::as_str)
        .map(str::to_owned)
}

/// Reads the lineage of a query.
pub(super) fn outputs(query: Node<'_>, tables: &BTreeSet<String>) -> Result<Outputs, NotUnderstood> {
    let mut aliases: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut all = BTreeSet::new();
    let mut whole_rows = false;
    walk(query, |node| {
        match node {
            Node::ColumnRef(reference) => match column_name(reference) {
                // A table's name as a value is its whole row.
                Some(name) if reference.fields().len() == 1 && tables.contains(&name) => whole_rows = true,
                Some(name) => {
                    all.insert(name);
                }
                None => {}
            },
            Node::ResTarget(target) => {
                if let Some(name) = target.name() {
                    let behind = names(target.val())?;
                    aliases.entry(name.to_owned()).or_default().extend(behind);
                }
            }
            Node::RangeSubselect(range) => whole_rows |= renames(range.alias()),
            Node::RangeFunction(range) => whole_rows |= renames(range.alias()),
            Node::JoinExpr(join) => whole_rows |= renames(join.alias()),
            Node::RangeVar(range) => whole_rows |= renames(range.alias()),
            Node::CommonTableExpr(cte) => whole_rows |= !cte.aliascolnames().is_empty(),
            _ => {}
        }
        Ok(())
    })?;
    let positions = positions(query, &aliases)?;
    Ok(Outputs {
        positions,
        all: close(&all, &aliases),
        whole_rows,
    })
}

/// Whether an alias renames columns by position.
fn renames(alias: Option<&nodes::Alias>) -> bool {
    alias.is_some_and(|alias| !alias.colnames().is_empty())
}

fn positions(
    query: Node<'_>,
    aliases: &BTreeMap<String, BTreeSet<String>>,
) -> Result<Vec<BTreeSet<String>>, NotUnderstood> {
    let targets = match query {
        Node::SelectStmt(select) if select.larg().is_none() => select.target_list(),
        _ => return Ok(Vec::new()),
    };
    let star = |target: &nodes::ResTarget| match target.val() {
        Node::ColumnRef(reference) => column_name(reference).is_none(),
        Node::A_Indirection(_) => true,
        _ => false,
    };
    if targets.iter().any(star) {
        return Ok(Vec::new());
    }
    targets
        .iter()
        .map(|target| Ok(close(&names(target.val())?, aliases)))
        .collect()
}

fn names(expression: Node<'_>) -> Result<BTreeSet<String>, NotUnderstood> {
    let mut found = BTreeSet::new();
    walk(expression, |node| {
        if let Node::ColumnRef(reference) = node {
            found.extend(column_name(reference));
        }
        Ok(())
    })?;
    Ok(found)
}

/// Adds what is behind aliases, and behind those.
fn close(names: &BTreeSet<String>, aliases: &BTreeMap<String, BTreeSet<String>>) -> BTreeSet<String> {
    let mut closed = names.clone();
    let mut open: Vec<String> = names.iter().cloned().collect();
    while let Some(name) = open.pop() {
        for behind in aliases.get(&name).into_iter().flatten() {
            if closed.insert(behind.clone()) {
                open.push(behind.clone());
            }
        }
    }
    closed
}
