//! From a parsed statement to what it does.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the parser's enum has 270 variants; what is not named is refused or has no part in the question"
)]

use std::collections::BTreeSet;

use pg_raw_parse::raw::TransactionStmtKind;
use pg_raw_parse::{ConstValue, Node, nodes};

use crate::model::{Action, StatementFacts, StatementKind, TableName};

use super::bounds::bounds;
use super::calls::Calls;
use super::definitions::{altered, expression, expressions};
use super::lineage::{self, Outputs};
use super::walk::walk;
use super::{CopyFormat, CopyOut, NotUnderstood, SessionEffect, Statement};

/// Settings that anybody may change for a session. All others need the right to administer.
const HARMLESS_SETTINGS: [&str; 30] = [
    "application_name",
    "bytea_output",
    "client_encoding",
    "client_min_messages",
    "datestyle",
    "enable_bitmapscan",
    "enable_hashagg",
    "enable_hashjoin",
    "enable_indexscan",
    "enable_mergejoin",
    "enable_nestloop",
    "enable_seqscan",
    "enable_sort",
    "extra_float_digits",
    "geqo",
    "idle_in_transaction_session_timeout",
    "intervalstyle",
    "jit",
    "lc_messages",
    "lc_monetary",
    "lc_numeric",
    "lc_time",
    "lock_timeout",
    "plan_cache_mode",
    "random_page_cost",
    "standard_conforming_strings",
    "statement_timeout",
    "synchronize_seqscans",
    "timezone",
    "work_mem",
];

/// Whether anybody may change the setting `name` (lower case) for a session.
#[must_use]
pub fn is_harmless_setting(name: &str) -> bool {
    HARMLESS_SETTINGS.contains(&name) || name == "search_path"
}

/// Reads one statement.
pub(super) fn statement(root: Node<'_>) -> Result<Statement, NotUnderstood> {
    let node = match root {
        Node::RawStmt(raw) => raw.stmt(),
        other => other,
    };
    match node {
        Node::SelectStmt(_)
        | Node::InsertStmt(_)
        | Node::UpdateStmt(_)
        | Node::DeleteStmt(_)
        | Node::MergeStmt(_) => query(node),
        Node::ExplainStmt(explain) => explained(explain),
        Node::PrepareStmt(prepare) => {
            let inner = statement(prepare.query())?;
            let name = prepare.name().unwrap_or_default().to_owned();
            let facts = StatementFacts {
                kind: StatementKind("PREPARE"),
                ..with(&inner.facts, Action::SqlSession)
            };
            Ok(Statement {
                facts,
                outputs: Outputs::default(),
                effect: SessionEffect::Prepare {
                    name,
                    inner: Box::new(inner),
                },
            })
        }
        Node::ExecuteStmt(execute) => {
            let effect = SessionEffect::Execute {
                name: execute.name().unwrap_or_default().to_owned(),
            };
            let mut facts = plain("EXECUTE", [Action::SqlSession]);
            for parameter in execute.params() {
                gather(parameter, &mut facts)?;
            }
            Ok(Statement {
                effect,
                ..bare(facts)
            })
        }
        Node::DeclareCursorStmt(declare) => {
            let inner = statement(declare.query())?;
            let name = declare.portalname().unwrap_or_default().to_owned();
            let facts = StatementFacts {
                kind: StatementKind("DECLARE CURSOR"),
                ..inner.facts.clone()
            };
            Ok(Statement {
                facts,
                outputs: Outputs::default(),
                effect: SessionEffect::Declare {
                    name,
                    inner: Box::new(inner),
                },
            })
        }
        Node::FetchStmt(fetch) => {
            let kind = if fetch.ismove { "MOVE" } else { "FETCH" };
            let effect = SessionEffect::Fetch {
                name: fetch.portalname().unwrap_or_default().to_owned(),
            };
            Ok(Statement {
                effect,
                ..bare(plain(kind, [Action::SqlSelect]))
            })
        }
        Node::CreateTableAsStmt(create) => {
            let inner = statement(create.query())?;
            let mut facts = with(&inner.facts, Action::SqlCreate);
            facts.kind = StatementKind("CREATE TABLE AS");
            facts
                .writes
                .extend(create.into().and_then(nodes::IntoClause::rel).map(table));
            Ok(Statement {
                facts,
                outputs: Outputs::default(),
                effect: inner.effect,
            })
        }
        Node::CopyStmt(copy) => copied(copy),
        Node::VariableSetStmt(set) => Ok(setting(set)),
        other => Ok(bare(utility(other)?)),
    }
}

