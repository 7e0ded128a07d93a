// A client on the official TypeScript SDK and its package for tasks (ext-tasks), which waits until a task is done. Prints the
// names of the tools, then calls what each line of input names ({"tool", "arguments"}), and prints each state of its task as
// {"task"}, then the result, or how it ended. Arguments: URL, directory of node_modules.
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const [url, modules] = process.argv.slice(2);
const need = (name) => import(pathToFileURL(`${modules}/@modelcontextprotocol/${name}`));
const { Client, StreamableHTTPClientTransport } = await need("client/dist/index.mjs");
const { createTaskSessionFromClient } = await need("ext-tasks/dist/client/index.js");

const say = (value) => console.log(JSON.stringify(value));
const protocolVersion = "2026-07-28";
const clientInfo = { name: "test", version: "2.0.0" };
const clientCapabilities = { extensions: { "io.modelcontextprotocol/tasks": {} } };
const client = new Client(clientInfo, {
  capabilities: clientCapabilities,
  versionNegotiation: { mode: { pin: protocolVersion } },
});
await client.connect(new StreamableHTTPClientTransport(new URL(url)));
say({ tools: (await client.listTools()).tools.map((tool) => tool.name) });

// The package leaves the sending to its host.
let id = 1000;
async function rawDispatch(request) {
  const { name, taskId } = request.params;
  const headers = {
    accept: "application/json, text/event-stream",
    "content-type": "application/json",
    "mcp-protocol-version": protocolVersion,
    "mcp-method": request.method,
    "mcp-name": name ?? taskId,
  };
  id += 1;
  const body = JSON.stringify({ jsonrpc: "2.0", id, ...request });
  const text = await (await fetch(url, { method: "POST", headers, body })).text();
  const events = text.split("\n").filter((line) => line.startsWith("data: {"));
  const message = JSON.parse(text.startsWith("{") ? text : events.at(-1).slice("data: ".length));
  return message.error ? { kind: "error", error: message.error } : { kind: "result", result: message.result };
}
const session = createTaskSessionFromClient(client, {
  endpointId: url,
  rawDispatch,
  v2RequestFraming: { protocolVersion, clientInfo, clientCapabilities },
});
for await (const line of createInterface({ input: process.stdin })) {
  const { tool, arguments: input } = JSON.parse(line);
  try {
    const onEvent = ({ type, task }) => type === "task" && say({ task });
    const { outcome } = await (await session.callTool(tool, input)).settle({ onEvent });
    const { status, result, error } = outcome;
    say(status === "completed" ? result : { ended: status, error: error?.message, code: error?.code });
  } catch (error) {
    say({ error: error.message });
  }
}
await session.close();
await client.close();
