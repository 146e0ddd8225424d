//! Arguments of `iso create`.

use crate::args::recipe::{Destination, Graft, HybridFiles, Profile, Recipe, Selection};
use crate::failure::Failure;
use diskimg::iso::boot::Platform;
use diskimg::iso::write::{
    AppendedPartition, BootEntry, BootImage, CreateOptions, Duplicates, Joliet, Level,
    PartitionContents, RockRidge,
};
use std::ffi::OsString;
use std::path::PathBuf;

const EXAMPLES: &str = "\
The entries of DIR, and FILE, are added to the root directory. PLACE=FILE adds FILE, or the entries
of directory FILE, at the path PLACE. Write = and \\ in names as \\= and \\\\. If SOURCE_DATE_EPOCH is
set, no later time is recorded.

Examples:
  diskimg iso create -V BACKUP -o backup.iso backup/
  diskimg iso create --nocloud -o seed.iso user-data meta-data
  diskimg iso create -o x.iso boot/grub/grub.cfg=my.cfg tree/";

/// Create an ISO image from files and directories.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Files and directories to add.
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::AnyPath)]
    operands: Vec<OsString>,
    /// Write the image to IMAGE; '-' is standard output
    #[arg(short, long, value_name = "IMAGE", value_hint = clap::ValueHint::FilePath)]
    output: Option<PathBuf>,
    /// Volume label (default: CDROM)
    #[arg(short = 'V', long, value_name = "LABEL")]
    volume_id: Option<String>,
    /// Publisher, up to 128 bytes
    #[arg(long, value_name = "TEXT")]
    publisher: Option<String>,
    /// Application, up to 128 bytes
    #[arg(long, value_name = "TEXT")]
    application: Option<String>,
    /// Create an OpenStack config drive (label config-2)
    #[arg(long, group = "profile")]
    openstack: bool,
    /// Create a cloud-init NoCloud seed (label cidata)
    #[arg(long, group = "profile")]
    nocloud: bool,
    /// Create an Anaconda driver or kickstart disc (label OEMDRV)
    #[arg(long, group = "profile")]
    oemdrv: bool,
    /// Rock Ridge: rationalized (owner root, read-only; default), preserved, none
    #[arg(long, value_enum, value_name = "MODE", default_value_t)]
    #[arg(hide_default_value = true, hide_possible_values = true)]
    rock_ridge: RockRidgeArg,
    /// Add Joliet names for Windows (default)
    #[arg(long, overrides_with = "no_joliet")]
    joliet: bool,
    /// Do not add Joliet names
    #[arg(long, overrides_with = "joliet")]
    no_joliet: bool,
    /// Allow Joliet names of up to 103 characters
    #[arg(long, conflicts_with = "no_joliet")]
    joliet_long: bool,
    /// Add UDF, in which files may have any length (Windows installation media)
    #[arg(long)]
    udf: bool,
    /// ISO 9660 level: 1, 2, 3 (default: 3). Files of 4 GiB and more require 3
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=3))]
    level: Option<u8>,
    /// Set the owner of all files
    #[arg(long, value_name = "UID")]
    uid: Option<u32>,
    /// Set the group of all files
    #[arg(long, value_name = "GID")]
    gid: Option<u32>,
    /// Follow symbolic links instead of recording them
    #[arg(short = 'L', long)]
    follow: bool,
    /// Exclude files whose name or path matches GLOB; repeatable
    #[arg(short = 'x', long, value_name = "GLOB")]
    exclude: Vec<String>,
    /// Align file data to BYTES; with 4096, the image can share blocks with the files (reflink)
    #[arg(long, value_name = "BYTES")]
    align: Option<u32>,
    /// Append N sectors of zeros (default: 0; at least 16 if bootable)
    #[arg(long, value_name = "N")]
    pad: Option<u32>,
    /// Path of the BIOS boot image in the ISO image
    #[arg(long, value_name = "PATH")]
    bios_boot: Option<String>,
    /// Path of the UEFI boot image in the ISO image
    #[arg(long, value_name = "PATH")]
    efi_boot: Option<String>,
    /// Patch a boot info table into the BIOS boot image (isolinux, GRUB)
    #[arg(long, requires = "bios_boot")]
    boot_info_table: bool,
    /// Make the image bootable from disk with an isohybrid MBR (isohdpfx.bin)
    #[arg(long, value_name = "FILE", requires = "bios_boot")]
    hybrid_mbr: Option<PathBuf>,
    /// Make the image bootable from disk with a GRUB MBR (boot_hybrid.img)
    #[arg(long, value_name = "FILE", requires = "bios_boot", conflicts_with = "hybrid_mbr")]
    grub2_mbr: Option<PathBuf>,
    /// Append FILE as an EFI system partition and boot it with UEFI
    #[arg(long, value_name = "FILE", conflicts_with = "efi_boot")]
    append_efi: Option<PathBuf>,
    /// Check all, say what would be written
    #[arg(long_help = "Check everything, say what would be written, and change nothing")]
    #[arg(long)]
    dry_run: bool,
    /// Print only errors
    #[arg(short, long)]
    quiet: bool,
}

