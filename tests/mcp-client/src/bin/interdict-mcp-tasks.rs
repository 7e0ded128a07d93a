//! A server on the official Rust SDK that makes a task of each call (`io.modelcontextprotocol/tasks`, revision 2026-07-28),
//! over HTTP without TLS. Argument: a file for the log, one line for each call. The first line of output is the port.

use std::borrow::Cow;
use std::error::Error;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, CancelTaskParams, CreateTaskResult, ErrorData,
    GetTaskParams, GetTaskResult, ListToolsResult, PaginatedRequestParams, ProtocolVersion,
    ServerCapabilities, ServerConfig, Tool, UpdateTaskParams,
};
use rmcp::service::RequestContext;
use rmcp::task_manager::{TaskContext, TaskExit, TaskManager, TaskOptions};
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp::{RoleServer, ServerHandler};
use serde_json::{Value, json};

#[derive(Clone)]
struct Server {
    tasks: TaskManager,
    log: PathBuf,
}

fn result(value: Value) -> Result<CallToolResult, TaskExit> {
    serde_json::from_value(value)
        .map_err(|error| TaskExit::Error(ErrorData::internal_error(error.to_string(), None)))
}

/// What a task does.
async fn work(tool: String, input: Value, task: TaskContext) -> Result<CallToolResult, TaskExit> {
    let said = match tool.as_str() {
        "lookup" => "Ada <ada@example.com>".to_owned(),
        "ask" => {
            let form = json!({"type": "object", "properties": {"yes": {"type": "boolean"}}});
            let message =
                json!({"role": "user", "content": {"type": "text", "text": "Who is ada@example.com?"}});
            let question = match input["what"].as_str() {
                Some("sampling") => {
                    json!({"method": "sampling/createMessage", "params": {"messages": [message], "maxTokens": 9}})
                }
                _ => json!({"method": "elicitation/create", "params": {
                    "mode": "form", "message": "Is it ada@example.com?", "requestedSchema": form,
                }}),
            };
            let question = serde_json::from_value(question)
                .map_err(|error| TaskExit::Error(ErrorData::internal_error(error.to_string(), None)))?;
            let answer = task.request_input("question", question).await?;
            format!("answered {answer}")
        }
        tool => format!("{tool} {}", input["id"]),
    };
    let content = json!([{"type": "text", "text": said}]);
    result(json!({"content": content, "structuredContent": {"email": "ada@example.com"}, "isError": false}))
}

impl ServerHandler for Server {
    fn supported_protocol_versions(&self) -> Cow<'static, [ProtocolVersion]> {
        Cow::Borrowed(&[ProtocolVersion::V_2026_07_28])
    }

    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(
            ServerCapabilities::builder()
                .enable_tools()
                .enable_tasks()
                .build(),
        )
    }

    async fn list_tools(
        &self,
        _page: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let schema = json!({"type": "object"}).as_object().cloned().unwrap_or_default();
        let tool = |name| Tool::new(name, "A tool.", Arc::new(schema.clone()));
        Ok(ListToolsResult::with_all_items(
            ["lookup", "remove", "ask"].map(tool).into(),
        ))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let (tool, input) = (
            request.name.to_string(),
            Value::from(request.arguments.unwrap_or_default()),
        );
        let line = format!("{}\n", json!({"tool": tool, "input": input}));
        OpenOptions::new()
            .append(true)
            .open(&self.log)
            .and_then(|mut log| log.write_all(line.as_bytes()))
            .map_err(|error| ErrorData::internal_error(error.to_string(), None))?;
        let task = self
            .tasks
            .spawn(TaskOptions::new(), move |task| Box::pin(work(tool, input, task)));
        Ok(CallToolResponse::Task(CreateTaskResult::new(task)))
    }

    async fn get_task(
        &self,
        request: GetTaskParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<GetTaskResult, ErrorData> {
        Ok(GetTaskResult::new(self.tasks.get_task(&request.task_id)?))
    }

    async fn update_task(
        &self,
        request: UpdateTaskParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.tasks.update_task(&request.task_id, request.input_responses)
    }

    async fn cancel_task(
        &self,
        request: CancelTaskParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.tasks.cancel_task(&request.task_id)
    }
}

#[tokio::main(flavor = "current_thread")]
#[expect(
    clippy::disallowed_methods,
    reason = "a program of its own: one task for each connection"
)]
#[expect(clippy::print_stdout, reason = "whoever started it reads the port")]
async fn main() -> Result<(), Box<dyn Error>> {
    let log = std::env::args().nth(1).ok_or("argument: LOG")?;
    let server = Server {
        tasks: TaskManager::new(),
        log: log.into(),
    };
    let service: StreamableHttpService<Server, LocalSessionManager> = StreamableHttpService::new(
        move || Ok(server.clone()),
        Arc::default(),
        StreamableHttpServerConfig::default(),
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?.port());
    loop {
        let (connection, _from) = listener.accept().await?;
        let service = TowerToHyperService::new(service.clone());
        tokio::spawn(async move {
            let served = Builder::new(TokioExecutor::new());
            // Who goes away in between is gone.
            drop(served.serve_connection(TokioIo::new(connection), service).await);
        });
    }
}
