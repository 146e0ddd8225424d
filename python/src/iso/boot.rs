//! What a new image starts.

use crate::arguments::{plain, unknown};
use diskimg::iso::boot::Platform;
use diskimg::iso::write::{AppendedPartition, BootEntry, BootImage, CreateOptions, Emulation};
use pyo3::prelude::*;
use std::path::PathBuf;

/// What a new image starts: `Booting` in `iso/_boot.py`.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(super) struct Booting {
    entries: Vec<Entry>,
    catalog: String,
    catalog_visible: bool,
    isohybrid_mbr: Option<Vec<u8>>,
    grub2_mbr: Option<Vec<u8>>,
    partition_offset: u32,
    /// Number, kind and file.
    appended: Vec<(u32, u8, PathBuf)>,
    appended_as_gpt: bool,
}

/// `BootEntry` in `iso/_boot.py`.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct Entry {
    path: Loaded,
    platform: u8,
    emulation: String,
    load_segment: u16,
    load_sectors: Option<u16>,
    info_table: bool,
    grub2_info: bool,
    in_gpt: bool,
}

/// A file of the image, or the number of an appended partition.
#[derive(FromPyObject)]
enum Loaded {
    Partition(u32),
    File(String),
}

impl Booting {
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
            Loaded::Partition(number) => BootImage::AppendedPartition(*number),
            Loaded::File(path) => BootImage::File(path.clone()),
        };
        let mut entry = BootEntry::new(Platform::from_number(self.platform), image);
        entry.emulation = match self.emulation.as_str() {
            "none" => Emulation::None,
            "floppy" => Emulation::Floppy,
            "hard-disk" => Emulation::HardDisk,
            word => return Err(unknown("emulation", word, "none, floppy or hard-disk")),
        };
        entry.load_segment = self.load_segment;
        entry.load_sectors = self.load_sectors;
        entry.info_table = self.info_table;
        entry.grub2_info = self.grub2_info;
        entry.in_gpt = self.in_gpt;
        Ok(entry)
    }
}
