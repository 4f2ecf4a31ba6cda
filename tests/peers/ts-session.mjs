// One session of the TypeScript SDK, told what to do line by line.
//
// usage: node ts-session.mjs 1|2 URL
// environment: MCP_HEADERS (a JSON object), MCP_ERA (legacy or auto; SDK 1.x knows legacy only), NODE_EXTRA_CA_CERTS
// Each line of stdin is a JSON object: {"do": "tool", "name", "arguments"}, {"do": "prompt", "name"}, {"do": "resource", "uri"},
// {"do": "complete", "prompt"} or {"do": "method", "method"}. Each is answered with one line:
// {"ok": {"error": BOOLEAN, "text": TEXT}} for a result, {"code": NUMBER, "text": TEXT} for a JSON-RPC error, and
// {"broken": TEXT} for anything else. The first line is of connecting.

import { createInterface } from "node:readline";

const [version, url] = process.argv.slice(2);
const headers = JSON.parse(process.env.MCP_HEADERS ?? "{}");
const era = process.env.MCP_ERA ?? "legacy";
const about = { name: `ts${version}-session`, version: "1" };
const sdk = version === "1" ? await first() : await second();
const { client, transport } = sdk;

async function first() {
  const { Client } = await import("@modelcontextprotocol/sdk/client/index.js");
  const { StreamableHTTPClientTransport } = await import("@modelcontextprotocol/sdk/client/streamableHttp.js");
  const { ResultSchema, McpError } = await import("@modelcontextprotocol/sdk/types.js");
  const transport = new StreamableHTTPClientTransport(new URL(url), { requestInit: { headers } });
  return { client: new Client(about), transport, schema: ResultSchema, RpcError: McpError };
}

async function second() {
  const { Client, StreamableHTTPClientTransport, ProtocolError } = await import("@modelcontextprotocol/client");
  const transport = new StreamableHTTPClientTransport(new URL(url), { requestInit: { headers } });
  const anything = { "~standard": { version: 1, vendor: "any", validate: (value) => ({ value }) } };
  const client = new Client(about, { versionNegotiation: { mode: era } });
  return { client, transport, schema: anything, RpcError: ProtocolError };
}

const textsOf = (parts) => (parts ?? []).map((part) => part.text ?? "").join("\n");

const actions = {
  async tool({ name, arguments: given }) {
    const result = await client.callTool({ name, arguments: given });
    return { error: result.isError === true, text: textsOf(result.content) };
  },
  async prompt({ name }) {
    const { messages } = await client.getPrompt({ name });
    return { error: false, text: textsOf(messages.map((message) => message.content)) };
  },
  async resource({ uri }) {
    return { error: false, text: textsOf((await client.readResource({ uri })).contents) };
  },
  async complete({ prompt }) {
    const ref = { type: "ref/prompt", name: prompt };
    const { completion } = await client.complete({ ref, argument: { name: "a", value: "" } });
    return { error: false, text: completion.values.join("\n") };
  },
  async method({ method }) {
    return { error: false, text: JSON.stringify(await client.request({ method, params: {} }, sdk.schema)) };
  },
  async connect() {
    await client.connect(transport);
    const version = client.getNegotiatedProtocolVersion?.() ?? transport.protocolVersion;
    return { error: false, text: version };
  },
};

async function answer(task) {
  try {
    return { ok: await actions[task.do](task) };
  } catch (error) {
    if (error instanceof sdk.RpcError) return { code: error.code, text: error.message };
    return { broken: `${error?.name}: ${error?.message ?? error} ${error?.cause?.message ?? ""}` };
  }
}

console.log(JSON.stringify(await answer({ do: "connect" })));
for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(await answer(JSON.parse(line))));
}
await client.close().catch(() => {});
process.exit(0);
