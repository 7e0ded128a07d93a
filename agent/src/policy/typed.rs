//! Arguments of tools with types: a file `*.cedarschema` beside the policies declares them (`type Tools = …`, made by
//! `interdict policy schema`), and policies read `context.tools.TARGET.TOOL.ARGUMENT`.
//!
//! A call whose arguments are not of the declared types is denied: a policy that reads them must not be skipped because
//! they are missing. What is not declared is not there, and still in `context.input`.

use std::collections::{BTreeMap, HashMap};

use cedar_policy::{RestrictedExpression as Value, SchemaFragment};
use serde_json::Value as Json;

use crate::json::fold;
use crate::model::Document;

/// In the schema, until a file declares tools.
pub(super) const PLACE: &str = "type Tools = {};\n";
/// Types within types.
const MAX_DEPTH: u32 = 32;

/// Types of the arguments of tools, by target and tool.
#[derive(Debug, Clone, Default)]
pub(super) struct ToolTypes(BTreeMap<String, BTreeMap<String, Type>>);

#[derive(Debug, Clone, PartialEq)]
enum Type {
    Text,
    Long,
    Flag,
    Set(Box<Type>),
    /// Members, and whether they must be there.
    Record(BTreeMap<String, (Type, bool)>),
}

impl ToolTypes {
    /// What a file declares.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let (fragment, _warnings) =
            SchemaFragment::from_cedarschema_str(text).map_err(|error| error.to_string())?;
        let json = fragment.to_json_value().map_err(|error| error.to_string())?;
        let common = json.pointer("//commonTypes").and_then(Json::as_object);
        let common: HashMap<&str, &Json> = common
            .into_iter()
            .flatten()
            .map(|(name, of)| (name.as_str(), of))
            .collect();
        let others = json.as_object().is_some_and(|spaces| spaces.len() > 1)
            || ["entityTypes", "actions"].iter().any(|kind| {
                let declared = json.pointer(&format!("//{kind}")).and_then(Json::as_object);
                declared.is_some_and(|all| !all.is_empty())
            });
        let Some(tools) = common.get("Tools").filter(|_| !others) else {
            return Err("it declares types only, and among them `type Tools = { … };`".into());
        };
        let Type::Record(targets) = of(tools, &common, 0)? else {
            return Err("`Tools` is a record of targets".into());
        };
        let mut all = BTreeMap::new();
        for (target, (tools, required)) in targets {
            let Type::Record(tools) = tools else {
                return Err(format!("`Tools` has no record of tools for {target:?}"));
            };
            if required || tools.values().any(|(_, required)| *required) {
                return Err(format!(
                    "targets and tools are optional: write {target:?}?: {{ \"tool\"?: … }}"
                ));
            }
            let named = tools.into_iter().map(|(tool, (of, _))| match of {
                Type::Record(_) => Ok((tool, of)),
                Type::Text | Type::Long | Type::Flag | Type::Set(_) => {
                    Err(format!("the arguments of {tool:?} are a record"))
                }
            });
            all.insert(target, named.collect::<Result<_, _>>()?);
        }
        Ok(Self(all))
    }

    /// Whether calls of a tool have typed arguments.
    pub(super) fn declares(&self, target: &str, tool: &str) -> bool {
        self.0.get(target).is_some_and(|tools| tools.contains_key(tool))
    }

    /// The typed arguments of a call: the value of `context.tools`. `None` where none are declared.
    ///
    /// # Errors
    /// What does not fit.
    pub(super) fn arguments(
        &self,
        target: &str,
        tool: &str,
        input: &Document,
    ) -> Result<Option<Value>, String> {
        let Some(declared) = self.0.get(target).and_then(|tools| tools.get(tool)) else {
            return Ok(None);
        };
        let arguments = value(declared, "", input)?;
        let within = |name: &str, value| {
            Value::new_record([(name.to_owned(), value)]).map_err(|error| error.to_string())
        };
        Ok(Some(within(target, within(tool, arguments)?)?))
    }
}

