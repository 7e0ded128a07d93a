// The server that the conformance suite of MCP asks for: a tool, resource or prompt for each of its scenarios. Streamable
// HTTP with sessions, and without TLS, which one scenario wants. Argument: directory of node_modules. The first line of
// output is the port.
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { randomUUID } from "node:crypto";

const [modules] = process.argv.slice(2);
const need = createRequire(`${modules}/x.js`);
const { McpServer, ResourceTemplate } = need("@modelcontextprotocol/sdk/server/mcp.js");
const { StreamableHTTPServerTransport } = need("@modelcontextprotocol/sdk/server/streamableHttp.js");
const types = need("@modelcontextprotocol/sdk/types.js");
const { z } = need("zod");

const PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
const SOUND = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAA=";
const text = (said) => ({ type: "text", text: said });
const image = { type: "image", data: PIXEL, mimeType: "image/png" };
const resource = (uri, mimeType, said) => ({ type: "resource", resource: { uri, mimeType, text: said } });
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function tools(mcp, streams) {
  const tool = (name, description, work, inputSchema = {}) =>
    mcp.registerTool(name, { description, inputSchema }, work);
  tool("test_simple_text", "Text", async () => ({ content: [text("This is a simple text response for testing.")] }));
  tool("test_image_content", "A picture", async () => ({ content: [image] }));
  tool("test_audio_content", "A sound", async () => ({
    content: [{ type: "audio", data: SOUND, mimeType: "audio/wav" }],
  }));
  tool("test_embedded_resource", "A resource", async () => ({
    content: [resource("test://embedded-resource", "text/plain", "This is an embedded resource content.")],
  }));
  tool("test_multiple_content_types", "Several", async () => ({
    content: [
      text("Multiple content types test:"),
      image,
      resource("test://mixed-content-resource", "application/json", JSON.stringify({ test: "data", value: 123 })),
    ],
  }));
  tool("test_tool_with_logging", "Logs", async (_input, { sendNotification }) => {
    for (const data of ["Tool execution started", "Tool processing data", "Tool execution completed"]) {
      await sendNotification({ method: "notifications/message", params: { level: "info", data } });
      await pause(50);
    }
    return { content: [text("Tool with logging executed successfully")] };
  });
  tool("test_tool_with_progress", "Reports progress", async (_input, { sendNotification, _meta }) => {
    const progressToken = _meta?.progressToken ?? 0;
    for (const progress of [0, 50, 100]) {
      const params = { progressToken, progress, total: 100, message: `Completed step ${progress} of 100` };
      await sendNotification({ method: "notifications/progress", params });
      await pause(50);
    }
    return { content: [text(String(progressToken))] };
  });
  tool("test_error_handling", "Fails", async () => {
    throw new Error("This tool intentionally returns an error for testing");
  });
  tool("test_sampling", "Asks a model", async ({ prompt }, { sendRequest }) => {
    const params = { messages: [{ role: "user", content: text(prompt) }], maxTokens: 100 };
    const said = await sendRequest({ method: "sampling/createMessage", params }, types.CreateMessageResultSchema);
    return { content: [text(`LLM response: ${said.content.text}`)] };
  }, { prompt: z.string() });
  const asks = (name, properties, required = []) =>
    tool(name, "Asks a person", async (input, { sendRequest }) => {
      const requestedSchema = { type: "object", properties, required };
      const params = { message: input.message ?? "Please answer", requestedSchema };
      const said = await sendRequest({ method: "elicitation/create", params }, types.ElicitResultSchema);
      const content = JSON.stringify(said.content ?? {});
      return { content: [text(`Elicitation completed: action=${said.action}, content=${content}`)] };
    }, { message: z.string().optional() });
  const plain = (type, more) => ({ type, description: "A value", ...more });
  asks("test_elicitation", { username: plain("string"), email: plain("string") }, ["username", "email"]);
  asks("test_elicitation_sep1034_defaults", {
    name: plain("string", { default: "John Doe" }),
    age: plain("integer", { default: 30 }),
    score: plain("number", { default: 95.5 }),
    status: plain("string", { enum: ["active", "inactive", "pending"], default: "active" }),
    verified: plain("boolean", { default: true }),
  });
  const options = ["option1", "option2", "option3"];
  const titled = [["value1", "First Option"], ["value2", "Second Option"], ["value3", "Third Option"]].map(
    ([value, title]) => ({ const: value, title }),
  );
  asks("test_elicitation_sep1330_enums", {
    untitledSingle: plain("string", { enum: options }),
    titledSingle: plain("string", { oneOf: titled }),
    legacyEnum: plain("string", { enum: ["opt1", "opt2", "opt3"], enumNames: ["Option One", "Option Two", "Option Three"] }),
    untitledMulti: plain("array", { minItems: 1, maxItems: 3, items: { type: "string", enum: options } }),
    titledMulti: plain("array", { minItems: 1, maxItems: 3, items: { anyOf: titled } }),
  });
  tool("test_reconnection", "Ends its stream and goes on", async (_input, { requestId }) => {
    streams.close(requestId);
    await pause(100);
    return { content: [text("Reconnection test completed successfully.")] };
  });
  mcp.registerTool("json_schema_2020_12_tool", { description: "A schema", inputSchema: {} }, async () => ({ content: [] }));
  // The SDK would drop members of the schema that it does not know.
  const list = mcp.server._requestHandlers.get("tools/list");
  mcp.server.setRequestHandler(types.ListToolsRequestSchema, async (request, extra) => {
    const result = await list(request, extra);
    const one = result.tools.find((tool) => tool.name === "json_schema_2020_12_tool");
    one.inputSchema = {
      $schema: "https://json-schema.org/draft/2020-12/schema",
      type: "object",
      $defs: { address: { type: "object", properties: { street: { type: "string" }, city: { type: "string" } } } },
      properties: { name: { type: "string" }, address: { $ref: "#/$defs/address" } },
      additionalProperties: false,
    };
    return result;
  });
}

