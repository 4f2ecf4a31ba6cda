// The client of the official conformance suite's client scenarios, with the TypeScript SDK 2.x: it uses all that the
// server offers, once, and answers what the server asks with the defaults of the form.
//
// usage: node conformance-client.mjs URL
// environment: MCP_CONFORMANCE_PROTOCOL_VERSION and MCP_CONFORMANCE_CONTEXT of the suite, MCP_HEADERS (a JSON object),
//   NODE_EXTRA_CA_CERTS (a CA file)

import { Client, StreamableHTTPClientTransport, UnauthorizedError } from "@modelcontextprotocol/client";

import { Consent } from "./oauth.mjs";

const url = new URL(process.argv[2]);
const headers = JSON.parse(process.env.MCP_HEADERS ?? "{}");
const context = JSON.parse(process.env.MCP_CONFORMANCE_CONTEXT || "{}");
const isModern = (process.env.MCP_CONFORMANCE_PROTOCOL_VERSION ?? "") >= "2026-07-28";

const needsConsent = (process.env.MCP_CONFORMANCE_SCENARIO ?? "").startsWith("auth/");
const authProvider = needsConsent ? new Consent(context) : undefined;

function newClient() {
  const client = new Client(
    { name: "conformance-client", version: "1" },
    {
      capabilities: { elicitation: { form: { applyDefaults: true } } },
      versionNegotiation: { mode: isModern ? "auto" : "legacy" },
    },
  );
  client.setRequestHandler("elicitation/create", async ({ params }) => ({
    action: "accept",
    content: defaults(params.requestedSchema),
  }));
  return client;
}

// What it does again when the server wanted a token, or one for more, and there is one now.
async function withConsent(act) {
  for (let tries = 0; ; tries++) {
    const transport = new StreamableHTTPClientTransport(url, { requestInit: { headers }, authProvider });
    try {
      return await act(transport);
    } catch (error) {
      if (!(error instanceof UnauthorizedError) || tries === 2) throw error;
      await transport.finishAuth(authProvider.answer);
    }
  }
}

function defaults(schema) {
  const properties = Object.entries(schema?.properties ?? {});
  return Object.fromEntries(properties.flatMap(([name, { default: value }]) => (value === undefined ? [] : [[name, value]])));
}

const samples = { string: "text", number: 1, integer: 1, boolean: true, array: [], object: {} };

// Something that fits each argument. What is to be echoed is the schema of the first tool.
function sample(tool, tools) {
  const properties = Object.entries(tool.inputSchema.properties ?? {});
  const value = (name, type) => (name === "schema" ? tools[0].inputSchema : (samples[type] ?? "text"));
  return Object.fromEntries(properties.map(([name, { type }]) => [name, value(name, type)]));
}

// A refusal of one thing must not keep the others from being tried.
async function each(list, use) {
  const things = await list().catch(() => []);
  await Promise.allSettled(things.map((thing) => use(thing, things)));
}

const client = await withConsent(async (transport) => {
  const client = newClient();
  await client.connect(transport);
  if (needsConsent) {
    const { tools } = await client.listTools();
    for (const { name } of tools) await client.callTool({ name, arguments: {} });
  }
  return client;
});
if (context.toolCalls) {
  await client.listTools();
  await each(async () => context.toolCalls, (call) => client.callTool(call));
} else {
  const callTool = (tool, tools) => client.callTool({ name: tool.name, arguments: sample(tool, tools) });
  await each(async () => (await client.listTools()).tools, callTool);
}
const offered = client.getServerCapabilities() ?? {};
if (offered.resources) {
  await each(async () => (await client.listResources()).resources, ({ uri }) => client.readResource({ uri }));
}
if (offered.prompts) {
  await each(async () => (await client.listPrompts()).prompts, ({ name }) => client.getPrompt({ name }));
}
await client.close().catch(() => {});
process.exit(0);
