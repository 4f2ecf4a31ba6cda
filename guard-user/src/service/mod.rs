//! The service manager's side of the guard's life: systemd's notify protocol, its watchdog and its store of file
//! descriptors. Knows nothing of the guard; without a service manager every call does nothing.
//!
//! Limits: one datagram a message, no answer is waited for, at most [`FDS_MAX`] descriptors in one message.

mod inherited;
mod manager;
mod pulse;

pub use inherited::{Inherited, inherited};
pub use manager::{FDS_MAX, Manager, Word};
pub use pulse::{Beat, Pulse};