/// A type as Cedar's JSON form has it.
fn of(json: &Json, common: &HashMap<&str, &Json>, depth: u32) -> Result<Type, String> {
    if depth > MAX_DEPTH {
        return Err("its types lie too deep in one another".into());
    }
    let kind = json.get("type").and_then(Json::as_str).unwrap_or_default();
    let name = match kind {
        "EntityOrCommon" => json.get("name").and_then(Json::as_str).unwrap_or_default(),
        other => other,
    };
    match name.trim_start_matches("__cedar::") {
        "String" => Ok(Type::Text),
        "Long" => Ok(Type::Long),
        "Bool" | "Boolean" => Ok(Type::Flag),
        "Set" => {
            let element = json.get("element").ok_or("a set has elements")?;
            Ok(Type::Set(Box::new(of(element, common, depth + 1)?)))
        }
        "Record" => {
            let members = json.get("attributes").and_then(Json::as_object);
            let member = |(name, member): (&String, &Json)| {
                let required = member.get("required").and_then(Json::as_bool).unwrap_or(true);
                Ok((name.clone(), (of(member, common, depth + 1)?, required)))
            };
            Ok(Type::Record(
                members
                    .into_iter()
                    .flatten()
                    .map(member)
                    .collect::<Result<_, String>>()?,
            ))
        }
        other => match common.get(other) {
            Some(named) => of(named, common, depth + 1),
            None => Err(format!(
                "arguments are of types String, Long, Bool, Set and records, not {other:?}"
            )),
        },
    }
}

/// The value at `path`, of that type.
fn value(of: &Type, path: &str, input: &Document) -> Result<Value, String> {
    let wrong = |what: &str| format!("{path:?} is no {what}");
    match of {
        Type::Text => {
            let text = input.texts.get(path).ok_or_else(|| wrong("text"))?;
            Ok(Value::new_string(text.clone()))
        }
        Type::Long => {
            let text = input.texts.get(path).map(|text| text.trim());
            let whole = text.and_then(|text| text.parse().ok());
            Ok(Value::new_long(whole.ok_or_else(|| wrong("whole number"))?))
        }
        Type::Flag => {
            let flag = input.flags.get(path).copied();
            Ok(Value::new_bool(flag.ok_or_else(|| wrong("truth value"))?))
        }
        Type::Set(element) => {
            let mut items = Vec::new();
            loop {
                let item = below(path, &items.len().to_string());
                if !input.names.contains(&item) {
                    break;
                }
                items.push(value(element, &item, input)?);
            }
            if items.is_empty() && (input.texts.contains_key(path) || has_members(path, input)) {
                return Err(wrong("list"));
            }
            Ok(Value::new_set(items))
        }
        Type::Record(members) => {
            if input.texts.contains_key(path) {
                return Err(wrong("object"));
            }
            let mut fields = Vec::new();
            for (name, (of, required)) in members {
                let member = below(path, &fold(name).replace('~', "~0").replace('/', "~1"));
                if is_there(&member, input) {
                    fields.push((name.clone(), value(of, &member, input)?));
                } else if *required {
                    return Err(format!("{member:?} is missing"));
                }
            }
            Value::new_record(fields).map_err(|error| error.to_string())
        }
    }
}

/// Whether something is at `path` that is not null. An empty list or object cannot be told from null: it is there.
fn is_there(path: &str, input: &Document) -> bool {
    input.names.contains(path)
}

fn has_members(path: &str, input: &Document) -> bool {
    let prefix = format!("{path}/");
    let next = input.names.range(prefix.clone()..).next();
    next.is_some_and(|name| name.starts_with(&prefix))
}

fn below(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}/{name}")
    }
}

/// Declares the arguments of tools from their JSON schemas, as `*.cedarschema` beside policies. What has no type in
/// Cedar (fractions, alternatives, references) is left out with a comment.
#[must_use]
pub fn tools_schema(targets: &BTreeMap<String, BTreeMap<String, Json>>) -> String {
    let mut out = String::from(
        "// Arguments of MCP tools, by target and tool: made by `interdict policy schema`. Policies read them as\n\
         // `context has tools && context.tools has TARGET && context.tools.TARGET has TOOL && context.tools.TARGET.TOOL.ARGUMENT …`.\n\
         // A call whose arguments are of other types is denied.\ntype Tools = {\n",
    );
    for (target, tools) in targets {
        out.push_str(&format!("  {}?: {{\n", quoted(target)));
        for (tool, schema) in tools {
            match record(schema, 4, 0) {
                Some(arguments) => out.push_str(&format!("    {}?: {arguments},\n", quoted(tool))),
                None => out.push_str(&format!("    // {}: its schema is no object\n", quoted(tool))),
            }
        }
        out.push_str("  },\n");
    }
    out.push_str("};\n");
    out
}

