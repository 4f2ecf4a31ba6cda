//! Messages of a server, as JSON trees.

use super::random::Random;
use super::spoil;
use super::text::Tree;
use super::values;

/// A JSON body, or the data of an event; about half of them are good.
pub(super) fn body(random: &mut Random) -> Vec<u8> {
    let mut tree = message(random);
    while random.chance(35) {
        spoil::bend(&mut tree, random);
    }
    let plain = random.chance(50);
    let mut bytes = tree.write(random, plain).into_bytes();
    while random.chance(8) {
        spoil::damage(&mut bytes, random);
    }
    bytes
}

pub(super) fn message(random: &mut Random) -> Tree {
    let version = ("jsonrpc", Tree::text("2.0"));
    let asks = random.pick(&["sampling/createMessage", "elicitation/create", "roots/list", "ping"]);
    let tells =
        random.pick(&["notifications/progress", "notifications/message", "notifications/tools/list_changed"]);
    match random.below(12) {
        0 => Tree::object([version, ("method", Tree::text(tells)), ("params", values::value(random, 2))]),
        1 => {
            let id = values::id(random);
            Tree::object([
                version,
                ("id", id),
                ("method", Tree::text(asks)),
                ("params", values::value(random, 2)),
            ])
        }
        2 => {
            let code =
                if random.chance(70) { Tree::raw("-32602") } else { Tree::Raw(values::number(random)) };
            let error = Tree::object([
                ("code", code),
                ("message", Tree::text("no")),
                ("data", values::value(random, 2)),
            ]);
            let id = if random.chance(20) { Tree::raw("null") } else { values::id(random) };
            Tree::object([version, ("id", id), ("error", error)])
        }
        3..=5 => Tree::object([version, ("id", values::id(random)), ("result", outcome(random))]),
        6 => Tree::object([version, ("id", values::id(random)), ("result", values::value(random, 2))]),
        _ => Tree::object([version, ("id", values::id(random)), ("result", lists(random))]),
    }
}

fn outcome(random: &mut Random) -> Tree {
    let text = Tree::object([("type", Tree::text("text")), ("text", Tree::Text(values::text(random)))]);
    let mut members = vec![("content".to_owned(), Tree::List(vec![text]))];
    if random.chance(50) {
        members.push(("isError".to_owned(), Tree::raw(random.pick(&["true", "false"]))));
    }
    if random.chance(40) {
        members.push(("structuredContent".to_owned(), values::value(random, 3)));
    }
    Tree::Object(members)
}

fn lists(random: &mut Random) -> Tree {
    let mut members = Vec::new();
    for (list, name) in [
        ("tools", "name"),
        ("prompts", "name"),
        ("resources", "uri"),
        ("resourceTemplates", "uriTemplate"),
        ("tasks", "taskId"),
    ] {
        if random.chance(if list == "tools" { 80 } else { 15 }) {
            let entries = (0..random.below(4)).map(|_| entry(name, random)).collect();
            members.push((list.to_owned(), Tree::List(entries)));
        }
    }
    if random.chance(30) {
        members.push(("nextCursor".to_owned(), Tree::Text(values::text(random))));
    }
    if random.chance(30) {
        members.push(("cacheScope".to_owned(), Tree::text(random.pick(&["public", "private"]))));
    }
    Tree::Object(members)
}

fn entry(name: &str, random: &mut Random) -> Tree {
    let mut members = vec![(name.to_owned(), Tree::Text(values::text(random)))];
    if random.chance(40) {
        members.push(("description".to_owned(), Tree::Text(values::text(random))));
    }
    if random.chance(30) {
        members.insert(0, ("inputSchema".to_owned(), values::value(random, 3)));
    }
    Tree::Object(members)
}
