//! A client on the official Rust SDK: as `tests/adapters/mcp_client_v2.py`. Prints the names of the tools, then does what
//! each line of input asks for (`{"tool", "arguments"}` or `{"resource"}`) and prints what came of it. What it is asked
//! (elicitation) is printed as `{"asked"}`; the next line of input is the answer. Arguments: URL, revision, and "elicit"
//! where it can be asked.

use std::error::Error;

use rmcp::model::{
    CallToolRequestParams, ClientCapabilities, ClientInfo, ElicitRequestParams, ElicitResult,
    ElicitationCapability, ErrorData, FormElicitationCapability, Implementation,
    LoggingMessageNotificationParam, ProtocolVersion, ReadResourceRequestParams,
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
    fn get_info(&self) -> ClientInfo {
        let mut can = ClientCapabilities::default();
        if self.can_be_asked {
            let form = FormElicitationCapability::default();
            can.elicitation = Some(ElicitationCapability::new().with_form(form));
        }
        ClientInfo::new(can, Implementation::new("rust", "1.0.0"))
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

async fn answer(client: &RunningService<RoleClient, Person>, what: &Value) -> Result<Value, ServiceError> {
    let done = if let Some(tool) = what["tool"].as_str() {
        let mut call = CallToolRequestParams::new(tool.to_owned());
        call.arguments = what["arguments"].as_object().cloned();
        serde_json::to_value(client.call_tool(call).await?)
    } else {
        let uri = what["resource"].as_str().unwrap_or_default();
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
        return Err("arguments: URL REVISION [elicit]".into());
    };
    let lifecycle = match revision.as_str() {
        "2026-07-28" => ClientLifecycleMode::Discover {
            preferred_versions: vec![ProtocolVersion::V_2026_07_28],
        },
        _ => ClientLifecycleMode::Initialize,
    };
    let person = Person {
        input: Mutex::new(BufReader::new(tokio::io::stdin()).lines()),
        can_be_asked: !more.is_empty(),
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
