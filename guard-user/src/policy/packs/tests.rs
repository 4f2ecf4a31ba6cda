//! The packs that come with the guard, and what becomes of those of one's own.

use super::super::tests::server;
use super::super::*;
use super::{all, load};
use std::path::PathBuf;

const POLICY: &str = "
agents: {a: {client_id: a}}
packs:
  - {pack: filesystem, server: files}
  - {pack: filesystem, server: customer-ops}
intents:
  files.list: [{server: files, tool: tree, class: read}]
policies:
  - {intent: files.*, agents: [a], decision: allow}
";

fn loaded(texts: &[(&str, &str)], own: &[(&str, &str)]) -> Result<Policy, String> {
    let files = |texts: &[(&str, &str)]| -> Vec<_> {
        texts.iter().map(|(name, text)| (PathBuf::from(name), (*text).to_owned())).collect()
    };
    let servers = [server("customer-ops"), server("files")];
    let found = load::compiled(&files(texts), &files(own), &servers);
    found.map(|(_, policy)| policy).map_err(|problems| problems.to_string())
}

fn said(texts: &[(&str, &str)], own: &[(&str, &str)]) -> String {
    loaded(texts, own).expect_err("must be refused")
}

#[test]
fn every_pack_that_comes_with_the_guard_is_read_and_says_what_each_tool_does() {
    let packs = all(None).unwrap();
    let names: Vec<_> = packs.iter().map(|pack| pack.name.as_str()).collect();
    assert_eq!(names, ["code-hosting", "database", "filesystem", "saas-ops"]);
    for pack in packs {
        assert!(pack.shipped && !pack.about.is_empty() && pack.meanings.len() >= 15, "{}", pack.name);
        for meaning in &pack.meanings {
            // The one tool of which nobody can say.
            let is_clear = meaning.class.is_some() || meaning.name == "query";
            assert!(is_clear && meaning.kind == "tool", "{meaning:?}");
        }
    }
}

#[test]
fn a_pack_is_bound_to_servers_and_grants_nothing_by_itself() {
    let policy = loaded(&[("p.yaml", POLICY)], &[]).unwrap();
    let tools = |effect: Effect| policy.grants().iter().filter(|grant| grant.effect == effect).count();
    assert_eq!((tools(Effect::Allow), tools(Effect::Deny)), (14 * 2 + 1, 0));
    let without = POLICY.replace("decision: allow", "decision: deny");
    let policy = loaded(&[("p.yaml", &without)], &[]).unwrap();
    assert!(policy.grants().iter().all(|grant| grant.effect == Effect::Deny));
}

#[test]
fn the_digest_names_the_packs_that_are_used() {
    let digest = |own: &[(&str, &str)], text: &str| loaded(&[("p.yaml", text)], own).unwrap().digest();
    let own = "pack: mine\nabout: mine\nintents: {mine.read: [{tool: r, class: read}]}\n";
    let used =
        POLICY.replace("server: customer-ops}", "server: customer-ops}\n  - {pack: mine, server: files}");
    let changed = own.replace("class: read", "class: write");
    assert_eq!(digest(&[], POLICY), digest(&[("packs/mine.yaml", own)], POLICY), "it is not used");
    assert_ne!(digest(&[("packs/mine.yaml", own)], &used), digest(&[("packs/mine.yaml", &changed)], &used));
}

#[test]
fn a_mistake_in_a_pack_or_its_use_is_told_with_its_place() {
    let twice = POLICY.replace("server: customer-ops}", "server: files}");
    assert!(
        said(&[("p.yaml", &twice)], &[]).contains("p.yaml:5:12: the pack filesystem is bound to files twice")
    );
    let misspelt = POLICY.replace("pack: filesystem, server: files", "pack: filesytem, server: files");
    let told = said(&[("p.yaml", &misspelt)], &[]);
    assert!(told.contains("there is no pack \"filesytem\"; did you mean \"filesystem\"?"), "{told}");
    let elsewhere = POLICY.replace("pack: filesystem, server: files", "pack: filesystem, server: fils");
    let told = said(&[("p.yaml", &elsewhere)], &[]);
    assert!(told.contains("guard.yaml has no server \"fils\""), "{told}");
    let shadows = "pack: database\nabout: x\nintents: {a: [{tool: t}]}\n";
    let told = said(&[("p.yaml", POLICY)], &[("packs/database.yaml", shadows)]);
    assert!(told.contains("a pack \"database\" comes with the guard"), "{told}");
    // Also one that nobody uses.
    for (text, words) in [
        ("pack: other\nintents: {a: [{tool: t}]}\n", "stands in a file of another name"),
        ("about: x\nintents: {a: [{tool: t}]}\n", "a pack has no \"pack\""),
        ("pack: mine\n", "a pack has no \"intents\""),
        ("pack: mine\nintents: {a: [{server: files, tool: t}]}\n", "unknown key \"server\" in a matcher"),
        ("pack: mine\nintents: {a: [{tool: t}]}\npolicies: []\n", "rules stand in policy files"),
    ] {
        let told = said(&[("p.yaml", POLICY)], &[("packs/mine.yaml", text)]);
        assert!(told.contains(words), "no {words:?} in {told}");
    }
    let clash = POLICY.replace("tool: tree", "tool: directory_tree");
    let told = said(&[("p.yaml", &clash)], &[]);
    assert!(told.contains("has this matcher twice"), "{told}");
}
