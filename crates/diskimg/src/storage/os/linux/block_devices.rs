//! On which disks and files block devices are stored: sysfs.
//!
//! ```text
//!   /sys/dev/block/7:0 -> …/loop0         loop/backing_file   the path of a loop device's file
//!   /sys/dev/block/8:1 -> …/sda/sda1      partition           exists; sda/dev is the disk's number
//!   /sys/dev/block/253:0 -> …/dm-0        slaves/*/dev        the devices of a mapped device
//! ```

use super::identity_from;
use crate::storage::os::FileId;
use rustix::fs::{major, makedev, minor};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

const DIRECTORY: &str = "/sys/dev/block";

/// Maximum number of devices of which one consists of the next: a partition in a mapped device on a
/// loop device, for example.
const MAX_DEPTH: u32 = 16;

/// What the block devices are stored on, by their numbers, if it was noted.
static NOTED: OnceLock<HashMap<u64, Vec<Part>>> = OnceLock::new();

/// What a block device is directly stored on.
#[derive(Debug, Clone)]
enum Part {
    Device(FileId),
    /// A file, which is examined only if its device is compared: its file system may not answer.
    File(PathBuf),
}

impl Part {
    fn identity(self) -> Option<FileId> {
        match self {
            Self::Device(device) => Some(device),
            Self::File(path) => Some(identity_from(&fs::metadata(path).ok()?)),
        }
    }
}

pub(in crate::storage::os) fn note_block_devices() {
    NOTED.get_or_init(|| {
        let numbers = fs::read_dir(DIRECTORY).into_iter().flatten().flatten();
        let numbers = numbers.filter_map(|entry| parse(entry.file_name().as_bytes()));
        numbers.map(|device| (device, read(device))).filter(|(_, on)| !on.is_empty()).collect()
    });
}

/// Returns true if the block device `device` is stored on `file`, perhaps with others between.
pub(in crate::storage::os) fn is_stored_on(device: FileId, file: FileId) -> bool {
    is_stored_within(device, file, MAX_DEPTH)
}

fn is_stored_within(device: FileId, file: FileId, depth: u32) -> bool {
    let Some(number) = device.block_device().filter(|_| depth > 0) else { return false };
    let on = match NOTED.get() {
        Some(noted) => noted.get(&number).cloned().unwrap_or_default(),
        None => read(number),
    };
    let mut on = on.into_iter().filter_map(Part::identity);
    on.any(|part| part == file || is_stored_within(part, file, depth - 1))
}

/// Returns what a block device is directly stored on.
fn read(device: u64) -> Vec<Part> {
    let name = format!("{}:{}", major(device), minor(device));
    let Ok(directory) = Path::new(DIRECTORY).join(name).canonicalize() else { return Vec::new() };
    let mut found = Vec::new();
    if let Ok(path) = fs::read(directory.join("loop/backing_file")) {
        let path = path.strip_suffix(b"\n").unwrap_or(&path);
        found.push(Part::File(OsStr::from_bytes(path).into()));
    }
    if directory.join("partition").exists() {
        found.extend(directory.parent().and_then(device_at).map(Part::Device));
    }
    let slaves = fs::read_dir(directory.join("slaves")).into_iter().flatten().flatten();
    found.extend(slaves.filter_map(|entry| device_at(&entry.path())).map(Part::Device));
    found
}

/// Returns the identity of the device with this directory in sysfs.
fn device_at(directory: &Path) -> Option<FileId> {
    Some(FileId { device: parse(&fs::read(directory.join("dev")).ok()?)?, inode: 0 })
}

/// Parses the number of a device, such as `8:1`.
fn parse(text: &[u8]) -> Option<u64> {
    let (major, minor) = std::str::from_utf8(text).ok()?.trim_end().split_once(':')?;
    Some(makedev(major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_devices_are_parsed() {
        assert_eq!(parse(b"8:1\n"), Some(makedev(8, 1)));
        assert_eq!(parse(b"259:70000"), Some(makedev(259, 70000)));
        assert_eq!((parse(b"8"), parse(b"8:x"), parse(b"")), (None, None, None));
    }

    /// Requires a system with partitions, of which there is at least one if it has a disk.
    #[test]
    fn a_partition_is_stored_on_its_disk() {
        for entry in fs::read_dir("/sys/class/block").into_iter().flatten().flatten() {
            if entry.path().join("partition").exists() {
                let partition = device_at(&entry.path()).expect("has a number");
                let real = entry.path().canonicalize().expect("exists");
                let disk = device_at(real.parent().expect("a disk")).expect("has a number");
                assert!(partition.shares_data_with(disk) && disk.shares_data_with(partition));
                assert!(is_stored_on(partition, disk) && !is_stored_on(disk, partition));
            }
        }
    }
}
