// Reads JSON texts and event streams as Node.js programs do, and says what it read: one line a case.
// Input: frames of a letter, a length (32 bits, little endian) and that many bytes. `j` is a client's message, `r` a
// server's, `s` an event stream (its chunks, each with its length before it), `f` asks for all lines so far. `src/differ/readers.rs` writes them.
import { readSync, writeSync } from 'node:fs';
import { createParser } from 'eventsource-parser';

const text = (value) => {
  if (/^[ !#-[\]-~]*$/.test(value)) return `"${value}"`;
  return `u${Buffer.from(value, 'utf16le').toString('hex')}`;
};
const bits = new DataView(new ArrayBuffer(8));
const number = (value) => {
  if (Number.isSafeInteger(value)) return String(value === 0 ? 0 : value);
  bits.setFloat64(0, value);
  return `d${bits.getBigUint64(0).toString(16).padStart(16, '0')}`;
};
const canon = (value) => {
  if (value === undefined) return '-';
  if (value === null) return 'null';
  if (typeof value === 'boolean') return String(value);
  if (typeof value === 'number') return number(value);
  if (typeof value === 'string') return text(value);
  const parts = [];
  if (Array.isArray(value)) {
    for (const item of value) parts.push(canon(item));
    return `[${parts.join(',')}]`;
  }
  for (const key of Object.keys(value)) parts.push(`${text(key)}:${canon(value[key])}`);
  return `{${parts.sort().join(',')}}`;
};
// Whole numbers to the last digit, and told from others.
const id = (value) => {
  if (typeof value !== 'number') return canon(value);
  return Number.isInteger(value) ? `n${BigInt(value)}` : `f${number(value)}`;
};
const named = (kind, value) => (typeof value === 'string' ? `${kind}:${text(value)}` : 'unnamed');
const target = (method, params) => {
  if (method === 'tools/call') return named('tool', params?.name);
  if (method === 'prompts/get') return named('prompt', params?.name);
  if (['resources/read', 'resources/subscribe', 'resources/unsubscribe'].includes(method)) {
    return named('resource', params?.uri);
  }
  if (['tasks/get', 'tasks/result', 'tasks/update', 'tasks/cancel'].includes(method)) {
    return named('task', params?.taskId);
  }
  if (method === 'completion/complete') {
    const ref = params?.ref;
    if (ref?.type === 'ref/prompt') return named('prompt', ref.name);
    if (ref?.type === 'ref/resource') return named('resource', ref.uri);
    return 'unnamed';
  }
  return 'method';
};
const has = (message, key) => (message[key] === undefined ? 0 : 1);

// As `Request.json()` does: a byte order mark goes, what is no UTF-8 becomes U+FFFD.
const parse = (bytes) => JSON.parse(new TextDecoder().decode(bytes));

const readJson = (message) => {
  if (message === null || typeof message !== 'object' || Array.isArray(message)) return `other\t-\t${canon(message)}`;
  const { method, params } = message;
  const told = [
    `method=${canon(method)}`,
    `id=${id(message.id)}`,
    `result=${has(message, 'result')}`,
    `error=${has(message, 'error')}`,
    `target=${target(method, params)}`,
    `token=${id(params?._meta?.progressToken)}`,
  ];
  return `${told.join(' ')}\t${canon(params)}\t${canon(message)}`;
};

const lists = [
  ['tools', 'name', 'tool'],
  ['prompts', 'name', 'prompt'],
  ['resources', 'uri', 'resource'],
  ['resourceTemplates', 'uriTemplate', 'resource'],
  ['tasks', 'taskId', 'task'],
];
const readReply = (message) => {
  if (message === null || typeof message !== 'object' || Array.isArray(message)) return `other\t${canon(message)}`;
  const { result } = message;
  const shown = [];
  for (const [list, name, kind] of lists) {
    if (!Array.isArray(result?.[list])) continue;
    for (const entry of result[list]) shown.push(named(kind, entry?.[name]));
  }
  const told = [
    `method=${canon(message.method ?? undefined)}`,
    `id=${id(message.id ?? undefined)}`,
    `result=${has(message, 'result')}`,
    `error=${message.error === undefined || message.error === null ? 0 : 1}`,
    `failed=${result?.isError === true ? 1 : 0}`,
    `shown=[${shown.join(',')}]`,
  ];
  return `${told.join(' ')}\t${canon(message)}`;
};

// As the TypeScript SDK: the bytes are decoded piece by piece, then cut into events.
const readStream = (bytes) => {
  const told = [];
  const parser = createParser({
    onEvent: ({ event, data }) => data !== '' && told.push(`${text(event || 'message')}=${text(data)}`),
  });
  const decoder = new TextDecoder();
  for (let at = 0; at < bytes.length; ) {
    const end = at + 4 + bytes.readUInt32LE(at);
    const chunk = decoder.decode(bytes.subarray(at + 4, end), { stream: true });
    // Decoders pass on no empty pieces.
    if (chunk !== '') parser.feed(chunk);
    at = end;
  }
  return told.join(' ');
};

const read = (reading, bytes) => {
  let message;
  try {
    message = parse(bytes);
  } catch {
    return '!';
  }
  try {
    return reading(message);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    // It has been read, but is nested too deeply to be written.
    return 'deep';
  }
};

let input = Buffer.alloc(0);
const take = (length) => {
  while (input.length < length) {
    const more = Buffer.alloc(1 << 20);
    const got = readSync(0, more, 0, more.length, null);
    if (got === 0) process.exit(0);
    input = Buffer.concat([input, more.subarray(0, got)]);
  }
  const taken = input.subarray(0, length);
  input = input.subarray(length);
  return taken;
};
const say = (line) => {
  let rest = Buffer.from(line);
  while (rest.length > 0) rest = rest.subarray(writeSync(1, rest));
};

let lines = [];
for (;;) {
  const head = take(5);
  const bytes = take(head.readUInt32LE(1));
  const kind = String.fromCharCode(head[0]);
  if (kind === 'f') {
    say(lines.length > 0 ? `${lines.join('\n')}\n` : '');
    lines = [];
  } else {
    lines.push(kind === 's' ? readStream(bytes) : read(kind === 'j' ? readJson : readReply, bytes));
  }
}
