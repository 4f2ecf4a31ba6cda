// Drives a server with the TypeScript SDK 1.x.
//
// usage: node ts-client.mjs URL TABLE [STEP...]
//   TABLE   a table of steps.json, which says what each step calls and what it must get
//   STEP    initialize, list, call, progress, sampling, elicitation, read, denied; all of the table without any
// environment: MCP_HEADERS (a JSON object), MCP_DENIED (JSON {tool, arguments}), NODE_EXTRA_CA_CERTS (a CA file)
// Prints one JSON line per step; ends with 0 if all went well, else with 1.

import { readFileSync } from "node:fs";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { SSEClientTransport } from "@modelcontextprotocol/sdk/client/sse.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { CreateMessageRequestSchema, ElicitRequestSchema } from "@modelcontextprotocol/sdk/types.js";

const [url, tableName, ...named] = process.argv.slice(2);
const tables = JSON.parse(readFileSync(new URL("steps.json", import.meta.url), "utf8"));
const table = tables[tableName];
if (!url || !table) {
  console.error(`usage: node ts-client.mjs URL ${Object.keys(tables).join("|")} [STEP...]`);
  process.exit(2);
}
if (process.env.MCP_DENIED) table.denied = JSON.parse(process.env.MCP_DENIED);
const headers = JSON.parse(process.env.MCP_HEADERS ?? "{}");
const names = named.length > 0 ? named : ["initialize", "list", ...Object.keys(table)];

const client = new Client(
  { name: "ts-client", version: "1" },
  { capabilities: { sampling: {}, elicitation: {} } },
);
let asked = 0;
client.setRequestHandler(CreateMessageRequestSchema, async () => {
  asked += 1;
  return { model: "fixture", role: "assistant", content: { type: "text", text: "sampled words" } };
});
client.setRequestHandler(ElicitRequestSchema, async () => {
  asked += 1;
  const content = { name: "Ada", username: "Ada", email: "ada@customers.example", check: true };
  return { action: "accept", content };
});

const saidBy = (result) => (result.content ?? []).map((block) => block.text ?? "").join("\n");

async function call({ tool, arguments: args }, options) {
  const result = await client.callTool({ name: tool, arguments: args }, undefined, options);
  return { text: saidBy(result), is_error: result.isError === true };
}

function must(condition, what, seen) {
  if (!condition) throw new Error(`${what}; got ${JSON.stringify(seen)}`);
}

async function good(step, options) {
  const got = await call(step, options);
  must(!got.is_error && got.text.includes(step.says), `the answer must contain "${step.says}"`, got);
  return got;
}

async function answered(step) {
  const before = asked;
  const got = await good(step);
  must(asked === before + 1, "the server must ask the client once", asked - before);
  return { ...got, asked: asked - before };
}

const steps = {
  async initialize() {
    const address = new URL(url);
    // The old transport opens its stream with a fetch of its own.
    const eventSourceInit = { fetch: (to, init) => fetch(to, { ...init, headers: { ...init?.headers, ...headers } }) };
    const transport = address.pathname.endsWith("/sse")
      ? new SSEClientTransport(address, { requestInit: { headers }, eventSourceInit })
      : new StreamableHTTPClientTransport(address, { requestInit: { headers } });
    await client.connect(transport);
    return { server: client.getServerVersion()?.name };
  },
  async list() {
    const { tools } = await client.listTools();
    return { tools: tools.map((tool) => tool.name) };
  },
  call: () => good(table.call),
  async progress() {
    let reports = 0;
    const got = await good(table.progress, { onprogress: () => (reports += 1) });
    // The SDK may hand over the last report after the answer.
    for (let wait = 0; reports < table.progress.reports && wait < 500; wait += 1) {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    must(reports === table.progress.reports, `${table.progress.reports} reports must come`, reports);
    return { ...got, reports };
  },
  sampling: () => answered(table.sampling),
  elicitation: () => answered(table.elicitation),
  async read() {
    const { contents } = await client.readResource({ uri: table.read.uri });
    const text = contents.map((content) => content.text ?? "").join("\n");
    must(text.includes(table.read.says), `the resource must contain "${table.read.says}"`, text);
    return { text };
  },
  // A refused call is an answer: the session goes on.
  async denied() {
    const got = await call(table.denied);
    must(got.is_error, "the call must be answered as an error", got);
    await good(table.call);
    return got;
  },
};

let failed = false;
for (const name of names) {
  let line;
  try {
    if (!steps[name]) throw new Error("there is no such step");
    line = { step: name, ok: true, ...(await steps[name]()) };
  } catch (error) {
    failed = true;
    line = { step: name, ok: false, error: `${error?.name}: ${error?.message ?? error}`, cause: error?.cause?.message };
  }
  console.log(JSON.stringify(line));
  if (failed && name === "initialize") break;
}
await client.close().catch(() => {});
process.exit(failed ? 1 : 0);
