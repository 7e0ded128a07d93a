//! From the model's words to Cedar's.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::str::FromStr;

use cedar_policy::{
    Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, Request, RestrictedExpression as Value,
    Schema,
};

use crate::approval::Consent;
use crate::model::{
    DataClass, DnsFacts, Document, Facts, Group, HttpBody, HttpFacts, LlmFacts, McpFacts, Operation,
    Principal, PrincipalKind, Spent, SqlFacts, Target, Timestamp,
};

/// Something could not be said in Cedar's words; the answer is then no.
pub(super) type Unsayable = String;

pub(super) fn uid(kind: &str, id: &str) -> Result<EntityUid, Unsayable> {
    let kind = EntityTypeName::from_str(kind).map_err(|error| error.to_string())?;
    Ok(EntityUid::from_type_name_and_id(kind, EntityId::new(id)))
}

pub(super) fn principal_uid(principal: &Principal) -> Result<EntityUid, Unsayable> {
    match principal.kind {
        PrincipalKind::User => uid("User", &principal.key()),
        PrincipalKind::Workload => uid("Workload", &principal.key()),
    }
}

/// Principal, target, groups, environment and data classes with their families; the schema adds the tree of actions.
pub(super) fn entities(
    principal: &Principal,
    target: &Target,
    classes: &BTreeSet<DataClass>,
    schema: &Schema,
) -> Result<Entities, Unsayable> {
    let text = |s: &str| Value::new_string(s.to_owned());
    let mut all = Vec::new();
    let mut groups = HashSet::new();
    for group in &principal.groups {
        // A plain name with a slash could be taken for another issuer's: it counts under its own issuer's name only.
        if !group.as_str().contains('/') {
            groups.insert(uid("Group", group.as_str())?);
        }
        if let Some(issuer) = &principal.issuer {
            groups.insert(uid("Group", &format!("{issuer}/{group}"))?);
        }
    }
    let mut attributes = HashMap::from([("subject".to_owned(), text(&principal.subject))]);
    if principal.kind == PrincipalKind::User {
        attributes.insert(
            "issuer".into(),
            text(principal.issuer.as_ref().map_or("", |i| i.as_str())),
        );
        attributes.insert("display".into(), text(&principal.display));
    }
    let new = |uid, attributes, parents| Entity::new(uid, attributes, parents).map_err(|e| e.to_string());
    all.push(new(principal_uid(principal)?, attributes, groups)?);
    let labels = target.labels.iter().map(|(k, v)| text(&format!("{k}={v}")));
    let attributes = HashMap::from([
        ("name".to_owned(), text(&target.name.0)),
        ("environment".to_owned(), text(&target.environment.0)),
        ("protocol".to_owned(), text(target.protocol.name())),
        ("configured".to_owned(), Value::new_bool(target.configured)),
        ("labels".to_owned(), Value::new_set(labels)),
    ]);
    let environment = HashSet::from([uid("Environment", &target.environment.0)?]);
    all.push(new(uid("Target", &target.name.0)?, attributes, environment)?);
    let mut named = BTreeSet::new();
    for class in classes {
        let mut name = class.as_str();
        while named.insert(name) {
            let family = name.rsplit_once('.').map(|(family, _)| family);
            let parents = family
                .map(|f| uid("DataClass", f))
                .transpose()?
                .into_iter()
                .collect();
            all.push(new(uid("DataClass", name)?, HashMap::new(), parents)?);
            match family {
                Some(family) => name = family,
                None => break,
            }
        }
    }
    Entities::from_entities(all, Some(schema)).map_err(|error| error.to_string())
}

