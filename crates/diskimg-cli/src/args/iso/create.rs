//! `iso create`: what was args, and what it means.

use crate::args::recipe::{Destination, Graft, HybridFiles, Profile, Recipe};
use crate::failure::Failure;
use diskimg::iso::boot::Platform;
use diskimg::iso::write::{
    AppendedPartition, BootEntry, BootImage, CreateOptions, Joliet, Level, RockRidge,
};
use std::ffi::OsString;
use std::path::PathBuf;

const EXAMPLES: &str = "\
What is in DIR, and FILE, go into the root; PLACE=FILE to that path, \\= standing
for = in names. SOURCE_DATE_EPOCH is the latest time recorded.

Examples:
  diskimg iso create -V BACKUP -o backup.iso backup/
  diskimg iso create --nocloud -o seed.iso user-data meta-data
  diskimg iso create -o x.iso boot/grub/x=x.cfg tree/";

/// Build an ISO image of files and directories.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// What goes in
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::AnyPath)]
    words: Vec<OsString>,
    /// The image; - is standard output
    #[arg(short, long, value_name = "IMAGE", value_hint = clap::ValueHint::FilePath)]
    output: Option<PathBuf>,
    /// Its label (default: CDROM)
    #[arg(short = 'V', long, value_name = "LABEL")]
    volume_id: Option<String>,
    /// Publisher, at most 128 bytes
    #[arg(long, value_name = "TEXT")]
    publisher: Option<String>,
    /// Application, at most 128 bytes
    #[arg(long, value_name = "TEXT")]
    application: Option<String>,
    /// An OpenStack config drive: label config-2
    #[arg(long, group = "profile")]
    openstack: bool,
    /// A cloud-init seed (NoCloud): label cidata, user-data and meta-data
    #[arg(long, group = "profile")]
    nocloud: bool,
    /// An Anaconda driver or kickstart disc: label OEMDRV
    #[arg(long, group = "profile")]
    oemdrv: bool,
    /// rationalized (default: root's, read-only), preserved or none
    #[arg(long, value_enum, value_name = "HOW", default_value_t)]
    #[arg(hide_default_value = true, hide_possible_values = true)]
    rock_ridge: RockRidgeWord,
    /// Joliet, for Windows (default)
    #[arg(long, overrides_with = "no_joliet")]
    joliet: bool,
    /// No Joliet
    #[arg(long, overrides_with = "joliet")]
    no_joliet: bool,
    /// Joliet names of up to 103 characters
    #[arg(long, conflicts_with = "no_joliet")]
    joliet_long: bool,
    /// Of ISO 9660: 1, 2 or 3 (default, for files of 4 GiB and more)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=3))]
    level: Option<u8>,
    /// Owner of all files
    #[arg(long, value_name = "N")]
    uid: Option<u32>,
    /// Group of all files
    #[arg(long, value_name = "N")]
    gid: Option<u32>,
    /// Follow symbolic links instead of recording them
    #[arg(short = 'L', long)]
    follow: bool,
    /// Leave out what has a name or path like this; repeatable
    #[arg(short = 'x', long, value_name = "GLOB")]
    exclude: Vec<String>,
    /// Files begin at multiples of this: at 4096, copies share their blocks
    #[arg(long, value_name = "BYTES")]
    align: Option<u32>,
    /// Sectors of zeros at the end (default: none)
    #[arg(long, value_name = "N")]
    pad: Option<u32>,
    /// Boot image for BIOS: its path in the image
    #[arg(long, value_name = "PATH")]
    bios_boot: Option<String>,
    /// Boot image for UEFI: its path in the image
    #[arg(long, value_name = "PATH")]
    efi_boot: Option<String>,
    /// Write the boot info table into the BIOS boot image (isolinux, GRUB)
    #[arg(long, requires = "bios_boot")]
    boot_info_table: bool,
    /// Start from disks, too, with this MBR (isohdpfx.bin)
    #[arg(long, value_name = "FILE", requires = "bios_boot")]
    hybrid_mbr: Option<PathBuf>,
    /// Start from disks, too, with GRUB's MBR (boot_hybrid.img)
    #[arg(long, value_name = "FILE", requires = "bios_boot", conflicts_with = "hybrid_mbr")]
    grub2_mbr: Option<PathBuf>,
    /// An EFI system partition behind the files, which UEFI starts
    #[arg(long, value_name = "FILE", conflicts_with = "efi_boot")]
    append_efi: Option<PathBuf>,
    /// Say nothing of names that had to be changed
    #[arg(short, long)]
    quiet: bool,
}

/// [`RockRidge`] as a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum RockRidgeWord {
    #[default]
    Rationalized,
    Preserved,
    None,
}

/// Sectors of 512 bytes that BIOS boot loaders for discs expect to be loaded.
const BIOS_LOAD_SECTORS: u16 = 4;

/// The number of the partition that `--append-efi` makes: what lies before it, the file system,
/// is the first.
const EFI_PARTITION: u32 = 2;

/// An EFI system partition's type in an MBR.
const EFI_SYSTEM: u8 = 0xef;

impl Args {
    /// What it means.
    pub(crate) fn recipe(mut self) -> Result<Recipe, Failure> {
        let output = Destination::args(self.output.take(), "iso create")?;
        if self.words.is_empty() {
            return Err(Failure::usage("iso create", "Expecting files or directories to put in"));
        }
        let grafts =
            self.words.iter().map(|word| Graft::parse(word)).collect::<Result<Vec<_>, _>>()?;
        let mut options = self.options();
        let profile = self.profile();
        if let Some(profile) = profile {
            profile.apply(&mut options, &grafts)?;
        }
        self.apply_identifiers(&mut options);
        self.apply_boot(&mut options);
        let hybrid = HybridFiles { isohybrid_mbr: self.hybrid_mbr, grub2_mbr: self.grub2_mbr };
        Ok(Recipe {
            options,
            grafts,
            path_lists: Vec::new(),
            grafts_in_lists: true,
            follow_operands: true,
            skip_links_without_rock_ridge: false,
            excludes: self.exclude,
            exclude_lists: Vec::new(),
            hybrid,
            output,
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
            RockRidgeWord::Rationalized => Some(RockRidge::Rationalized),
            RockRidgeWord::Preserved => Some(RockRidge::Preserved),
            RockRidgeWord::None => None,
        };
        options.joliet = match (self.no_joliet, self.joliet_long) {
            (true, _) => None,
            (false, true) => Some(Joliet::Long),
            (false, false) => Some(Joliet::Standard),
        };
        options.names.level = match self.level {
            Some(1) => Level::One,
            Some(2) => Level::Two,
            _ => Level::Three,
        };
        // Of the levels, only the first one is about short names.
        options.names.full_length = self.level != Some(1);
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
            // From a disk, firmware looks for a partition.
            entry.in_gpt = self.hybrid_mbr.is_some();
            options.boot.push(entry);
        }
        if let Some(path) = self.append_efi.take() {
            let image = BootImage::AppendedPartition(EFI_PARTITION);
            options.boot.push(BootEntry::new(Platform::Efi, image));
            let partition = AppendedPartition::new(EFI_PARTITION, EFI_SYSTEM, path);
            options.hybrid.appended.push(partition);
            // isohybrid's MBR has partitions of its own.
            options.hybrid.appended_as_gpt = self.hybrid_mbr.is_none();
        }
    }
}