fn query(node: Node<'_>) -> Result<Statement, NotUnderstood> {
    let kind = match node {
        Node::InsertStmt(_) => "INSERT",
        Node::UpdateStmt(_) => "UPDATE",
        Node::DeleteStmt(_) => "DELETE",
        Node::MergeStmt(_) => "MERGE",
        _ => "SELECT",
    };
    let mut facts = plain(kind, []);
    gather(node, &mut facts)?;
    if facts.actions.is_empty() {
        facts.actions.insert(Action::SqlSelect);
    }
    let outputs = lineage::outputs(node, &table_words(node)?)?;
    Ok(Statement {
        outputs,
        ..bare(facts)
    })
}

/// Adds everything that a query does, at any depth.
fn gather(root: Node<'_>, facts: &mut StatementFacts) -> Result<(), NotUnderstood> {
    let mut ctes = BTreeSet::new();
    let mut calls = Calls::default();
    walk(root, |node| {
        calls.visit(node);
        match node {
            Node::SelectStmt(select) => {
                facts.actions.insert(Action::SqlSelect);
                if let Some(into) = select.into_clause() {
                    facts.actions.insert(Action::SqlCreate);
                    facts.writes.extend(into.rel().map(table));
                }
                if !select.locking_clause().is_empty() {
                    // A row lock is refused in read-only transactions too.
                    facts.actions.insert(Action::SqlMaintenance);
                }
            }
            Node::InsertStmt(insert) => {
                facts.actions.insert(Action::SqlInsert);
                facts.writes.extend(insert.relation().map(table));
                if insert
                    .on_conflict_clause()
                    .is_some_and(|c| !c.target_list().is_empty())
                {
                    facts.actions.insert(Action::SqlUpdate);
                }
            }
            Node::UpdateStmt(update) => {
                facts.writes.extend(update.relation().map(table));
                written(
                    facts,
                    bounds(update.where_clause()),
                    Action::SqlUpdate,
                    Action::SqlUpdateAll,
                );
            }
            Node::DeleteStmt(delete) => {
                facts.writes.extend(delete.relation().map(table));
                written(
                    facts,
                    bounds(delete.where_clause()),
                    Action::SqlDelete,
                    Action::SqlDeleteAll,
                );
            }
            Node::MergeStmt(merge) => {
                facts.actions.insert(Action::SqlMerge);
                facts.writes.extend(merge.relation().map(table));
            }
            Node::RangeVar(range) => {
                facts.reads.insert(table(range));
            }
            Node::CommonTableExpr(cte) => ctes.extend(cte.ctename().map(str::to_owned)),
            Node::ColumnRef(reference) => {
                facts
                    .columns
                    .insert(lineage::column_name(reference).unwrap_or_else(|| "*".into()));
            }
            Node::ResTarget(target) => {
                facts.columns.extend(target.name().map(str::to_owned));
            }
            _ => {}
        }
        Ok(())
    })?;
    if calls.run_code() {
        facts.actions.insert(Action::SqlExecute);
    }
    facts.functions.extend(calls.functions);
    facts
        .reads
        .retain(|table| table.schema.is_some() || !ctes.contains(&table.name));
    Ok(())
}

fn written(facts: &mut StatementFacts, bounded: bool, some: Action, all: Action) {
    facts.actions.insert(if bounded { some } else { all });
    facts.bounded &= bounded;
}

