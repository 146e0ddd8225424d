//! What firmware boots: the boot code in the first sector, and the loaders in an EFI system
//! partition.

use crate::error::{Error, ErrorKind, Result};
use crate::files::FileSystem;
use crate::open::limits::Limits;
use crate::partition::{Scheme, Table};
use crate::report::preflight::Boot;
use crate::storage::source::{Source, WindowSource};
use std::sync::Arc;

/// Maximum number of EFI system partitions that are searched.
const MAX_SEARCHED: usize = 16;

/// Length of the boot code in the first sector, in bytes.
const BOOT_CODE: usize = 440;

/// Type of an EFI system partition in a GPT and in an MBR (UEFI specification, 5.3.3 and 5.2.2).
const EFI_GUID: &str = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B";
const EFI_MBR: &str = "0xef";

/// The loaders by which firmware boots a disk that it does not know, and their architectures (UEFI
/// specification, 3.5.1.1).
const LOADERS: &[(&str, &str)] = &[
    ("BOOTX64.EFI", "x86_64"),
    ("BOOTAA64.EFI", "aarch64"),
    ("BOOTIA32.EFI", "i686"),
    ("BOOTARM.EFI", "arm"),
    ("BOOTRISCV64.EFI", "riscv64"),
    ("BOOTLOONGARCH64.EFI", "loongarch64"),
];

/// Returns what can be booted. `unread` is called with the error if an EFI system partition cannot be
/// read.
///
/// # Errors
/// Returns the error of reading the disk.
pub(super) fn find(
    disk: &Arc<dyn Source>,
    table: Option<&Table>,
    limits: &Limits,
    unread: &mut dyn FnMut(u32, &Error),
) -> Result<Boot> {
    let bios = table.is_some() && has_boot_code(disk)?;
    let mut boot = Boot { bios, ..Boot::default() };
    let mut searched = 0;
    for partition in table.into_iter().flat_map(|table| &table.partitions) {
        let kind = match table.map(|table| table.scheme) {
            Some(Scheme::Gpt) => EFI_GUID,
            _ => EFI_MBR,
        };
        let range = partition.range(disk.len());
        let Some(range) = range.filter(|_| partition.kind.eq_ignore_ascii_case(kind)) else {
            continue;
        };
        boot.efi_partition = true;
        searched += 1;
        if searched > MAX_SEARCHED {
            break;
        }
        let Ok(window) = WindowSource::new(Arc::clone(disk), range) else { continue };
        match loaders(Arc::new(window), limits) {
            Ok(found) => boot.uefi.extend(found),
            Err(error) if error.is_storage_failure() => return Err(error),
            Err(error) => unread(partition.number, &error),
        }
    }
    boot.uefi.sort_unstable();
    boot.uefi.dedup();
    Ok(boot)
}

/// Returns true if the first sector has boot code. A table that sfdisk has written has none.
fn has_boot_code(disk: &Arc<dyn Source>) -> Result<bool> {
    let mut sector = [0; 512];
    if disk.len() < 512 {
        return Ok(false);
    }
    disk.read_exact_at(&mut sector, 0).map_err(|e| Error::io("cannot read the first sector", e))?;
    Ok(sector[510..] == [0x55, 0xaa] && sector[..BOOT_CODE].iter().any(|&byte| byte != 0))
}

/// Returns the architectures of the loaders in an EFI system partition.
fn loaders(partition: Arc<dyn Source>, limits: &Limits) -> Result<Vec<&'static str>> {
    let files = FileSystem::open(partition, limits)?;
    let mut found = Vec::new();
    for (name, architecture) in LOADERS {
        if exists(&files, &format!("EFI/BOOT/{name}"))? {
            found.push(*architecture);
        }
    }
    Ok(found)
}

/// Returns true if there is a file of this name.
fn exists(files: &FileSystem, path: &str) -> Result<bool> {
    match files.lookup(path.as_bytes()) {
        Ok(node) => Ok(!node.is_dir()),
        Err(error) if error.kind() == ErrorKind::Invalid => Ok(false),
        Err(error) => Err(error),
    }
}
