"""One session of the Python SDK 2.x, or of 1.x with its own interpreter, told what to do line by line.

usage: python py_session.py URL
environment: MCP_HEADERS (a JSON object), MCP_ERA (legacy or auto; SDK 1.x knows legacy only), SSL_CERT_FILE (a CA file)
Lines of stdin and stdout are those of ts-session.mjs.
"""

import asyncio
import contextlib
import json
import os
import sys

import mcp
from mcp import types

IS_FIRST = not hasattr(mcp, "Client")
HEADERS = json.loads(os.environ.get("MCP_HEADERS", "{}"))

if IS_FIRST:
    import httpx
    from mcp import McpError as RpcError
else:
    import httpx2 as httpx
    from mcp import MCPError as RpcError
from mcp.client.streamable_http import streamable_http_client


@contextlib.asynccontextmanager
async def first(url):
    async with httpx.AsyncClient(headers=HEADERS, timeout=httpx.Timeout(30, read=300)) as http:
        async with streamable_http_client(url, http_client=http) as (read, write, _):
            async with mcp.ClientSession(read, write) as session:
                opened = await session.initialize()
                yield First(session), opened.protocolVersion


@contextlib.asynccontextmanager
async def second(url):
    async with httpx.AsyncClient(headers=HEADERS, trust_env=True, timeout=httpx.Timeout(30, read=300)) as http:
        transport = streamable_http_client(url, http_client=http)
        async with mcp.Client(transport, mode=os.environ.get("MCP_ERA", "legacy")) as client:
            yield Second(client), client.protocol_version


def texts_of(parts):
    return "\n".join(getattr(part, "text", "") for part in parts)


class Session:
    """What both SDKs do alike."""

    def __init__(self, client):
        self.client = client

    async def prompt(self, task):
        messages = (await self.client.get_prompt(task["name"])).messages
        return {"error": False, "text": texts_of(message.content for message in messages)}

    async def complete(self, task):
        ref = types.PromptReference(type="ref/prompt", name=task["prompt"])
        result = await self.client.complete(ref, {"name": "a", "value": ""})
        return {"error": False, "text": "\n".join(result.completion.values)}


class First(Session):
    async def tool(self, task):
        result = await self.client.call_tool(task["name"], task["arguments"])
        return {"error": result.isError, "text": texts_of(result.content)}

    async def resource(self, task):
        result = await self.client.read_resource(task["uri"])
        return {"error": False, "text": texts_of(result.contents)}

    async def method(self, task):
        request = types.Request[dict, str](method=task["method"], params={})
        await self.client.send_request(request, types.EmptyResult)
        return {"error": False, "text": ""}


class Second(Session):
    async def tool(self, task):
        result = await self.client.call_tool(task["name"], task["arguments"])
        return {"error": bool(result.is_error), "text": texts_of(result.content)}

    async def resource(self, task):
        result = await self.client.read_resource(task["uri"])
        return {"error": False, "text": texts_of(result.contents)}

    async def method(self, task):
        request = types.Request[dict, str](method=task["method"], params={})
        await self.client.session.send_request(request, types.EmptyResult)
        return {"error": False, "text": ""}


async def answer(session, task):
    try:
        return {"ok": await getattr(session, task["do"])(task)}
    except RpcError as error:
        return {"code": error.error.code, "text": error.error.message}
    except Exception as error:
        return {"broken": f"{type(error).__name__}: {error}"}


def say(line):
    print(json.dumps(line), flush=True)


async def lines():
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        yield json.loads(line)


async def run(url):
    async with (first if IS_FIRST else second)(url) as (session, version):
        say({"ok": {"error": False, "text": str(version)}})
        async for task in lines():
            say(await answer(session, task))


def root_of(error):
    """The first error inside the exception groups that task groups raise."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def main():
    try:
        asyncio.run(run(sys.argv[1]))
    except Exception as error:
        error = root_of(error)
        known = isinstance(error, RpcError)
        told = {"code": error.error.code, "text": error.error.message} if known else None
        say(told or {"broken": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main()
