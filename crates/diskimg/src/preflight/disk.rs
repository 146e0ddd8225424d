//! The rules about the bytes of the disk: its partition table, and what boots.

use super::consumer::size_text;
use super::drivers::Search;
use super::{Consumer, loaders};
use crate::error::Result;
use crate::files::{FileSystem, Kind, recognize};
use crate::model::image::Image;
use crate::open::limits::Limits;
use crate::partition::{Role, Scheme, Table, table};
use crate::report::preflight::{Boot, Code, Preflight};
use crate::storage::source::{Source, WindowSource};
use std::sync::Arc;

/// Maximum number of partitions whose file systems are searched for kernels.
const MAX_SEARCHED: usize = 16;

/// Largest disk of 512-byte sectors whose end an MBR can describe.
const MAX_MBR: u64 = 1 << 41;

/// Adds the findings about the disk.
pub(super) fn check(image: &Image, found: &mut Preflight) -> Result<()> {
    let disk: Arc<dyn Source> = Arc::new(image.clone());
    let limits = image.limits(0);
    let table = match table(&*disk, None) {
        Ok(table) => table,
        Err(error) if error.is_storage_failure() => return Err(error),
        // It is the image that cannot be read.
        Err(error) => {
            found.add(Code::Damaged, error.to_string());
            return Ok(());
        }
    };
    match &table {
        Some(table) => check_table(image, table, found),
        None => {
            let message = "there is no partition table: few virtual machines boot such a disk";
            found.add(Code::NoPartitionTable, message);
        }
    }
    found.boot = loaders::find(&disk, table.as_ref(), limits, &mut |number, error| {
        let message = format!("the EFI system partition {number}: {error}");
        found.add(Code::NotExamined, message);
    })?;
    if table.is_some() {
        check_boot(found);
    }
    check_drivers(&disk, table.as_ref(), limits, found)
}

fn check_table(image: &Image, table: &Table, found: &mut Preflight) {
    /// Number of violations of the specification that are reported.
    const MAX_ODDITIES: usize = 8;
    let size = image.size();
    for partition in &table.partitions {
        // Logical partitions are inside the extended one.
        let end = partition.start.saturating_add(partition.length);
        if end > size && partition.role != Role::Logical {
            found.add(
                Code::PartitionBeyondEnd,
                format!(
                    "partition {} ends at byte {end}, but the disk has {size} bytes: a part of it \
                     is missing",
                    partition.number
                ),
            );
        }
    }
    for oddity in table.oddities.iter().take(MAX_ODDITIES) {
        found.add(Code::PartitionTable, oddity.message.clone());
    }
    let sector = image.layers().next().and_then(|layer| layer.sector_sizes());
    let sector = sector.map_or(512, |[logical, _]| logical);
    if table.scheme != Scheme::Apm && table.sector_bytes != sector {
        let counted = table.sector_bytes;
        found.add(
            Code::SectorSize,
            format!(
                "the partition table counts sectors of {counted} bytes, but those of the disk have \
                 {sector}: it has no partitions for most firmware"
            ),
        );
    }
    let rounded = found.consumer.requirements().rounded;
    if table.scheme == Scheme::Gpt && !size.is_multiple_of(rounded) {
        let (title, unit) = (found.consumer.title(), size_text(rounded));
        found.add(
            Code::PartitionTable,
            format!(
                "{title} rounds the size up to a multiple of {unit}, so that the backup of the GPT \
                 is not at the end of the disk; resize the image first"
            ),
        );
    }
    if table.scheme == Scheme::Mbr && size > MAX_MBR && table.sector_bytes == 512 {
        let most = size_text(MAX_MBR);
        let message = format!("the disk has {size} bytes, but its MBR describes at most {most}");
        found.add(Code::MbrSize, message);
    }
}

fn check_boot(found: &mut Preflight) {
    let title = found.consumer.title();
    let Boot { bios, efi_partition, uefi } = &found.boot;
    match (*bios, &**uefi) {
        (false, []) if *efi_partition => {
            found.add(
                Code::NoBootLoader,
                "the first sector has no boot code, and the EFI system partition has no \
                 \\EFI\\BOOT\\BOOT*.EFI, which the firmware of a new virtual machine looks for",
            );
        }
        (false, []) => {
            let message = "the first sector has no boot code, and there is no EFI system partition";
            found.add(Code::NoBootLoader, message);
        }
        (false, _) if found.consumer == Consumer::Hyperv && found.format == "vpc" => {
            let message = "only UEFI firmware boots the disk: that of Hyper-V (generation 2) does not \
                           accept VHD; convert the image to VHDX";
            found.add(Code::FirmwareFormat, message);
        }
        (false, architectures) => {
            let (advice, all) = (found.consumer.requirements().uefi, architectures.join(", "));
            let message =
                format!("only UEFI firmware boots the disk ({all}): in {title}, {advice}");
            found.add(Code::Uefi, message);
        }
        (true, _) => {}
    }
}

/// Adds findings if the Linux kernels on the disk lack drivers.
fn check_drivers(
    disk: &Arc<dyn Source>,
    table: Option<&Table>,
    limits: &Limits,
    found: &mut Preflight,
) -> Result<()> {
    let whole = || vec![(None, 0..disk.len())];
    let places: Vec<_> = table.map_or_else(whole, |table| {
        let partitions = table.partitions.iter().filter(|p| p.role != Role::Extended);
        partitions.filter_map(|p| Some((Some(p.number), p.range(disk.len())?))).collect()
    });
    let drivers = &found.consumer.requirements().drivers;
    let mut search = Search::new([drivers.disk, drivers.network]);
    for (number, range) in places.into_iter().take(MAX_SEARCHED) {
        let Ok(window) = WindowSource::new(Arc::clone(disk), range) else { continue };
        match search_in(&mut search, Arc::new(window), limits) {
            Ok(()) => {}
            Err(error) if error.is_storage_failure() => return Err(error),
            Err(error) => {
                let place = number.map_or("the disk".into(), |n| format!("partition {n}"));
                found.add(Code::NotExamined, format!("{place}: {error}"));
            }
        }
    }
    let title = found.consumer.title();
    for (index, code, names, what) in [
        (0, Code::DiskDriver, drivers.disk, "disks"),
        (1, Code::NetworkDriver, drivers.network, "the network"),
    ] {
        let kernels = search.kernels();
        if kernels.is_empty() || kernels.iter().any(|kernel| kernel.has[index]) {
            continue;
        }
        let versions: Vec<_> = kernels.iter().map(|kernel| &*kernel.version).collect();
        let message = format!(
            "no driver for {what} of {title} ({}) in the Linux kernel {}",
            names.join(" or "),
            versions.join(", ")
        );
        found.add(code, message);
    }
    Ok(())
}

/// Searches a file system for kernels. Only ext2 to ext4 are searched.
fn search_in(search: &mut Search, place: Arc<dyn Source>, limits: &Limits) -> Result<()> {
    match recognize(&place)?.map(|recognized| recognized.kind) {
        Some(Kind::Ext2 | Kind::Ext3 | Kind::Ext4) => search.add(&FileSystem::open(place, limits)?),
        _ => Ok(()),
    }
}
