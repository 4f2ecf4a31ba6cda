"""The client of the official conformance suite's client scenarios, with the Python SDK 2.x: it uses all that the
server offers, once, and answers what the server asks with the defaults of the form.

usage: python conformance_client.py URL
environment: MCP_CONFORMANCE_PROTOCOL_VERSION and MCP_CONFORMANCE_CONTEXT of the suite, MCP_HEADERS (a JSON object),
  SSL_CERT_FILE (a CA file)
"""

import asyncio
import json
import os
import sys

import httpx2
from mcp import Client, types
from mcp.client.streamable_http import streamable_http_client
from oauth import consent

CONTEXT = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT") or "{}")
IS_MODERN = os.environ.get("MCP_CONFORMANCE_PROTOCOL_VERSION", "") >= "2026-07-28"
SAMPLES = {"string": "text", "number": 1, "integer": 1, "boolean": True, "array": [], "object": {}}


async def elicit(context, params):
    schema = getattr(params, "requested_schema", {})
    properties = schema.get("properties", {})
    content = {name: field["default"] for name, field in properties.items() if "default" in field}
    return types.ElicitResult(action="accept", content=content)


def sample(tool, tools):
    """Something that fits each argument. What is to be echoed is the schema of the first tool."""
    properties = tool.input_schema.get("properties", {})
    return {
        name: tools[0].input_schema if name == "schema" else SAMPLES.get(field.get("type"), "text")
        for name, field in properties.items()
    }


async def each(things, use):
    """A refusal of one thing must not keep the others from being tried."""
    await asyncio.gather(*(use(thing) for thing in things), return_exceptions=True)


async def use_all(client):
    tools = (await client.list_tools()).tools
    if "toolCalls" in CONTEXT:
        await each(CONTEXT["toolCalls"], lambda call: client.call_tool(call["name"], call["arguments"]))
    else:
        await each(tools, lambda tool: client.call_tool(tool.name, sample(tool, tools)))
    offered = client.server_capabilities
    if offered.resources:
        resources = (await client.list_resources()).resources
        await each(resources, lambda resource: client.read_resource(resource.uri))
    if offered.prompts:
        prompts = (await client.list_prompts()).prompts
        await each(prompts, lambda prompt: client.get_prompt(prompt.name))


async def run(url):
    headers = json.loads(os.environ.get("MCP_HEADERS", "{}"))
    needs_consent = os.environ.get("MCP_CONFORMANCE_SCENARIO", "").startswith("auth/")
    auth = consent(url, CONTEXT) if needs_consent else None
    async with httpx2.AsyncClient(headers=headers, auth=auth, timeout=httpx2.Timeout(30, read=300)) as http:
        transport = streamable_http_client(url, http_client=http)
        mode = "auto" if IS_MODERN else "legacy"
        async with Client(transport, mode=mode, elicitation_callback=elicit) as client:
            await use_all(client)


asyncio.run(run(sys.argv[1]))
