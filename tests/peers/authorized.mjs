// A client of the TypeScript SDK 2.x that has no token: it finds out where to get one, gets it, and calls tools.
//
// usage: node authorized.mjs URL CALL...
//   CALL   JSON {name, arguments}
// environment: MCP_ERA (legacy or auto), NODE_EXTRA_CA_CERTS (a CA file)
// Prints one JSON line per call: {tool, text, is_error, consents}, the last being how often a user was asked so far.

import { Client, StreamableHTTPClientTransport, UnauthorizedError } from "@modelcontextprotocol/client";

import { Consent } from "./oauth.mjs";

const [address, ...calls] = process.argv.slice(2);
const authProvider = new Consent({});
let consents = 0;

// What it does again when the server wanted a token, or one for more, and there is one now.
async function withConsent(act) {
  for (let tries = 0; ; tries++) {
    const transport = new StreamableHTTPClientTransport(new URL(address), { authProvider });
    const mode = process.env.MCP_ERA === "legacy" ? "legacy" : "auto";
    const client = new Client({ name: "authorized", version: "1" }, { versionNegotiation: { mode } });
    try {
      await client.connect(transport);
      return await act(client);
    } catch (error) {
      if (!(error instanceof UnauthorizedError) || tries === 2) throw error;
      consents += 1;
      await transport.finishAuth(authProvider.answer);
    } finally {
      await client.close().catch(() => {});
    }
  }
}

for (const call of calls.map((text) => JSON.parse(text))) {
  const result = await withConsent((client) => client.callTool(call));
  const text = (result.content ?? []).map((block) => block.text ?? "").join("\n");
  console.log(JSON.stringify({ tool: call.name, text, is_error: result.isError === true, consents }));
}
process.exit(0);
