"""The way of an OAuth client through a browser that consents at once: the authorization server's redirect is followed
by hand, and its parameters are what the callback gets."""

from urllib.parse import parse_qs, urlsplit

import httpx2
from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata

CALLBACK = "http://localhost:3999/callback"
# The document that the suite takes for a client's own metadata.
METADATA = "https://conformance-test.local/client-metadata.json"


class Kept:
    """What the SDK stores, in memory."""

    def __init__(self, client_info):
        self.client_info = client_info
        self.tokens = None

    async def get_tokens(self):
        return self.tokens

    async def set_tokens(self, tokens):
        self.tokens = tokens

    async def get_client_info(self):
        return self.client_info

    async def set_client_info(self, client_info):
        self.client_info = client_info


def consent(url, context):
    """What the suite's context says of a client that is known already fills in the registration."""
    known = None
    if "client_id" in context:
        known = OAuthClientInformationFull(
            client_id=context["client_id"],
            client_secret=context.get("client_secret"),
            token_endpoint_auth_method="client_secret_basic",
            redirect_uris=[CALLBACK],
        )
    given = {}

    async def redirect(to):
        async with httpx2.AsyncClient() as http:
            answer = await http.get(to, follow_redirects=False)
        query = parse_qs(urlsplit(answer.headers["location"]).query)
        given.update({key: values[0] for key, values in query.items()})

    async def callback():
        return AuthorizationCodeResult(code=given.get("code"), state=given.get("state"), iss=given.get("iss"))

    return OAuthClientProvider(
        server_url=url,
        client_metadata=OAuthClientMetadata(
            client_name="conformance-client",
            redirect_uris=[CALLBACK],
            grant_types=["authorization_code", "refresh_token"],
            response_types=["code"],
        ),
        storage=Kept(known),
        redirect_handler=redirect,
        callback_handler=callback,
        client_metadata_url=METADATA,
    )
