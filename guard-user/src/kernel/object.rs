//! The compiled kernel programs inside this binary.

/// Why there is nothing to load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this binary was built without kernel programs; run `cargo xtask build`")]
pub struct NoObject;

/// The object of guard-ebpf, an ELF file.
pub fn object() -> Result<&'static [u8], NoObject> {
    require(EMBEDDED)
}

fn require(object: Option<&'static [u8]>) -> Result<&'static [u8], NoObject> {
    object.filter(|bytes| !bytes.is_empty()).ok_or(NoObject)
}

static EMBEDDED: Option<&'static [u8]> = include!(concat!(env!("OUT_DIR"), "/object.rs"));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_without_kernel_programs_says_so() {
        let words = require(None).unwrap_err().to_string();
        assert!(words.contains("without kernel programs") && words.contains("cargo xtask build"), "{words}");
        assert_eq!(require(Some(&[])), Err(NoObject));
        assert_eq!(require(Some(&[1])), Ok(&[1_u8][..]));
    }
}
