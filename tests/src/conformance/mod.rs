//! A fixture MCP server with the tool, prompt and resource names that the official conformance suite asks for.
//! It speaks both eras: sessions up to 2025-11-25, stateless requests from 2026-07-28 on.

mod catalog;
mod changes;
mod content;
mod dialogue;
mod handler;
mod prompts;
mod resources;
mod rounds;
mod sessions;
mod tasks;

use rmcp::ErrorData;
use rmcp::model::{CallToolResult, ContentBlock};
use rmcp::task_manager::TaskManager;

use crate::journal::Journal;

pub use catalog::tools;
pub use sessions::Sessions;

/// The server. Clones, one per session or stateless request, share all state.
#[derive(Clone)]
pub struct Fixture {
    journal: Journal,
    changes: changes::Changes,
    rounds: rounds::Seal,
    tasks: TaskManager,
}

impl Fixture {
    pub fn new(journal: Journal) -> Self {
        Self {
            journal,
            changes: changes::Changes::default(),
            rounds: rounds::Seal::default(),
            tasks: TaskManager::new(),
        }
    }
}

/// A successful result with one text.
fn text(text: impl Into<String>) -> CallToolResult {
    CallToolResult::success(vec![ContentBlock::text(text)])
}

/// A call whose arguments do not have the shape that the tool's schema asks for.
fn bad_arguments(what: &str) -> ErrorData {
    ErrorData::invalid_params(what.to_owned(), None)
}
