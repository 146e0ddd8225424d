//! The image described by the options parsed so far.

use super::Dialect;
use super::values::{self, Value};
use crate::args::recipe::{Destination, Graft, HybridFiles, Recipe, Selection};
use crate::failure::Failure;
use diskimg::iso::boot::Platform;
use diskimg::iso::write::{
    AppendedPartition, BootEntry, BootImage, Charset, CreateOptions, Duplicates, Emulation,
    NameRules, PartitionContents, RockRidge, TranslationTables,
};
use diskimg::partition::Guid;
use std::ffi::OsString;
use std::path::PathBuf;

/// Sectors of padding for drives that read ahead beyond the end: 300 KiB.
pub(super) const PADDING: u32 = 150;

/// State built up while options are parsed.
#[derive(Debug)]
pub(super) struct Draft {
    /// Whose defaults apply.
    pub(super) dialect: Dialect,
    /// Options of the image.
    pub(super) options: CreateOptions,
    /// `-R`, `-r`.
    pub(super) rock_ridge: RockRidgeRequest,
    /// The current boot entry.
    pub(super) boot: BootDraft,
    /// `-o`.
    pub(super) output: Option<OsString>,
    /// `-graft-points`.
    pub(super) graft_points: bool,
    /// `-path-list`.
    pub(super) path_lists: Vec<PathBuf>,
    /// `-m`, `-x`: patterns.
    pub(super) excludes: Vec<String>,
    /// `-exclude-list`.
    pub(super) exclude_lists: Vec<PathBuf>,
    /// `-hide`, `-sort` and similar options.
    pub(super) selection: Selection,
    /// The translation tables, if they are requested.
    pub(super) tables: TranslationTables,
    /// `-T`.
    tables_requested: bool,
    /// `-root`: the directory in the image for all files.
    pub(super) root: Vec<u8>,
    /// `-D`, which overrides `-hide-rr-moved` in any order.
    pub(super) no_relocation: bool,
    /// `-input-charset`.
    pub(super) input_charset: Option<Charset>,
    /// `-output-charset`.
    pub(super) output_charset: Option<Charset>,
    /// `-isohybrid-mbr`, `--grub2-mbr`, `-G`.
    pub(super) hybrid: HybridFiles,
    /// `-print-size`.
    pub(super) print_size: bool,
    /// `-efi-boot-part`.
    pub(super) efi_boot_part: Option<EfiBootPart>,
    /// `--gpt_disk_guid modification-date`.
    pub(super) gpt_guid_from_date: bool,
    /// `-quiet`.
    pub(super) quiet: bool,
    /// `-v`.
    pub(super) verbose: bool,
}

/// The contents of the EFI system partition inside the volume.
#[derive(Debug)]
pub(super) enum EfiBootPart {
    /// The image of the first EFI boot entry (`--efi-boot-image`).
    BootImage,
    /// A host file, or a part of one.
    Contents(PartitionContents),
}

/// Which Rock Ridge is requested; `-r` overrides `-R` in any order.
#[derive(Debug, Default)]
pub(super) struct RockRidgeRequest {
    pub(super) enabled: bool,
    pub(super) rationalized: bool,
}

/// A boot entry whose options may come before or after its image.
#[derive(Debug, Default)]
pub(super) struct BootDraft {
    image: Option<BootImage>,
    platform: Option<Platform>,
    pub(super) emulation: Option<Emulation>,
    pub(super) load_segment: Option<u16>,
    pub(super) load_sectors: Option<u16>,
    pub(super) info_table: bool,
    pub(super) grub2_info: bool,
    pub(super) in_gpt: Option<Guid>,
    pub(super) in_apm: bool,
    pub(super) identifier: Vec<u8>,
    pub(super) criteria: Vec<u8>,
}

impl Draft {
    /// Returns the defaults of `dialect`.
    pub(super) fn new(dialect: Dialect) -> Self {
        let mut options = CreateOptions::default();
        options.names = NameRules::strict();
        options.joliet = None;
        options.padding = PADDING;
        options.boot_catalog = "boot.catalog".into();
        match dialect {
            Dialect::Mkisofs => {
                options.deep_directories = false;
                options.duplicates = Duplicates::Refuse;
            }
            Dialect::Xorriso => {
                options.volume_id = "ISOIMAGE".into();
                options.system_id.clear();
                options.duplicates = Duplicates::Report;
            }
        }
        let rock_ridge =
            RockRidgeRequest { enabled: dialect == Dialect::Xorriso, rationalized: false };
        Self {
            dialect,
            options,
            rock_ridge,
            boot: BootDraft::default(),
            output: None,
            graft_points: false,
            path_lists: Vec::new(),
            excludes: Vec::new(),
            exclude_lists: Vec::new(),
            selection: Selection::default(),
            tables: TranslationTables::default(),
            tables_requested: false,
            root: Vec::new(),
            no_relocation: false,
            input_charset: None,
            output_charset: None,
            hybrid: HybridFiles::default(),
            print_size: false,
            efi_boot_part: None,
            gpt_guid_from_date: false,
            quiet: false,
            verbose: false,
        }
    }

