//! The hash-linked, signed record of every call, written before the call goes on.
//!
//! [`AuditLog::intend`] puts a call's record on disk and only then hands out a [`Permit`]; nothing else makes
//! one. [`Permit::conclude`] adds the closing record; a `Permit` that is dropped adds "abandoned". A refusal is
//! one record of its own ([`AuditLog::refuse`]).
//!
//! ```text
//! text, record   what a line says          (pure)
//! arguments      a call's arguments, as keyed digests
//! merkle, note   tree, signed checkpoints  (pure)
//! walk           reads lines, in order, and says which one is wrong
//! disk           the few file operations, so that tests can make each of them fail
//! packed         segments in gzip, and both forms of them to read
//! key, recover   what stands in the directory when the guard starts
//! keys           which key signs when; epoch: hands over to the next one
//! queue, writer  what waits, and the one owner of the file; checkpoint: its helper
//! rotate         goes on in a new segment; retention: when, and what becomes of the full ones; archive: packs these
//! prune          which of them may go, and their removal; removal: of a running trail; pruned: what is said of them
//! reserve        room that is set aside, for a full disk
//! ages           the time by which records are too old
//! clock          what steps the host's clock makes
//! log            the handle that the other stages hold; slots: how many calls it lets be under way
//! verify         the whole trail, for `mcp-guard audit verify`
//! proof          the hashes that prove a record, or an older checkpoint (pure); prove: reads them from a trail
//! query          finds records by what they say, by an index that is kept beside the trail
//! export         the trail in the forms that others read, from a cursor on
//! copies         of the signed checkpoint elsewhere, and what they say when a guard starts
//! schema         of the records, as it is published
//! took_effect    what judges calls from a record on
//! boot           which boot of the host, and when in it
//! heartbeat      what kernel and guard counted; reconcile: whether the trail agrees
//! ```
//!
//! The format is described in `docs/audit-format.md`. `mcp-guard-verify` reads it with code of its own; nothing
//! here may be used there.

mod ages;
mod archive;
mod arguments;
mod boot;
mod calls;
mod checkpoint;
mod clock;
mod copies;
mod counted;
mod disk;
mod epoch;
mod error;
mod export;
mod heartbeat;
mod inspected;
mod key;
mod keys;
mod last;
mod log;
mod merkle;
mod note;
mod packed;
mod past;
mod proof;
mod prove;
mod prune;
mod pruned;
mod query;
mod queue;
mod reconcile;
mod record;
mod recover;
mod removal;
mod reread;
mod reserve;
mod retention;
mod rotate;
mod schema;
mod slots;
mod spelling;
mod text;
mod took_effect;
mod verify;
mod walk;
mod writer;

#[cfg(test)]
mod tests;

pub use arguments::{ARGUMENT_VALUES_MAX, ARGUMENTS_BYTES_MAX, Arguments, DIGEST_KEY_FILE, Digester};
pub use boot::BootMoment;
pub use calls::{Call, Reading, calls};
pub use copies::{Acceptance, Agreement, Copies, Disagreement, Standing, Start, Survey, Surveyed, survey};
pub use counted::counted;
pub use error::{AuditError, OpenError};
pub use export::{Batch, Cursor, CursorError, Export, FeedError, Format, Lag, frame, halved};
pub use heartbeat::{HEARTBEAT_SERVERS_MAX, Heartbeat, Occasion, Presence};
pub use inspected::Inspected;
pub use keys::Keys;
#[cfg(test)]
pub(crate) use last::tests::odd_lines;
pub use last::{Filter, Summary, last};
pub use log::{AuditLog, Options, Permit, Why};
pub use note::{NoteError, VerifierKey};
pub use past::{Past, past};
pub use prove::{Claim, ProveError, prove};
pub use prune::{PruneError, Pruner, Pruning, Removal};
pub use query::{Follower, Found, Index, IndexError, Order, Outcomes, Query, search};
pub use reconcile::{Balance, Fault as Imbalance, Interval, reconcile};
pub use record::{
    Block, CallRecord, Event, Local, Outcome, OutcomeResult, Refusal, SessionsEnded, Target, ToolChange,
    Velocity, WOULD_DENY_MAX,
};
pub use recover::lock;
pub use reread::Since;
pub use reserve::Room;
pub use retention::Retention;
pub use schema::{RECORD_SCHEMA, RECORD_SCHEMA_TEXT};
pub use slots::UnderWay;
pub use text::{NAME_BYTES_MAX, TEXT_BYTES_MAX, ascii};
pub use took_effect::{Cause, TookEffect};
pub use verify::{Fault, Report, Verdict, verify};
pub use walk::Pruned;

/// Longest line without its newline. A transparency log entry carries its length in two bytes.
pub const LINE_BYTES_MAX: usize = 65_535;
/// Version of the format, in the genesis record.
pub const FORMAT: u32 = 1;
/// Where the signing key is kept (PKCS#8, mode 0600).
pub const KEY_FILE: &str = "key";
/// Where its successor is kept until the record that hands over to it is on disk.
pub const NEXT_KEY_FILE: &str = "key-next";
/// Where the records are repeated that handed over from one key to the next.
pub const KEYS_FILE: &str = "keys";
/// Where the public half of the first key is kept, as a C2SP verifier key.
pub const VERIFIER_KEY_FILE: &str = "verifier-key";
/// Room that is set aside for a full disk.
pub const RESERVE_FILE: &str = "reserve";
/// Where the latest signed checkpoint is kept.
pub const CHECKPOINT_FILE: &str = "checkpoint";
/// Where the key is kept that witnesses know the trail by. As [`KEY_FILE`].
pub const WITNESS_KEY_FILE: &str = "witness-key";
/// Where its public half is kept, for the operators of witnesses.
pub const WITNESS_VERIFIER_KEY_FILE: &str = "witness-verifier-key";
