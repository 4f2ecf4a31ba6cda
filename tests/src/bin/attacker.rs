//! Attacks of `guard_tests::bypass`, to be run as somebody and from somewhere. Each prints one line of JSON that says what
//! it met.

use guard_tests::bypass::{bpf, connect, crafted, leave, published, repair, theft, tool};
use serde_json::Value;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let met: Value = match words.as_slice() {
        ["connect", target, how @ ..] => connect::run(target, how)?,
        ["keep", target, how @ ..] => return connect::keep(target, how),
        ["crafted", target, how @ ..] => crafted::run(target, how)?,
        ["half-open", target, how @ ..] => return crafted::half_open(target, how),
        ["repair", target] => return repair::run(target),
        ["leave", way, target, mark, allowed, fence] => leave::run(way, target, mark, allowed, fence)?,
        ["steal", pid] => theft::run(pid.parse()?)?,
        ["unpin", pins] => bpf::run(pins.as_ref()),
        ["relay", listen, target] => return published::relay(listen, target),
        ["tool", program, arguments @ ..] => tool(program, arguments),
        other => anyhow::bail!("no such attack: {other:?}"),
    };
    println!("{met}");
    Ok(())
}
