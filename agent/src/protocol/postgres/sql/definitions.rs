//! Code inside definitions: defaults, checks, indexes and conversions call functions, some of them at once.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the parser's enum has 270 variants; what is not named is refused or has no part in the question"
)]

use pg_raw_parse::raw::AlterTableType;
use pg_raw_parse::{Node, nodes};

use crate::model::{Action, StatementFacts};

use super::NotUnderstood;
use super::calls::Calls;
use super::classify::{plain, table};
use super::walk::walk;

/// `ALTER TABLE`, by its commands.
pub(super) fn altered(alter: &nodes::AlterTableStmt) -> Result<StatementFacts, NotUnderstood> {
    let mut facts = plain("ALTER TABLE", [Action::SqlAlter]);
    facts.writes.extend(alter.relation().map(table));
    for command in alter.cmds() {
        let Node::AlterTableCmd(command) = command else {
            facts.actions.insert(Action::SqlAdmin);
            continue;
        };
        match command.subtype {
            AlterTableType::AT_AddColumn
            | AlterTableType::AT_ColumnDefault
            | AlterTableType::AT_AddConstraint
            | AlterTableType::AT_AlterColumnType => expressions([command.def()], &mut facts)?,
            AlterTableType::AT_SetNotNull
            | AlterTableType::AT_AddIndex
            | AlterTableType::AT_ValidateConstraint
            | AlterTableType::AT_SetStatistics => {}
            AlterTableType::AT_DropColumn
            | AlterTableType::AT_DropConstraint
            | AlterTableType::AT_DropNotNull => {
                facts.actions.insert(Action::SqlDrop);
            }
            // Owner, row security, triggers, inheritance, storage and all others.
            _ => {
                facts.actions.insert(Action::SqlAdmin);
            }
        }
    }
    Ok(facts)
}

/// Adds what the expressions of columns, constraints and indexes call.
pub(super) fn expressions<'a>(
    definitions: impl IntoIterator<Item = Node<'a>>,
    facts: &mut StatementFacts,
) -> Result<(), NotUnderstood> {
    for definition in definitions {
        match definition {
            Node::ColumnDef(column) => {
                expression(column.raw_default(), facts)?;
                for constraint in column.constraints() {
                    if let Node::Constraint(constraint) = constraint {
                        constrained(constraint, facts)?;
                    }
                }
            }
            Node::Constraint(constraint) => constrained(constraint, facts)?,
            Node::TableLikeClause(_) | Node::None => {}
            other => expression(other, facts)?,
        }
    }
    Ok(())
}

fn constrained(constraint: &nodes::Constraint, facts: &mut StatementFacts) -> Result<(), NotUnderstood> {
    expression(constraint.raw_expr(), facts)?;
    expression(constraint.where_clause(), facts)?;
    for exclusion in constraint.exclusions() {
        expression(exclusion, facts)?;
    }
    Ok(())
}

/// Adds what an expression calls.
pub(super) fn expression(expression: Node<'_>, facts: &mut StatementFacts) -> Result<(), NotUnderstood> {
    let mut calls = Calls::default();
    walk(expression, |node| {
        // A default that counts is what `serial` stands for.
        let counts = matches!(node, Node::FuncCall(call) if call.funcname().iter().filter_map(Node::as_str).eq(["nextval"]));
        if !counts {
            calls.visit(node);
        }
        Ok(())
    })?;
    if calls.run_code() {
        facts.actions.insert(Action::SqlExecute);
    }
    facts.functions.extend(calls.functions);
    Ok(())
}
