//! The machine's initial file system: programs with their libraries, the kernel's modules, busybox, and what starts them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::cpio::Cpio;
use super::image::{Image, home};
use crate::command::Tool;
use crate::machine;

/// Process 1.
const INIT: &str = include_str!("init.sh");
/// Where the programs are in the machine.
const PROGRAMS: &str = "guard";

/// Packs them. Returns the file.
pub(crate) fn pack(image: &Image, modules: &[&str], programs: &[PathBuf]) -> anyhow::Result<PathBuf> {
    let path = home().join("initrd");
    let file = File::create(&path).with_context(|| format!("writing {}", path.display()))?;
    let mut cpio = Cpio::new(BufWriter::new(file));
    for dir in ["dev", "proc", "sys", "tmp", "run", "bin", "modules", PROGRAMS] {
        cpio.dir(dir)?;
    }
    cpio.file("init", 0o755, INIT.as_bytes())?;
    let busybox = machine::find_program("busybox").context("busybox is gone")?;
    cpio.file("bin/busybox", 0o755, &read(&busybox)?)?;
    for (at, name) in modules.iter().enumerate() {
        // They are loaded in the order of their names.
        cpio.file(&format!("modules/{at}-{name}.ko"), 0o644, &module(&image.root, name)?)?;
    }
    let mut libraries = BTreeSet::new();
    for program in programs {
        let name = program.file_name().context("a program without a name")?.to_string_lossy().into_owned();
        let slim = home().join(&name);
        // Its debugging information is most of it, and all of the machine's memory.
        Tool::new("strip")
            .arg_path("-o", &slim)
            .args([program.as_os_str()])
            .advice("`strip` is in the package binutils.")
            .run()?;
        cpio.file(&format!("{PROGRAMS}/{name}"), 0o755, &read(&slim)?)?;
        fs::remove_file(&slim).with_context(|| format!("removing {}", slim.display()))?;
        libraries.extend(needed(program)?);
    }
    for library in libraries {
        let inside = library.to_string_lossy().trim_start_matches('/').to_owned();
        let mut dir = PathBuf::new();
        for part in Path::new(&inside).parent().into_iter().flat_map(Path::components) {
            dir.push(part);
            cpio.dir(&dir.to_string_lossy())?;
        }
        cpio.file(&inside, 0o755, &read(&library)?)?;
    }
    cpio.finish()?;
    Ok(path)
}

/// Paths of a program's shared libraries, with that of the dynamic loader.
fn needed(program: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let list = Tool::new("ldd").args([program.as_os_str()]).read()?;
    Ok(list.lines().filter_map(library).collect())
}

/// A line is `name => path (address)`, or `path (address)`.
fn library(line: &str) -> Option<PathBuf> {
    let path = line.split(" => ").last()?.split_whitespace().next()?;
    path.starts_with('/').then(|| path.into())
}

/// The bytes of a module, which Debian compresses in newer packages.
fn module(root: &Path, name: &str) -> anyhow::Result<Vec<u8>> {
    let find = |ending: &str| find(&root.join("lib"), &format!("{name}.ko{ending}"));
    if let Some(path) = find("") {
        return read(&path);
    }
    let packed = find(".xz").with_context(|| format!("this kernel has no module {name}"))?;
    let plain = packed.with_extension("");
    Tool::new("xz").args(["-d", "-k", "-f"]).args([packed.as_os_str()]).run()?;
    read(&plain)
}

fn find(dir: &Path, name: &str) -> Option<PathBuf> {
    for entry in fs::read_dir(dir).ok()?.flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if let Some(found) = find(&path, name) {
                return Some(found);
            }
        } else if entry.file_name() == name {
            return Some(path);
        }
    }
    None
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("reading {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_off_what_the_loader_says() {
        assert_eq!(library("\tlinux-vdso.so.1 (0x00007fff)"), None);
        assert_eq!(library("\tlibc.so.6 => /lib/x/libc.so.6 (0x0)"), Some("/lib/x/libc.so.6".into()));
        assert_eq!(
            library("\t/lib64/ld-linux-x86-64.so.2 (0x0)"),
            Some("/lib64/ld-linux-x86-64.so.2".into())
        );
        assert_eq!(library("\tstatically linked"), None);
    }
}
