//! The offline verifier's own code.

#[path = "../../src/bin/mcp-guard-verify/blocks.rs"]
mod blocks;
#[path = "../../src/bin/mcp-guard-verify/keys.rs"]
mod keys;
#[path = "../../src/bin/mcp-guard-verify/note.rs"]
pub(crate) mod note;
#[path = "../../src/bin/mcp-guard-verify/proof.rs"]
pub(crate) mod proof;
#[path = "../../src/bin/mcp-guard-verify/record.rs"]
mod record;
#[path = "../../src/bin/mcp-guard-verify/spelling.rs"]
mod spelling;
#[path = "../../src/bin/mcp-guard-verify/trail.rs"]
pub(crate) mod trail;
#[path = "../../src/bin/mcp-guard-verify/tree.rs"]
pub(crate) mod tree;
