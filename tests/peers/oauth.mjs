// The way of an OAuth client through a browser that consents at once: the authorization server's redirect is followed by
// hand, and its parameters are what the callback gets.

const CALLBACK = "http://localhost:3999/callback";
// The document that the suite takes for a client's own metadata.
const METADATA = "https://conformance-test.local/client-metadata.json";

// What MCP_CONFORMANCE_CONTEXT says of a client that is known already fills in the registration.
export class Consent {
  #kept = {};
  clientMetadataUrl = METADATA;
  redirectUrl = CALLBACK;
  clientMetadata = {
    client_name: "conformance-client",
    redirect_uris: [CALLBACK],
    grant_types: ["authorization_code", "refresh_token"],
    response_types: ["code"],
  };

  constructor(context) {
    if (context.client_id) {
      this.#kept.client = { client_id: context.client_id, client_secret: context.client_secret };
    }
  }

  clientInformation = () => this.#kept.client;
  saveClientInformation = (client) => void (this.#kept.client = client);
  tokens = () => this.#kept.tokens;
  saveTokens = (tokens) => void (this.#kept.tokens = tokens);
  saveCodeVerifier = (verifier) => void (this.#kept.verifier = verifier);
  codeVerifier = () => this.#kept.verifier;
  saveDiscoveryState = (state) => void (this.#kept.discovery = state);
  discoveryState = () => this.#kept.discovery;

  // The SDK calls it to forget what the server refused.
  invalidateCredentials = (what) => {
    const all = what === "all";
    for (const key of ["client", "tokens", "verifier", "discovery"]) {
      if (all || what === key) delete this.#kept[key];
    }
  };

  redirectToAuthorization = async (url) => {
    const answer = await fetch(url, { redirect: "manual" });
    this.answer = new URL(answer.headers.get("location")).searchParams;
  };
}
