"""Drives a server with the Python SDK 2.x.

usage: python py_client.py URL TABLE [STEP...]
  TABLE   a table of steps.json, which says what each step calls and what it must get
  STEP    initialize, list, call, progress, sampling, elicitation, read, denied; all of the table without any
environment: MCP_HEADERS (a JSON object), MCP_DENIED (JSON {tool, arguments}), MCP_ERA (legacy or auto),
  SSL_CERT_FILE (a CA file)
Prints one JSON line per step; ends with 0 if all went well, else with 1.
"""

import asyncio
import json
import os
import pathlib
import sys

import httpx2
from mcp import Client, types
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client


class Failed(Exception):
    """A step did not get what its table asks for."""


def must(condition, what, seen):
    if not condition:
        raise Failed(f"{what}; got {seen!r}")


def root_of(error):
    """The first error inside the exception groups that task groups raise."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class Driver:
    def __init__(self, client, table):
        self.client = client
        self.table = table

    async def initialize(self):
        info = self.client.server_info
        return {"server": info.name if info else None, "protocol": self.client.protocol_version}

    async def list(self):
        return {"tools": [tool.name for tool in (await self.client.list_tools()).tools]}

    async def called(self, step, **options):
        result = await self.client.call_tool(step["tool"], step["arguments"], **options)
        text = "\n".join(getattr(block, "text", "") for block in result.content)
        return {"text": text, "is_error": bool(result.is_error)}

    async def good(self, step, **options):
        got = await self.called(step, **options)
        must(not got["is_error"] and step["says"] in got["text"], f"the answer must contain {step['says']!r}", got)
        return got

    async def call(self):
        return await self.good(self.table["call"])

    async def progress(self):
        reports = []

        async def report(progress, total, message):
            reports.append(progress)

        got = await self.good(self.table["progress"], progress_callback=report)
        wanted = self.table["progress"]["reports"]
        # The SDK may hand over the last report after the answer.
        for _ in range(500):
            if len(reports) >= wanted:
                break
            await asyncio.sleep(0.02)
        must(len(reports) == wanted, f"{wanted} reports must come", reports)
        return {**got, "reports": len(reports)}

    async def answered(self, step):
        before = Driver.asked
        got = await self.good(step)
        must(Driver.asked == before + 1, "the server must ask the client once", Driver.asked - before)
        return {**got, "asked": 1}

    async def sampling(self):
        return await self.answered(self.table["sampling"])

    async def elicitation(self):
        return await self.answered(self.table["elicitation"])

    async def read(self):
        step = self.table["read"]
        contents = (await self.client.read_resource(step["uri"])).contents
        text = "\n".join(getattr(content, "text", "") for content in contents)
        must(step["says"] in text, f"the resource must contain {step['says']!r}", text)
        return {"text": text}

    async def denied(self):
        """A refused call is an answer: the session goes on."""
        got = await self.called(self.table["denied"])
        must(got["is_error"], "the call must be answered as an error", got)
        await self.good(self.table["call"])
        return got

    asked = 0


async def sample(context, params):
    Driver.asked += 1
    content = types.TextContent(type="text", text="sampled words")
    return types.CreateMessageResult(role="assistant", model="fixture", content=content)


async def elicit(context, params):
    Driver.asked += 1
    content = {"name": "Ada", "username": "Ada", "email": "ada@customers.example", "check": True}
    return types.ElicitResult(action="accept", content=content)


async def run(url, table, names):
    headers = json.loads(os.environ.get("MCP_HEADERS", "{}"))
    failed = False
    http = httpx2.AsyncClient(headers=headers, trust_env=True, timeout=httpx2.Timeout(30, read=300))
    async with http:
        if url.endswith("/sse"):
            transport = sse_client(url, headers=headers)
        else:
            transport = streamable_http_client(url, http_client=http)
        options = {"sampling_callback": sample, "elicitation_callback": elicit}
        async with Client(transport, mode=os.environ.get("MCP_ERA", "auto"), **options) as client:
            driver = Driver(client, table)
            for name in names:
                try:
                    line = {"step": name, "ok": True, **await getattr(driver, name)()}
                except Exception as error:
                    failed = True
                    line = {"step": name, "ok": False, "error": f"{type(error).__name__}: {error}"}
                print(json.dumps(line), flush=True)
    return failed


def main():
    tables = json.loads(pathlib.Path(__file__).with_name("steps.json").read_text())
    if len(sys.argv) < 3 or sys.argv[2] not in tables:
        sys.exit(f"usage: python py_client.py URL {'|'.join(tables)} [STEP...]")
    table = tables[sys.argv[2]]
    if "MCP_DENIED" in os.environ:
        table["denied"] = json.loads(os.environ["MCP_DENIED"])
    names = sys.argv[3:] or ["initialize", "list", *table]
    try:
        failed = asyncio.run(run(sys.argv[1], table, names))
    except Exception as error:
        error = root_of(error)
        print(json.dumps({"step": "session", "ok": False, "error": f"{type(error).__name__}: {error}"}), flush=True)
        failed = True
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