/// What approval the context speaks of.
#[derive(Clone, Copy)]
pub(super) enum Word<'a> {
    /// Consent that was given.
    Given(&'a Consent),
    /// Consent that nobody has given, by members of these groups: for the question whether asking can help.
    Imagined(&'a BTreeSet<Group>),
}

/// The context of an operation.
pub(super) fn context(
    operation: &Operation,
    word: Option<Word<'_>>,
    now: Option<Timestamp>,
) -> Result<Context, Unsayable> {
    let mut pairs = match &operation.facts {
        Facts::Sql(facts) => vec![("sql".to_owned(), sql(facts)?)],
        Facts::Connect(connect) => vec![
            ("address".to_owned(), Value::new_ip(connect.address.to_string())),
            ("port".to_owned(), Value::new_long(connect.port.into())),
        ],
        Facts::Http(facts) => {
            let mut pairs = vec![("http".to_owned(), http(facts, false)?)];
            if let Some(document) = &facts.input {
                pairs.push(("input".to_owned(), input(document)?));
            }
            pairs
        }
        Facts::Mcp(facts) => vec![
            ("mcp".to_owned(), mcp(facts)?),
            ("input".to_owned(), input(&facts.input)?),
        ],
        Facts::Llm(facts) => {
            let mut pairs = vec![("llm".to_owned(), llm(facts)?)];
            if let Some(spent) = &facts.usage {
                pairs.push(("usage".to_owned(), usage(&spent.hour)?));
            }
            pairs
        }
        Facts::Dns(facts) => vec![("dns".to_owned(), dns(facts)?)],
    };
    pairs.extend(time(now));
    if let Some(word) = word {
        let (groups, approvers, ticket) = match word {
            Word::Given(consent) => {
                let approvers: Vec<&str> = consent.approvers().iter().map(|a| a.principal.as_str()).collect();
                (consent.groups(), approvers, consent.ticket().to_string())
            }
            Word::Imagined(groups) => (groups.clone(), Vec::new(), String::new()),
        };
        let fields = [
            ("groups".to_owned(), strings(groups.iter().map(Group::as_str))),
            ("approvers".to_owned(), strings(approvers)),
            ("ticket".to_owned(), Value::new_string(ticket)),
        ];
        let approval = Value::new_record(fields).map_err(|error| error.to_string())?;
        pairs.push(("approval".to_owned(), approval));
    }
    Context::from_pairs(pairs).map_err(|error| error.to_string())
}

/// The context of seeing data.
pub(super) fn reveal_context(target: &Target, now: Option<Timestamp>) -> Result<Context, Unsayable> {
    let mut pairs = vec![
        ("target".to_owned(), Value::new_string(target.name.to_string())),
        (
            "environment".to_owned(),
            Value::new_string(target.environment.to_string()),
        ),
    ];
    pairs.extend(time(now));
    Context::from_pairs(pairs).map_err(|error| error.to_string())
}

pub(super) fn request(
    principal: &Principal,
    action: &str,
    resource: EntityUid,
    context: Context,
) -> Result<Request, Unsayable> {
    let action = uid("Action", action)?;
    Request::new(principal_uid(principal)?, action, resource, context, None)
        .map_err(|error| error.to_string())
}

fn sql(facts: &SqlFacts) -> Result<Value, Unsayable> {
    let all = |pick: fn(&crate::model::StatementFacts) -> &BTreeSet<String>| {
        let names: BTreeSet<&str> = facts
            .statements
            .iter()
            .flat_map(pick)
            .map(String::as_str)
            .collect();
        strings(names)
    };
    let kinds: BTreeSet<&str> = facts.statements.iter().map(|s| s.kind.0).collect();
    let tables: BTreeSet<String> = facts.tables().into_iter().map(ToString::to_string).collect();
    let fields = [
        ("kinds".to_owned(), strings(kinds)),
        ("tables".to_owned(), strings(tables.iter().map(String::as_str))),
        ("columns".to_owned(), all(|s| &s.columns)),
        ("functions".to_owned(), all(|s| &s.functions)),
        ("bounded".to_owned(), Value::new_bool(facts.bounded())),
        ("in_transaction".to_owned(), Value::new_bool(facts.in_transaction)),
        ("database".to_owned(), Value::new_string(facts.database.clone())),
        (
            "statements".to_owned(),
            Value::new_long(i64::try_from(facts.statements.len()).unwrap_or(i64::MAX)),
        ),
    ];
    Value::new_record(fields).map_err(|error| error.to_string())
}

/// `whatever`: what is not known of the body is unknown to Cedar too.
pub(super) fn http(facts: &HttpFacts, whatever: bool) -> Result<Value, Unsayable> {
    let HttpFacts {
        method,
        host,
        port,
        tls,
        path,
        query,
        headers,
        content_type,
        body_bytes,
        body,
        input: _,
    } = facts;
    let text = |s: &str| Value::new_string(s.to_owned());
    let fields = [
        ("method".to_owned(), text(method)),
        ("host".to_owned(), text(host)),
        ("port".to_owned(), Value::new_long((*port).into())),
        ("tls".to_owned(), Value::new_bool(*tls)),
        ("path".to_owned(), text(path)),
        ("query".to_owned(), strings(query.iter().map(String::as_str))),
        ("headers".to_owned(), strings(headers.iter().map(String::as_str))),
        ("content_type".to_owned(), text(content_type)),
        (
            "body_bytes".to_owned(),
            if whatever && *body == HttpBody::Unknown {
                Value::new_unknown("body_bytes")
            } else {
                Value::new_long(i64::try_from(*body_bytes).unwrap_or(i64::MAX))
            },
        ),
        ("body_read".to_owned(), Value::new_bool(*body == HttpBody::Read)),
    ];
    Value::new_record(fields).map_err(|error| error.to_string())
}

fn mcp(facts: &McpFacts) -> Result<Value, Unsayable> {
    let McpFacts {
        method,
        tool,
        uri,
        prompt,
        input: _,
    } = facts;
    let text = |s: &str| Value::new_string(s.to_owned());
    let fields = [
        ("method".to_owned(), text(method)),
        ("tool".to_owned(), text(tool)),
        ("uri".to_owned(), text(uri)),
        ("prompt".to_owned(), text(prompt)),
    ];
    Value::new_record(fields).map_err(|error| error.to_string())
}

fn llm(facts: &LlmFacts) -> Result<Value, Unsayable> {
    let LlmFacts {
        api,
        endpoint,
        model,
        tools,
        findings,
        bytes,
        attachments,
        stored,
        usage: _,
    } = facts;
    let fields = [
        ("api".to_owned(), Value::new_string(api.clone())),
        ("endpoint".to_owned(), Value::new_string(endpoint.clone())),
        ("model".to_owned(), Value::new_string(model.clone())),
        ("tools".to_owned(), strings(tools.iter().map(String::as_str))),
        (
            "findings".to_owned(),
            strings(findings.iter().map(String::as_str)),
        ),
        (
            "bytes".to_owned(),
            Value::new_long(i64::try_from(*bytes).unwrap_or(i64::MAX)),
        ),
        ("attachments".to_owned(), Value::new_bool(*attachments)),
        ("stored".to_owned(), Value::new_bool(*stored)),
    ];
    Value::new_record(fields).map_err(|error| error.to_string())
}

fn usage(spent: &Spent) -> Result<Value, Unsayable> {
    let Spent {
        tokens,
        requests,
        model_tokens,
        model_requests,
    } = *spent;
    let fields = [
        ("tokens_hour", tokens),
        ("requests_hour", requests),
        ("model_tokens_hour", model_tokens),
        ("model_requests_hour", model_requests),
    ];
    let long = |n: u64| Value::new_long(i64::try_from(n).unwrap_or(i64::MAX));
    let fields = fields.map(|(name, n)| (name.to_owned(), long(n)));
    Value::new_record(fields).map_err(|error| error.to_string())
}

fn dns(facts: &DnsFacts) -> Result<Value, Unsayable> {
    let DnsFacts {
        name,
        kind,
        target,
        tcp,
    } = facts;
    let text = |s: &str| Value::new_string(s.to_owned());
    let fields = [
        ("name".to_owned(), text(name)),
        ("type".to_owned(), text(kind)),
        ("within".to_owned(), strings(facts.within())),
        (
            "labels".to_owned(),
            Value::new_long(i64::try_from(facts.labels()).unwrap_or(i64::MAX)),
        ),
        ("target".to_owned(), Value::new_bool(*target)),
        ("transport".to_owned(), text(if *tcp { "tcp" } else { "udp" })),
    ];
    Value::new_record(fields).map_err(|error| error.to_string())
}

/// The entities that carry a document's values: Cedar's records have fixed names, its tags have not.
const INPUT: &str = "input";

fn input(document: &Document) -> Result<Value, Unsayable> {
    let one = |kind| uid(kind, INPUT).map(Value::new_entity_uid);
    let fields = [
        ("text".to_owned(), one("Texts")?),
        ("number".to_owned(), one("Numbers")?),
        ("flag".to_owned(), one("Flags")?),
        ("list".to_owned(), one("Lists")?),
        (
            "names".to_owned(),
            strings(document.names.iter().map(String::as_str)),
        ),
    ];
    Value::new_record(fields).map_err(|error| error.to_string())
}

/// The entities that an operation's context speaks of.
pub(super) fn spoken_of(facts: &Facts) -> Result<Vec<Entity>, Unsayable> {
    let input = match facts {
        Facts::Mcp(facts) => &facts.input,
        Facts::Http(HttpFacts {
            input: Some(input), ..
        }) => input,
        Facts::Http(_) | Facts::Sql(_) | Facts::Connect(_) | Facts::Llm(_) | Facts::Dns(_) => {
            return Ok(Vec::new());
        }
    };
    let Document {
        texts,
        numbers,
        flags,
        lists,
        names: _,
    } = input;
    let text = |s: &String| Value::new_string(s.clone());
    let list = |all: &BTreeSet<String>| strings(all.iter().map(String::as_str));
    Ok(vec![
        tagged("Texts", texts.iter().map(|(path, s)| (path, text(s))))?,
        tagged(
            "Numbers",
            numbers.iter().map(|(path, n)| (path, Value::new_long(*n))),
        )?,
        tagged("Flags", flags.iter().map(|(path, b)| (path, Value::new_bool(*b))))?,
        tagged("Lists", lists.iter().map(|(path, all)| (path, list(all))))?,
    ])
}

fn tagged<'a>(kind: &str, tags: impl Iterator<Item = (&'a String, Value)>) -> Result<Entity, Unsayable> {
    let tags = tags.map(|(path, value)| (path.clone(), value));
    Entity::new_with_tags(uid(kind, INPUT)?, [], [], tags).map_err(|error| error.to_string())
}

fn strings<'a>(texts: impl IntoIterator<Item = &'a str>) -> Value {
    Value::new_set(texts.into_iter().map(|text| Value::new_string(text.to_owned())))
}

/// Milliseconds: the precision of Cedar's `datetime`. `None` where no policy reads it.
pub(super) fn time(now: Option<Timestamp>) -> Option<(String, Value)> {
    let now = now?;
    let millis = Timestamp::from_nanos(now.as_millis().saturating_mul(1_000_000));
    let text = millis.to_string();
    // Cedar wants `2024-10-15T11:38:02Z` or exactly three digits after the point.
    let seconds = text.get(..19).unwrap_or("1970-01-01T00:00:00");
    let shown = format!("{seconds}.{:03}Z", now.as_millis().rem_euclid(1000));
    Some(("now".to_owned(), Value::new_datetime(shown)))
}
