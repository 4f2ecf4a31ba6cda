//! What stands in the generated messages: legal but odd, and now and then illegal.

use std::fmt::Write as _;

use super::random::Random;
use super::text::Tree;

/// Numbers at which parsers part, all of them legal.
const NUMBERS: [&str; 24] = [
    "0",
    "-0",
    "-0.0",
    "1",
    "-1",
    "1.0",
    "1e3",
    "1E+2",
    "1e-7",
    "0.1",
    "100.00000000000000000001",
    "4.35",
    "9007199254740991",
    "9007199254740993",
    "-9007199254740993",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "123456789012345678901234567890",
    "1.7976931348623157e308",
    "2.2250738585072011e-308",
    "5e-324",
    "1e-400",
];

/// No JSON, but one parser or another takes it.
const ILLEGAL: [&str; 30] = [
    "NaN",
    "-NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "-1e999",
    "01",
    "-01",
    "+1",
    ".5",
    "5.",
    "1.e1",
    "1e",
    "1e+",
    "0x10",
    "1_000",
    "-",
    "True",
    "None",
    "nul",
    "undefined",
    "'a'",
    "\"\\x41\"",
    "\"\\u00g0\"",
    "\"\\ud800\"",
    "\"\\udc00\\ud800\"",
    "\"\\ud800\\u0041\"",
    "\"\u{1}\"",
    "\"a\tb\"",
    "[1,]",
];

const TEXTS: [&str; 26] = [
    "",
    "a",
    "read_customer",
    "Read_Customer",
    "read_customer ",
    "tools/call",
    "file:///etc/passwd",
    "\u{0}",
    "a\u{0}b",
    "\u{7f}",
    "\u{85}",
    "line\nbreak",
    "tab\tbed",
    "\u{2028}\u{2029}",
    "\u{feff}a",
    "e\u{301}",
    "\u{e9}",
    "\u{200b}hidden\u{202e}",
    "\u{1f600}",
    "\u{10ffff}",
    "\u{ffff}",
    "\u{fffd}",
    "\"quoted\\\"",
    "</script>",
    "__proto__",
    "2026-07-28",
];

/// Keys that a server looks for.
pub(super) const KEYS: [&str; 24] = [
    "jsonrpc",
    "id",
    "method",
    "params",
    "result",
    "error",
    "name",
    "arguments",
    "uri",
    "ref",
    "type",
    "taskId",
    "task",
    "_meta",
    "progressToken",
    "requestId",
    "io.modelcontextprotocol/protocolVersion",
    "cursor",
    "inputResponses",
    "requestState",
    "notifications",
    "resourceSubscriptions",
    "amount",
    "",
];

pub(super) fn key(random: &mut Random) -> String {
    random.pick(&KEYS).to_owned()
}

/// The key as a careless parser may take it for the one that it was, or that an object treats in its own way.
pub(super) fn lookalike(key: &str, random: &mut Random) -> String {
    match random.below(9) {
        0 => key.to_uppercase(),
        1 => {
            let mut letters = key.chars();
            letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
        }
        2 => format!("{key}\0"),
        3 => format!("\0{key}"),
        4 => key.replace('s', "\u{17f}").replace('k', "\u{212a}"),
        5 => key.chars().map(|c| char::from_u32(u32::from(c) + 0xfee0).unwrap_or(c)).collect(),
        6 => format!("{key} "),
        7 => format!("\u{feff}{key}"),
        _ => random.pick(&["__proto__", "constructor", "toString", "length", "hasOwnProperty"]).to_owned(),
    }
}

pub(super) fn text(random: &mut Random) -> String {
    let mut text = random.pick(&TEXTS).to_owned();
    while random.chance(25) {
        text.push_str(random.pick(&TEXTS));
    }
    if random.chance(15) {
        for _ in 0..random.below(8) {
            let code = random.below(0x11_0000);
            text.extend(char::from_u32(u32::try_from(code).unwrap_or(0)));
        }
    }
    text
}

pub(super) fn number(random: &mut Random) -> String {
    if random.chance(60) {
        return random.pick(&NUMBERS).to_owned();
    }
    let mut number = String::new();
    if random.chance(30) {
        number.push('-');
    }
    let digits = |number: &mut String, random: &mut Random, most: usize| {
        for at in 0..=random.below(most) {
            let digit = random.below(10);
            let _ = write!(number, "{}", if at == 0 { digit.max(1) } else { digit });
        }
    };
    digits(&mut number, random, 24);
    if random.chance(50) {
        number.push('.');
        digits(&mut number, random, 24);
    }
    if random.chance(40) {
        number.push_str(random.pick(&["e", "E", "e+", "e-", "E-"]));
        digits(&mut number, random, 3);
    }
    number
}

pub(super) fn illegal(random: &mut Random) -> String {
    random.pick(&ILLEGAL).to_owned()
}

/// An id, progress token or the like: mostly one that all take.
pub(super) fn id(random: &mut Random) -> Tree {
    match random.below(10) {
        0..=3 => Tree::Raw(random.below(1_000_000).to_string()),
        4 => Tree::raw(random.pick(&["0", "-1", "9007199254740991", "-9007199254740991"])),
        5 | 6 => Tree::text(random.pick(&["", "1", "a-1", "\u{e9}\u{1f600}", "\u{2028}"])),
        7 => Tree::Raw(number(random)),
        8 => Tree::Text(text(random)),
        _ => Tree::raw(random.pick(&["null", "true", "[1]", "{}", "1.0", "1e3", "-0", "9007199254740992"])),
    }
}

/// Any legal value.
pub(super) fn value(random: &mut Random, depth: usize) -> Tree {
    match random.below(if depth == 0 { 6 } else { 9 }) {
        0 | 1 => Tree::Raw(number(random)),
        2..=4 => Tree::Text(text(random)),
        5 => Tree::raw(random.pick(&["null", "true", "false"])),
        6 => Tree::List((0..random.below(4)).map(|_| value(random, depth - 1)).collect()),
        _ => {
            let mut members: Vec<(String, Tree)> = Vec::new();
            for _ in 0..random.below(5) {
                let key = if random.chance(60) { key(random) } else { text(random) };
                if members.iter().all(|(known, _)| *known != key) {
                    members.push((key, value(random, depth - 1)));
                }
            }
            Tree::Object(members)
        }
    }
}
