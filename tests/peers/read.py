"""Reads JSON texts and event streams as Python programs do, and says what it read: one line a case.

The frames and the lines are those of read.mjs. With an argument, another reader: `json` (the standard library, and the
HTTP library of the SDK for streams), `pydantic` (the SDK's own JSON reader), `lines` (streams cut into lines as older
HTTP libraries do).
"""

import json
import re
import struct
import sys

import pydantic_core
from httpx2 import Request, Response
from httpx2._decoders import LineDecoder
from httpx2._sse import EventSource

PLAIN = re.compile(r"[ !#-\[\]-~]*")
SAFE = (1 << 53) - 1


def text(value):
    if PLAIN.fullmatch(value):
        return f'"{value}"'
    return "u" + value.encode("utf-16-le", "surrogatepass").hex()


def number(value):
    if isinstance(value, int):
        if abs(value) <= SAFE:
            return str(value)
        try:
            value = float(value)
        except OverflowError:
            value = float("inf") if value > 0 else float("-inf")
    if value == value and value.is_integer() and abs(value) <= SAFE:
        return str(int(value))
    return "d" + struct.pack(">d", value).hex()


def canon(value):
    if value is None:
        return "null"
    if value is True or value is False:
        return "true" if value else "false"
    if isinstance(value, str):
        return text(value)
    if isinstance(value, list):
        return "[" + ",".join([canon(item) for item in value]) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(sorted([f"{text(key)}:{canon(item)}" for key, item in value.items()])) + "}"
    return number(value)


def member(value, key):
    return canon(value[key]) if key in value else "-"


def identity(value, key):
    if not isinstance(value, dict) or key not in value:
        return "-"
    value = value[key]
    if isinstance(value, int) and not isinstance(value, bool):
        return f"n{value}"
    return f"f{number(value)}" if isinstance(value, float) else canon(value)


def named(kind, params, key):
    value = params.get(key) if isinstance(params, dict) else None
    return f"{kind}:{text(value)}" if isinstance(value, str) else "unnamed"


def target(method, params):
    if method == "tools/call":
        return named("tool", params, "name")
    if method == "prompts/get":
        return named("prompt", params, "name")
    if method in ("resources/read", "resources/subscribe", "resources/unsubscribe"):
        return named("resource", params, "uri")
    if method in ("tasks/get", "tasks/result", "tasks/update", "tasks/cancel"):
        return named("task", params, "taskId")
    if method == "completion/complete":
        ref = params.get("ref") if isinstance(params, dict) else None
        kind = ref.get("type") if isinstance(ref, dict) else None
        if kind == "ref/prompt":
            return named("prompt", ref, "name")
        if kind == "ref/resource":
            return named("resource", ref, "uri")
        return "unnamed"
    return "method"


def read_json(message):
    if not isinstance(message, dict):
        return f"other\t-\t{canon(message)}"
    params = message.get("params")
    told = [
        f"method={member(message, 'method')}",
        f"id={identity(message, 'id')}",
        f"result={int('result' in message)}",
        f"error={int('error' in message)}",
        f"target={target(message.get('method'), params)}",
        f"token={identity(params.get('_meta') if isinstance(params, dict) else None, 'progressToken')}",
    ]
    return f"{' '.join(told)}\t{member(message, 'params')}\t{canon(message)}"


LISTS = (
    ("tools", "name", "tool"),
    ("prompts", "name", "prompt"),
    ("resources", "uri", "resource"),
    ("resourceTemplates", "uriTemplate", "resource"),
    ("tasks", "taskId", "task"),
)


def read_reply(message):
    if not isinstance(message, dict):
        return f"other\t{canon(message)}"
    result = message.get("result")
    members = result if isinstance(result, dict) else {}
    shown = []
    for key, name, kind in LISTS:
        if isinstance(members.get(key), list):
            shown += [named(kind, entry, name) for entry in members[key]]
    there = {key: value for key, value in message.items() if value is not None}
    told = [
        f"method={member(there, 'method')}",
        f"id={identity(there, 'id')}",
        f"result={int('result' in message)}",
        f"error={int('error' in there)}",
        f"failed={int(members.get('isError') is True)}",
        f"shown=[{','.join(shown)}]",
    ]
    return f"{' '.join(told)}\t{canon(message)}"


def read(loads, reading, raw):
    try:
        message = loads(raw)
    except (ValueError, RecursionError):
        return "!"
    try:
        return reading(message)
    except RecursionError:
        # It has been read, but is nested too deeply to be written.
        return "deep"


def chunks(raw):
    at = 0
    while at < len(raw):
        (length,) = struct.unpack_from("<I", raw, at)
        yield raw[at + 4 : at + 4 + length]
        at += 4 + length


def told(events):
    return " ".join(f"{text(event or 'message')}={text(data)}" for event, data in events if data)


def answer(raw):
    headers = {"content-type": "text/event-stream"}
    return Response(200, headers=headers, content=chunks(raw), request=Request("GET", "http://localhost/"))


def read_stream(raw):
    return told((event.event, event.data) for event in EventSource(answer(raw)))


def read_lines(raw):
    """Lines also end at U+2028, U+0085 and the like, as in `str.splitlines`."""
    events, event, data = [], None, []
    for line in answer(raw).iter_lines():
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            events.append((event, "\n".join(data)))
            event, data = None, []
        elif field == "data":
            data.append(value)
        elif field == "event":
            event = value
    return told(events)


def main():
    reader = sys.argv[1] if len(sys.argv) > 1 else "json"
    loads = pydantic_core.from_json if reader == "pydantic" else json.loads
    stream = read_lines if reader == "lines" else read_stream
    lines = []
    source, sink = sys.stdin.buffer, sys.stdout
    while head := source.read(5):
        raw = source.read(struct.unpack_from("<I", head, 1)[0])
        match head[:1]:
            case b"f":
                sink.write("".join(line + "\n" for line in lines))
                sink.flush()
                lines = []
            case b"s":
                lines.append(stream(raw))
            case kind:
                lines.append(read(loads, read_json if kind == b"j" else read_reply, raw))


main()