/// Values of `--rock-ridge`; see [`RockRidge`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum RockRidgeArg {
    #[default]
    Rationalized,
    Preserved,
    None,
}

/// Load size of a BIOS boot image in 512-byte sectors, as boot loaders for discs expect it.
const BIOS_LOAD_SECTORS: u16 = 4;

/// Number of the partition that `--append-efi` adds; partition 1 is the ISO file system.
const EFI_PARTITION: u32 = 2;

/// MBR type of an EFI system partition.
const EFI_SYSTEM: u8 = 0xef;

impl Args {
    /// Validates the arguments.
    pub(crate) fn recipe(mut self) -> Result<Recipe, Failure> {
        let output = Destination::from_arg(self.output.take(), "iso create")?;
        if self.operands.is_empty() {
            return Err(Failure::usage("iso create", "Expecting files or directories to add"));
        }
        let grafts =
            self.operands.iter().map(|arg| Graft::parse(arg)).collect::<Result<Vec<_>, _>>()?;
        let mut options = self.options();
        let profile = self.profile();
        if let Some(profile) = profile {
            profile.apply(&mut options, &grafts)?;
        }
        self.apply_identifiers(&mut options);
        self.apply_boot(&mut options);
        let hybrid = HybridFiles {
            isohybrid_mbr: self.hybrid_mbr.map(PartitionContents::File),
            grub2_mbr: self.grub2_mbr.map(PartitionContents::File),
            system_area: None,
        };
        Ok(Recipe {
            options,
            grafts,
            path_lists: Vec::new(),
            root: Vec::new(),
            grafts_in_lists: true,
            follow_operands: true,
            skip_links_without_rock_ridge: false,
            excludes: self.exclude,
            exclude_lists: Vec::new(),
            selection: Selection::default(),
            hybrid,
            output,
            print_size: false,
            dry_run: self.dry_run,
            quiet: self.quiet,
            verbose: false,
        })
    }

    fn profile(&self) -> Option<Profile> {
        match self {
            Self { openstack: true, .. } => Some(Profile::OpenStack),
            Self { nocloud: true, .. } => Some(Profile::NoCloud),
            Self { oemdrv: true, .. } => Some(Profile::OemDrv),
            _ => None,
        }
    }

    fn options(&self) -> CreateOptions {
        let mut options = CreateOptions::default();
        options.rock_ridge = match self.rock_ridge {
            RockRidgeArg::Rationalized => Some(RockRidge::Rationalized),
            RockRidgeArg::Preserved => Some(RockRidge::Preserved),
            RockRidgeArg::None => None,
        };
        options.joliet = match (self.no_joliet, self.joliet_long) {
            (true, _) => None,
            (false, true) => Some(Joliet::Long),
            (false, false) => Some(Joliet::Standard),
        };
        options.udf = self.udf;
        options.names.level = match self.level {
            Some(1) => Level::One,
            Some(2) => Level::Two,
            _ => Level::Three,
        };
        // Only level 1 restricts names to 8.3.
        options.names.full_length = self.level != Some(1);
        options.duplicates = Duplicates::Refuse;
        options.uid = self.uid;
        options.gid = self.gid;
        options.follow_symlinks = self.follow;
        options.alignment = self.align.unwrap_or(options.alignment);
        options.padding = self.pad.unwrap_or(options.padding);
        options
    }

    fn apply_identifiers(&mut self, options: &mut CreateOptions) {
        for (given, option) in [
            (&mut self.volume_id, &mut options.volume_id),
            (&mut self.publisher, &mut options.publisher),
            (&mut self.application, &mut options.application),
        ] {
            if let Some(text) = given.take() {
                *option = text;
            }
        }
    }

    fn apply_boot(&mut self, options: &mut CreateOptions) {
        let file = |path: &String| BootImage::File(path.trim_start_matches('/').to_owned());
        if let Some(path) = &self.bios_boot {
            let mut entry = BootEntry::new(Platform::Bios, file(path));
            entry.load_sectors = Some(BIOS_LOAD_SECTORS);
            entry.info_table = self.boot_info_table;
            entry.grub2_info = self.grub2_mbr.is_some();
            options.boot.push(entry);
        }
        if let Some(path) = &self.efi_boot {
            let mut entry = BootEntry::new(Platform::Efi, file(path));
            // Booting from disk, UEFI firmware looks for a partition.
            entry.in_gpt = self.hybrid_mbr.is_some();
            options.boot.push(entry);
        }
        if let Some(path) = self.append_efi.take() {
            let image = BootImage::AppendedPartition(EFI_PARTITION);
            options.boot.push(BootEntry::new(Platform::Efi, image));
            let partition = AppendedPartition::new(EFI_PARTITION, EFI_SYSTEM, path);
            options.hybrid.appended.push(partition);
            // The isohybrid MBR already contains partition entries.
            options.hybrid.appended_as_gpt = self.hybrid_mbr.is_none();
        }
    }
}
