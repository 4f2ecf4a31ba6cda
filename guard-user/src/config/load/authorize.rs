//! What the types of a server's `authorize` leave open.

use super::Step::{Item, Key};
use super::{Places, Problems};
use crate::config::{Config, HttpsUrl};

pub(super) fn check(config: &Config, places: &Places<'_>, problems: &mut Problems) {
    for (index, server) in config.servers.iter().enumerate() {
        let Some(authorize) = &server.authorize else { continue };
        let at = |key| [Key("servers"), Item(index), Key("authorize"), Key(key)];
        let mut add = |key, what: String, hint: &str| {
            problems.push(places.problem(&at(key), what).with_hint(hint));
        };
        let resource = &authorize.resource;
        if server.forward_authorization {
            let what = "forward_authorization is for a server that checks tokens itself, and with authorize the guard does";
            add("resource", what.into(), "remove one of the two");
        }
        if resource.path() != server.path || resource.has_query() {
            let what = format!("the resource {resource} is not the server's endpoint {}", server.path);
            add(
                "resource",
                what,
                "write the whole URL that clients use, such as https://host.example:3001/mcp",
            );
        }
        let others = config.servers.iter().take(index).filter_map(|other| other.authorize.as_ref());
        if others.into_iter().any(|other| other.resource == *resource) {
            let what = format!("the resource {resource} is that of another server, too");
            add("resource", what, "a token for one server must not be good at another");
        }
        if config.issuers.iter().any(|issuer| issuer.audience == resource.to_string()) {
            let what = format!("the resource {resource} is an issuer's audience, too");
            add(
                "resource",
                what,
                "its tokens would be good at servers without authorize; give the issuer another audience",
            );
        }
        if config.issuers.is_empty() {
            add(
                "resource",
                "no issuer is known whose tokens could be taken".into(),
                "add one under issuers:",
            );
        }
        for issuer in &authorize.issuers {
            if !config.issuers.iter().any(|known| known.name == *issuer) {
                let hint = "name one of issuers:, or leave the list out for all of them";
                add("issuers", format!("no issuer is called {issuer}"), hint);
            }
        }
        let is_taken = |name| authorize.issuers.is_empty() || authorize.issuers.contains(name);
        for issuer in config.issuers.iter().filter(|issuer| is_taken(&issuer.name)) {
            if HttpsUrl::parse(&issuer.issuer).is_err() {
                let what = format!(
                    "the issuer {} is called {:?}, which is no https URL",
                    issuer.name, issuer.issuer
                );
                add(
                    "issuers",
                    what,
                    "clients look there for the way to a token; name only issuers that have one",
                );
            }
        }
    }
}
