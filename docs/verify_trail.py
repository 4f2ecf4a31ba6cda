#!/usr/bin/env python3
"""Checks an audit trail of mcp-guard, as docs/audit-format.md describes it and with nothing of mcp-guard's.
    verify_trail.py DIR [VERIFIER_KEY_FILE] [OLDER_CHECKPOINT_FILE]
Exit code: 0 sound, 1 tampered, 2 incomplete, 3 unreadable. Slower than mcp-guard-verify; it shows that the page is enough."""
import base64, functools, gzip, hashlib, json, pathlib, re, sys, zlib
TAMPERED, INCOMPLETE, UNREADABLE = 1, 2, 3
class Fault(Exception): pass
def need(is_so, why, code=TAMPERED):
    if not is_so: raise Fault(why, code)
# --- Ed25519 (RFC 8032, section 5.1), for verifying only ---
P, L = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
def add(a, b):  # extended coordinates: X, Y, Z, T
    e, f, g, h = (a[1] - a[0]) * (b[1] - b[0]), (a[1] + a[0]) * (b[1] + b[0]), 2 * a[3] * b[3] * D, 2 * a[2] * b[2]
    return (f - e) * (h - g) % P, (h + g) * (f + e) % P, (h - g) * (h + g) % P, (f - e) * (f + e) % P
def times(n, point, result=(0, 1, 1, 0)):
    while n: result, point, n = add(result, point) if n & 1 else result, add(point, point), n >> 1
    return result
