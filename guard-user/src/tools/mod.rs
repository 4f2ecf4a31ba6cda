//! Pins the definitions of servers' tools: what a tool is when it is first seen, it stays, until an operator says otherwise.
//!
//! A server could change what a tool says or takes after everybody has looked at it. So each definition that comes by in a
//! list is compared with the one that is pinned; another one is held: no list shows it and nobody calls the tool.
//!
//! ```text
//! canon     what of a definition counts, and its digest     (pure)
//! finding   what looks wrong in its texts                   (pure)
//! cosmetic  which changes are for the eye alone             (pure)
//! mirrors   which arguments of a tool headers repeat        (pure)
//! pins      the tools of one server                         (pure)
//! show      a definition for people, and differences      (pure)
//! state     the same on disk
//! store     all servers of a running guard
//! told      what operators see of it
//! ```
//!
//! It knows nothing of agents and policies: a list is taken in before it is filtered for the one who asked.

mod canon;
mod cosmetic;
pub mod finding;
mod mirrors;
mod pins;
pub mod show;
mod state;
mod store;
mod told;

pub use canon::{Digest, Unclear};
pub use finding::{Finding, FindingKind};
pub use mirrors::Mirrors;
pub use pins::{By, Change, Definition, NotApproved, Offer, Pin, Pins, Standing, Step, Tool, What};
pub use state::{TOOLS_DIR, Unreadable, load, save};
pub use store::{Held, News, Tools, now};
pub use told::told;
