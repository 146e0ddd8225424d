//! What a new image shall be like.

use crate::iso::boot::Platform;
use crate::iso::time::Timestamp;
use crate::storage::source::Source;
use std::path::PathBuf;
use std::sync::Arc;

/// What a new image shall be like. The default has a primary tree of relaxed names, Rock Ridge
/// with root as owner, and Joliet: what every reader finds its way in.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CreateOptions {
    /// Volume identifier: at most 32 bytes, taken as they are. "CDROM" by default, as mkisofs.
    pub volume_id: String,
    /// System identifier: at most 32 bytes. "LINUX" by default.
    pub system_id: String,
    /// Volume set identifier: at most 128 bytes.
    pub volume_set_id: String,
    /// Publisher: at most 128 bytes.
    pub publisher: String,
    /// Data preparer: at most 128 bytes. Says nothing of this program unless asked.
    pub preparer: String,
    /// Application: at most 128 bytes.
    pub application: String,
    /// How names of the primary tree are made.
    pub names: NameRules,
    /// POSIX names and attributes; `None`: no Rock Ridge.
    pub rock_ridge: Option<RockRidge>,
    /// A tree of UTF-16 names; `None`: no Joliet.
    pub joliet: Option<Joliet>,
    /// Owner of everything, instead of what the tree or [`RockRidge::Rationalized`] says.
    pub uid: Option<u32>,
    /// Group of everything.
    pub gid: Option<u32>,
    /// Permissions of every directory.
    pub dir_mode: Option<u32>,
    /// Permissions of every file that is none.
    pub file_mode: Option<u32>,
    /// Directories deeper than eight stay where they are (ECMA-119 forbids it, every reader
    /// takes it). Otherwise they are moved to `rr_moved`, which needs Rock Ridge.
    pub deep_directories: bool,
    /// Follow symbolic links of the tree instead of recording them. Without Rock Ridge a link
    /// that is not followed cannot be recorded, and is an error.
    pub follow_symlinks: bool,
    /// No moment recorded is later: SOURCE_DATE_EPOCH's rule. `None`: times are as they are, and
    /// the volume's own is that of the youngest file.
    pub latest: Option<Timestamp>,
    /// The volume's creation and modification time.
    pub volume_time: Option<Timestamp>,
    /// All files' times.
    pub file_time: Option<Timestamp>,
    /// Zeros behind the end, in sectors of 2048 bytes: drives read ahead. mkisofs has 150; none
    /// by default. With [`boot`](Self::boot) there are 16 at least, for boot loaders read ahead,
    /// too.
    pub padding: u32,
    /// File contents begin at a multiple of this many bytes: a power of two from 2048 to 1 MiB.
    /// At 4096 file systems can share them (reflinks). 2048 by default.
    pub alignment: u32,
    /// El Torito's entries, the default one first. None: not bootable.
    pub boot: Vec<BootEntry>,
    /// Path of the boot catalog in the image; "boot.cat" by default, in the root.
    pub boot_catalog: String,
    /// Whether the boot catalog has a name in the trees. True by default.
    pub boot_catalog_visible: bool,
    /// What makes the image start from a disk, too.
    pub hybrid: Hybrid,
}

impl Default for CreateOptions {
    fn default() -> Self {
        Self {
            volume_id: "CDROM".into(),
            system_id: "LINUX".into(),
            volume_set_id: String::new(),
            publisher: String::new(),
            preparer: String::new(),
            application: String::new(),
            names: NameRules::default(),
            rock_ridge: Some(RockRidge::Rationalized),
            joliet: Some(Joliet::Standard),
            uid: None,
            gid: None,
            dir_mode: None,
            file_mode: None,
            deep_directories: true,
            follow_symlinks: false,
            latest: None,
            volume_time: None,
            file_time: None,
            padding: 0,
            alignment: 2048,
            boot: Vec::new(),
            boot_catalog: "boot.cat".into(),
            boot_catalog_visible: true,
            hybrid: Hybrid::default(),
        }
    }
}

/// How strict names of the primary tree are (ECMA-119, 10).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Level {
    /// Eight characters, a dot, three characters; files in one piece.
    One,
    /// 31 characters; files in one piece.
    Two,
    /// 31 characters; files in several pieces: the only one for files of 4 GiB and more.
    Three,
}

/// How names of the primary tree are made of the files' own. mkisofs has an option for each.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NameRules {
    /// Name lengths and file sections. [`Level::Three`] by default.
    pub level: Level,
    /// 31 characters at any level (`-l`).
    pub full_length: bool,
    /// Names may begin with a dot (`-ldots`, `-allow-leading-dots`).
    pub leading_dots: bool,
    /// Lower case stays (`-allow-lowercase`).
    pub lowercase: bool,
    /// More than one dot stays (`-allow-multidot`).
    pub multiple_dots: bool,
    /// Every ASCII character but `/`, `;` and NUL stays (`-relaxed-filenames`).
    pub relaxed: bool,
    /// Names stay as they are, whatever they consist of, up to 37 bytes without a version
    /// (`-U`).
    pub untranslated: bool,
    /// No dot behind a name without extension (`-d`).
    pub omit_period: bool,
    /// No `;1` (`-N`).
    pub omit_version: bool,
}

