//! Case files: who does what where, and what the policies are to answer.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use crate::model::{
    Action, ConnectFacts, DataClass, Digest, Environment, Facts, Fingerprint, Group, HttpFacts, IssuerName,
    LlmFacts, McpFacts, Operation, PolicyId, Principal, PrincipalKind, Protocol, SqlFacts, StatementFacts,
    StatementKind, TableName, Target, TargetName, Timestamp, duration,
};

use super::case_budget::RawUsage;
use super::case_names::RawDns;
use super::load::PolicySource;
use super::rehearse::Answer;

/// When a case takes place unless it says so: 2026-01-01T12:00:00Z, a Thursday.
const NOON: Timestamp = Timestamp::from_seconds(1_767_268_800);

/// One case.
#[derive(Debug, Clone)]
pub struct Case {
    /// Its file.
    pub file: String,
    /// Its line.
    pub line: usize,
    /// What it is about.
    pub name: String,
    pub(super) operation: Operation,
    pub(super) principal: Principal,
    pub(super) target: Target,
    pub(super) consent: Option<BTreeSet<Group>>,
    pub(super) now: Timestamp,
    pub(super) expect: Expected,
}

/// What is expected; what is not written is not compared.
#[derive(Debug, Clone)]
pub(super) struct Expected {
    pub(super) answer: Answer,
    pub(super) policies: Option<BTreeSet<PolicyId>>,
    pub(super) approvers: Option<BTreeSet<Group>>,
    pub(super) min_approvals: Option<u32>,
    pub(super) hold: Option<Duration>,
    pub(super) reveals: Option<BTreeSet<DataClass>>,
    pub(super) reasons: Vec<String>,
    pub(super) max_rows: Option<u64>,
    pub(super) max_time: Option<Duration>,
    pub(super) masks: Option<BTreeSet<DataClass>>,
    pub(super) restores: Option<BTreeSet<DataClass>>,
}

/// A mistake in a case file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaseMistake {
    /// The file.
    pub file: String,
    /// The line.
    pub line: Option<usize>,
    /// What is wrong, and what to write instead.
    pub what: String,
}

impl fmt::Display for CaseMistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, what } = self;
        match line {
            Some(line) => write!(f, "{file}:{line}: {what}"),
            None => write!(f, "{file}: {what}"),
        }
    }
}

/// The cases that ship with the agent, for the policies that ship with it.
#[must_use]
pub fn shipped_cases() -> Vec<PolicySource> {
    let one = |file: &str, text: &str| PolicySource {
        file: file.to_owned(),
        text: text.to_owned(),
    };
    vec![
        one(
            "policies/tests/reading.toml",
            include_str!("../../../policies/tests/reading.toml"),
        ),
        one(
            "policies/tests/http.toml",
            include_str!("../../../policies/tests/http.toml"),
        ),
        one(
            "policies/tests/dns.toml",
            include_str!("../../../policies/tests/dns.toml"),
        ),
        one(
            "policies/tests/writing.toml",
            include_str!("../../../policies/tests/writing.toml"),
        ),
        one(
            "policies/tests/production.toml",
            include_str!("../../../policies/tests/production.toml"),
        ),
        one(
            "policies/tests/code.toml",
            include_str!("../../../policies/tests/code.toml"),
        ),
        one(
            "policies/tests/agents.toml",
            include_str!("../../../policies/tests/agents.toml"),
        ),
    ]
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    #[serde(default)]
    principals: BTreeMap<String, RawPrincipal>,
    #[serde(default)]
    resources: BTreeMap<String, RawResource>,
    #[serde(default, rename = "case")]
    cases: Vec<Spanned<RawCase>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCase {
    name: String,
    principal: NamedOr<RawPrincipal>,
    action: OneOrMany,
    resource: NamedOr<RawResource>,
    #[serde(default)]
    context: RawContext,
    expect: RawExpect,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "write a name from [principals] or [resources], or a table: { user = \"corp/alice\", groups = [] }, \
                 { workload = \"etl\" }, { target = \"shop\", environment = \"prod\" }"
)]
enum NamedOr<T> {
    Name(String),
    Table(T),
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "write an action (\"sql.select\") or a list of them")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields)]
struct RawPrincipal {
    user: Option<String>,
    workload: Option<String>,
    #[serde(default)]
    groups: Vec<String>,
    display: Option<String>,
}

