//! The drivers of the Linux kernels on a disk.
//!
//! depmod writes two lists for each kernel: `modules.dep` has the modules that can be loaded,
//! `modules.builtin` those that are in the kernel itself. Whether a module is in the initial RAM disk
//! is not known.

use crate::error::{ErrorKind, Result};
use crate::files::FileSystem;
use std::collections::HashSet;

/// Where kernels have their modules.
const FOLDERS: [&str; 2] = ["lib/modules", "usr/lib/modules"];

/// Maximum number of kernels that are examined.
const MAX_KERNELS: usize = 16;

/// Maximum length of a list in bytes. That of a distribution's kernel has about 1 MiB.
const MAX_LIST: u64 = 8 << 20;

/// A Linux kernel.
#[derive(Debug)]
pub(super) struct Kernel {
    /// Its version, which is the name of the directory of its modules.
    pub(super) version: String,
    /// The names of its modules, with underscores.
    modules: HashSet<String>,
}

impl Kernel {
    /// Returns true if the kernel has one of these modules.
    pub(super) fn has_one_of(&self, names: &[&str]) -> bool {
        names.iter().any(|&name| self.modules.contains(name))
    }
}

/// Returns the kernels whose modules are in a file system.
///
/// # Errors
/// Returns the errors of [`FileSystem::lookup`], except for missing files.
pub(super) fn kernels(files: &FileSystem) -> Result<Vec<Kernel>> {
    for folder in FOLDERS {
        let versions = match files.read_dir(folder.as_bytes()) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::Invalid => continue,
            Err(error) => return Err(error),
        };
        let mut kernels = Vec::new();
        for entry in versions.iter().filter(|entry| entry.node.is_dir()).take(MAX_KERNELS) {
            let mut modules = HashSet::new();
            for list in ["modules.dep", "modules.builtin"] {
                let path = [folder.as_bytes(), b"/", &entry.name, b"/", list.as_bytes()].concat();
                if let Some(text) = files.first_bytes(&path, MAX_LIST)? {
                    add_names(&text, &mut modules);
                }
            }
            // Without lists, nothing is known of the kernel.
            if !modules.is_empty() {
                let version = String::from_utf8_lossy(&entry.name).into_owned();
                kernels.push(Kernel { version, modules });
            }
        }
        if !kernels.is_empty() {
            return Ok(kernels);
        }
    }
    Ok(Vec::new())
}

/// Adds the names in a list: a line begins with the path of a module, which may end with a colon and
/// the modules that it needs.
fn add_names(list: &[u8], modules: &mut HashSet<String>) {
    for line in list.split(|&byte| byte == b'\n') {
        let path = line.split(|&byte| byte == b':').next().unwrap_or_default();
        let file = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
        let file = String::from_utf8_lossy(file);
        if let Some((name, _)) = file.split_once(".ko") {
            modules.insert(name.replace('-', "_"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_both_lists() {
        let mut modules = HashSet::new();
        let list = b"kernel/drivers/net/ethernet/amazon/ena/ena.ko.zst: kernel/x/y.ko\n\
            kernel/drivers/block/xen-blkfront.ko:\nkernel/drivers/nvme/host/nvme.ko\n\n:\nx";
        add_names(list, &mut modules);
        let mut names: Vec<_> = modules.iter().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["ena", "nvme", "xen_blkfront"]);
    }
}
