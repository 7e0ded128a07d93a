// A real MCP client (the official SDK): starts the MCP server under `interdict run`, and does three things with it.
// Prints one JSON line for each answer.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [modules, update, ...command] = process.argv.slice(2);
const require = createRequire(modules + "/");
const load = (name) => import(pathToFileURL(require.resolve(name)).href);
const { Client } = await load("@modelcontextprotocol/sdk/client/index.js");
const { StdioClientTransport } = await load("@modelcontextprotocol/sdk/client/stdio.js");

const transport = new StdioClientTransport({ command: command[0], args: command.slice(1), env: process.env, stderr: "inherit" });
const client = new Client({ name: "interdict-demo", version: "1" });
await client.connect(transport);
const say = (what, answer) => console.log(JSON.stringify({ what, ...answer }));
const call = async (what, name, args) => {
  try {
    const result = await client.callTool({ name, arguments: args }, undefined, { timeout: 120000 });
    const text = (result.content ?? []).map((part) => part.text ?? "").join("\n");
    say(what, { isError: !!result.isError, text });
  } catch (error) {
    say(what, { isError: true, text: String(error.message ?? error) });
  }
};
say("tools", { text: (await client.listTools()).tools.length + " tools" });
await call("read", "pg_execute_query", { operation: "select", query: "SELECT id, name, email, card, phone FROM customers ORDER BY id" });
await call("drop", "pg_execute_sql", { sql: "DROP TABLE orders" });
await call("update", "pg_execute_sql", { sql: update });
await client.close();
