//! Code that a query runs: functions, also where they are written as columns or as operators.
//!
//! PostgreSQL reads `(x).f` as `f(x)` for any `x`, and `r.f` as `f(r)` where `r` stands for the value of a function in
//! `FROM` (or for a whole row) and has no such column: `SELECT r.pg_read_file FROM lower('…') r` reads a file.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the parser's enum has 270 variants; what is not named is refused or has no part in the question"
)]

use std::collections::{BTreeMap, BTreeSet};

use pg_raw_parse::list::NodeList;
use pg_raw_parse::raw::A_Expr_Kind;
use pg_raw_parse::{Node, nodes};

use super::functions::{only_reads, returns_rows};

/// Operators of `pg_catalog` (PostgreSQL 15); none has a volatile function behind it. Made with
/// `SELECT DISTINCT oprname FROM pg_operator WHERE oprnamespace = 'pg_catalog'::regnamespace`.
const OPERATORS: &str = "!! !~ !~* !~~ !~~* # ## #- #> #>> % & && &< &<| &> * *< *<= *<> *= *> *>= + - -> ->> -|- / < <-> \
    << <<= <<| <= <> <@ <^ = > >= >> >>= >^ ? ?# ?& ?- ?-| ?| ?|| @ @-@ @> @? @@ @@@ ^ ^@ | |&> |/ |>> || ||/ ~ ~* ~<=~ ~<~ \
    ~= ~>=~ ~>~ ~~ ~~*";

/// How the names of the server's own functions begin that take one argument and do not only read: tables of a database
/// seldom have columns of such names.
const FAMILIES: [&str; 8] = [
    "pg_",
    "lo_",
    "txid_",
    "ts_",
    "brin_",
    "gin_",
    "binary_upgrade_",
    "plpgsql_",
];

/// What a query calls, gathered in one walk.
#[derive(Debug, Default)]
pub(super) struct Calls {
    /// Functions by name, as written.
    pub(super) functions: BTreeSet<String>,
    /// `a.b`.
    columns: BTreeSet<(String, String)>,
    /// Names of function results in `FROM`, with the columns that they are known to have; `None` where they may have any.
    results: BTreeMap<String, Option<BTreeSet<String>>>,
    /// Whether any of it does more than reading.
    code: bool,
}

impl Calls {
    /// Looks at one node.
    pub(super) fn visit(&mut self, node: Node<'_>) {
        match node {
            Node::FuncCall(call) => {
                let (schema, name) = function_name(call);
                self.code |= !only_reads(schema.as_deref(), &name);
                self.functions.insert(match schema {
                    Some(schema) => format!("{schema}.{name}"),
                    None => name,
                });
            }
            Node::ColumnRef(reference) => {
                let parts: Vec<&str> = reference.fields().iter().filter_map(Node::as_str).collect();
                if let [.., of, name] = parts.as_slice() {
                    self.columns.insert(((*of).to_owned(), (*name).to_owned()));
                }
            }
            Node::A_Indirection(indirection) => {
                for name in indirection.indirection().iter().filter_map(Node::as_str) {
                    // A field of a composite value, or a call: only the catalogue could tell.
                    self.code |= !only_reads(None, name) && !RESULT_COLUMNS.contains(&name);
                }
            }
            Node::RangeFunction(range) => self.result(range),
            Node::A_Expr(expression) => {
                let between = matches!(
                    expression.kind,
                    A_Expr_Kind::AEXPR_BETWEEN
                        | A_Expr_Kind::AEXPR_NOT_BETWEEN
                        | A_Expr_Kind::AEXPR_BETWEEN_SYM
                        | A_Expr_Kind::AEXPR_NOT_BETWEEN_SYM
                );
                self.code |= !between && !is_known_operator(expression.name());
            }
            Node::SortBy(sort) => self.code |= !is_known_operator(sort.use_op()),
            Node::SubLink(link) => self.code |= !is_known_operator(link.oper_name()),
            _ => {}
        }
    }

    /// Whether any of it may do more than reading.
    pub(super) fn run_code(&self) -> bool {
        self.code || self.columns.iter().any(|(of, name)| self.calls(of, name))
    }

    /// Whether the column `of.name` may be a call instead.
    fn calls(&self, of: &str, name: &str) -> bool {
        if only_reads(None, name) {
            return false;
        }
        let server = name == "nextval" || FAMILIES.iter().any(|family| name.starts_with(family));
        server
            || self
                .results
                .get(of)
                .and_then(Option::as_ref)
                .is_some_and(|known| !known.contains(name))
    }

    /// Remembers what a function result in `FROM` is called. One of rows has columns that are not written here; a
    /// function over its row would be the database's own.
    fn result(&mut self, range: &nodes::RangeFunction) {
        let mut known: BTreeSet<String> = RESULT_COLUMNS.iter().map(|name| (*name).to_owned()).collect();
        let mut names = BTreeSet::new();
        let mut rows = false;
        for item in range.functions() {
            let function = item.as_node_list().and_then(|pair| pair.iter().next());
            match function {
                Some(Node::FuncCall(call)) => {
                    let (schema, name) = function_name(call);
                    rows |= returns_rows(schema.as_deref(), &name);
                    names.insert(name);
                }
                // Named after its kind, `coalesce` and the like: such a word or none is behind it.
                _ => names.extend(KINDS.map(str::to_owned)),
            }
        }
        if let Some(alias) = range.alias() {
            names = alias.aliasname().map(str::to_owned).into_iter().collect();
            known.extend(
                alias
                    .colnames()
                    .iter()
                    .filter_map(Node::as_str)
                    .map(str::to_owned),
            );
        }
        known.extend(
            range
                .coldeflist()
                .iter()
                .filter_map(nodes::ColumnDef::colname)
                .map(str::to_owned),
        );
        known.extend(names.iter().cloned());
        for name in names {
            let columns = (!rows).then(|| known.clone());
            self.results.insert(name, columns);
        }
    }
}

/// Columns that results of the server's functions have, beside their alias.
const RESULT_COLUMNS: [&str; 5] = ["key", "value", "ordinality", "lexeme", "word"];

/// What an expression in `FROM` is called that is no call.
const KINDS: [&str; 14] = [
    "coalesce",
    "greatest",
    "least",
    "nullif",
    "current_date",
    "current_time",
    "current_timestamp",
    "localtime",
    "localtimestamp",
    "current_role",
    "current_user",
    "session_user",
    "current_catalog",
    "current_schema",
];

/// Schema and name of a function.
pub(super) fn function_name(call: &nodes::FuncCall) -> (Option<String>, String) {
    let parts: Vec<&str> = call.funcname().iter().filter_map(Node::as_str).collect();
    match parts.as_slice() {
        [name] => (None, (*name).to_owned()),
        [schema, name] => (Some((*schema).to_owned()), (*name).to_owned()),
        _ => (Some(String::new()), parts.join(".")),
    }
}

/// Whether an operator is the server's own; where none is named, it is `=`. As with functions, one that `search_path`
/// puts in its place takes a right to create it there.
fn is_known_operator(name: &NodeList) -> bool {
    let parts: Vec<&str> = name.iter().filter_map(Node::as_str).collect();
    match parts.as_slice() {
        [] => true,
        [operator] | ["pg_catalog", operator] => {
            OPERATORS.split_ascii_whitespace().any(|known| known == *operator)
        }
        _ => false,
    }
}
