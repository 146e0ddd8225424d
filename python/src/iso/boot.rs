//! Boot options of new ISO images.

use crate::arguments::{plain, word};
use diskimg::iso::boot::Platform;
use diskimg::iso::write::{AppendedPartition, BootEntry, BootImage, CreateOptions};
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
    partition_offset: u32,
    /// Number, partition type and file.
    appended: Vec<(u32, u8, PathBuf)>,
    appended_as_gpt: bool,
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
        hybrid.partition_offset = self.partition_offset;
        let appended = self.appended.iter();
        let partition = |(number, kind, file): &(_, _, PathBuf)| {
            AppendedPartition::new(*number, *kind, plain(file.clone()))
        };
        hybrid.appended = appended.map(partition).collect();
        hybrid.appended_as_gpt = self.appended_as_gpt;
        Ok(())
    }
}

impl Entry {
    fn entry(&self) -> PyResult<BootEntry> {
        let image = match &self.path {
            BootFile::Partition(number) => BootImage::AppendedPartition(*number),
            BootFile::File(path) => BootImage::File(path.clone()),
        };
        let mut entry = BootEntry::new(Platform::from_number(self.platform), image);
        entry.emulation = word("emulation", &self.emulation)?;
        entry.load_segment = self.load_segment;
        entry.load_sectors = self.load_sectors;
        entry.info_table = self.info_table;
        entry.grub2_info = self.grub2_info;
        entry.in_gpt = self.in_gpt;
        Ok(entry)
    }
}
