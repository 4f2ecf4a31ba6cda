//! The schema of the records, for those who read them with programs of their own. The guard itself reads none: tests hold it against what is
//! written.

/// Its number, which the record of a start says: it rises when a field changes its meaning or goes.
pub const RECORD_SCHEMA: u32 = 1;

/// JSON Schema (2020-12), `docs/audit-record.schema.json`.
pub const RECORD_SCHEMA_TEXT: &str = include_str!("../../../docs/audit-record.schema.json");

#[cfg(test)]
pub(super) mod tests;