impl Default for NameRules {
    fn default() -> Self {
        Self {
            level: Level::Three,
            full_length: true,
            leading_dots: true,
            lowercase: true,
            multiple_dots: true,
            relaxed: true,
            untranslated: false,
            omit_period: true,
            omit_version: false,
        }
    }
}

impl NameRules {
    /// What mkisofs does when it is told nothing: upper case, digits and `_`, 8.3.
    pub fn strict() -> Self {
        Self {
            level: Level::One,
            full_length: false,
            leading_dots: false,
            lowercase: false,
            multiple_dots: false,
            relaxed: false,
            untranslated: false,
            omit_period: false,
            omit_version: false,
        }
    }
}

/// Whose files they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RockRidge {
    /// As in the source tree (`-R`).
    Preserved,
    /// Owner and group 0, readable by all, writable by none, executable by all if by anyone
    /// (`-r`).
    Rationalized,
}

/// How long names of the Joliet tree may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Joliet {
    /// 64 UTF-16 units, as the specification says.
    Standard,
    /// 103 units: what fits, and every known reader takes (`-joliet-long`).
    Long,
}

/// One entry of El Torito's boot catalog.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BootEntry {
    /// Which firmware it is for.
    pub platform: Platform,
    /// What is loaded.
    pub image: BootImage,
    /// Whether it poses as a disk.
    pub emulation: Emulation,
    /// Where a BIOS loads it: a segment; 0 is 0x7C0.
    pub load_segment: u16,
    /// Sectors of 512 bytes that are loaded. `None`: all of it without emulation (of 32 MiB and
    /// more UEFI alone loads all), one of a disk that is emulated.
    pub load_sectors: Option<u16>,
    /// Write the boot info table into the image as it goes out: 56 bytes from offset 8 on
    /// (`-boot-info-table`).
    pub info_table: bool,
    /// Write where it lies for GRUB: 8 bytes at 2548 (`--grub2-boot-info`).
    pub grub2_info: bool,
    /// Also show it as a partition of the GPT (`-isohybrid-gpt-basdat`).
    pub in_gpt: bool,
}

impl BootEntry {
    /// An entry for a file of the image, without emulation.
    pub fn new(platform: Platform, image: BootImage) -> Self {
        Self {
            platform,
            image,
            emulation: Emulation::None,
            load_segment: 0,
            load_sectors: None,
            info_table: false,
            grub2_info: false,
            in_gpt: false,
        }
    }
}

/// What a boot entry loads.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum BootImage {
    /// The file of this path in the image.
    File(String),
    /// The appended partition of this number (see [`Hybrid::appended`]).
    AppendedPartition(u32),
}

/// Whether a boot image poses as a disk (El Torito, 2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Emulation {
    /// It is loaded and started.
    None,
    /// It is a floppy disk, its kind told by its size: 1.2, 1.44 or 2.88 MB.
    Floppy,
    /// It is a hard disk with one partition.
    HardDisk,
}

/// What the system area holds, so that the image starts from a disk, too.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Hybrid {
    /// A template of isohybrid's MBR (syslinux's `isohdpfx.bin`): at least 432 bytes of code, which
    /// finds the boot image's address at 432.
    pub isohybrid_mbr: Option<Vec<u8>>,
    /// GRUB's MBR (`boot_hybrid.img`): 440 bytes of code, which finds the address at 0x1B0.
    pub grub2_mbr: Option<Vec<u8>>,
    /// Where the first partition, the volume's, begins: in sectors of 2048 bytes; 0 by default
    /// (`-partition_offset`). It begins within the volume then, and cannot be mounted by itself.
    pub partition_offset: u32,
    /// Partitions behind the file system.
    pub appended: Vec<AppendedPartition>,
    /// Appended partitions are in a GPT, and the MBR is a protective one
    /// (`-appended_part_as_gpt`).
    pub appended_as_gpt: bool,
}

/// A partition behind the file system, byte for byte.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct AppendedPartition {
    /// Its number: 1 to 4 in an MBR, where 1 takes the place of the volume's own; 1 to 128 in a
    /// GPT.
    pub number: u32,
    /// Its type in an MBR (0xEF: EFI system partition). In a GPT, 0xEF stands for the EFI
    /// system partition's GUID and everything else for basic data.
    pub kind: u8,
    /// Its bytes.
    pub contents: PartitionContents,
}

/// What an appended partition is a copy of.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum PartitionContents {
    /// A file of the host.
    File(PathBuf),
    /// Bytes from anywhere.
    Source(Arc<dyn Source>),
}

impl AppendedPartition {
    /// This file as that partition.
    pub fn new(number: u32, kind: u8, path: impl Into<PathBuf>) -> Self {
        Self { number, kind, contents: PartitionContents::File(path.into()) }
    }
}
