//! Event streams of a server, in the pieces in which they come.

use super::random::Random;
use super::reply;
use super::spoil;

/// What some parser takes for the end of a line, or for the start of a stream.
const ODD: [&str; 10] = [
    "\u{2028}",
    "\u{2029}",
    "\u{85}",
    "\u{b}",
    "\u{c}",
    "\u{1c}",
    "\u{1e}",
    "\r",
    "\u{feff}",
    "\u{ef}\u{bb}\u{bf}",
];

/// Some events, cut anywhere.
pub(super) fn chunks(random: &mut Random) -> Vec<Vec<u8>> {
    let mut stream = Vec::new();
    if random.chance(5) {
        stream.extend_from_slice(random.pick(&["\u{feff}", "\u{ef}\u{bb}\u{bf}", "\r\n", "\n"]).as_bytes());
    }
    let ending = if random.chance(80) { "\n" } else { random.pick(&["\r\n", "\r\n", "\r"]) };
    for _ in 0..=random.below(4) {
        event(&mut stream, ending, random);
    }
    if random.chance(10) {
        spoil::damage(&mut stream, random);
    }
    let mut rest = stream.as_slice();
    let mut chunks = Vec::new();
    let most = if random.chance(50) { 8 } else { 400 };
    while !rest.is_empty() {
        let (chunk, next) = rest.split_at((1 + random.below(most)).min(rest.len()));
        chunks.push(chunk.to_vec());
        rest = next;
    }
    chunks
}

fn event(stream: &mut Vec<u8>, ending: &str, random: &mut Random) {
    let mut lines = Vec::new();
    let word = |random: &mut Random| {
        let mut word =
            random.pick(&["7", "", "a b", "message", "other", "data: x", "\u{e9}", "\0"]).to_owned();
        while random.chance(12) {
            word.push_str(random.pick(&ODD));
            word.push_str(random.pick(&[
                "",
                "data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}",
                "event: message",
                "\u{2028}",
            ]));
        }
        word
    };
    while random.chance(35) {
        let field = random.pick(&[
            ": ",
            ":",
            "id: ",
            "id:",
            "retry: ",
            "event: ",
            "event",
            "unknown: ",
            "Data: ",
            "data : ",
            "dat",
        ]);
        lines.push(format!("{field}{}", word(random)));
    }
    if random.chance(60) {
        lines.push(random.pick(&["event: message", "event:message", "event", "event: other"]).to_owned());
    }
    if random.chance(85) {
        let plain = random.chance(70);
        let message = reply::message(random).write(random, plain);
        let colon = random.pick(&["data: ", "data:"]);
        for line in message.split('\n') {
            lines.push(format!("{colon}{line}"));
        }
    } else {
        lines.push(format!("data:{}", word(random)));
    }
    if random.chance(10) {
        lines.push(random.pick(&["data", ": late", "id: 8", "event: other"]).to_owned());
    }
    for line in lines {
        stream.extend_from_slice(line.as_bytes());
        stream.extend_from_slice(ending.as_bytes());
    }
    if random.chance(95) {
        stream.extend_from_slice(ending.as_bytes());
    }
}
