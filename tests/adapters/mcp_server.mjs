// An MCP server on the official SDK: Streamable HTTP with sessions, over TLS. Its tools: lookup (a person's data in
// every form that a result can have), query, remove and shell (both only write down that they were called).
// Arguments: certificate, key, file for the log, directory of node_modules. The first line of output is the port.
import { appendFileSync, readFileSync } from "node:fs";
import { createServer } from "node:https";
import { createRequire } from "node:module";
import { randomUUID } from "node:crypto";

const [certificate, key, log, modules] = process.argv.slice(2);
const need = createRequire(`${modules}/x.js`);
const { McpServer } = need("@modelcontextprotocol/sdk/server/mcp.js");
const { StreamableHTTPServerTransport } = need("@modelcontextprotocol/sdk/server/streamableHttp.js");
const { z } = need("zod");

const PERSON = "Ada <ada@example.com>, card 4111 1111 1111 1111";
const base64 = (text) => Buffer.from(text).toString("base64");
const PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
const done = (text) => ({ content: [{ type: "text", text }] });

function server(listening) {
  const mcp = new McpServer({ name: "tools", version: "1.0.0" }, { capabilities: { logging: {} } });
  const tool = (name, inputSchema, work) =>
    mcp.registerTool(name, { description: `The tool ${name}.`, inputSchema }, async (input, extra) => {
      appendFileSync(log, JSON.stringify({ tool: name, input }) + "\n");
      return work(input, extra);
    });
  tool("lookup", { name: z.string() }, async ({ name }) => {
    // Without a request to belong to: goes over the stream that the client opens with GET.
    await listening;
    await mcp.server.sendLoggingMessage({ level: "info", data: `looked up ${name}: ${PERSON}` });
    return {
      content: [
        { type: "text", text: PERSON },
        { type: "image", data: PIXEL, mimeType: "image/png" },
        { type: "resource", resource: { uri: "note://ada", mimeType: "text/plain", blob: base64(PERSON) } },
      ],
      structuredContent: { email: "ada@example.com", age: 36 },
    };
  });
  tool("query", { sql: z.string(), limit: z.number().optional() }, async ({ sql }) => done(`ran ${sql}`));
  tool("remove", { id: z.number() }, async ({ id }) => done(`removed ${id}`));
  tool("shell", { command: z.string() }, async () => done("ran"));
  mcp.registerResource("note", "note://ada", {}, async (uri) => ({
    contents: [{ uri: uri.href, mimeType: "text/plain", blob: base64(PERSON) }],
  }));
  return mcp;
}

const sessions = new Map();
const web = createServer({ cert: readFileSync(certificate), key: readFileSync(key) }, async (request, response) => {
  let transport = sessions.get(request.headers["mcp-session-id"]);
  if (!transport) {
    transport = new StreamableHTTPServerTransport({
      sessionIdGenerator: () => randomUUID(),
      // Half of the sessions answer with JSON, the others with streams.
      enableJsonResponse: sessions.size % 2 === 1,
      onsessioninitialized: (id) => sessions.set(id, transport),
    });
    let open;
    const listening = new Promise((resolve) => (open = resolve));
    transport.opened = open;
    await server(listening).connect(transport);
  }
  if (request.method === "GET") {
    const head = response.writeHead;
    response.writeHead = (...all) => {
      transport.opened();
      return head.apply(response, all);
    };
  }
  await transport.handleRequest(request, response);
});
web.listen(0, "127.0.0.1", () => console.log(web.address().port));
