//! Loads, attaches, pins and watches the kernel programs; the only module that talks to the kernel about steering.
//!
//! [`Guard::start`] leaves the protected ports closed to everybody but the guard, whatever happens to this process
//! afterwards; [`unload()`] is the only way back. See `docs/kernel.md`.

mod address;
mod approval;
mod block;
mod blocks;
pub mod canary;
mod census;
mod cut;
mod denied;
mod diag;
mod dial;
mod egress;
mod events;
mod expected;
mod features;
mod gates;
mod guard;
mod handover;
mod hold;
mod host;
mod keeper;
mod listeners;
mod load;
mod local;
mod maps;
mod netns;
mod object;
mod owner;
mod pending;
mod pins;
mod places;
pub mod probe;
pub mod process;
mod proofs;
mod prove;
mod realm;
mod rehearsal;
mod remains;
mod rules;
mod servers;
mod status;
mod steers;
pub mod survey;
mod sweep;
mod sys;
mod tend;
mod unload;
mod version;
mod vigil;
mod wall;
mod watch;

pub use address::canonical;
pub use approval::{Closed, State};
pub use block::{BlockStatus, Done, Target, block, blocks, unblock};
pub use blocks::{All as AllBlocks, Blocks, Suspect};
pub use census::{Census, Counted};
pub use denied::DeniedCall;
pub use dial::Dialer;
pub use egress::LockStatus;
pub use guard::Guard;
pub(crate) use guard::{Inner, Realms};
pub use handover::{Handover, Manifest};
pub use load::ProgramStatus;
pub(crate) use local::Local;
pub use maps::Named;
pub use object::{NoObject, object};
pub use process::{Client, Container, Evidence, PlaceError, Unit, Witness};
pub use prove::Claim;
pub use realm::Door;
pub(crate) use realm::Realm;
pub use rehearsal::{Running, rehearse};
pub use remains::{Remains, remains, this_netns};
pub use servers::{Pinned, PortStatus};
pub use status::{NamespaceStatus, Seen, Status};
pub use sys::readable;
pub use unload::{Unloaded, unload};
pub use version::refuse_downgrade;
pub use vigil::{Change, Drift};
pub use wall::WallStatus;
pub use watch::OtherPort;

/// Makes ready what needs more of root's power than the running guard keeps: bpffs, and a cgroup below the root of
/// the tree, where not even its owner may write.
pub fn prepare(config: &crate::config::Kernel) -> anyhow::Result<()> {
    host::mount_bpffs(&config.bpffs)?;
    host::make_cgroup(&host::cgroup2_root()?.join(&config.cgroup))
}