function resources(mcp) {
  const read = (name, uri, content) =>
    mcp.registerResource(name, uri, {}, async () => ({ contents: [{ uri, ...content }] }));
  read("text", "test://static-text", { mimeType: "text/plain", text: "This is the content of the static text resource." });
  read("binary", "test://static-binary", { mimeType: "image/png", blob: PIXEL });
  read("watched", "test://watched-resource", { mimeType: "text/plain", text: "Watched resource content" });
  const template = new ResourceTemplate("test://template/{id}/data", { list: undefined });
  mcp.registerResource("template", template, { mimeType: "application/json" }, async (uri, { id }) => ({
    contents: [{ uri: uri.href, mimeType: "application/json", text: JSON.stringify({ id, data: `Data for ID: ${id}` }) }],
  }));
  mcp.server.setRequestHandler(types.SubscribeRequestSchema, async () => ({}));
  mcp.server.setRequestHandler(types.UnsubscribeRequestSchema, async () => ({}));
}

function prompts(mcp) {
  const prompt = (name, argsSchema, messages) =>
    mcp.registerPrompt(name, { description: name, argsSchema }, async (input) => ({
      messages: messages(input).map((content) => ({ role: "user", content })),
    }));
  prompt("test_simple_prompt", {}, () => [text("This is a simple prompt for testing.")]);
  prompt("test_prompt_with_arguments", { arg1: z.string(), arg2: z.string() }, ({ arg1, arg2 }) => [
    text(`Prompt with arguments: arg1='${arg1}', arg2='${arg2}'`),
  ]);
  prompt("test_prompt_with_embedded_resource", { resourceUri: z.string() }, ({ resourceUri }) => [
    resource(resourceUri, "text/plain", "Embedded resource content for testing."),
    text("Please process the embedded resource above."),
  ]);
  prompt("test_prompt_with_image", {}, () => [image, text("Please analyze the image above.")]);
}

function server(streams) {
  const capabilities = { tools: {}, resources: { subscribe: true }, prompts: {}, logging: {}, completions: {} };
  const mcp = new McpServer({ name: "everything", version: "1.0.0" }, { capabilities });
  tools(mcp, streams);
  resources(mcp);
  prompts(mcp);
  mcp.server.setRequestHandler(types.SetLevelRequestSchema, async () => ({}));
  mcp.server.setRequestHandler(types.CompleteRequestSchema, async () => ({ completion: { values: [], total: 0, hasMore: false } }));
  return mcp;
}

// Events that a client can ask for again.
function store() {
  const events = [];
  return {
    async storeEvent(stream, message) {
      events.push({ stream, message });
      return `${stream}/${events.length}`;
    },
    async replayEventsAfter(last, { send }) {
      const at = Number(last.slice(last.lastIndexOf("/") + 1));
      const { stream } = events[at - 1];
      for (const [nth, event] of events.entries()) {
        if (nth >= at && event.stream === stream) await send(`${stream}/${nth + 1}`, event.message);
      }
      return stream;
    },
  };
}

const sessions = new Map();
const web = createServer(async (request, response) => {
  const own = ["localhost", "127.0.0.1"];
  const named = [`http://${request.headers.host}`, request.headers.origin].filter(Boolean);
  const foreign = (name) => !URL.canParse(name) || !own.includes(new URL(name).hostname);
  if (named.some(foreign)) return response.writeHead(403).end();
  let transport = sessions.get(request.headers["mcp-session-id"]);
  if (!transport) {
    const streams = { close: (id) => transport.closeSSEStream(id) };
    transport = new StreamableHTTPServerTransport({
      sessionIdGenerator: () => randomUUID(),
      eventStore: store(),
      retryInterval: 500,
      onsessioninitialized: (id) => sessions.set(id, transport),
    });
    await server(streams).connect(transport);
  }
  await transport.handleRequest(request, response);
});
web.listen(0, "127.0.0.1", () => console.log(web.address().port));
