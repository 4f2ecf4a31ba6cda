"""A client of the Python SDK 2.x that has no token: it finds out where to get one, gets it, and calls tools.

usage: python authorized.py URL CALL...
  CALL   JSON {name, arguments}
environment: MCP_ERA (legacy or auto), SSL_CERT_FILE (a CA file)
Prints one JSON line per call: {tool, text, is_error}.
"""

import asyncio
import json
import os
import sys

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from oauth import consent


async def run(url, calls):
    mode = "legacy" if os.environ.get("MCP_ERA") == "legacy" else "auto"
    async with httpx2.AsyncClient(auth=consent(url, {}), timeout=httpx2.Timeout(30, read=60)) as http:
        async with Client(streamable_http_client(url, http_client=http), mode=mode) as client:
            for call in calls:
                result = await client.call_tool(call["name"], call["arguments"])
                text = "\n".join(getattr(block, "text", "") for block in result.content)
                line = {"tool": call["name"], "text": text, "is_error": bool(result.is_error)}
                print(json.dumps(line), flush=True)


asyncio.run(run(sys.argv[1], [json.loads(text) for text in sys.argv[2:]]))