/// The type of an object; `None` where it is none.
fn record(schema: &Json, indent: usize, depth: u32) -> Option<String> {
    if depth > MAX_DEPTH || kind(schema)? != "object" {
        return None;
    }
    let (pad, end) = (" ".repeat(indent + 2), " ".repeat(indent));
    let required: Vec<&str> = schema
        .get("required")
        .and_then(Json::as_array)
        .into_iter()
        .flatten()
        .filter_map(Json::as_str)
        .collect();
    let properties = schema.get("properties").and_then(Json::as_object);
    // In one order, whatever the server's is.
    let properties: BTreeMap<&String, &Json> = properties.into_iter().flatten().collect();
    let mut out = String::from("{\n");
    for (name, property) in &properties {
        let twin = properties
            .keys()
            .filter(|other| fold(other) == fold(name))
            .count()
            > 1;
        let described = declared(property, indent + 2, depth + 1).filter(|_| !twin);
        let optional = if required.contains(&name.as_str()) && !nullable(property) {
            ""
        } else {
            "?"
        };
        match described {
            Some(of) => out.push_str(&format!("{pad}{}{optional}: {of},\n", quoted(name))),
            None => out.push_str(&format!(
                "{pad}// {}: has no type here, see context.input\n",
                quoted(name)
            )),
        }
    }
    out.push_str(&format!("{end}}}"));
    Some(out)
}

fn declared(schema: &Json, indent: usize, depth: u32) -> Option<String> {
    match kind(schema)? {
        "string" => Some("String".into()),
        "integer" => Some("Long".into()),
        "boolean" => Some("Bool".into()),
        "array" => {
            let items = declared(schema.get("items")?, indent, depth + 1)?;
            (depth < MAX_DEPTH).then(|| format!("Set<{items}>"))
        }
        "object" => record(schema, indent, depth),
        _ => None,
    }
}

/// The one type of a schema, beside null.
fn kind(schema: &Json) -> Option<&str> {
    if ["$ref", "anyOf", "oneOf", "allOf", "not", "if"]
        .iter()
        .any(|word| schema.get(word).is_some())
    {
        return None;
    }
    match schema.get("type")? {
        Json::String(one) => Some(one),
        Json::Array(several) => {
            let mut others = several
                .iter()
                .filter_map(Json::as_str)
                .filter(|one| *one != "null");
            let first = others.next()?;
            others.next().is_none().then_some(first)
        }
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::Object(_) => None,
    }
}

fn nullable(schema: &Json) -> bool {
    let several = schema.get("type").and_then(Json::as_array);
    several.is_some_and(|several| several.iter().any(|one| one == "null"))
}