#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields)]
struct RawResource {
    target: String,
    environment: Option<String>,
    protocol: Option<String>,
    configured: Option<bool>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawContext {
    #[serde(default)]
    kinds: Vec<String>,
    #[serde(default)]
    tables: Vec<String>,
    #[serde(default)]
    columns: BTreeSet<String>,
    #[serde(default)]
    functions: BTreeSet<String>,
    bounded: Option<bool>,
    in_transaction: Option<bool>,
    database: Option<String>,
    statements: Option<usize>,
    address: Option<IpAddr>,
    port: Option<u16>,
    #[serde(default)]
    mcp: RawMcp,
    #[serde(default)]
    input: toml::Table,
    #[serde(default)]
    llm: RawLlm,
    usage: Option<RawUsage>,
    #[serde(default)]
    dns: RawDns,
    now: Option<toml::value::Datetime>,
    approval: Option<RawApproval>,
    #[serde(default)]
    http: RawHttp,
}

#[derive(Deserialize, Default, PartialEq)]
#[serde(deny_unknown_fields, default)]
struct RawMcp {
    method: String,
    tool: String,
    uri: String,
    prompt: String,
}

#[derive(Deserialize, Default, PartialEq)]
#[serde(deny_unknown_fields, default)]
struct RawLlm {
    api: String,
    endpoint: String,
    model: String,
    tools: BTreeSet<String>,
    findings: BTreeSet<String>,
    bytes: u64,
    attachments: bool,
    stored: bool,
}

#[derive(Deserialize, Default, PartialEq)]
#[serde(deny_unknown_fields, default)]
struct RawHttp {
    method: Option<String>,
    host: Option<String>,
    path: Option<String>,
    query: BTreeSet<String>,
    headers: BTreeSet<String>,
    content_type: Option<String>,
    tls: Option<bool>,
    body_bytes: Option<u64>,
    body_read: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawApproval {
    groups: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawExpect {
    outcome: String,
    policies: Option<Vec<String>>,
    approvers: Option<Vec<String>>,
    min_approvals: Option<u32>,
    hold: Option<String>,
    reveals: Option<Vec<String>>,
    #[serde(default)]
    reasons: Vec<String>,
    max_rows: Option<u64>,
    max_time: Option<String>,
    masks: Option<Vec<String>>,
    restores: Option<Vec<String>>,
}

/// Reads a case file.
///
/// # Errors
/// Every mistake, with its line.
pub fn parse(source: &PolicySource) -> Result<Vec<Case>, Vec<CaseMistake>> {
    let line_of = |offset: usize| source.text.bytes().take(offset).filter(|b| *b == b'\n').count() + 1;
    let mistake = |line: Option<usize>, what: String| CaseMistake {
        file: source.file.clone(),
        line,
        what,
    };
    let raw: RawFile = toml::from_str(&source.text).map_err(|error| {
        let line = error.span().map(|span| line_of(span.start));
        vec![mistake(line, error.message().to_owned())]
    })?;
    if raw.cases.is_empty() {
        return Err(vec![mistake(
            None,
            "holds no [[case]]: a file without cases tests nothing".into(),
        )]);
    }
    let mut cases = Vec::new();
    let mut mistakes = Vec::new();
    for one in raw.cases {
        let line = line_of(one.span().start);
        let name = one.get_ref().name.clone();
        match case(one.into_inner(), &raw.principals, &raw.resources) {
            Ok(parts) => cases.push(Case {
                file: source.file.clone(),
                line,
                ..parts
            }),
            Err(what) => mistakes.push(mistake(Some(line), format!("case {name:?}: {what}"))),
        }
    }
    if mistakes.is_empty() {
        Ok(cases)
    } else {
        Err(mistakes)
    }
}

fn case(
    raw: RawCase,
    principals: &BTreeMap<String, RawPrincipal>,
    resources: &BTreeMap<String, RawResource>,
) -> Result<Case, String> {
    let RawCase {
        name,
        principal: who,
        action,
        resource,
        mut context,
        expect,
    } = raw;
    let consent = context.approval.take().map(|approval| groups(&approval.groups));
    let now = match context.now.take() {
        None => NOON,
        Some(at) => Timestamp::from_rfc3339(&at.to_string())
            .ok_or("context.now needs date, time and offset: 2026-01-01T12:00:00Z")?,
    };
    Ok(Case {
        file: String::new(),
        line: 0,
        name,
        operation: operation(action, context)?,
        principal: principal(named(who, principals, "principals")?)?,
        target: target(named(resource, resources, "resources")?)?,
        consent,
        now,
        expect: expected(expect)?,
    })
}

fn named<T: Clone>(raw: NamedOr<T>, all: &BTreeMap<String, T>, table: &str) -> Result<T, String> {
    match raw {
        NamedOr::Table(value) => Ok(value),
        NamedOr::Name(name) => all
            .get(&name)
            .cloned()
            .ok_or_else(|| format!("{name:?} is not in [{table}] of this file")),
    }
}

fn groups(names: &[String]) -> BTreeSet<Group> {
    names.iter().map(|name| Group::from(name.as_str())).collect()
}

fn principal(raw: RawPrincipal) -> Result<Principal, String> {
    let RawPrincipal {
        user,
        workload,
        groups: of,
        display,
    } = raw;
    let (kind, issuer, subject) = match (user, workload) {
        (Some(user), None) => {
            let (issuer, subject) = user
                .split_once('/')
                .ok_or_else(|| format!("the user {user:?} has no issuer: write \"corp/alice\""))?;
            (
                PrincipalKind::User,
                Some(IssuerName::from(issuer)),
                subject.to_owned(),
            )
        }
        (None, Some(name)) => (PrincipalKind::Workload, None, name),
        (Some(_), Some(_)) | (None, None) => {
            return Err("a principal is either a user (\"corp/alice\") or a workload (\"etl\")".into());
        }
    };
    if kind == PrincipalKind::Workload && !of.is_empty() {
        return Err("a workload has no groups: only a token gives them".into());
    }
    Ok(Principal {
        kind,
        issuer,
        display: display.unwrap_or_else(|| subject.clone()),
        subject,
        groups: groups(&of),
        expires_at: None,
    })
}

fn target(raw: RawResource) -> Result<Target, String> {
    let RawResource {
        target,
        environment,
        protocol,
        configured,
        labels,
    } = raw;
    let protocol = match protocol.as_deref() {
        None => Protocol::Postgres,
        Some(name) => [
            Protocol::Postgres,
            Protocol::Http,
            Protocol::Mcp,
            Protocol::Llm,
            Protocol::Dns,
            Protocol::Opaque,
        ]
        .into_iter()
        .find(|p| p.name() == name)
        .ok_or_else(|| {
            format!("{name:?} is no protocol: write \"postgres\", \"http\", \"mcp\", \"llm\", \"dns\" or \"opaque\"")
        })?,
    };
    Ok(Target {
        name: TargetName(target.into()),
        environment: Environment(environment.as_deref().unwrap_or("default").into()),
        labels,
        protocol,
        configured: configured.unwrap_or(true),
    })
}

fn operation(action: OneOrMany, context: RawContext) -> Result<Operation, String> {
    let names = match action {
        OneOrMany::One(name) => vec![name],
        OneOrMany::Many(names) => names,
    };
    let mut actions = BTreeSet::new();
    for name in names {
        if name == Action::Reveal.name() {
            return Err(
                "what is revealed is expected of an operation: action = \"sql.select\", expect.reveals"
                    .into(),
            );
        }
        let known = Action::ALL.into_iter().find(|action| action.name() == name);
        actions.insert(known.ok_or_else(|| {
            format!("{name:?} is no action (groups such as \"sql.write\" stand in policies, not in cases)")
        })?);
    }
    if actions.is_empty() {
        return Err("no action: name at least one".into());
    }
    let of = |group: &str| actions.iter().filter(|a| a.name().starts_with(group)).count();
    let facts = if actions.contains(&Action::Connect) {
        connect(&actions, context)?
    } else if of("mcp.") > 0 {
        mcp(&actions, context)?
    } else if of("llm.") > 0 {
        llm(&actions, context)?
    } else if of("dns.") > 0 {
        context.dns.facts(&actions)?
    } else if of("http.") > 0 {
        Facts::Http(http(&actions, context)?)
    } else {
        Facts::Sql(sql(&actions, context)?)
    };
    Ok(Operation {
        actions,
        facts,
        text: String::new(),
        fingerprint: Fingerprint(Digest::of(b"")),
        parameters: Vec::new(),
    })
}

fn connect(actions: &BTreeSet<Action>, context: RawContext) -> Result<Facts, String> {
    match (actions.len(), context.address, context.port) {
        (1, Some(address), Some(port)) => Ok(Facts::Connect(ConnectFacts { address, port })),
        (1, _, _) => Err("connect needs context.address and context.port".into()),
        _ => Err("connect goes with no other action".into()),
    }
}

fn mcp(actions: &BTreeSet<Action>, context: RawContext) -> Result<Facts, String> {
    if actions.len() > 1 {
        return Err("a message of MCP is one action".into());
    }
    let RawMcp {
        method,
        tool,
        uri,
        prompt,
    } = context.mcp;
    let input = serde_json::to_value(context.input).map_err(|error| format!("context.input: {error}"))?;
    Ok(Facts::Mcp(McpFacts {
        method,
        tool,
        uri,
        prompt,
        input: crate::json::facts(&input).map_err(|error| format!("context.input: {error}"))?,
    }))
}

fn llm(actions: &BTreeSet<Action>, context: RawContext) -> Result<Facts, String> {
    if actions.len() > 1 {
        return Err("a prompt is one action".into());
    }
    let RawLlm {
        api,
        endpoint,
        model,
        tools,
        findings,
        bytes,
        attachments,
        stored,
    } = context.llm;
    let usage = context.usage.map(RawUsage::usage);
    Ok(Facts::Llm(LlmFacts {
        api,
        endpoint,
        model,
        tools,
        findings,
        bytes,
        attachments,
        stored,
        usage,
    }))
}

fn http(actions: &BTreeSet<Action>, context: RawContext) -> Result<HttpFacts, String> {
    if !actions.iter().all(|action| action.groups().contains(&"http")) {
        return Err("actions of HTTP go with no other".into());
    }
    let RawHttp {
        method,
        host,
        path,
        query,
        headers,
        content_type,
        tls,
        body_bytes,
        body_read,
    } = context.http;
    let input = serde_json::to_value(context.input).map_err(|error| format!("context.input: {error}"))?;
    let said = input.as_object().is_some_and(|members| !members.is_empty());
    let input = said.then(|| crate::json::facts(&input)).transpose();
    let input = input.map_err(|error| format!("context.input: {error}"))?;
    let usual = match actions.first() {
        Some(Action::HttpWrite) => "POST",
        Some(Action::HttpDelete) => "DELETE",
        Some(Action::HttpOther) => "PROPFIND",
        _ => "GET",
    };
    let tls = tls.unwrap_or(true);
    Ok(HttpFacts {
        method: method.unwrap_or_else(|| usual.into()),
        host: host.unwrap_or_else(|| "localhost".into()),
        port: context.port.unwrap_or(if tls { 443 } else { 80 }),
        tls,
        path: path.unwrap_or_else(|| "/".into()),
        query,
        headers,
        content_type: content_type.unwrap_or_default(),
        body_bytes: body_bytes.unwrap_or(0),
        body: super::case_names::body(body_read, body_bytes),
        input,
    })
}

fn sql(actions: &BTreeSet<Action>, context: RawContext) -> Result<SqlFacts, String> {
    let RawContext {
        kinds,
        tables,
        columns,
        functions,
        bounded,
        in_transaction,
        database,
        statements,
        address,
        port,
        http,
        mcp,
        input,
        llm,
        usage,
        dns,
        now: _,
        approval: _,
    } = context;
    if address.is_some() || port.is_some() {
        return Err("context.address and context.port are those of connect".into());
    }
    if http != RawHttp::default() {
        return Err("context.http is that of http.*".into());
    }
    let other = mcp != RawMcp::default()
        || !input.is_empty()
        || llm != RawLlm::default()
        || usage.is_some()
        || dns != RawDns::default();
    if other {
        return Err(
            "context.mcp is that of mcp.*, context.input that of mcp.* and http.*, context.llm and context.usage those of llm.*, context.dns that of dns.resolve".into(),
        );
    }
    let table = |name: &String| match name.split_once('.') {
        Some((schema, name)) => TableName {
            schema: Some(schema.to_owned()),
            name: name.to_owned(),
        },
        None => TableName {
            schema: None,
            name: name.clone(),
        },
    };
    let unbounded = [Action::SqlUpdateAll, Action::SqlDeleteAll];
    let first = StatementFacts {
        kind: StatementKind("SELECT"),
        actions: actions.clone(),
        reads: tables.iter().map(table).collect(),
        writes: BTreeSet::new(),
        columns,
        functions,
        bounded: bounded.unwrap_or(!unbounded.iter().any(|action| actions.contains(action))),
    };
    // Kinds are names of the program itself elsewhere. A case file is read once in the life of a command.
    let mut kinds: Vec<&'static str> = kinds.into_iter().map(|kind| &*kind.leak()).collect();
    if kinds.is_empty() {
        kinds.push("SELECT");
    }
    let count = statements.unwrap_or(kinds.len());
    if count < kinds.len() || count > 1000 {
        return Err(format!(
            "context.statements is {count}: write {} (one for each kind) to 1000",
            kinds.len()
        ));
    }
    let statement = |kind: &'static str| StatementFacts {
        kind: StatementKind(kind),
        ..first.clone()
    };
    let statements = kinds.iter().copied().cycle().take(count).map(statement).collect();
    Ok(SqlFacts {
        statements,
        database: database.unwrap_or_else(|| "postgres".into()),
        in_transaction: in_transaction.unwrap_or(false),
    })
}

fn expected(raw: RawExpect) -> Result<Expected, String> {
    let RawExpect {
        outcome,
        policies,
        approvers,
        min_approvals,
        hold,
        reveals,
        reasons,
        max_rows,
        max_time,
        masks,
        restores,
    } = raw;
    let answer = Answer::from_name(&outcome)
        .ok_or_else(|| format!("{outcome:?} is no outcome: write \"allow\", \"deny\" or \"hold\""))?;
    let of_hold = approvers.is_some() || min_approvals.is_some() || hold.is_some();
    if answer != Answer::Hold && of_hold {
        return Err("approvers, min_approvals and hold are expected of the outcome \"hold\"".into());
    }
    let lists = [&reveals, &masks, &restores];
    let of_allow = lists.iter().any(|list| list.is_some()) || max_rows.is_some() || max_time.is_some();
    if answer != Answer::Allow && of_allow {
        return Err(
            "reveals, max_rows, max_time, masks and restores are expected of the outcome \"allow\"".into(),
        );
    }
    let time = |text: Option<String>| match text {
        None => Ok(None),
        Some(text) => duration(&text).map(Some).map_err(|wrong| wrong.to_string()),
    };
    let class = |name: &String| name.parse::<DataClass>().map_err(|error| error.to_string());
    let classes =
        |names: Option<Vec<String>>| names.map(|names| names.iter().map(class).collect()).transpose();
    Ok(Expected {
        answer,
        policies: policies.map(|ids| ids.iter().map(|id| PolicyId::new(id.as_str())).collect()),
        approvers: approvers.as_deref().map(groups),
        min_approvals,
        hold: time(hold)?,
        reveals: classes(reveals)?,
        masks: classes(masks)?,
        restores: classes(restores)?,
        reasons,
        max_rows,
        max_time: time(max_time)?,
    })
}
