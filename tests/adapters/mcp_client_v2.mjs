// A client on the second generation of the official TypeScript SDK: as mcp_client.mjs. What it is asked (elicitation)
// is printed as {"asked"}; the next line of input is the answer. Arguments: URL, directory of node_modules, the
// revision to speak ("legacy" for those with sessions), its capabilities as JSON.
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const [url, modules, version = "2026-07-28", capabilities = "{}"] = process.argv.slice(2);
const { Client, StreamableHTTPClientTransport } = await import(
  pathToFileURL(`${modules}/@modelcontextprotocol/client/dist/index.mjs`)
);

const say = (value) => console.log(JSON.stringify(value));
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const mode = version === "legacy" ? "legacy" : { pin: version };
const client = new Client(
  { name: "test", version: "2.0.0" },
  { capabilities: JSON.parse(capabilities), versionNegotiation: { mode } },
);
if (JSON.parse(capabilities).elicitation) {
  client.setRequestHandler("elicitation/create", async ({ params }) => {
    say({ asked: params });
    return JSON.parse((await lines.next()).value);
  });
}
const transport = new StreamableHTTPClientTransport(new URL(url));
await client.connect(transport);
say({ tools: (await client.listTools()).tools.map((tool) => tool.name) });
for (;;) {
  const { value, done } = await lines.next();
  if (done) break;
  const { tool, resource, list, arguments: input, progress } = JSON.parse(value);
  try {
    if (list) say({ tools: (await client.listTools(undefined, { cacheMode: "refresh" })).tools.map((tool) => tool.name) });
    else if (tool) {
      const onprogress = progress && ((one) => say({ progress: one.message }));
      say(await client.callTool({ name: tool, arguments: input }, onprogress ? { onprogress } : undefined));
    } else say(await client.readResource({ uri: resource }));
  } catch (error) {
    say({ error: error.message, code: error.code });
  }
}
await client.close();
