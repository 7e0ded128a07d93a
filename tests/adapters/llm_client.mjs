// The official TypeScript clients of OpenAI and Anthropic: each API whole and streamed, tools, vectors, the list of models,
// then a prompt with a code name in it, a file, and a large model until its budget is spent. A line of JSON for each.
// Arguments: URL of the provider, directory of node_modules; "again": only what is over the budget.
import { createRequire } from "node:module";
import zlib from "node:zlib";

const [url, modules, again] = process.argv.slice(2);
const need = createRequire(`${modules}/x.js`);
const OpenAI = need("openai").default;
const Anthropic = need("@anthropic-ai/sdk").default;

const say = (...what) => console.log(JSON.stringify(what));
const one = new OpenAI({ baseURL: `${url}/v1`, apiKey: "placeholder" });
const other = new Anthropic({ baseURL: url, apiKey: "placeholder" });
const TEXT = 'tell ada@example.com: card 4111 1111 1111 1111, key AKIAIOSFODNN7' + "QWERTYZ";
const messages = [{ role: "user", content: TEXT }];
const model = "m";
const parameters = { type: "object", properties: { to: { type: "string" } } };

const refused = async (ask) => {
  try {
    await ask();
    say("allowed");
  } catch (error) {
    say("refused", error.constructor.name, error.status, error.error?.message ?? error.error?.error?.message);
  }
};
const large = () => one.chat.completions.create({ model: "large", messages: [{ role: "user", content: "hello" }] });

if (again) {
  await refused(large);
  process.exit(0);
}
say("chat", (await one.chat.completions.create({ model, messages })).choices[0].message.content);
let text = "";
let counts = 0;
for await (const chunk of await one.chat.completions.create({ model, messages, stream: true })) {
  text += chunk.choices[0]?.delta.content ?? "";
  counts += chunk.choices.length === 0 ? 1 : 0;
}
say("chat", text, counts);
const tools = [{ type: "function", function: { name: "send", parameters } }];
const run = one.chat.completions.stream({ model, messages, tools });
say("tool", JSON.parse((await run.finalChatCompletion()).choices[0].message.tool_calls[0].function.arguments).to);
say("responses", (await one.responses.create({ model, input: TEXT })).output_text);
const responses = one.responses.stream({ model, input: TEXT });
text = "";
responses.on("response.output_text.delta", (event) => (text += event.delta));
const whole = (await responses.finalResponse()).output_text;
say("responses", text, whole);
say("messages", (await other.messages.create({ model, messages, max_tokens: 9 })).content[0].text);
const stream = other.messages.stream({ model, messages, max_tokens: 9 });
text = "";
stream.on("text", (piece) => (text += piece));
say("messages", (await stream.finalMessage()).content[0].text, text);
const send = [{ name: "send", input_schema: parameters }];
say("tool", (await other.messages.stream({ model, messages, max_tokens: 9, tools: send }).finalMessage()).content[0].input.to);
say("vector", (await one.embeddings.create({ model, input: TEXT, encoding_format: "float" })).data[0].embedding);
const coding = zlib.zstdCompressSync ? "zstd" : "gzip";
const body = (zlib.zstdCompressSync ?? zlib.gzipSync)(JSON.stringify({ model, messages }));
const headers = { "content-type": "application/json", "content-encoding": coding };
const coded = await fetch(`${url}/v1/chat/completions`, { method: "POST", headers, body });
say("coded", (await coded.json()).choices[0].message.content);
say("models", (await one.models.list()).data[0].id, (await other.models.list()).data[0].id);

const secret = [{ role: "user", content: "what of Project Falcon?" }];
await refused(() => one.chat.completions.create({ model, messages: secret }));
await refused(() => other.messages.create({ model, messages: secret, max_tokens: 9 }));
await refused(() => one.files.create({ file: new File(["x"], "x.jsonl"), purpose: "batch" }));
await refused(large);
await refused(large);