/// Words that mean a table, or an alias of one, in a query.
fn table_words(node: Node<'_>) -> Result<BTreeSet<String>, NotUnderstood> {
    let mut words = BTreeSet::new();
    let mut add = |word: Option<&str>| words.extend(word.map(str::to_owned));
    walk(node, |n| {
        match n {
            Node::RangeVar(range) => {
                add(range.relname());
                add(range.alias().and_then(nodes::Alias::aliasname));
            }
            Node::RangeSubselect(range) => add(range.alias().and_then(nodes::Alias::aliasname)),
            Node::RangeFunction(range) => add(range.alias().and_then(nodes::Alias::aliasname)),
            Node::JoinExpr(join) => add(join.alias().and_then(nodes::Alias::aliasname)),
            Node::CommonTableExpr(cte) => add(cte.ctename()),
            _ => {}
        }
        Ok(())
    })?;
    Ok(words)
}

fn explained(explain: &nodes::ExplainStmt) -> Result<Statement, NotUnderstood> {
    let runs = explain.options().iter().any(|option| {
        option.defname() == Some("analyze") && !matches!(option.arg(), Node::String(s) if s.sval() == Some("false") || s.sval() == Some("off"))
            && !matches!(option.arg(), Node::Integer(number) if number.ival == 0)
    });
    let inner = statement(explain.query())?;
    let mut facts = StatementFacts {
        kind: StatementKind("EXPLAIN"),
        ..inner.facts
    };
    let mut effect = SessionEffect::None;
    if runs {
        effect = inner.effect;
    } else {
        // Planned, not run: but planning reads, and functions of the query may be evaluated.
        let code = facts.actions.contains(&Action::SqlExecute);
        facts.actions = [Action::SqlSelect].into();
        facts.bounded = true;
        if code {
            facts.actions.insert(Action::SqlExecute);
        }
    }
    facts.actions.insert(Action::SqlSelect);
    Ok(Statement {
        facts,
        outputs: Outputs {
            whole_rows: true,
            ..Outputs::default()
        },
        effect,
    })
}

fn copied(copy: &nodes::CopyStmt) -> Result<Statement, NotUnderstood> {
    let mut facts = plain("COPY", []);
    if !matches!(copy.query(), Node::None) {
        gather(copy.query(), &mut facts)?;
    }
    expression(copy.where_clause(), &mut facts)?;
    let target = copy.relation().map(table);
    for column in copy.attlist() {
        facts.columns.extend(column.as_str().map(str::to_owned));
    }
    let effect = match (copy.is_from, copy.is_program || copy.filename().is_some()) {
        (_, true) => {
            facts.actions.insert(Action::SqlServerFile);
            SessionEffect::None
        }
        (true, false) => {
            facts.actions.insert(Action::SqlCopyIn);
            SessionEffect::CopyIn
        }
        (false, false) => {
            facts.actions.insert(Action::SqlCopyOut);
            SessionEffect::CopyOut(copy_out(copy)?)
        }
    };
    if copy.is_from {
        facts.writes.extend(target)
    } else {
        facts.reads.extend(target)
    }
    Ok(Statement {
        effect,
        ..bare(facts)
    })
}

fn copy_out(copy: &nodes::CopyStmt) -> Result<CopyOut, NotUnderstood> {
    let behind = if matches!(copy.query(), Node::None) {
        let named: Vec<BTreeSet<String>> = copy
            .attlist()
            .iter()
            .map(|column| column.as_str().map(str::to_owned).into_iter().collect())
            .collect();
        named
    } else {
        let outputs = lineage::outputs(copy.query(), &table_words(copy.query())?)?;
        // Nobody describes the columns, so `*` and whole rows are not known here.
        if outputs.whole_rows {
            Vec::new()
        } else {
            outputs.positions
        }
    };
    let (mut format, mut header) = (CopyFormat::Text, false);
    for option in copy.options() {
        match (option.defname(), option.arg()) {
            (Some("format"), Node::String(name)) => {
                format = match name.sval() {
                    Some("text") => CopyFormat::Text,
                    Some("csv") => CopyFormat::Csv,
                    _ => CopyFormat::Other,
                };
            }
            (Some("header"), Node::None) => header = true,
            (Some("header"), Node::String(yes)) => header = matches!(yes.sval(), Some("true" | "on" | "1")),
            (Some("header"), Node::Integer(yes)) => header = yes.ival != 0,
            (Some("header"), Node::Boolean(yes)) => header = yes.boolval,
            _ => {
                format = CopyFormat::Other;
                break;
            }
        }
    }
    Ok(CopyOut {
        behind: (!behind.is_empty()).then_some(behind),
        format,
        header,
    })
}

