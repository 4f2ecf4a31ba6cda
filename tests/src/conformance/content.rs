//! Tools that answer at once, and the media that tools, prompts and resources share.

use rmcp::model::{CallToolResult, ContentBlock, ResourceContents};

use super::text;

/// A PNG of one red pixel, base64.
pub(super) const PNG: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg==";
/// A WAV of no samples, base64.
const WAV: &str = "UklGRiQAAABXQVZFZm10IBAAAAABAAEARKwAAIhYAQACABAAZGF0YQAAAAA=";

pub(super) fn simple_text() -> CallToolResult {
    text("This is a simple text response for testing.")
}

pub(super) fn image() -> CallToolResult {
    CallToolResult::success(vec![ContentBlock::image(PNG, "image/png")])
}

pub(super) fn audio() -> CallToolResult {
    CallToolResult::success(vec![ContentBlock::audio(WAV, "audio/wav")])
}

pub(super) fn embedded() -> CallToolResult {
    let resource =
        ContentBlock::embedded_text("test://embedded-resource", "This is an embedded resource content.");
    CallToolResult::success(vec![resource])
}

pub(super) fn mixed() -> CallToolResult {
    let resource = ResourceContents::text(r#"{"test":"data","value":123}"#, "test://mixed-content-resource")
        .with_mime_type("application/json");
    CallToolResult::success(vec![
        ContentBlock::text("Multiple content types test:"),
        ContentBlock::image(PNG, "image/png"),
        ContentBlock::resource(resource),
    ])
}

pub(super) fn failure() -> CallToolResult {
    CallToolResult::error(vec![ContentBlock::text("This tool intentionally returns an error for testing")])
}
