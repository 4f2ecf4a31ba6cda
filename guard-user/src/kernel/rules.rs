//! What POLICY says of a port, with the blocks that hold for its server.

use std::sync::Arc;

use anyhow::Context;
use aya::maps::MapError;
use guard_common::{ANYWHERE, BLOCK_SERVER, Block, FLAG_BLOCKED, MODE_AWAITED, MODE_GUARDED, Port, Rule};
use sha2::{Digest, Sha256};

use super::maps::{Maps, gone, lock};
use crate::config::{Place, Server};
use crate::types::ServerName;

/// How a rule and its blocks know a server: the first 8 bytes of the SHA-256 of its name. Never zero.
pub(crate) fn server_key(name: &str) -> u64 {
    let digest = Sha256::digest(name.as_bytes());
    digest.iter().take(8).fold(0, |key, byte| key << 8 | u64::from(*byte)).max(1)
}

/// The key of a block of `kind` (a `BLOCK_` constant) by name.
pub(crate) fn block_key(kind: u32, name: &str) -> Block {
    Block { kind, zero: 0, name: Sha256::digest(name.as_bytes()).into() }
}

/// Protects a port of `server`. A block of that server holds from the first moment.
pub(super) fn protect(maps: &Maps, port: Port, generation: u32, server: &ServerName) -> anyhow::Result<()> {
    let words = || format!("cannot protect port {}", port.port);
    let server_key = server_key(server.as_str());
    let rule = |flags| Rule { mode: MODE_GUARDED, flags, generation, zero: 0, server: server_key };
    let flags = flags(maps, server).with_context(words)?;
    lock(&maps.policy).insert(port, rule(flags), 0).with_context(words)?;
    // Whoever blocked it in between saw no rule of it, and whoever unblocked it could not know that we looked before.
    let now = self::flags(maps, server).with_context(words)?;
    if now != flags {
        lock(&maps.policy).insert(port, rule(now), 0).with_context(words)?;
    }
    Ok(())
}

/// Has the guard told of new listeners on the ports of servers that are in other namespaces, and on no others.
pub(super) fn wait_for(maps: &Maps, servers: &[Arc<Server>], generation: u32) -> Result<(), MapError> {
    let mut policy = lock(&maps.policy);
    let old: Vec<Port> = policy.keys().filter_map(Result::ok).filter(|key| key.netns == ANYWHERE).collect();
    old.iter().try_for_each(|key| gone(policy.remove(key)))?;
    let rule = Rule { mode: MODE_AWAITED, flags: 0, generation, zero: 0, server: 0 };
    awaited(servers).try_for_each(|port| policy.insert(Port::new(ANYWHERE, port), rule, 0))
}

/// The ports of servers that are in other namespaces.
pub(super) fn awaited(servers: &[Arc<Server>]) -> impl Iterator<Item = u16> {
    servers.iter().filter(|server| server.place != Place::Host).map(|server| server.port.get())
}

fn flags(maps: &Maps, server: &ServerName) -> Result<u32, MapError> {
    match lock(&maps.blocks).get(&block_key(BLOCK_SERVER, server.as_str()), 0) {
        Ok(_block) => Ok(FLAG_BLOCKED),
        Err(MapError::KeyNotFound) => Ok(0),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_known_by_the_beginning_of_its_digest() {
        // SHA-256 of "abc" begins with ba7816bf 8f01cfea.
        assert_eq!(server_key("abc"), 0xba78_16bf_8f01_cfea);
        assert_ne!(block_key(BLOCK_SERVER, "a"), block_key(guard_common::BLOCK_AGENT, "a"));
    }
}