fn setting(set: &nodes::VariableSetStmt) -> Statement {
    let name = set.name().unwrap_or_default().to_ascii_lowercase();
    let value = set.args().iter().next().and_then(|argument| match argument {
        Node::A_Const(constant) => match constant.val() {
            Some(ConstValue::String(text)) => Some(text.to_owned()),
            Some(ConstValue::Boolean(yes)) => Some(if yes { "on" } else { "off" }.to_owned()),
            Some(ConstValue::Integer(number)) => Some(number.to_string()),
            _ => None,
        },
        _ => None,
    });
    // TRANSACTION and SESSION CHARACTERISTICS set how transactions behave; the names come from the grammar.
    let harmless = HARMLESS_SETTINGS.contains(&name.as_str())
        || matches!(
            name.as_str(),
            "transaction" | "session characteristics" | "transaction_isolation" | "search_path"
        );
    let action = if harmless {
        Action::SqlSession
    } else {
        Action::SqlAdmin
    };
    Statement {
        effect: SessionEffect::Set { name, value },
        ..bare(plain("SET", [action]))
    }
}

/// Everything else, by its kind.
#[expect(clippy::too_many_lines, reason = "one table, read from top to bottom")]
fn utility(node: Node<'_>) -> Result<StatementFacts, NotUnderstood> {
    use Action::{
        SqlAdmin, SqlAlter, SqlCreate, SqlDrop, SqlExecute, SqlInsert, SqlMaintenance, SqlServerFile,
        SqlSession, SqlTruncate,
    };
    Ok(match node {
        Node::TransactionStmt(transaction) => transaction_facts(transaction),
        Node::VariableShowStmt(_) => plain("SHOW", [SqlSession]),
        Node::DiscardStmt(_) => plain("DISCARD", [SqlSession]),
        Node::DeallocateStmt(_) => plain("DEALLOCATE", [SqlSession]),
        Node::ClosePortalStmt(_) => plain("CLOSE", [SqlSession]),
        Node::ListenStmt(_) => plain("LISTEN", [SqlSession]),
        Node::UnlistenStmt(_) => plain("UNLISTEN", [SqlSession]),
        Node::ConstraintsSetStmt(_) => plain("SET CONSTRAINTS", [SqlSession]),
        Node::NotifyStmt(_) => plain("NOTIFY", [SqlExecute]),
        Node::TruncateStmt(truncate) => {
            let mut facts = plain("TRUNCATE", [SqlTruncate]);
            facts.bounded = false;
            facts
                .writes
                .extend(truncate.relations().iter().filter_map(|n| match n {
                    Node::RangeVar(range) => Some(table(range)),
                    _ => None,
                }));
            facts
        }
        Node::DropStmt(drop) => {
            let mut facts = plain("DROP", [SqlDrop]);
            facts.writes.extend(drop.objects().iter().filter_map(dropped));
            facts
        }
        Node::DropdbStmt(_) => plain("DROP DATABASE", [SqlDrop, SqlAdmin]),
        Node::DropRoleStmt(_) => plain("DROP ROLE", [SqlDrop, SqlAdmin]),
        Node::DropOwnedStmt(_) => plain("DROP OWNED", [SqlDrop, SqlAdmin]),
        Node::DropTableSpaceStmt(_) => plain("DROP TABLESPACE", [SqlDrop, SqlAdmin]),
        Node::DropUserMappingStmt(_) => plain("DROP USER MAPPING", [SqlDrop, SqlAdmin]),
        Node::DropSubscriptionStmt(_) => plain("DROP SUBSCRIPTION", [SqlDrop, SqlAdmin]),
        Node::CreateStmt(create) => {
            let mut facts = plain("CREATE TABLE", [SqlCreate]);
            facts.writes.extend(create.relation().map(table));
            expressions(create.table_elts().iter(), &mut facts)?;
            facts
        }
        Node::ViewStmt(view) => {
            let mut facts = statement(view.query())?.facts;
            facts.kind = StatementKind("CREATE VIEW");
            facts.actions.insert(SqlCreate);
            facts.writes.extend(view.view().map(table));
            facts
        }
        Node::IndexStmt(index) => {
            let mut facts = plain("CREATE INDEX", [SqlCreate]);
            facts.writes.extend(index.relation().map(table));
            expressions(index.index_params().iter().map(Node::IndexElem), &mut facts)?;
            expression(index.where_clause(), &mut facts)?;
            facts
        }
        Node::CreateSchemaStmt(schema) => {
            let mut facts = plain("CREATE SCHEMA", [SqlCreate]);
            // Tables, views, triggers and grants in the same statement.
            for element in schema.schema_elts() {
                let element = statement(element)?.facts;
                facts.actions.extend(element.actions);
                facts.reads.extend(element.reads);
                facts.writes.extend(element.writes);
                facts.functions.extend(element.functions);
            }
            facts
        }
        Node::CreateSeqStmt(_) => plain("CREATE SEQUENCE", [SqlCreate]),
        Node::CreateDomainStmt(domain) => {
            let mut facts = plain("CREATE DOMAIN", [SqlCreate]);
            expressions(domain.constraints().iter().map(Node::Constraint), &mut facts)?;
            facts
        }
        Node::CreateEnumStmt(_) | Node::CompositeTypeStmt(_) | Node::CreateRangeStmt(_) => {
            plain("CREATE TYPE", [SqlCreate])
        }
        Node::CreateStatsStmt(_) => plain("CREATE STATISTICS", [SqlCreate]),
        Node::AlterTableStmt(alter) => altered(alter)?,
        Node::RenameStmt(_) => plain("ALTER RENAME", [SqlAlter]),
        Node::AlterSeqStmt(_) => plain("ALTER SEQUENCE", [SqlAlter]),
        Node::AlterEnumStmt(_) | Node::AlterTypeStmt(_) => plain("ALTER TYPE", [SqlAlter]),
        Node::AlterDomainStmt(domain) => {
            let mut facts = plain("ALTER DOMAIN", [SqlAlter, SqlDrop]);
            expressions([domain.def()], &mut facts)?;
            facts
        }
        Node::CommentStmt(_) => plain("COMMENT", [SqlAlter]),
        Node::SecLabelStmt(_) => plain("SECURITY LABEL", [SqlAdmin]),
        Node::AlterObjectSchemaStmt(_) => plain("ALTER SET SCHEMA", [SqlAlter, SqlAdmin]),
        Node::AlterOwnerStmt(_) => plain("ALTER OWNER", [SqlAdmin]),
        Node::GrantStmt(_) | Node::GrantRoleStmt(_) => plain("GRANT", [SqlAdmin]),
        Node::AlterDefaultPrivilegesStmt(_) => plain("ALTER DEFAULT PRIVILEGES", [SqlAdmin]),
        Node::CreateRoleStmt(_) | Node::AlterRoleStmt(_) | Node::AlterRoleSetStmt(_) => {
            plain("ROLE", [SqlAdmin])
        }
        Node::CreatedbStmt(_) => plain("CREATE DATABASE", [SqlAdmin]),
        Node::AlterDatabaseStmt(_) | Node::AlterDatabaseSetStmt(_) => plain("ALTER DATABASE", [SqlAdmin]),
        Node::AlterSystemStmt(_) => plain("ALTER SYSTEM", [SqlAdmin]),
        Node::CreateExtensionStmt(_) | Node::AlterExtensionStmt(_) | Node::AlterExtensionContentsStmt(_) => {
            plain("EXTENSION", [SqlAdmin, SqlExecute])
        }
        Node::CreatePolicyStmt(_) | Node::AlterPolicyStmt(_) => plain("POLICY", [SqlAdmin]),
        Node::CreateTrigStmt(_) => plain("CREATE TRIGGER", [SqlCreate, SqlExecute]),
        Node::CreateEventTrigStmt(_) | Node::AlterEventTrigStmt(_) => {
            plain("EVENT TRIGGER", [SqlAdmin, SqlExecute])
        }
        Node::RuleStmt(_) => plain("CREATE RULE", [SqlCreate, SqlExecute]),
        Node::CreateFunctionStmt(_) | Node::AlterFunctionStmt(_) => {
            plain("FUNCTION", [SqlCreate, SqlExecute])
        }
        Node::DoStmt(_) => plain("DO", [SqlExecute]),
        Node::CallStmt(_) => plain("CALL", [SqlExecute]),
        Node::LoadStmt(_) => plain("LOAD", [SqlServerFile, SqlAdmin]),
        Node::VacuumStmt(_) => plain("VACUUM", [SqlMaintenance]),
        Node::ReindexStmt(_) => plain("REINDEX", [SqlMaintenance]),
        Node::ClusterStmt(_) => plain("CLUSTER", [SqlMaintenance]),
        Node::CheckPointStmt(_) => plain("CHECKPOINT", [SqlMaintenance]),
        Node::LockStmt(_) => plain("LOCK", [SqlMaintenance]),
        Node::RefreshMatViewStmt(_) => plain("REFRESH MATERIALIZED VIEW", [SqlMaintenance, SqlInsert]),
        Node::ReassignOwnedStmt(_) => plain("REASSIGN OWNED", [SqlAdmin]),
        _ => {
            return Err(NotUnderstood(
                "It is a kind of statement that Interdict does not know.".into(),
            ));
        }
    })
}

