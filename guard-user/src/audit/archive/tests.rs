use super::*;

const NONE: Bounds = Bounds { file_bytes_max: u64::MAX, room_left: 0 };
const LENGTH: u64 = 3_000_000;

/// A directory with one full file.
fn full() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let plain = dir.path().join("00000000000000000000.jsonl");
    let line = "a line of a trail that packs well\n".bytes();
    let bytes: Vec<u8> = line.cycle().take(usize::try_from(LENGTH).unwrap()).collect();
    fs::write(&plain, bytes).unwrap();
    (dir, plain)
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn is_packed(dir: &Path) -> bool {
    let names = names(dir);
    let (plain, packed) = ("00000000000000000000.jsonl", "00000000000000000000.jsonl.gz");
    assert!(names == [plain] || names == [packed], "something is left: {names:?}");
    names == [packed]
}

#[test]
fn a_file_that_is_larger_than_it_may_be_stays_as_it_is() {
    let (dir, plain) = full();
    pack(dir.path(), &plain, Bounds { file_bytes_max: LENGTH - 1, ..NONE }, || false).unwrap();
    assert!(!is_packed(dir.path()));
    pack(dir.path(), &plain, Bounds { file_bytes_max: LENGTH, ..NONE }, || false).unwrap();
    assert!(is_packed(dir.path()));
}

#[test]
fn the_largest_file_that_is_packed_is_twice_a_full_one_or_half_a_gibibyte() {
    assert_eq!(Bounds::new(64 << 20).file_bytes_max, 512 << 20);
    assert_eq!(Bounds::new(1 << 30).file_bytes_max, 2 << 30);
    assert_eq!(Bounds::new(u64::MAX).file_bytes_max, u64::MAX);
}

#[test]
fn without_the_room_that_is_to_be_left_nothing_is_packed_and_it_is_said_why() {
    let (dir, plain) = full();
    let error =
        pack(dir.path(), &plain, Bounds { room_left: u64::MAX - LENGTH, ..NONE }, || false).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    let said = error.to_string();
    assert!(said.contains("bytes are free") && said.contains(&LENGTH.to_string()), "{said}");
    assert!(!is_packed(dir.path()));
    pack(dir.path(), &plain, NONE, || false).unwrap();
    assert!(is_packed(dir.path()));
}

#[test]
fn packing_that_is_stopped_leaves_the_plain_file_alone() {
    let (dir, plain) = full();
    // In turn: before each member, and while it is compared.
    for most in 0..4_u32 {
        let left = std::cell::Cell::new(most);
        pack(dir.path(), &plain, NONE, || left.replace(left.get().saturating_sub(1)) == 0).unwrap();
        assert!(!is_packed(dir.path()), "after {most}");
    }
}

#[test]
fn what_stands_in_the_way_of_a_packed_file_is_named_and_not_followed() {
    let (dir, plain) = full();
    let elsewhere = tempfile::NamedTempFile::new().unwrap();
    let next = beside(&packed::name(&plain), ".next");
    std::os::unix::fs::symlink(elsewhere.path(), &next).unwrap();
    let error = pack(dir.path(), &plain, NONE, || false).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(nix::libc::ELOOP), "{error}");
    assert_eq!(elsewhere.as_file().metadata().unwrap().len(), 0);
    // It is gone now: the next attempt succeeds.
    pack(dir.path(), &plain, NONE, || false).unwrap();
    assert!(is_packed(dir.path()));
}
