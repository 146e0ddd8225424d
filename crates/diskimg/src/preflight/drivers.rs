//! The drivers of the Linux kernels on a disk.
//!
//! depmod writes two lists for each kernel: `modules.dep` has the modules that can be loaded,
//! `modules.builtin` those that are in the kernel itself. Without both, nothing is known of a kernel.
//! Whether a module is in the initial RAM disk is not known either.

use crate::error::{ErrorKind, Result};
use crate::files::FileSystem;
use crate::iso::Entry;
use crate::storage::number::to_u64;

/// Where kernels have their modules.
const FOLDERS: [&str; 2] = ["lib/modules", "usr/lib/modules"];

/// The lists, both of which must be there.
const LISTS: [&[u8]; 2] = [b"modules.dep", b"modules.builtin"];

/// Maximum number of kernels of a disk that are examined.
const MAX_KERNELS: usize = 16;

/// Maximum length of a list in bytes. That of a distribution's kernel has about 1 MiB.
const MAX_LIST: u64 = 8 << 20;

/// Maximum length of all lists and directories of a disk together.
const MAX_BYTES: u64 = 64 << 20;

/// A Linux kernel.
#[derive(Debug)]
pub(super) struct Kernel {
    /// Its version, which is the name of the directory of its modules.
    pub(super) version: String,
    /// For each group of modules, whether it has one of them.
    pub(super) has: [bool; 2],
}

/// A search for kernels, in the file systems of one disk.
#[derive(Debug)]
pub(super) struct Search {
    groups: [&'static [&'static str]; 2],
    kernels: Vec<Kernel>,
    bytes_left: u64,
}

impl Search {
    /// Creates a search for kernels with one module of each group.
    pub(super) const fn new(groups: [&'static [&'static str]; 2]) -> Self {
        Self { groups, kernels: Vec::new(), bytes_left: MAX_BYTES }
    }

    /// Returns the kernels.
    pub(super) fn kernels(&self) -> &[Kernel] {
        &self.kernels
    }

    /// Adds the kernels whose modules are in a file system.
    ///
    /// # Errors
    /// Returns the errors of [`FileSystem::lookup`], except for missing files.
    pub(super) fn add(&mut self, files: &FileSystem) -> Result<()> {
        for folder in FOLDERS {
            let versions = match files.read_dir(folder.as_bytes()) {
                Ok(entries) => entries,
                Err(error) if error.kind() == ErrorKind::Invalid => continue,
                Err(error) => return Err(error),
            };
            for entry in versions.iter().filter(|entry| entry.node.is_dir()) {
                if self.kernels.len() == MAX_KERNELS || self.bytes_left == 0 {
                    return Ok(());
                }
                self.add_kernel(files, entry)?;
            }
            // The other one may be a link to this one.
            if !versions.is_empty() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Adds the kernel whose modules are in a directory.
    fn add_kernel(&mut self, files: &FileSystem, directory: &Entry) -> Result<()> {
        self.bytes_left = self.bytes_left.saturating_sub(directory.node.size);
        let entries = files.entries(&directory.node)?;
        let lists = LISTS.map(|name| entries.iter().find(|entry| entry.name == name));
        let [Some(dep), Some(builtin)] = lists else { return Ok(()) };
        let mut has = [false; 2];
        for list in [dep, builtin] {
            // A part of a list says nothing about the rest.
            if list.node.size > MAX_LIST.min(self.bytes_left) {
                return Ok(());
            }
            let Some(text) = files.first_bytes(&list.node, MAX_LIST)? else { return Ok(()) };
            self.bytes_left -= to_u64(text.len()).min(self.bytes_left);
            for (has, group) in has.iter_mut().zip(self.groups) {
                *has |= names(&text).any(|name| group.contains(&&*name));
            }
        }
        let version = String::from_utf8_lossy(&directory.name).into_owned();
        self.kernels.push(Kernel { version, has });
        Ok(())
    }
}

/// Returns the names of the modules in a list, with underscores: a line begins with the path of a
/// module, which may end with a colon and the modules that it needs.
fn names(list: &[u8]) -> impl Iterator<Item = String> {
    list.split(|&byte| byte == b'\n').filter_map(|line| {
        let path = line.split(|&byte| byte == b':').next()?;
        let file = String::from_utf8_lossy(path.rsplit(|&byte| byte == b'/').next()?);
        let (name, _) = file.split_once(".ko")?;
        Some(name.replace('-', "_"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_lists() {
        let list = b"kernel/drivers/net/ethernet/amazon/ena/ena.ko.zst: kernel/x/y.ko\n\
            kernel/drivers/block/xen-blkfront.ko:\nkernel/drivers/nvme/host/nvme.ko\n\n:\nx";
        let names: Vec<_> = names(list).collect();
        assert_eq!(names, ["ena", "xen_blkfront", "nvme"]);
    }
}