fn transaction_facts(transaction: &nodes::TransactionStmt) -> StatementFacts {
    let kind = match transaction.kind {
        TransactionStmtKind::TRANS_STMT_BEGIN | TransactionStmtKind::TRANS_STMT_START => "BEGIN",
        TransactionStmtKind::TRANS_STMT_COMMIT => "COMMIT",
        TransactionStmtKind::TRANS_STMT_ROLLBACK => "ROLLBACK",
        TransactionStmtKind::TRANS_STMT_SAVEPOINT => "SAVEPOINT",
        TransactionStmtKind::TRANS_STMT_RELEASE => "RELEASE",
        TransactionStmtKind::TRANS_STMT_ROLLBACK_TO => "ROLLBACK TO",
        _ => "TWO-PHASE COMMIT",
    };
    plain(kind, [Action::SqlTransaction])
}

fn dropped(object: Node<'_>) -> Option<TableName> {
    let parts: Vec<&str> = object.as_node_list()?.iter().filter_map(Node::as_str).collect();
    match parts.as_slice() {
        [name] => Some(TableName {
            schema: None,
            name: (*name).to_owned(),
        }),
        [.., schema, name] => Some(TableName {
            schema: Some((*schema).to_owned()),
            name: (*name).to_owned(),
        }),
        [] => None,
    }
}

pub(super) fn table(range: &nodes::RangeVar) -> TableName {
    TableName {
        schema: range.schemaname().map(str::to_owned),
        name: range.relname().unwrap_or_default().to_owned(),
    }
}

pub(super) fn plain<const N: usize>(kind: &'static str, actions: [Action; N]) -> StatementFacts {
    StatementFacts {
        kind: StatementKind(kind),
        actions: actions.into(),
        reads: BTreeSet::new(),
        writes: BTreeSet::new(),
        columns: BTreeSet::new(),
        functions: BTreeSet::new(),
        bounded: true,
    }
}

fn with(facts: &StatementFacts, action: Action) -> StatementFacts {
    let mut facts = facts.clone();
    facts.actions.insert(action);
    facts
}

fn bare(facts: StatementFacts) -> Statement {
    Statement {
        facts,
        outputs: Outputs::default(),
        effect: SessionEffect::None,
    }
}