/// A name as a string of Cedar.
fn quoted(name: &str) -> String {
    let mut out = String::from("\"");
    for c in name.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            ' '..='~' => out.push(c),
            other => out.push_str(&format!("\\u{{{:x}}}", u32::from(other))),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::nobody::{principal, target};
    use super::*;
    use crate::json::facts;
    use crate::model::{Action, Digest, Facts, Fingerprint, McpFacts, Operation, Protocol, Timestamp};
    use crate::policy::{Decision, Engine, PolicySource};

    const POLICY: &str = r#"
@id("tools") permit (principal, action in Action::"mcp", resource);
@id("few-rows") @reason("At most 100 rows.")
forbid (principal, action == Action::"mcp.tool.call", resource)
when { context has tools && context.tools has "my shop" && context.tools["my shop"] has query &&
       context.tools["my shop"].query has limit && context.tools["my shop"].query.limit > 100 };
@id("no-secrets") @reason("Not that table.")
forbid (principal, action == Action::"mcp.tool.call", resource)
when { context has tools && context.tools has "my shop" && context.tools["my shop"] has query &&
       context.tools["my shop"].query.tables.contains("secrets") };
"#;

    fn schema() -> String {
        let query = json!({"type": "object", "required": ["sql", "tables"], "properties": {
            "sql": {"type": "string"}, "limit": {"type": ["integer", "null"]}, "dryRun": {"type": "boolean"},
            "tables": {"type": "array", "items": {"type": "string"}}, "ratio": {"type": "number"},
            "where": {"type": "object", "properties": {"na\"me": {"type": "string"}}},
            "either": {"anyOf": [{"type": "string"}]}, "A": {"type": "string"}, "a": {"type": "string"},
        }});
        let tools = BTreeMap::from([
            ("query".to_owned(), query),
            ("none".to_owned(), json!({"type": "object"})),
        ]);
        tools_schema(&BTreeMap::from([("my shop".to_owned(), tools)]))
    }

    fn engine() -> Engine {
        let source = |file: &str, text: &str| PolicySource {
            file: file.into(),
            text: text.into(),
        };
        let sources = [
            source("tools.cedarschema", &schema()),
            source("tools.cedar", POLICY),
        ];
        Engine::load(&sources, &[].into()).unwrap_or_else(|wrong| panic!("{wrong}\n{}", schema()))
    }

    fn decided(engine: &Engine, tool: &str, arguments: &Json) -> String {
        let (principal, target) = (principal(), target("my shop", Protocol::Mcp));
        let operation = Operation {
            actions: [Action::McpToolCall].into(),
            facts: Facts::Mcp(McpFacts {
                method: "tools/call".into(),
                tool: tool.into(),
                input: facts(arguments).expect("small"),
                ..McpFacts::default()
            }),
            text: String::new(),
            fingerprint: Fingerprint(Digest::of(b"")),
            parameters: Vec::new(),
        };
        match engine.decide(&operation, &principal, &target, None, Timestamp::from_seconds(0)) {
            Decision::Allow(_) => "allow".into(),
            Decision::Deny(denial) => denial.reason,
            Decision::NeedsApproval(need) => need.reason,
        }
    }

    #[test]
    fn policies_over_typed_arguments_decide() {
        let engine = engine();
        for (tool, arguments, expected) in [
            ("query", json!({"sql": "x", "tables": ["a"]}), "allow"),
            (
                "query",
                json!({"sql": "x", "tables": [], "limit": 100, "dryRun": true}),
                "allow",
            ),
            (
                "query",
                json!({"sql": "x", "tables": ["a"], "limit": 101}),
                "At most 100 rows.",
            ),
            (
                "query",
                json!({"SQL": "x", "tables": ["a", "secrets"]}),
                "Not that table.",
            ),
            (
                "query",
                json!({"sql": "x", "tables": ["a"], "where": {"na\"me": "y"}, "ratio": 0.5, "more": 1}),
                "allow",
            ),
            ("query", json!({"sql": "x"}), "\"tables\" is missing"),
            (
                "query",
                json!({"sql": "x", "tables": "a"}),
                "\"tables\" is no list",
            ),
            (
                "query",
                json!({"sql": "x", "tables": {"a": 1}}),
                "\"tables\" is no list",
            ),
            (
                "query",
                json!({"sql": "x", "tables": [["a"]]}),
                "\"tables/0\" is no text",
            ),
            (
                "query",
                json!({"sql": "x", "tables": [], "limit": 1.5}),
                "\"limit\" is no whole number",
            ),
            (
                "query",
                json!({"sql": "x", "tables": [], "limit": "many"}),
                "\"limit\" is no whole number",
            ),
            (
                "query",
                json!({"sql": "x", "tables": [], "where": "y"}),
                "\"where\" is no object",
            ),
            ("none", json!({"anything": [1]}), "allow"),
            ("other", json!({"anything": [1]}), "allow"),
        ] {
            let said = decided(&engine, tool, &arguments);
            assert!(said.contains(expected), "{tool} {arguments}: {said}");
        }
    }

    #[test]
    fn a_wrong_schema_is_a_mistake_with_its_file() {
        for (text, told) in [
            (
                "type Tools = { \"t\"?: { \"q\"?: { \"a\": decimal } } };",
                "types String, Long, Bool",
            ),
            ("type Tools = { \"t\": {} };", "optional"),
            ("type Tools = String;", "record of targets"),
            ("type Other = {};", "type Tools"),
            ("type Tools = {}; action \"x\";", "type Tools"),
            ("type Tools = {", "unexpected"),
        ] {
            let source = PolicySource {
                file: "tools.cedarschema".into(),
                text: text.into(),
            };
            let wrong = Engine::load(&[source], &[].into()).expect_err(text).to_string();
            assert!(
                wrong.contains("tools.cedarschema") && wrong.contains(told),
                "{wrong}"
            );
        }
    }
}