    /// Handles `-b` and `-e`: sets the image of the current boot entry.
    pub(super) fn boot_image(
        &mut self,
        path: &str,
        platform: Option<Platform>,
    ) -> Result<(), Failure> {
        if self.boot.image.is_some() {
            return Err(Failure::error(format!(
                "a second boot image, {path}, requires -eltorito-alt-boot before it"
            )));
        }
        self.boot.set_image(values::boot_image(path)?, platform);
        Ok(())
    }

    /// Handles `-eltorito-platform`, which applies to the next image: if the current entry already
    /// has an image, a new entry begins.
    pub(super) fn platform(&mut self, platform: Platform) -> Result<(), Failure> {
        self.next_boot_entry()?;
        self.boot.set_platform(platform);
        Ok(())
    }

    /// Handles `-T`, which xorriso ignores.
    pub(super) fn translation_tables(&mut self) {
        self.tables_requested = self.dialect == Dialect::Mkisofs;
    }

    /// Finishes the current boot entry if it has an image.
    pub(super) fn next_boot_entry(&mut self) -> Result<(), Failure> {
        if self.boot.image.is_some() {
            let entry = std::mem::take(&mut self.boot).entry()?;
            self.options.boot.extend(entry);
        }
        Ok(())
    }

    /// Handles `-append_partition`.
    pub(super) fn append_partition(
        &mut self,
        number: &Value<'_>,
        kind: &Value<'_>,
        file: &Value<'_>,
    ) -> Result<(), Failure> {
        let (kind, gpt_kind) = values::partition_kinds(kind)?;
        let contents = file.contents()?;
        let mut partition = AppendedPartition::with_contents(number.number()?, kind, contents);
        partition.gpt_kind = gpt_kind;
        self.options.hybrid.appended.push(partition);
        Ok(())
    }

    /// Returns the recipe with these operands.
    pub(super) fn recipe(mut self, operands: &[OsString]) -> Result<Recipe, Failure> {
        let entry = std::mem::take(&mut self.boot).entry()?;
        self.options.boot.extend(entry);
        self.efi_partition()?;
        self.gpt_guid()?;
        self.options.rock_ridge = self.rock_ridge();
        self.options.deep_directories |= self.no_relocation;
        self.set_charsets();
        self.options.translation_tables = self.tables_requested.then_some(self.tables);
        let grafts = operands.iter().map(|arg| match self.graft_points {
            true => Graft::parse(arg),
            false => Ok(Graft::root(arg.into())),
        });
        let mut grafts = grafts.collect::<Result<Vec<_>, _>>()?;
        for graft in &mut grafts {
            graft.move_below(&self.root);
        }
        let output = match self.output {
            Some(path) if path != "-" => Destination::File(path.into()),
            _ => Destination::Stdout,
        };
        Ok(Recipe {
            options: self.options,
            grafts,
            grafts_in_lists: self.graft_points,
            path_lists: self.path_lists,
            root: self.root,
            follow_operands: false,
            skip_links_without_rock_ridge: true,
            excludes: self.excludes,
            exclude_lists: self.exclude_lists,
            selection: self.selection,
            hybrid: self.hybrid,
            output,
            print_size: self.print_size,
            dry_run: false,
            quiet: self.quiet,
            verbose: self.verbose,
        })
    }

    /// Sets the character sets. By default, genisoimage records names as they are on the host;
    /// xorriso converts them.
    fn set_charsets(&mut self) {
        let host = self.input_charset.unwrap_or_default();
        let default = match self.dialect {
            Dialect::Mkisofs => host,
            Dialect::Xorriso => Charset::default(),
        };
        let charsets = &mut self.options.charsets;
        charsets.host = host;
        charsets.rock_ridge = self.output_charset.unwrap_or(default);
    }

