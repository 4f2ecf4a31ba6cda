//! Embeds the kernel programs in the library, when they have been built (`cargo xtask build`).
//!
//! Without them everything compiles, and the guard says at start what is missing.

use std::path::{Path, PathBuf};
use std::{env, fs};

const OBJECT: &str = "mcp-guard.bpf.o";

fn main() {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let root = manifest.parent().expect("this package is a directory of the workspace");
    let dir = root.join("target/bpf");
    // Cargo looks at the directory's time stamp; a path that does not exist would make every build a stale one.
    if let Err(error) = fs::create_dir_all(&dir) {
        println!("cargo::warning=cannot make {}: {error}", dir.display());
    }
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={}", dir.display());

    let object = dir.join(OBJECT);
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("object.rs");
    fs::write(&out, expression(&object))
        .unwrap_or_else(|error| panic!("cannot write {}: {error}", out.display()));
}

/// A Rust expression of type `Option<&[u8]>`. The wrapper gives the bytes the alignment that an ELF reader wants.
fn expression(object: &Path) -> String {
    if !object.is_file() {
        return "None".into();
    }
    let path = object.to_str().expect("the workspace's path is UTF-8");
    format!(
        "{{ #[repr(C, align(8))] struct Aligned<T: ?Sized>(T);\n\
         static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!({path:?}));\n\
         Some(&OBJECT.0) }}"
    )
}
