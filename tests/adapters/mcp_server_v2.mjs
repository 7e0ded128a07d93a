// An MCP server on the second generation of the official SDK: revision 2026-07-28 without sessions, and older clients
// too, over TLS. Its tools are those of mcp_server.mjs. Arguments: certificate, key, file for the log, directory of
// node_modules, and a file whose text, where it exists, is the description of the tool query; where that file with
// ".asks" behind its name exists, there is a tool that asks the client; with ".touches", one that tells listeners of a
// resource that it changed; while that with ".holds" exists, the tool remove goes on. The first line of output is the port.
import { appendFileSync, existsSync, readFileSync } from "node:fs";
import { createServer } from "node:https";
import { pathToFileURL } from "node:url";

const [certificate, key, log, modules, description] = process.argv.slice(2);
const need = (name) => import(pathToFileURL(`${modules}/${name}`));
const { InMemoryServerEventBus, McpServer, createMcpHandler } = await need("@modelcontextprotocol/server/dist/index.mjs");
const { toNodeHandler } = await need("@modelcontextprotocol/node/dist/index.mjs");
const { z } = await need("zod/index.js");

const PERSON = "Ada <ada@example.com>, card 4111 1111 1111 1111";
const base64 = (text) => Buffer.from(text).toString("base64");
const PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
const done = (text) => ({ content: [{ type: "text", text }] });

const bus = new InMemoryServerEventBus();
const has = (what) => description && existsSync(`${description}.${what}`);

function server() {
  const capabilities = { logging: {}, resources: { subscribe: true } };
  const mcp = new McpServer({ name: "tools", version: "2.0.0" }, { capabilities });
  const tool = (name, shape, work) => {
    const said = name === "query" && description && existsSync(description) && readFileSync(description, "utf8");
    mcp.registerTool(
      name,
      { description: said || `The tool ${name}.`, inputSchema: z.object(shape) },
      async (input, { mcpReq }) => {
        appendFileSync(log, JSON.stringify({ tool: name, input }) + "\n");
        return work(input, mcpReq);
      },
    );
  };
  tool("lookup", { name: z.string() }, async () => ({
    content: [
      { type: "text", text: PERSON },
      { type: "image", data: PIXEL, mimeType: "image/png" },
      { type: "resource", resource: { uri: "note://ada", mimeType: "text/plain", blob: base64(PERSON) } },
    ],
    structuredContent: { email: "ada@example.com", age: 36 },
  }));
  tool("query", { sql: z.string(), limit: z.number().int().optional() }, async ({ sql }) => done(`ran ${sql}`));
  tool("remove", { id: z.number() }, async ({ id }, { notify }) => {
    // Then the answer is a stream.
    const params = { progressToken: "test", progress: 1, message: "ada@example.com removes" };
    if (has("holds")) await notify({ method: "notifications/progress", params });
    while (has("holds")) await new Promise((resolve) => setTimeout(resolve, 20));
    return done(`removed ${id}`);
  });
  tool("shell", { command: z.string() }, async () => done("ran"));
  if (has("touches")) {
    tool("touch", { uri: z.string() }, async ({ uri }) => {
      bus.publish({ kind: "resource_updated", uri, params: { _meta: { "test/by": "ada@example.com" } } });
      return done("touched");
    });
  }
  // Asks the client for what it is told to ask for.
  if (has("asks")) {
    const message = { messages: [{ role: "user", content: { type: "text", text: "Who is ada@example.com?" } }], maxTokens: 9 };
    const form = { message: "Is it ada@example.com?", requestedSchema: { type: "object", properties: { yes: { type: "boolean" } } } };
    const questions = {
      sampling: { method: "sampling/createMessage", params: message },
      elicitation: { method: "elicitation/create", params: { mode: "form", ...form } },
    };
    tool("ask", { what: z.string() }, async ({ what }, { inputResponses }) =>
      inputResponses
        ? done(`answered ${JSON.stringify(inputResponses)}`)
        : { resultType: "input_required", inputRequests: { question: questions[what] } },
    );
  }
  mcp.registerResource("note", "note://ada", {}, async (uri) => ({
    contents: [{ uri: uri.href, mimeType: "text/plain", blob: base64(PERSON) }],
  }));
  return mcp;
}

const handler = toNodeHandler(createMcpHandler(() => server(), { bus }));
const web = createServer({ cert: readFileSync(certificate), key: readFileSync(key) }, handler);
web.listen(0, "127.0.0.1", () => console.log(web.address().port));
