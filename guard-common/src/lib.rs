//! What the kernel programs and the daemon say to each other: map keys, map values, counters and events.
//!
//! Every type is `repr(C)` without implicit padding, so that two equal values are equal bytes; the sizes are
//! checked at compile time. A change to any of them needs a new [`ABI`].
#![no_std]
#![deny(missing_docs)]

mod block;
mod cgroup;
mod event;
mod flow;
mod limits;
mod policy;
mod slot;
mod stat;
mod who;

pub use block::{BLOCK_AGENT, BLOCK_ALL, BLOCK_CGROUP, BLOCK_SERVER, Block, Blocked};
pub use cgroup::{
    EGRESS_ALLOW, EGRESS_DENY, Egress, EgressTally, Lock, PREFIX_BITS_FIXED, WATCH_DENY, WATCH_REPORT, Watch,
};
pub use event::{DENIED_BIND, DENIED_BLOCKED, DENIED_CONNECT, DENIED_SEND, Denied, Listening};
pub use flow::{Address, Flow};
pub use limits::*;
pub use policy::{
    ANYWHERE, FLAG_BLOCKED, FLAG_CLOSED, MODE_AWAITED, MODE_GUARDED, MODE_PRIVATE, NETNS_UNSET, Pending,
    Port, Rule, SWITCH_BLOCK_ALL, SWITCH_WALL, SWITCHES, Tally, WALL_COUNT, WALL_ENFORCE, WALL_OFF,
};
pub use slot::{FAMILY_V4, FAMILY_V6, Meta, Owner, ROLE_GUARD, ROLE_SERVER, Slot};
pub use stat::Stat;
pub use who::Who;

/// Version of every layout in this crate. Pins of another version are not taken over.
pub const ABI: u32 = 3;

#[cfg(feature = "user")]
mod pod {
    use super::{
        Block, Blocked, Denied, Egress, EgressTally, Flow, Listening, Lock, Meta, Owner, Pending, Port, Rule,
        Slot, Tally, Watch, Who,
    };

    macro_rules! pod {
        ($($Type:ty),*) => {$(
            // SAFETY: `repr(C)`, `Copy`, made of integers only, and without padding (sizes asserted beside each type).
            unsafe impl aya::Pod for $Type {}
        )*};
    }

    pod!(
        Block,
        Blocked,
        Denied,
        Egress,
        EgressTally,
        Flow,
        Listening,
        Lock,
        Meta,
        Owner,
        Pending,
        Port,
        Rule,
        Slot,
        Tally,
        Watch,
        Who
    );
}
