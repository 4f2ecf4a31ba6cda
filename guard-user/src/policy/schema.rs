//! JSON Schemas (2020-12) of the files that operators write, for their editors. The guard itself reads none of them: its
//! readers are the truth, and tests hold the schemas against them.

/// A kind of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schema {
    /// `guard.yaml`
    Guard,
    Policy,
    /// Cases of `mcp-guard policy test`.
    Cases,
}

impl Schema {
    pub fn text(self) -> &'static str {
        match self {
            Self::Guard => include_str!("../../../policies/schema/guard.json"),
            Self::Policy => include_str!("../../../policies/schema/policy.json"),
            Self::Cases => include_str!("../../../policies/schema/cases.json"),
        }
    }
}

#[cfg(test)]
mod tests;