    /// Applies `-efi-boot-part`.
    fn efi_partition(&mut self) -> Result<(), Failure> {
        let hybrid = &mut self.options.hybrid;
        hybrid.efi_partition = match self.efi_boot_part.take() {
            None => return Ok(()),
            Some(EfiBootPart::Contents(contents)) => {
                hybrid.unlisted.push(contents);
                Some(BootImage::Unlisted(hybrid.unlisted.len() - 1))
            }
            Some(EfiBootPart::BootImage) => {
                let mut entries = self.options.boot.iter();
                let entry = entries.find(|entry| entry.platform == Platform::Efi);
                let message = "--efi-boot-image requires an EFI boot image (-e or --efi-boot)";
                Some(entry.ok_or_else(|| Failure::error(message))?.image.clone())
            }
        };
        Ok(())
    }

    /// Applies `--gpt_disk_guid modification-date`.
    fn gpt_guid(&mut self) -> Result<(), Failure> {
        if self.gpt_guid_from_date {
            let message = "--gpt_disk_guid modification-date requires --modification-date";
            let time = self.options.volume_time.ok_or_else(|| Failure::error(message))?;
            self.options.hybrid.gpt_disk_id = Some(values::guid_of_date(time));
        }
        Ok(())
    }

    /// Returns the Rock Ridge mode. Setting owners or permissions implies Rock Ridge, which is
    /// needed to record them.
    fn rock_ridge(&self) -> Option<RockRidge> {
        let CreateOptions { uid, gid, dir_mode, file_mode, .. } = self.options;
        let attributes_set = [uid, gid, dir_mode, file_mode].iter().any(Option::is_some);
        match &self.rock_ridge {
            RockRidgeRequest { rationalized: true, .. } => Some(RockRidge::Rationalized),
            RockRidgeRequest { enabled: true, .. } => Some(RockRidge::Preserved),
            _ if attributes_set => Some(RockRidge::Preserved),
            _ => None,
        }
    }
}

impl BootDraft {
    pub(super) fn has_image(&self) -> bool {
        self.image.is_some()
    }

    /// Sets the image and, if given, the platform.
    pub(super) fn set_image(&mut self, image: BootImage, platform: Option<Platform>) {
        self.image = Some(image);
        self.platform = platform.or(self.platform);
    }

    pub(super) fn set_platform(&mut self, platform: Platform) {
        self.platform = Some(platform);
    }

    /// Returns the boot entry, or `None` if no option describes one.
    pub(super) fn entry(self) -> Result<Option<BootEntry>, Failure> {
        let Some(image) = self.image else {
            return match self.option_without_image() {
                Some(option) => {
                    Err(Failure::error(format!("{option} requires a boot image (-b or -e)")))
                }
                None => Ok(None),
            };
        };
        let mut entry = BootEntry::new(self.platform.unwrap_or(Platform::Bios), image);
        entry.emulation = self.emulation.unwrap_or(Emulation::Floppy);
        entry.load_segment = self.load_segment.unwrap_or_default();
        entry.load_sectors = self.load_sectors;
        entry.info_table = self.info_table;
        entry.grub2_info = self.grub2_info;
        entry.in_gpt = self.in_gpt.is_some();
        entry.gpt_kind = self.in_gpt.unwrap_or(Guid::BASIC_DATA);
        entry.in_apm = self.in_apm;
        entry.identifier = self.identifier;
        entry.criteria = self.criteria;
        Ok(Some(entry))
    }

    /// Returns an option that has no effect without an image. `-no-emul-boot` is allowed: xorriso's
    /// `--efi-boot` implies it, and scripts often repeat it.
    fn option_without_image(&self) -> Option<&'static str> {
        match self {
            Self { emulation: Some(Emulation::HardDisk), .. } => Some("-hard-disk-boot"),
            Self { load_segment: Some(_), .. } => Some("-boot-load-seg"),
            Self { load_sectors: Some(_), .. } => Some("-boot-load-size"),
            Self { info_table: true, .. } => Some("-boot-info-table"),
            Self { grub2_info: true, .. } => Some("--grub2-boot-info"),
            Self { in_gpt: Some(_), .. } => Some("-isohybrid-gpt-basdat"),
            Self { in_apm: true, .. } => Some("-isohybrid-apm-hfsplus"),
            Self { identifier, .. } if !identifier.is_empty() => Some("-eltorito-id"),
            Self { criteria, .. } if !criteria.is_empty() => Some("-eltorito-selcrit"),
            _ => None,
        }
    }
}
