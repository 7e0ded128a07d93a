// A client on the official TypeScript SDK: prints the names of the tools, then does what each line of input asks for
// ({"tool", "arguments"} or {"resource"}) and prints what came of it. What the server says by itself is printed when
// it comes. Arguments: URL, directory of node_modules.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const [url, modules] = process.argv.slice(2);
const need = createRequire(`${modules}/x.js`);
const { Client } = need("@modelcontextprotocol/sdk/client/index.js");
const { StreamableHTTPClientTransport } = need("@modelcontextprotocol/sdk/client/streamableHttp.js");
const { LoggingMessageNotificationSchema } = need("@modelcontextprotocol/sdk/types.js");

const say = (value) => console.log(JSON.stringify(value));
const client = new Client({ name: "test", version: "1.0.0" });
client.setNotificationHandler(LoggingMessageNotificationSchema, ({ params }) => say({ said: params.data }));
const transport = new StreamableHTTPClientTransport(new URL(url));
await client.connect(transport);
say({ tools: (await client.listTools()).tools.map((tool) => tool.name) });
for await (const line of createInterface({ input: process.stdin })) {
  const { tool, resource, arguments: input } = JSON.parse(line);
  try {
    say(tool ? await client.callTool({ name: tool, arguments: input }) : await client.readResource({ uri: resource }));
  } catch (error) {
    say({ error: error.message, code: error.code });
  }
}
await transport.terminateSession();
await client.close();
