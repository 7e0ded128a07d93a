//! A client on the official Rust SDK: as `tests/adapters/mcp_client_v2.py`. Prints the names of the tools, then does what
//! each line of input asks for and prints what came of it: `{"tool", "arguments"}`, `{"resource"}`, and with the extension
//! for tasks `{"get"}`, `{"cancel"}` and `{"update", "responses"}` of a task by its id; `{"listen": [URI…]}` prints what was
//! agreed to, and from then on each notification as `{"heard"}`. What it is asked (elicitation) is printed as `{"asked"}`; the
//! next line of input is the answer. Arguments: URL, revision, and what it can: "elicit", "tasks".
#![expect(deprecated, reason = "servers up to revision 2025-11-25 send logs")]

use std::error::Error;

use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CancelTaskParams, ClientCapabilities, ClientConfig,
    ElicitRequestParams, ElicitResult, ElicitationCapability, ErrorData, FormElicitationCapability,
    GetTaskParams, Implementation, LoggingMessageNotificationParam, ProtocolVersion,
    ReadResourceRequestParams, SubscriptionFilter, TASKS_EXTENSION_ID, UpdateTaskParams,
};
use rmcp::service::{
    ClientLifecycleMode, NotificationContext, RequestContext, RunningService, ServiceError,
    serve_client_with_lifecycle,
};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::{ClientHandler, RoleClient};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines, Stdin};
use tokio::sync::Mutex;

/// Who asks and prints.
struct Person {
    input: Mutex<Lines<BufReader<Stdin>>>,
    can_be_asked: bool,
    has_tasks: bool,
}

impl Person {
    async fn line(&self) -> Option<Value> {
        let line = self.input.lock().await.next_line().await.ok()??;
        serde_json::from_str(&line).ok()
    }
}

#[expect(clippy::print_stdout, reason = "that is what it is for")]
fn say(value: &Value) {
    println!("{value}");
}

impl ClientHandler for Person {
    fn get_info(&self) -> ClientConfig {
        let mut can = ClientCapabilities::default();
        if self.can_be_asked {
            let form = FormElicitationCapability::default();
            can.elicitation = Some(ElicitationCapability::new().with_form(form));
        }
        if self.has_tasks {
            can.extensions = Some([(TASKS_EXTENSION_ID.to_owned(), serde_json::Map::new())].into());
        }
        ClientConfig::new(can, Implementation::new("rust", "1.0.0"))
    }

    async fn create_elicitation(
        &self,
        request: ElicitRequestParams,
        _context: RequestContext<RoleClient>,
    ) -> Result<ElicitResult, ErrorData> {
        say(&json!({ "asked": request }));
        let answer = self.line().await.unwrap_or_default();
        serde_json::from_value(answer).map_err(|error| ErrorData::internal_error(error.to_string(), None))
    }

    async fn on_logging_message(
        &self,
        said: LoggingMessageNotificationParam,
        _context: NotificationContext<RoleClient>,
    ) {
        say(&json!({ "said": said.data }));
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a program of its own: whoever listens goes on beside the input"
)]
async fn answer(client: &RunningService<RoleClient, Person>, what: &Value) -> Result<Value, ServiceError> {
    let text = |name: &str| what[name].as_str().map(str::to_owned);
    let done = if let Some(tool) = text("tool") {
        let mut call = CallToolRequestParams::new(tool);
        call.arguments = what["arguments"].as_object().cloned();
        if client.service().has_tasks {
            match client.call_tool_once(call).await? {
                CallToolResponse::Task(task) => serde_json::to_value(task),
                CallToolResponse::Complete(done) => serde_json::to_value(done),
                CallToolResponse::InputRequired(asks) => serde_json::to_value(asks),
                other => Ok(json!(format!("{other:?}"))),
            }
        } else {
            serde_json::to_value(client.call_tool(call).await?)
        }
    } else if let Some(id) = text("get") {
        serde_json::to_value(client.get_task(GetTaskParams::new(id)).await?)
    } else if let Some(id) = text("cancel") {
        client.cancel_task(CancelTaskParams::new(id)).await?;
        Ok(json!({"cancelled": true}))
    } else if let Some(id) = text("update") {
        let responses = serde_json::from_value(what["responses"].clone()).unwrap_or_default();
        client.update_task(UpdateTaskParams::new(id, responses)).await?;
        Ok(json!({"updated": true}))
    } else if let Some(uris) = what["listen"].as_array() {
        let uris = uris.iter().filter_map(Value::as_str);
        let wanted = SubscriptionFilter::builder()
            .tools_list_changed()
            .resource_subscriptions(uris)
            .build();
        let mut heard = client.listen(wanted).await?;
        let agreed = serde_json::to_value(heard.acknowledged());
        tokio::spawn(async move {
            while let Ok(Some(one)) = heard.next().await {
                say(&json!({"heard": one}));
            }
            say(&json!({"ended": true}));
        });
        Ok(json!({"agreed": agreed.unwrap_or_default()}))
    } else {
        let uri = text("resource").unwrap_or_default();
        serde_json::to_value(client.read_resource(ReadResourceRequestParams::new(uri)).await?)
    };
    Ok(done.unwrap_or_default())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    // A process has one choice of cryptography; nobody else makes it here.
    drop(rustls::crypto::ring::default_provider().install_default());
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [url, revision, more @ ..] = words.as_slice() else {
        return Err("arguments: URL REVISION [elicit] [tasks]".into());
    };
    let lifecycle = match revision.as_str() {
        "2026-07-28" => ClientLifecycleMode::Discover {
            preferred_versions: vec![ProtocolVersion::V_2026_07_28],
        },
        _ => ClientLifecycleMode::Initialize,
    };
    let person = Person {
        input: Mutex::new(BufReader::new(tokio::io::stdin()).lines()),
        can_be_asked: more.iter().any(|word| word == "elicit"),
        has_tasks: more.iter().any(|word| word == "tasks"),
    };
    let transport = StreamableHttpClientTransport::from_uri(url.as_str());
    let client = serve_client_with_lifecycle(person, transport, lifecycle).await?;
    let tools = client.list_all_tools().await?;
    let names: Vec<&str> = tools.iter().map(|tool| tool.name.as_ref()).collect();
    say(&json!({ "tools": names }));
    loop {
        let Some(what) = client.service().line().await else {
            break;
        };
        say(&match answer(&client, &what).await {
            Ok(done) => done,
            Err(ServiceError::McpError(error)) => json!({"error": error.message, "code": error.code}),
            Err(error) => json!({"error": error.to_string()}),
        });
    }
    client.cancel().await?;
    Ok(())
}
