//! Boot options of new ISO images.

use crate::arguments::{plain, word};
use diskimg::iso::boot::Platform;
use diskimg::iso::write::{AppendedPartition, BootEntry, BootImage, CreateOptions, PartitionKind};
use pyo3::prelude::*;
use std::path::PathBuf;

/// Boot options of a new image. Corresponds to `BootArgs` in `iso/_boot.py`.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(super) struct BootArgs {
    entries: Vec<Entry>,
    catalog: String,
    catalog_visible: bool,
    isohybrid_mbr: Option<Vec<u8>>,
    grub2_mbr: Option<Vec<u8>>,
    system_area: Option<Vec<u8>>,
    partition_offset: u32,
    protective_label: bool,
    force_active: bool,
    volume_kind: Option<Kind>,
    heads: u8,
    sectors_per_track: u8,
    cylinder_alignment: String,
    /// Number, partition types in MBR and GPT, and file.
    appended: Vec<(u32, u8, Option<String>, PathBuf)>,
    appended_as_gpt: bool,
    appended_as_apm: bool,
    efi_partition: Option<BootFile>,
    gpt_disk_id: Option<String>,
}

/// Corresponds to `BootEntry` in `iso/_boot.py`.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct Entry {
    path: BootFile,
    platform: u8,
    emulation: String,
    load_segment: u16,
    load_sectors: Option<u16>,
    info_table: bool,
    grub2_info: bool,
    in_gpt: bool,
    in_apm: bool,
    identifier: Vec<u8>,
    criteria: Vec<u8>,
}

/// The type of a partition in an MBR, or a GUID.
#[derive(FromPyObject)]
enum Kind {
    Mbr(u8),
    Gpt(String),
}

/// The boot image: a file in the ISO image, or the number of an appended partition.
#[derive(FromPyObject)]
enum BootFile {
    Partition(u32),
    File(String),
}

impl BootArgs {
    pub(super) fn set(&self, options: &mut CreateOptions) -> PyResult<()> {
        options.boot = self.entries.iter().map(Entry::entry).collect::<PyResult<_>>()?;
        options.boot_catalog.clone_from(&self.catalog);
        options.boot_catalog_visible = self.catalog_visible;
        let hybrid = &mut options.hybrid;
        hybrid.isohybrid_mbr.clone_from(&self.isohybrid_mbr);
        hybrid.grub2_mbr.clone_from(&self.grub2_mbr);
        hybrid.system_area.clone_from(&self.system_area);
        hybrid.partition_offset = self.partition_offset;
        hybrid.protective_label = self.protective_label;
        hybrid.force_active = self.force_active;
        hybrid.volume_kind = match &self.volume_kind {
            None => None,
            Some(Kind::Mbr(kind)) => Some(PartitionKind::Mbr(*kind)),
            Some(Kind::Gpt(kind)) => Some(PartitionKind::Gpt(word("volume_kind", kind)?)),
        };
        hybrid.heads = self.heads;
        hybrid.sectors_per_track = self.sectors_per_track;
        hybrid.cylinder_alignment = word("cylinder_alignment", &self.cylinder_alignment)?;
        for (number, kind, gpt_kind, file) in &self.appended {
            let mut partition = AppendedPartition::new(*number, *kind, plain(file.clone()));
            partition.gpt_kind =
                gpt_kind.as_deref().map(|kind| word("gpt_kind", kind)).transpose()?;
            hybrid.appended.push(partition);
        }
        hybrid.appended_as_gpt = self.appended_as_gpt;
        hybrid.appended_as_apm = self.appended_as_apm;
        hybrid.efi_partition = self.efi_partition.as_ref().map(BootFile::image);
        hybrid.gpt_disk_id =
            self.gpt_disk_id.as_deref().map(|id| word("gpt_disk_id", id)).transpose()?;
        Ok(())
    }
}

impl BootFile {
    fn image(&self) -> BootImage {
        match self {
            Self::Partition(number) => BootImage::AppendedPartition(*number),
            Self::File(path) => BootImage::File(path.clone()),
        }
    }
}

impl Entry {
    fn entry(&self) -> PyResult<BootEntry> {
        let platform = Platform::from_number(self.platform);
        let mut entry = BootEntry::new(platform, self.path.image());
        entry.emulation = word("emulation", &self.emulation)?;
        entry.load_segment = self.load_segment;
        entry.load_sectors = self.load_sectors;
        entry.info_table = self.info_table;
        entry.grub2_info = self.grub2_info;
        entry.in_gpt = self.in_gpt;
        entry.in_apm = self.in_apm;
        entry.identifier.clone_from(&self.identifier);
        entry.criteria.clone_from(&self.criteria);
        Ok(entry)
    }
}
