// The official TypeScript client of OpenAI, responses over WebSocket: prompts come back, a budget ends, and the WebSocket goes on.
// A line of JSON for each. Arguments: URL of the provider, directory of node_modules.
import { createRequire } from "node:module";

const [url, modules] = process.argv.slice(2);
const need = createRequire(`${modules}/x.js`);
const OpenAI = need("openai").default;
const { ResponsesWS } = need("openai/resources/responses/ws");

const say = (...what) => console.log(JSON.stringify(what));
const socket = new ResponsesWS(new OpenAI({ baseURL: `${url}/v1`, apiKey: "placeholder" }));
const events = socket.stream()[Symbol.asyncIterator]();

const ask = async (model, input) => {
  socket.send({ type: "response.create", model, input });
  for (let text = ""; ; ) {
    const { value, done } = await events.next();
    if (done || value.type === "close") throw new Error("closed");
    const event = value.message ?? value.error?.error;
    if (event?.type === "response.output_text.delta") text += event.delta;
    if (event?.type === "response.completed") return [text, event];
    if (value.type === "error") return [text, event];
  }
};

const told = (event) => [event.type, event.status, event.error.code, event.error.message];
const [text, last] = await ask("m", "mail ada@example.com, key AKIAIOSFODNN7" + "QWERTYZ");
say("masked", text, last.response.output[0].content[0].text);
say("large", (await ask("large", "hello"))[1].type);
say("large", ...told((await ask("large", "hello"))[1]));
say("small", (await ask("m", "hello"))[1].type);
socket.close();
