//! Messages of a client, as JSON trees.

use super::random::Random;
use super::spoil;
use super::text::Tree;
use super::values;

/// A POST body. How far it is from a good one is left to chance; about half of them are good.
pub(super) fn body(random: &mut Random) -> Vec<u8> {
    let mut tree = message(random);
    while random.chance(35) {
        spoil::bend(&mut tree, random);
    }
    let plain = random.chance(30);
    let mut bytes = tree.write(random, plain).into_bytes();
    while random.chance(12) {
        spoil::damage(&mut bytes, random);
    }
    bytes
}

fn message(random: &mut Random) -> Tree {
    let version = ("jsonrpc", Tree::text("2.0"));
    match random.below(12) {
        0 => Tree::object([
            version,
            ("method", Tree::text("notifications/cancelled")),
            (
                "params",
                Tree::object([("requestId", values::id(random)), ("reason", values::value(random, 0))]),
            ),
        ]),
        1 => Tree::object([version, ("id", values::id(random)), ("result", values::value(random, 3))]),
        2 => {
            let error =
                Tree::object([("code", Tree::Raw(values::number(random))), ("message", Tree::text("no"))]);
            Tree::object([version, ("id", values::id(random)), ("error", error)])
        }
        _ => {
            let (method, params) = asked(random);
            Tree::object([
                version,
                ("id", values::id(random)),
                ("method", Tree::text(method)),
                ("params", params),
            ])
        }
    }
}

fn asked(random: &mut Random) -> (&'static str, Tree) {
    let name = || Tree::text("read_customer");
    let (method, mut params) = match random.below(12) {
        0..=3 => ("tools/call", Tree::object([("name", name()), ("arguments", values::value(random, 4))])),
        4 => {
            let amount = Tree::object([
                ("amount", Tree::Raw(values::number(random))),
                ("note", values::value(random, 1)),
            ]);
            ("tools/call", Tree::object([("name", name()), ("arguments", amount)]))
        }
        5 => ("prompts/get", Tree::object([("name", name()), ("arguments", values::value(random, 2))])),
        6 => {
            let method = random.pick(&["resources/read", "resources/subscribe", "resources/unsubscribe"]);
            (method, Tree::object([("uri", Tree::Text(values::text(random)))]))
        }
        7 => {
            let (kind, key) = random.pick(&[&("ref/prompt", "name"), &("ref/resource", "uri")]);
            let reference =
                Tree::object([("type", Tree::text(kind)), (key, Tree::Text(values::text(random)))]);
            let argument = Tree::object([("name", Tree::text("x")), ("value", values::value(random, 0))]);
            ("completion/complete", Tree::object([("ref", reference), ("argument", argument)]))
        }
        8 => {
            let method = random.pick(&["tasks/get", "tasks/result", "tasks/cancel", "tasks/update"]);
            (method, Tree::object([("taskId", Tree::Text(values::text(random)))]))
        }
        9 => {
            let method =
                random.pick(&["tools/list", "prompts/list", "resources/list", "resources/templates/list"]);
            (method, Tree::object([("cursor", values::value(random, 0))]))
        }
        10 => {
            let uris = Tree::List((0..random.below(3)).map(|_| Tree::Text(values::text(random))).collect());
            let filter =
                Tree::object([("toolsListChanged", Tree::raw("true")), ("resourceSubscriptions", uris)]);
            ("subscriptions/listen", Tree::object([("notifications", filter)]))
        }
        _ => (
            "initialize",
            Tree::object([("protocolVersion", Tree::text("2025-11-25")), ("capabilities", Tree::object([]))]),
        ),
    };
    if random.chance(40)
        && let Tree::Object(members) = &mut params
    {
        let mut meta = Vec::new();
        if random.chance(60) {
            meta.push(("progressToken".to_owned(), values::id(random)));
        }
        if random.chance(60) {
            let version = random.pick(&["2026-07-28", "2025-11-25", "2099-01-01"]);
            meta.push(("io.modelcontextprotocol/protocolVersion".to_owned(), Tree::text(version)));
        }
        members.push(("_meta".to_owned(), Tree::Object(meta)));
    }
    (method, params)
}
