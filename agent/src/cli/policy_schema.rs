//! `interdict policy schema`: the arguments of MCP tools as a schema, from a server, or from what the agent saw.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use crate::inventory::{FILE, Inventory};
use crate::policy::{Engine, PolicySource, tools_schema};

use super::output::say;
use super::{Failure, OK, Outcome};

/// How long a server may take for everything.
const TIME_LIMIT: Duration = Duration::from_secs(60);
/// Largest answer, in bytes.
const MAX_ANSWER: usize = 16 * 1024 * 1024;
/// Most pages of a list.
const MAX_PAGES: usize = 100;

const EXAMPLES: &str = "\
Examples:
  sudo interdict policy schema > policies/tools.cedarschema
  interdict policy schema --target tools --mcp https://tools.internal/mcp
  interdict policy schema --target tools -- npx my-mcp-server
  interdict policy check --policies policies";

/// Tools by target and name, each with its input schema.
type Tools = BTreeMap<String, BTreeMap<String, Value>>;

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct SchemaArgs {
    /// Ask this server (Streamable HTTP).
    #[arg(long, value_name = "URL", requires = "target", conflicts_with = "command")]
    mcp: Option<String>,
    /// The target as the configuration names it; of what was seen, only its tools.
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
    /// Where the agent keeps what it saw.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/interdict")]
    state_dir: PathBuf,
    /// Start this server and ask it over its standard input and output.
    #[arg(last = true, value_name = "COMMAND", requires = "target")]
    command: Vec<String>,
}

pub(super) fn run(args: SchemaArgs) -> Outcome {
    let failed = |what: String| Failure::new(what, "Without --mcp and COMMAND, what the agent saw is used.");
    let tools = match (&args.mcp, args.command.is_empty()) {
        (None, true) => seen(&args)?,
        (url, _) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| failed(error.to_string()))?;
            let asking = async {
                match url {
                    Some(url) => Box::pin(listed(Way::url(url)?)).await,
                    None => Box::pin(listed(Way::command(&args.command)?)).await,
                }
            };
            let listed = runtime.block_on(async { tokio::time::timeout(TIME_LIMIT, asking).await });
            let late = || {
                failed(format!(
                    "the server did not answer within {} s",
                    TIME_LIMIT.as_secs()
                ))
            };
            let listed = listed.map_err(|_elapsed| late())?.map_err(failed)?;
            BTreeMap::from([(args.target.unwrap_or_default(), listed)])
        }
    };
    let text = tools_schema(&tools);
    // What is printed is good for `policy check`.
    let source = PolicySource {
        file: "tools.cedarschema".into(),
        text: text.clone(),
    };
    Engine::load(&[source], &[].into()).map_err(|wrong| {
        Failure::new(
            format!("the schema of these tools cannot be used: {wrong}"),
            "Report it.",
        )
    })?;
    say(text.trim_end());
    Ok(OK)
}

/// What the agent saw.
fn seen(args: &SchemaArgs) -> Result<Tools, Failure> {
    let file = args.state_dir.join(FILE);
    let hint = "Give --state-dir, or ask a server: --mcp URL, or -- COMMAND.";
    if !file.exists() {
        let message = format!("no tools were seen yet: there is no {}", file.display());
        return Err(Failure::new(message, hint));
    }
    let all = Inventory::open(&file).and_then(|inventory| inventory.all());
    let all = all.map_err(|error| Failure::new(error.to_string(), hint))?;
    let mut tools = Tools::new();
    for tool in all {
        if args.target.as_ref().is_none_or(|target| *target == tool.target) {
            let said: Value = serde_json::from_str(&tool.seen).unwrap_or_default();
            let schema = said.get("inputSchema").cloned().unwrap_or_default();
            tools.entry(tool.target).or_default().insert(tool.name, schema);
        }
    }
    Ok(tools)
}

fn initialize() -> Value {
    json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {},
        "clientInfo": {"name": "interdict", "version": env!("CARGO_PKG_VERSION")},
    }})
}

fn initialized() -> Value {
    json!({"jsonrpc": "2.0", "method": "notifications/initialized"})
}

fn list(page: usize, cursor: Option<&Value>) -> Value {
    let params = cursor.map_or_else(|| json!({}), |cursor| json!({"cursor": cursor}));
    json!({"jsonrpc": "2.0", "id": page + 1, "method": "tools/list", "params": params})
}

/// Adds a page; the cursor of the next.
fn add(answer: &Value, tools: &mut BTreeMap<String, Value>) -> Result<Option<Value>, String> {
    let result = answer.get("result").ok_or_else(|| {
        let why = answer
            .pointer("/error/message")
            .and_then(Value::as_str)
            .unwrap_or("no result");
        format!("the server does not list its tools: {why}")
    })?;
    for tool in result
        .get("tools")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        if let Some(name) = tool.get("name").and_then(Value::as_str) {
            tools.insert(
                name.to_owned(),
                tool.get("inputSchema").cloned().unwrap_or_default(),
            );
        }
    }
    Ok(result
        .get("nextCursor")
        .filter(|cursor| cursor.is_string())
        .cloned())
}