def point(data):
    y, sign = int.from_bytes(data, "little") & (1 << 255) - 1, data[31] >> 7
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    x = x * pow(2, (P - 1) // 4, P) % P if (x * x - square) % P else x
    if y >= P or (x * x - square) % P or (x == 0 and sign): return None
    return (x := P - x if x & 1 != sign else x), y, 1, x * y % P
BASE = point((4 * pow(5, -1, P) % P).to_bytes(32, "little"))
def is_signed(public, text, signature):
    a, r, s = point(public), point(signature[:32]), int.from_bytes(signature[32:], "little")
    if len(signature) != 64 or a is None or r is None or s >= L: return False
    one, other = times(s, BASE), add(r, times(int.from_bytes(hashlib.sha512(signature[:32] + public + text).digest(), "little") % L, a))
    return not any((one[i] * other[2] - other[i] * one[2]) % P for i in (0, 1))
# --- Signed notes, keys and the tree ---
def base64_of(text): return data if base64.b64encode(data := base64.b64decode(text, validate=True)).decode() == text else need(False, "base64 in another spelling")
def hash_of(text): return data if len(data := base64_of(text)) == 32 else need(False, "not a hash")
class Key:
    def __init__(self, text):
        self.name, key_id, key = text.strip().split("+", 2)
        self.public, self.id = (data := base64_of(key))[1:], hashlib.sha256(self.name.encode() + b"\n" + data).digest()[:4]
        need(len(data) == 33 and data[0] == 1 and self.id.hex() == key_id, "not an Ed25519 key, or its id is not its own", UNREADABLE)
    def signed(self, note):  # the lines of a note that this key signed
        (text, _, lines), signed = note.rpartition("\n\n"), False
        need(lines.endswith("\n") and lines.count("\n") <= 64, "not a signed note, or one with more than 64 signatures")
        for line in lines[:-1].split("\n"):
            dash, name, blob = line.split(" ")
            need(dash == "\u2014" and len(blob := base64_of(blob)) >= 4, "not a signature line")
            if name == self.name and blob[:4] == self.id:
                need(signed := is_signed(self.public, (text + "\n").encode(), blob[4:]), "a signature does not match")
        need(signed, "not signed with the key whose turn it was")
        return text.split("\n")
class Keys:  # one after the other; the last thing that each has signed is the key after it
    def __init__(self, root, lines):
        self.all, self.lines, self.name = [(-1, Key(root))], {}, Key(root).name  # all: (record that hands over, key)
        need(lines.endswith(b"\n") or not lines, "`keys`: the last line has no end")
        for line in lines.split(b"\n")[:-1]: self.take(line)
    def said(self, origin, size, root):
        need(origin == self.name and re.fullmatch("0|[1-9][0-9]*", size) and int(size) < 2**64, "not a checkpoint of this trail")
        return int(size), hash_of(root)
    def take(self, line):
        record, (before, key) = record_of(line), self.all[-1]
        *old, new = key.signed(record["note"])
        (size, root), new = self.said(*old), Key(new)
        need(size > before and [record["kind"], record["epoch"], record["seq"], new.name] == ["key", len(self.all), size, self.name], "not the record of the next key")
        self.all, self.lines[size] = [*self.all, (size, new)], (line, root)
    def checkpoint(self, note):  # number of records, and their root
        return self.said(*[key for seq, key in self.all if seq < int(note.split("\n")[1])][-1].signed(note))
def sha256(*parts): return hashlib.sha256(b"".join(parts)).digest()
def grow(peaks, size, leaf):
    while size & 1: leaf, size = sha256(b"\1", peaks.pop(), leaf), size >> 1
    return peaks.append(leaf) or 1
def root_of(peaks): return functools.reduce(lambda right, left: sha256(b"\1", left, right), reversed(peaks)) if peaks else sha256()
# --- The trail ---
NUMBERS, TEXTS = "seq format epoch call_seq open_count to lost_to".split(), "prev time kind id origin decision note reason cause".split()
def whole(text): return int(text) if -2**63 <= int(text) < 2**64 else need(False, "a number that is too large")
def depth(value): return 1 + max(map(depth, value.values() if isinstance(value, dict) else value), default=0) if isinstance(value, (dict, list)) else 0
def record_of(line):  # a line has one spelling: that of `dumps`, with members once, whole numbers and no half of a surrogate pair
    record = json.loads(line, parse_int=whole, parse_float=whole, parse_constant=whole)
    is_one = json.dumps(record, separators=(",", ":")).encode() == line and json.dumps(record, ensure_ascii=False).encode() and depth(record) <= 32
    need(is_one and re.match(rb'{"seq":[0-9]+,"prev":"[0-9a-f]{64}","time":"', line), "a record in another spelling than the guard's")
    record = {name: value for name, value in record.items() if value is not None}  # in records of any kind these are of these types
    are_right = [type(value) is int and value >= 0 if name in NUMBERS else type(value) is str for name, value in record.items() if name in NUMBERS + TEXTS]
    need(all(are_right) and type(peaks := record.get("peaks", [])) is list and all(type(peak) is str for peak in peaks) and "kind" in record, "a member of another type")
    return record
def check_members(path):  # of a packed file; one with an `MG` field is as long as that says
    data = path.read_bytes()
    while data:
        need(data[0] == 0x1F, f"{path.name}: something else than a gzip member")
        member, rest, plain = zlib.decompressobj(31), data, 0
        while not member.eof and rest: plain, rest = plain + len(member.decompress(rest, 1 << 20)), member.unconsumed_tail
        need(member.eof, f"{path.name}: it ends within a member", INCOMPLETE)
        said, packed = data[3] & 4 and data[10:16] == b"\x0c\0MG\x08\0", len(data) - len(member.unused_data)
        need(not said or data[16:24] == packed.to_bytes(4, "little") + plain.to_bytes(4, "little"), f"{path.name}: a member is not as long as it says")
        data = member.unused_data
def verify(folder, key_file, older_file):
    root, later, newest = key_file.read_text(), folder / "keys", folder / "checkpoint"
    need(newest.exists(), "the checkpoint is missing", INCOMPLETE)
    note, keys = newest.read_bytes().decode(), Keys(root, later.read_bytes() if later.exists() else b"")
    signed = [keys.checkpoint(note)] + ([keys.checkpoint(older_file.read_bytes().decode())] if older_file else [])
    names = [p.name for p in folder.iterdir() if re.fullmatch("[0-9]{20}[.]jsonl([.]gz)?", p.name) and int(p.name[:20]) < 2**64]
    files = sorted({name[:20]: folder / name for name in sorted(names, reverse=True)}.items())  # plain or packed; with both, the plain one
    begin = size = int(files[0][0]) if files else 0
    prev, peaks, waiting, before, pruned, losses = bytes(32), [], {}, 0, 0, 0  # waiting: calls without an outcome; before: how many in what was pruned
    def is_as_signed(): return all(end != size or root == root_of(peaks) for end, root in signed)
    for first, path in ((int(digits), path) for digits, path in files):
        need(first == size, f"{path.name}: record {size} belongs here", INCOMPLETE if first > size else TAMPERED)
        file = (check_members(path) or gzip.open(path)) if path.suffix == ".gz" else path.open("rb")
        for number, line in enumerate(iter(lambda: file.readline(65_537), b""), 1):  # a longer line is cut, and has no end
            where = f"{path.name}, line {number}: "
            need(line.endswith(b"\n") and len(line) <= 65_536, where + "the line has no end, or is too long", INCOMPLETE)
            line, record = line[:-1], record_of(line[:-1])
            if size == begin > 0 and number == 1:  # what was before it is pruned: it says how the trail stood, signed
                peaks, before, prev = [hash_of(peak) for peak in record["peaks"]], record["open_count"], bytes.fromhex(record["prev"])
                need(len(peaks) == bin(size).count("1") and record["kind"] == "checkpoint", where + "a trail does not begin here")
            need(is_as_signed(), where + "a signed checkpoint covers other records than those before it")
            need(line.startswith(b'{"seq":%d,"prev":"%s","time":"' % (size, prev.hex().encode())), where + "another record, or `prev` is not the line before")
            kind, call = record["kind"], record.get("id")
            need((size == 0) == (kind == "genesis"), where + "the first record, and only that, is a genesis record")
            if kind == "genesis": need(record["format"] == 1 and record["origin"] == keys.name, where + "another format or trail")
            elif kind in ("call", "outcome"): need(type(call) is str and (record.get("decision") in ("allow", "deny", "hold", "tell") or kind == "outcome"), where + "no id or verdict")
            if kind == "call" and record["decision"] == "allow": need(waiting.setdefault(call, size) == size, where + "its id is that of a call under way")
            elif kind == "outcome":
                is_before = call not in waiting and before > 0 and record["call_seq"] < begin
                need(is_before or waiting.pop(call, None) == record["call_seq"], where + "no call waits for this outcome")
                before -= is_before
            elif kind == "checkpoint":
                need(keys.checkpoint(record["note"]) == (size, root_of(peaks)), where + "it covers other records")
                stands = [[base64.b64encode(peak).decode() for peak in peaks], len(waiting) + before, 1]
                need("peaks" not in record or [record.get(name) for name in ("peaks", "open_count", "format")] == stands, where + "the trail stood otherwise")
            elif kind == "key":
                if size > keys.all[-1][0]: keys.take(line)  # behind the checkpoint, `keys` may lack it
                need(keys.lines.pop(size, None) == (line, root_of(peaks)), where + "`keys` has another one, or it covers other records")
            elif kind == "pruned": pruned = max(pruned, record["to"] * (size < signed[0][0])) if record["to"] <= size else need(False, where + "it is about records behind it")
            elif kind == "gap" and record.get("reason") == "restart":
                need(record["open_count"] == len(waiting) + before, where + "another number of calls was open")
                waiting, before = {}, 0
            losses, size = losses + (kind == "gap" and record.get("reason") == "loss_accepted"), size + grow(peaks, size, prev := sha256(b"\0", line))
    need(is_as_signed(), "the signed checkpoint covers other records")
    need(size >= max(end for end, _ in signed), "fewer records than a signed checkpoint covers", INCOMPLETE)
    need(all(seq < begin for seq in keys.lines), "`keys` has a record of a key that is not in the trail", INCOMPLETE if max(keys.lines, default=0) >= size else TAMPERED)
    need(pruned >= begin, f"the records before {begin} are gone, and no signed record says that they were pruned")
    need(all(end >= begin for end, _ in signed), "the older checkpoint is of records that were pruned", INCOMPLETE)
    return f"records {begin} to {size - 1}, {size - signed[0][0]} of them behind the signed checkpoint, {len(waiting) + before} calls open" + f", {losses} losses accepted" * (losses > 0)
if __name__ == "__main__":
    folder, *files = [*map(pathlib.Path, sys.argv[1:4]), None, None]
    try: print("SOUND:", verify(folder, files[0] or folder / "verifier-key", files[1]))
    except (Fault, OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        unread = UNREADABLE if isinstance(error, OSError) and not isinstance(error, gzip.BadGzipFile) else TAMPERED
        code = error.args[1] if isinstance(error, Fault) else INCOMPLETE if isinstance(error, EOFError) else unread
        print(f"{[None, 'TAMPERED', 'INCOMPLETE', 'UNREADABLE'][code]}: {error.args[0] if isinstance(error, Fault) else error}")
        sys.exit(code)
