//! Who may write a file that the guard believes.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

/// Who beside root and the guard's own user may write it, and the command that ends it.
pub fn others_may_write(metadata: &Metadata) -> Option<(String, &'static str)> {
    who_else_may_write(metadata.mode(), metadata.uid(), nix::unistd::geteuid().as_raw())
}

/// The same of a file of this mode and owner, for the user `own`.
pub fn who_else_may_write(mode: u32, owner: u32, own: u32) -> Option<(String, &'static str)> {
    if owner != 0 && owner != own {
        return Some((format!("its owner, uid {owner},"), "chown root"));
    }
    (mode & 0o022 != 0).then(|| ("others than its owner".to_owned(), "chmod 600"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_belongs_to_another_user_or_that_others_may_write_is_told() {
        for own in [0, 1000] {
            assert_eq!(who_else_may_write(0o100_600, 0, own), None, "root's file, read by {own}");
            assert_eq!(who_else_may_write(0o100_644, own, own), None);
            let (who, mend) = who_else_may_write(0o100_600, 1001, own).unwrap();
            assert!(who.contains("1001") && mend == "chown root", "{who}: {mend}");
            for mode in [0o100_620, 0o100_602, 0o100_666] {
                assert_eq!(who_else_may_write(mode, own, own).unwrap().1, "chmod 600", "{mode:o}");
            }
        }
    }
}