/// A way to a server: sends a message, and gives the answer to a request (to a notification: null).
enum Way {
    Command {
        // Ended when it is dropped.
        _child: tokio::process::Child,
        input: tokio::process::ChildStdin,
        lines: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
    },
    Url {
        url: String,
        client: Client<Connector, Full<Bytes>>,
        session: Option<hyper::header::HeaderValue>,
    },
}

type Connector = hyper_rustls::HttpsConnector<hyper_util::client::legacy::connect::HttpConnector>;

/// Lists all tools.
async fn listed(mut way: Way) -> Result<BTreeMap<String, Value>, String> {
    let _introduced = way.ask(&initialize()).await?;
    let _nothing = way.ask(&initialized()).await?;
    let (mut tools, mut cursor) = (BTreeMap::new(), None);
    for page in 0..MAX_PAGES {
        let answer = way.ask(&list(page, cursor.as_ref())).await?;
        cursor = add(&answer, &mut tools)?;
        if cursor.is_none() {
            return Ok(tools);
        }
    }
    Err(format!("the list has more than {MAX_PAGES} pages"))
}

fn is_answer(said: &Value, id: &Value) -> bool {
    said.get("id") == Some(id) && said.get("method").is_none()
}

impl Way {
    fn command(command: &[String]) -> Result<Self, String> {
        let (program, arguments) = command.split_first().ok_or("no command")?;
        let mut child = tokio::process::Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{program} cannot be started: {error}"))?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(input), Some(output)) => Ok(Self::Command {
                _child: child,
                input,
                lines: BufReader::new(output).lines(),
            }),
            _ => Err("it has no standard input or output".into()),
        }
    }

    fn url(url: &str) -> Result<Self, String> {
        let mut roots = rustls::RootCertStore::empty();
        let _counts = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(config)
            .https_or_http()
            .enable_http1()
            .build();
        Ok(Self::Url {
            url: url.to_owned(),
            client: Client::builder(TokioExecutor::new()).build(connector),
            session: None,
        })
    }

    async fn ask(&mut self, message: &Value) -> Result<Value, String> {
        let id = message.get("id");
        match self {
            Self::Command { input, lines, .. } => {
                let line = format!("{message}\n");
                input
                    .write_all(line.as_bytes())
                    .await
                    .map_err(|error| error.to_string())?;
                let Some(id) = id else { return Ok(Value::Null) };
                while let Some(line) = lines.next_line().await.map_err(|error| error.to_string())? {
                    // What is no answer the server says on its own.
                    let said: Value = serde_json::from_str(&line).unwrap_or_default();
                    if is_answer(&said, id) {
                        return Ok(said);
                    }
                }
                Err("the server ended without an answer".into())
            }
            Self::Url { url, client, session } => {
                let body = Full::new(Bytes::from(message.to_string()));
                let mut request = hyper::Request::post(url.as_str())
                    .header("content-type", "application/json")
                    .header("accept", "application/json, text/event-stream");
                if let Some(session) = session.as_ref() {
                    request = request.header("mcp-session-id", session);
                }
                let request = request
                    .body(body)
                    .map_err(|error| format!("{url} is no URL: {error}"))?;
                let answer = client.request(request).await;
                let answer = answer.map_err(|error| format!("{url} cannot be reached: {error}"))?;
                if !answer.status().is_success() {
                    return Err(format!("{url} answers {}", answer.status()));
                }
                if let Some(given) = answer.headers().get("mcp-session-id") {
                    *session = Some(given.clone());
                }
                let Some(id) = id else { return Ok(Value::Null) };
                let whole = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
                let whole = whole
                    .map_err(|error| format!("{url} broke off: {error}"))?
                    .to_bytes();
                in_answer(&whole, id).ok_or_else(|| format!("{url} answers with something else than MCP"))
            }
        }
    }
}

/// The answer to a request in a body: JSON, or events.
fn in_answer(body: &[u8], id: &Value) -> Option<Value> {
    if let Ok(whole) = serde_json::from_slice(body) {
        return Some(whole);
    }
    let text = String::from_utf8_lossy(body).replace("\r\n", "\n");
    let events = text.split("\n\n").filter_map(|event| {
        let data: Vec<&str> = event
            .lines()
            .filter_map(|line| line.strip_prefix("data:"))
            .collect();
        serde_json::from_str(data.join("\n").trim()).ok()
    });
    events.into_iter().find(|said: &Value| is_answer(said, id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_found_in_bodies_and_streams() {
        let answer =
            json!({"id": 1, "result": {"tools": [{"name": "a", "inputSchema": {"type": "object"}}]}});
        let stream = format!(": hello\n\ndata: {{\"method\":\"x\"}}\n\nevent: message\ndata: {answer}\n\n");
        for body in [answer.to_string(), stream] {
            let found = in_answer(body.as_bytes(), &json!(1)).expect("found");
            let mut tools = BTreeMap::new();
            assert_eq!(add(&found, &mut tools), Ok(None));
            assert_eq!(tools["a"], json!({"type": "object"}));
        }
        assert_eq!(in_answer(b"data: {\"id\": 2}\n\n", &json!(1)), None);
        let error = json!({"id": 1, "error": {"message": "no such method"}});
        assert!(
            add(&error, &mut BTreeMap::new())
                .expect_err("an error")
                .contains("no such method")
        );
    }
}
