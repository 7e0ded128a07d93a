//! Whether a condition bounds the rows that a statement writes.
//!
//! Conservative: a condition bounds when it compares a column with something else in a way that can leave rows out.
//! `WHERE true`, `1 = 1`, `id = id`, `id <> 0`, `id > 0`, `x OR true`, `id IS NOT NULL` do not bound.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the parser's enum has 270 variants; what is not named is refused or has no part in the question"
)]

use std::collections::BTreeSet;

use pg_raw_parse::raw::{A_Expr_Kind, BoolExprType, NullTestType, SubLinkType};
use pg_raw_parse::{ConstValue, Node, nodes};

use super::lineage::column_name;
use super::walk::walk;

/// Whether `condition` bounds.
pub(super) fn bounds(condition: Node<'_>) -> bool {
    // Deep trees were refused before; the recursion follows AND, OR and casts only.
    match condition {
        Node::BoolExpr(expression) => {
            let mut arguments = expression.args().iter();
            match expression.boolop {
                BoolExprType::AND_EXPR => arguments.any(bounds),
                BoolExprType::OR_EXPR => arguments.all(bounds),
                _ => false,
            }
        }
        Node::A_Expr(expression) => comparison(expression),
        Node::NullTest(test) => test.nulltesttype == NullTestType::IS_NULL && !columns(test.arg()).is_empty(),
        Node::BooleanTest(test) => !columns(test.arg()).is_empty(),
        Node::ColumnRef(_) | Node::CurrentOfExpr(_) => true,
        Node::TypeCast(cast) => bounds(cast.arg()),
        Node::SubLink(link) => sublink(link),
        _ => false,
    }
}

fn comparison(expression: &nodes::A_Expr) -> bool {
    let (left, right) = (columns(expression.lexpr()), columns(expression.rexpr()));
    let one_side = left != right && !(left.is_empty() && right.is_empty());
    let operator = expression
        .name()
        .iter()
        .next_back()
        .and_then(Node::as_str)
        .unwrap_or_default();
    match expression.kind {
        A_Expr_Kind::AEXPR_OP => match operator {
            "=" => one_side,
            ">" | ">=" => one_side && !starts_low(expression.rexpr()),
            "<" | "<=" => one_side && !starts_low(expression.lexpr()),
            _ => false,
        },
        A_Expr_Kind::AEXPR_IN | A_Expr_Kind::AEXPR_OP_ANY => operator == "=" && one_side,
        A_Expr_Kind::AEXPR_BETWEEN => one_side,
        A_Expr_Kind::AEXPR_LIKE | A_Expr_Kind::AEXPR_ILIKE => {
            operator.starts_with('~') && one_side && !matches_anything(expression.rexpr())
        }
        _ => false,
    }
}

/// `id > 0` and the like leave nothing out.
fn starts_low(node: Node<'_>) -> bool {
    let Node::A_Const(constant) = node else {
        // A negated number is an expression: `-1`.
        return matches!(node, Node::A_Expr(_)) && columns(node).is_empty();
    };
    match constant.val() {
        Some(ConstValue::Integer(number)) => number <= 1,
        Some(ConstValue::Float(number)) => number.parse::<f64>().is_ok_and(|n| n <= 1.0),
        Some(ConstValue::String(text)) => text.is_empty(),
        _ => false,
    }
}

fn matches_anything(node: Node<'_>) -> bool {
    match node {
        Node::A_Const(constant) => match constant.val() {
            Some(ConstValue::String(pattern)) => pattern.chars().all(|c| matches!(c, '%' | '_')),
            _ => false,
        },
        _ => false,
    }
}

/// `id IN (SELECT …)` and `EXISTS (SELECT …)` bound when the query inside is bounded or limited.
fn sublink(link: &nodes::SubLink) -> bool {
    let Node::SelectStmt(select) = link.subselect() else {
        return false;
    };
    let inner = bounds(select.where_clause()) || !matches!(select.limit_count(), Node::None);
    match link.sub_link_type {
        SubLinkType::ANY_SUBLINK => !columns(link.testexpr()).is_empty() && inner,
        SubLinkType::EXISTS_SUBLINK => bounds(select.where_clause()),
        _ => false,
    }
}

/// Columns that an expression names.
fn columns(node: Node<'_>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let walked = walk(node, |n| {
        if let Node::ColumnRef(reference) = n {
            found.insert(column_name(reference).unwrap_or_else(|| "*".into()));
        }
        Ok(())
    });
    if walked.is_err() {
        // Not understood elsewhere too: then the statement is refused.
        found.clear();
    }
    found
}
