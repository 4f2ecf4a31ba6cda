//! Versions of the guard, and which of them may take over whose pins.

use std::fmt;

use anyhow::bail;
use aya::maps::{Array, Map, MapData};
use guard_common::{ABI, Meta};

use super::guard::pins_dir;
use crate::config::Kernel;

/// A version as META keeps it: newer is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(pub u64);

impl Version {
    const fn new(major: u16, minor: u16, patch: u16) -> Self {
        Self((major as u64) << 32 | (minor as u64) << 16 | patch as u64)
    }

    /// Of this program.
    pub(super) fn own() -> Self {
        let part = |text: &str| text.parse().unwrap_or_default();
        Self::new(
            part(env!("CARGO_PKG_VERSION_MAJOR")),
            part(env!("CARGO_PKG_VERSION_MINOR")),
            part(env!("CARGO_PKG_VERSION_PATCH")),
        )
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0 >> 32, self.0 >> 16 & 0xffff, self.0 & 0xffff)
    }
}

/// Fails if a newer guard made the pins, before anything is touched. `allowed`: the operator wants it all the same, which
/// goes as long as the layout of the maps is the same.
pub fn refuse_downgrade(config: &Kernel, allowed: bool) -> anyhow::Result<()> {
    let Some(meta) = meta(config) else { return Ok(()) };
    let (theirs, own) = (Version(meta.version), Version::own());
    // Another layout is told where the pins are opened, in words of its own.
    if meta.abi != ABI || theirs <= own || allowed {
        return Ok(());
    }
    bail!(
        "the pins in {} are those of mcp-guard {theirs}, and this is {own}, which may not know all that the newer one protects. \
         The ports stay as they are. Start {theirs} again, or add --allow-downgrade to take over with this one",
        pins_dir(config).display()
    )
}

/// What the pins say of who made them, without a lock; none if nothing readable of this layout is there.
pub(super) fn meta(config: &Kernel) -> Option<Meta> {
    let data = MapData::from_pin(pins_dir(config).join("maps").join("META")).ok()?;
    Array::<_, Meta>::try_from(Map::Array(data)).ok()?.get(&0, 0).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_by_their_parts() {
        assert!(Version::new(0, 10, 0) > Version::new(0, 9, 65_535));
        assert!(Version::new(1, 0, 0) > Version::new(0, 65_535, 65_535));
        assert_eq!(Version::own().to_string(), env!("CARGO_PKG_VERSION"));
    }
}
