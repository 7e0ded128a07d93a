//! Walking a tree without recursion.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the parser's enum has 270 variants; what is not named is refused or has no part in the question"
)]

use pg_raw_parse::Node;
use pg_raw_parse::walk::{Recurse, walk_manual};

use super::NotUnderstood;

/// Largest tree that is walked, in nodes.
const MAX_NODES: usize = 200_000;

/// Calls `visit` for `root` and everything below it. Statements that are not queries do not occur inside one: they are
/// not understood.
pub(super) fn walk<'a>(
    root: Node<'a>,
    mut visit: impl FnMut(Node<'a>) -> Result<(), NotUnderstood>,
) -> Result<(), NotUnderstood> {
    let mut open = vec![root];
    let mut seen = 0usize;
    while let Some(node) = open.pop() {
        seen += 1;
        if seen > MAX_NODES {
            return Err(NotUnderstood("The statement is too large.".into()));
        }
        visit(node)?;
        if is_leaf(node)? {
            continue;
        }
        walk_manual::<()>(node, |child| {
            open.push(child);
            Recurse::no()
        });
    }
    Ok(())
}

/// Whether a node has no children worth walking; an error where it is not known.
fn is_leaf(node: Node<'_>) -> Result<bool, NotUnderstood> {
    Ok(match node {
        Node::None
        | Node::Integer(_)
        | Node::Float(_)
        | Node::Boolean(_)
        | Node::String(_)
        | Node::BitString(_)
        | Node::ParamRef(_)
        | Node::A_Const(_)
        | Node::A_Star(_)
        | Node::ColumnRef(_)
        | Node::RangeVar(_)
        | Node::Alias(_)
        | Node::SetToDefault(_)
        | Node::CurrentOfExpr(_)
        | Node::SQLValueFunction(_)
        | Node::MergeSupportFunc(_)
        | Node::JsonFormat(_)
        | Node::TypeName(_)
        // In a query: a name and a type (`AS r(a int)`).
        | Node::ColumnDef(_)
        | Node::RoleSpec(_) => true,
        Node::NodeList(_)
        | Node::RawStmt(_)
        | Node::SelectStmt(_)
        | Node::InsertStmt(_)
        | Node::UpdateStmt(_)
        | Node::DeleteStmt(_)
        | Node::MergeStmt(_)
        | Node::MergeWhenClause(_)
        | Node::IntoClause(_)
        | Node::A_Expr(_)
        | Node::BoolExpr(_)
        | Node::SubLink(_)
        | Node::CaseExpr(_)
        | Node::CaseWhen(_)
        | Node::RowExpr(_)
        | Node::CoalesceExpr(_)
        | Node::MinMaxExpr(_)
        | Node::XmlExpr(_)
        | Node::XmlSerialize(_)
        | Node::NullTest(_)
        | Node::BooleanTest(_)
        | Node::JoinExpr(_)
        | Node::TypeCast(_)
        | Node::CollateClause(_)
        | Node::FuncCall(_)
        | Node::NamedArgExpr(_)
        | Node::GroupingFunc(_)
        | Node::GroupingSet(_)
        | Node::A_Indices(_)
        | Node::A_Indirection(_)
        | Node::A_ArrayExpr(_)
        | Node::ResTarget(_)
        | Node::MultiAssignRef(_)
        | Node::SortBy(_)
        | Node::WindowDef(_)
        | Node::RangeSubselect(_)
        | Node::RangeFunction(_)
        | Node::RangeTableSample(_)
        | Node::RangeTableFunc(_)
        | Node::RangeTableFuncCol(_)
        | Node::LockingClause(_)
        | Node::WithClause(_)
        | Node::CommonTableExpr(_)
        | Node::InferClause(_)
        | Node::OnConflictClause(_)
        | Node::IndexElem(_)
        | Node::ReturningClause(_)
        | Node::JsonOutput(_)
        | Node::JsonReturning(_)
        | Node::JsonValueExpr(_)
        | Node::JsonArgument(_)
        | Node::JsonFuncExpr(_)
        | Node::JsonKeyValue(_)
        | Node::JsonParseExpr(_)
        | Node::JsonScalarExpr(_)
        | Node::JsonSerializeExpr(_)
        | Node::JsonObjectConstructor(_)
        | Node::JsonArrayConstructor(_)
        | Node::JsonArrayQueryConstructor(_)
        | Node::JsonAggConstructor(_)
        | Node::JsonObjectAgg(_)
        | Node::JsonArrayAgg(_)
        | Node::JsonIsPredicate(_)
        | Node::JsonBehavior(_)
        | Node::JsonTable(_)
        | Node::JsonTableColumn(_)
        | Node::JsonTablePathSpec(_) => false,
        _ => {
            return Err(NotUnderstood(
                "It holds a construct that Interdict does not know.".into(),
            ));
        }
    })
}
