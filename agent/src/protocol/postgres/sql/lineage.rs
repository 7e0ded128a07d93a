//! Where result columns come from.
//!
//! The server itself says which table column a plain result column is, through subqueries and joins; it says nothing
//! about expressions. For those, names count: every column that the expression names, and, where such a name is an alias
//! given elsewhere in the statement, every column behind the alias. Scopes are not told apart: more names, never fewer.
//!
//! Where names do not tell (a `*` in a set operation, `t.*` as a value, columns named by the server), every name of the
//! statement counts, or any column at all.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the parser's enum has 270 variants; what is not named is refused or has no part in the question"
)]

use std::collections::{BTreeMap, BTreeSet};

use pg_raw_parse::raw::{JoinType, SubLinkType};
use pg_raw_parse::{Node, nodes};

use super::NotUnderstood;
use super::calls::function_name;
use super::functions::{reads_no_tables, reads_row};
use super::walk::walk;

/// Where the result columns of a statement may come from, for those that the server calls expressions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outputs {
    /// For each expression in the result list, by position, the column names behind it. Empty where positions cannot be
    /// known (`*`, set operations, no result list): then `all` counts for every column.
    pub positions: Vec<BTreeSet<String>>,
    /// Every column name of the statement.
    pub all: BTreeSet<String>,
    /// Whether a whole row may be behind any expression: `t.*` or a table's name as a value, positional aliases, `*` of
    /// a set operation, code that may read tables.
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
    let mut found = Found::default();
    walk(query, |node| found.visit(node, tables))?;
    let Found {
        aliases,
        all,
        mut whole_rows,
        nameless,
        stars,
        plain_stars,
        merges,
    } = found;
    // `t.*` as a value; and the columns of `*` where the server does not say where they come from.
    whole_rows |= stars > plain_stars || (merges && stars > 0);
    let positions = if nameless {
        Vec::new()
    } else {
        positions(query, &aliases)?
    };
    Ok(Outputs {
        positions,
        all: close(&all, &aliases),
        whole_rows,
    })
}

/// What one walk over a query finds.
#[derive(Default)]
struct Found {
    aliases: BTreeMap<String, BTreeSet<String>>,
    all: BTreeSet<String>,
    whole_rows: bool,
    /// Whether a column of a subquery has a name that is not written: of a function, a set operation, `VALUES`.
    nameless: bool,
    /// Each `*`, and those that stand alone in a result list.
    stars: usize,
    plain_stars: usize,
    /// Whether columns of several relations become one, which the server does not trace.
    merges: bool,
}

impl Found {
    fn visit(&mut self, node: Node<'_>, tables: &BTreeSet<String>) -> Result<(), NotUnderstood> {
        match node {
            Node::ColumnRef(reference) => match column_name(reference) {
                // A table's name as a value is its whole row.
                Some(name) if reference.fields().len() == 1 && tables.contains(&name) => {
                    self.whole_rows = true
                }
                Some(name) => {
                    self.whole_rows |= reference.fields().len() > 1 && reads_row(&name);
                    self.all.insert(name);
                }
                None => self.stars += 1,
            },
            Node::ResTarget(target) => {
                self.plain_stars += usize::from(is_star(target.val()));
                if let Some(name) = target.name() {
                    let behind = names(target.val())?;
                    self.aliases.entry(name.to_owned()).or_default().extend(behind);
                }
            }
            Node::SelectStmt(select) => self.merges |= select.larg().is_some(),
            Node::FuncCall(call) => {
                let (schema, name) = function_name(call);
                self.whole_rows |= !reads_no_tables(schema.as_deref(), &name);
            }
            Node::SubLink(link) => {
                let value = link.sub_link_type != SubLinkType::EXISTS_SUBLINK;
                self.whole_rows |= value && shows_star(link.subselect());
            }
            Node::RangeSubselect(range) => {
                self.whole_rows |= renames(range.alias());
                self.nameless |= !is_named(range.subquery())?;
            }
            Node::CommonTableExpr(cte) => {
                self.whole_rows |= !cte.aliascolnames().is_empty();
                self.nameless |= !is_named(cte.ctequery())?;
            }
            Node::RangeFunction(range) => {
                self.whole_rows |= renames(range.alias());
                self.nameless |= !names(node)?.is_empty();
            }
            Node::RangeTableFunc(_) | Node::JsonTable(_) => self.nameless = true,
            Node::JoinExpr(join) => {
                self.whole_rows |= renames(join.alias());
                let merged = join.using_clause().iter().filter_map(nodes::String::sval);
                self.all.extend(merged.map(str::to_owned));
                self.merges |= join.is_natural && join.jointype == JoinType::JOIN_FULL;
            }
            Node::RangeVar(range) => self.whole_rows |= renames(range.alias()),
            _ => {}
        }
        Ok(())
    }
}

fn is_star(value: Node<'_>) -> bool {
    matches!(value, Node::ColumnRef(reference) if column_name(reference).is_none())
}

/// Whether the result list of a query, or of any arm of it, has a `*`.
fn shows_star(query: Node<'_>) -> bool {
    let mut open = match query {
        Node::SelectStmt(select) => vec![select],
        _ => return false,
    };
    while let Some(select) = open.pop() {
        if select.target_list().iter().any(|target| is_star(target.val())) {
            return true;
        }
        open.extend(select.larg().into_iter().chain(select.rarg()));
    }
    false
}

/// Whether every result column of a query has a written name, or comes from no column.
fn is_named(query: Node<'_>) -> Result<bool, NotUnderstood> {
    let targets = match query {
        Node::SelectStmt(select) if select.larg().is_some() || !select.values_lists().is_empty() => {
            return Ok(names(query)?.is_empty());
        }
        Node::SelectStmt(select) => select.target_list(),
        _ => return Ok(false),
    };
    for target in targets {
        let written = target.name().is_some() || matches!(target.val(), Node::ColumnRef(_));
        if !written && !names(target.val())?.is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
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
    let star =
        |target: &nodes::ResTarget| is_star(target.val()) || matches!(target.val(), Node::A_Indirection(_));
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
