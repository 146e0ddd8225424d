//! Options for a new image.

use super::charset::Charset;
use super::interval::Interval;
use crate::iso::boot::hybrid::kept::KeptTables;
use crate::iso::boot::{Media, Platform};
use crate::iso::time::Timestamp;
use crate::partition::Guid;
use crate::storage::source::Source;
use std::path::PathBuf;
use std::sync::Arc;

/// Options for a new image. The default is a primary tree with relaxed names, Rock Ridge with root
/// as the owner of all files, and Joliet, which suits all common readers.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CreateOptions {
    /// Volume identifier, recorded as it is: at most 32 bytes. "CDROM" by default, as with mkisofs.
    pub volume_id: String,
    /// System identifier: at most 32 bytes. "LINUX" by default.
    pub system_id: String,
    /// Volume set identifier: at most 128 bytes.
    pub volume_set_id: String,
    /// Publisher identifier: at most 128 bytes.
    pub publisher: String,
    /// Data preparer identifier: at most 128 bytes. Empty by default.
    pub preparer: String,
    /// Application identifier: at most 128 bytes.
    pub application: String,
    /// Name of the file in the root directory with the copyright statement: at most 37 bytes.
    pub copyright_file: String,
    /// Name of the file in the root directory with an abstract: at most 37 bytes.
    pub abstract_file: String,
    /// Name of the file in the root directory with bibliographic records: at most 37 bytes.
    pub bibliographic_file: String,
    /// Rules for the identifiers of the primary tree.
    pub names: NameRules,
    /// Rock Ridge: POSIX names and attributes.
    pub rock_ridge: Option<RockRidge>,
    /// Joliet: a second tree with UTF-16 names.
    pub joliet: Option<Joliet>,
    /// UDF 1.02: a further tree, in which files may have any length. Owners and permissions are
    /// those of Rock Ridge; without Rock Ridge, owners are not specified. False by default. The
    /// image has at least 540 KiB. 7-Zip reads the UDF tree only if all files are regular.
    pub udf: bool,
    /// Below [`Level::Three`], record only the first 4 GiB - 2 KiB of longer files in the primary
    /// and the Joliet tree, instead of refusing them. Requires [`udf`](Self::udf), whose tree has
    /// the whole files. False by default; `-allow-limited-size` in mkisofs.
    pub limited_sizes: bool,
    /// User ID of all files, instead of that in the tree or of [`RockRidge::Rationalized`].
    pub uid: Option<u32>,
    /// Group ID of all files.
    pub gid: Option<u32>,
    /// Permissions of all directories.
    pub dir_mode: Option<u32>,
    /// Permissions of all files that are not directories.
    pub file_mode: Option<u32>,
    /// Keep directories below the eighth level at their position. ECMA-119 forbids that, but all
    /// known readers accept it. Otherwise such directories are relocated to `rr_moved`, which
    /// requires Rock Ridge.
    pub deep_directories: bool,
    /// Name of the directory in the root for relocated directories. "rr_moved" by default.
    pub relocation_directory: String,
    /// What happens to a file with the path of an earlier one. [`Duplicates::Replace`] by default.
    pub duplicates: Duplicates,
    /// Add a file to each directory that lists the original name of each identifier
    /// (`TRANS.TBL`, `-T`).
    pub translation_tables: Option<TranslationTables>,
    /// Character sets of file names.
    pub charsets: Charsets,
    /// Follow symbolic links instead of recording them. Without Rock Ridge, symbolic links cannot
    /// be recorded and are an error unless followed.
    pub follow_symlinks: bool,
    /// Latest timestamp to record; later ones are replaced by it, as specified for
    /// SOURCE_DATE_EPOCH. With `None`, timestamps are recorded unchanged.
    pub latest: Option<Timestamp>,
    /// Creation and modification time of the volume. With `None`, the modification time of the
    /// newest file.
    pub volume_time: Option<Timestamp>,
    /// Time zone in which that time is recorded, in units of 15 minutes east of UTC, from -48 to
    /// 52. Systems identify volumes by the recorded digits.
    pub volume_zone: i8,
    /// Timestamps of all files.
    pub file_time: Option<Timestamp>,
    /// Number of sectors of zeros (2048 bytes each) at the end, for drives that read ahead. 0 by
    /// default; 150 in mkisofs. With [`boot`](Self::boot) at least 16, because boot loaders read
    /// ahead, too.
    pub padding: u32,
    /// Alignment of file contents in bytes: a power of two from 2048 to 1 MiB. With 4096 or more,
    /// file systems can share blocks (reflinks). 2048 by default.
    pub alignment: u32,
    /// El Torito boot entries; the first is the default entry. The image is not bootable if empty.
    pub boot: Vec<BootEntry>,
    /// Path of the boot catalog in the image. "boot.cat" by default.
    pub boot_catalog: String,
    /// Record the boot catalog as a file in the trees. True by default.
    pub boot_catalog_visible: bool,
    /// Contents of the system area, for booting from a disk.
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
            copyright_file: String::new(),
            abstract_file: String::new(),
            bibliographic_file: String::new(),
            names: NameRules::default(),
            rock_ridge: Some(RockRidge::Rationalized),
            joliet: Some(Joliet::Standard),
            udf: false,
            limited_sizes: false,
            uid: None,
            gid: None,
            dir_mode: None,
            file_mode: None,
            deep_directories: true,
            relocation_directory: "rr_moved".into(),
            duplicates: Duplicates::Replace,
            translation_tables: None,
            charsets: Charsets::default(),
            follow_symlinks: false,
            latest: None,
            volume_time: None,
            volume_zone: 0,
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

/// Interchange level (ECMA-119, 10).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Level {
    /// Names of eight characters and an extension of three; files with one file section.
    One,
    /// Names of up to 31 characters; files with one file section.
    Two,
    /// Names of up to 31 characters; files with several file sections, which files of 4 GiB and
    /// more require.
    Three,
    /// ISO 9660:1999: names as they are, of up to 207 bytes, or 193 with Rock Ridge; directories of
    /// any depth. As with mkisofs, an enhanced volume descriptor refers to the same tree as the
    /// primary one.
    Four,
}

impl Level {
    /// Returns whether files of 4 GiB and more can be recorded.
    pub(super) fn has_file_sections(self) -> bool {
        self >= Self::Three
    }
}

/// What happens to a file that is added with the path of an earlier file, unless both are
/// directories, which are merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Duplicates {
    /// It replaces the earlier file.
    Replace,
    /// It replaces the earlier file, with a [warning](super::Plan::warnings).
    Report,
    /// It is an error.
    Refuse,
}

/// How files are hidden; see [`Builder::hide`](super::Builder::hide).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hide {
    /// Omitted from the primary tree, and thus from Rock Ridge (`-hide`).
    FromPrimary,
    /// Omitted from the Joliet tree (`-hide-joliet`).
    FromJoliet,
    /// Omitted from the UDF tree, if there is one (`-hide-udf`).
    FromUdf,
    /// Recorded with the file flag "hidden" (`-hidden`).
    WithFlag,
}

/// Files that list the original names; see [`CreateOptions::translation_tables`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TranslationTables {
    /// Name of the files. "TRANS.TBL" by default.
    pub name: String,
    /// Include them in the Joliet and the UDF tree. True by default.
    pub in_joliet: bool,
}

impl Default for TranslationTables {
    fn default() -> Self {
        Self { name: "TRANS.TBL".into(), in_joliet: true }
    }
}

/// Character sets of file names. Both are UTF-8 by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Charsets {
    /// Character set of names on the host and in paths that are added (`-input-charset`).
    pub host: Charset,
    /// Character set of names and symbolic links recorded with Rock Ridge (`-output-charset`).
    pub rock_ridge: Charset,
}

/// Rules for converting file names to identifiers of the primary tree. The corresponding options of
/// mkisofs are in parentheses.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NameRules {
    /// Interchange level: name lengths and file sections. [`Level::Three`] by default.
    pub level: Level,
    /// Allow 31 characters at any level (`-l`).
    pub full_length: bool,
    /// Allow 37 characters at any level (`-max-iso9660-filenames`).
    pub maximum_length: bool,
    /// Allow names to start with a dot (`-ldots`, `-allow-leading-dots`).
    pub leading_dots: bool,
    /// Allow lower case letters (`-allow-lowercase`).
    pub lowercase: bool,
    /// Allow more than one dot (`-allow-multidot`).
    pub multiple_dots: bool,
    /// Allow all ASCII characters except `/`, `;` and NUL (`-relaxed-filenames`).
    pub relaxed: bool,
    /// Record names unchanged, up to 37 bytes, without a version (`-U`).
    pub untranslated: bool,
    /// Omit the trailing dot of names without an extension (`-d`).
    pub omit_period: bool,
    /// Omit the version `;1` (`-N`).
    pub omit_version: bool,
}

impl Default for NameRules {
    fn default() -> Self {
        Self {
            level: Level::Three,
            full_length: true,
            maximum_length: false,
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
    /// Returns the default rules of mkisofs: upper case letters, digits and `_`, 8.3 characters.
    pub fn strict() -> Self {
        Self {
            level: Level::One,
            full_length: false,
            maximum_length: false,
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

/// Owners and permissions recorded with Rock Ridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RockRidge {
    /// As in the source tree (`-R`).
    Preserved,
    /// Owner and group 0; readable by all, writable by none, executable by all if executable by
    /// anyone (`-r`).
    Rationalized,
}

/// Maximum length of names in the Joliet tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Joliet {
    /// 64 UTF-16 units, as specified.
    Standard,
    /// 103 UTF-16 units, which all known readers accept (`-joliet-long`).
    Long,
}

/// An entry of the El Torito boot catalog.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BootEntry {
    /// Platform.
    pub platform: Platform,
    /// Boot image.
    pub image: BootImage,
    /// Emulation of a disk.
    pub emulation: Emulation,
    /// Segment that a BIOS loads the image to; 0 means 0x7C0.
    pub load_segment: u16,
    /// Number of 512-byte sectors to load. With `None`, the whole image without emulation, rounded
    /// up to a multiple of four (images of 32 MiB and more only with UEFI), and one sector with
    /// emulation.
    pub load_sectors: Option<u16>,
    /// Write a boot info table to the boot image: 56 bytes at offset 8 (`-boot-info-table`).
    pub info_table: bool,
    /// Write the address of the boot image for GRUB: 8 bytes at offset 2548 (`--grub2-boot-info`).
    pub grub2_info: bool,
    /// Add a partition for the boot image to the GPT (`-isohybrid-gpt-basdat`).
    pub in_gpt: bool,
    /// Type of that partition: basic data by default; [`Guid::APPLE_HFS`] for
    /// `-isohybrid-gpt-hfsplus`.
    pub gpt_kind: Guid,
    /// Add a partition for the boot image to an Apple partition map, with the type of HFS+
    /// (`-isohybrid-apm-hfsplus`).
    pub in_apm: bool,
    /// Mark the entry as bootable. True by default.
    pub bootable: bool,
    /// Begin a section of the catalog with this entry, even if its platform is that of the entry
    /// before.
    pub new_section: bool,
    /// Identifier of the catalog for the first entry, up to 24 bytes, or of the section that begins
    /// with this entry, up to 28 bytes.
    pub identifier: Vec<u8>,
    /// Vendor-specific selection criteria, up to 20 bytes, of which the first is their type. Not
    /// recorded for the first entry.
    pub criteria: Vec<u8>,
    /// Media type and system type of the entry in the image that is rebuilt, which are used if the
    /// boot image does not determine others.
    pub(crate) media: Option<(Media, u8)>,
}

impl BootEntry {
    /// Creates an entry without emulation.
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
            gpt_kind: Guid::BASIC_DATA,
            in_apm: false,
            bootable: true,
            new_section: false,
            identifier: Vec::new(),
            criteria: Vec::new(),
            media: None,
        }
    }
}

/// Image of a boot entry.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum BootImage {
    /// The file with this path in the image.
    File(String),
    /// The appended partition with this number (see [`Hybrid::appended`]).
    AppendedPartition(u32),
    /// The contents with this index in [`Hybrid::unlisted`].
    Unlisted(usize),
}

/// Emulation of a disk by a boot image (El Torito, 2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Emulation {
    /// No emulation: the image is loaded and executed.
    None,
    /// Floppy disk of 1.2, 1.44 or 2.88 MB, according to the length of the image.
    Floppy,
    /// Hard disk with one partition.
    HardDisk,
}

/// Contents of the system area and partitions, for booting the image from a disk. The corresponding
/// options of xorriso are in parentheses.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Hybrid {
    /// MBR code of isohybrid (`isohdpfx.bin` from syslinux): at least 432 bytes. It reads the
    /// address of the boot image at offset 432 (`-isohybrid-mbr`).
    pub isohybrid_mbr: Option<Vec<u8>>,
    /// MBR code of GRUB (`boot_hybrid.img`): at least 440 bytes. It reads the address of the boot
    /// image at offset 432 (`--grub2-mbr`).
    pub grub2_mbr: Option<Vec<u8>>,
    /// Contents of the system area, up to 32 KiB; partition tables and boot code replace parts of
    /// it (`-G`).
    pub system_area: Option<Vec<u8>>,
    /// Start of the first partition, which contains the volume, in sectors of 2048 bytes; 0 by
    /// default, otherwise at least 16 (`-partition_offset`). If it is not 0, a second set of volume
    /// descriptors and directories makes the partition mountable.
    pub partition_offset: u32,
    /// Record a partition table whose first partition is the volume, without the sector of the
    /// table (`--protective-msdos-label`).
    pub protective_label: bool,
    /// Mark a partition of the MBR as active, and add one if no other can be
    /// (`--mbr-force-bootable`).
    pub force_active: bool,
    /// Type of the volume's partition (`-iso_mbr_part_type`).
    pub volume_kind: Option<PartitionKind>,
    /// Heads per cylinder in the CHS addresses of the MBR; 0 means 64 (`-partition_hd_cyl`).
    pub heads: u8,
    /// Sectors per track in the CHS addresses of the MBR: at most 63; 0 means 32
    /// (`-partition_sec_hd`).
    pub sectors_per_track: u8,
    /// Whether the image consists of whole cylinders (`-partition_cyl_align`).
    pub cylinder_alignment: CylinderAlignment,
    /// Partitions after the file system (`-append_partition`).
    pub appended: Vec<AppendedPartition>,
    /// Record appended partitions in a GPT, with a protective MBR (`-appended_part_as_gpt`).
    pub appended_as_gpt: bool,
    /// Record appended partitions in an Apple partition map (`-appended_part_as_apm`).
    pub appended_as_apm: bool,
    /// EFI system partition inside the volume, in a GPT: the image of a boot entry, or one of
    /// [`unlisted`](Self::unlisted) (`-efi-boot-part`).
    pub efi_partition: Option<BootImage>,
    /// Unique identifier of the disk in the GPT, from which those of the partitions are derived
    /// (`--gpt_disk_guid`). With `None`, all are derived from the contents.
    pub gpt_disk_id: Option<Guid>,
    /// Contents that are stored in the volume without a name.
    pub unlisted: Vec<PartitionContents>,
    /// The boot structure of the image that is rebuilt. The other options that describe partition
    /// tables and boot code have no effect then.
    pub(crate) kept: Option<Arc<KeptTables>>,
}

/// Type of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartitionKind {
    /// Type in an MBR.
    Mbr(u8),
    /// Type in a GPT. In an MBR, an EFI system partition has the type 0xEF, any other 0x83.
    Gpt(Guid),
}

/// Whether an image consists of whole cylinders, whose size depends on the geometry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CylinderAlignment {
    /// With an isohybrid MBR.
    #[default]
    Auto,
    /// With an isohybrid MBR or a protective partition table.
    On,
    /// As `On`; appended partitions end at a cylinder boundary, too.
    All,
    /// Never.
    Off,
}

/// A partition after the file system.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct AppendedPartition {
    /// Partition number: 1 to 4 in an MBR, where 1 replaces the partition of the volume; 1 to 128
    /// in a GPT.
    pub number: u32,
    /// Partition type in an MBR (0xEF for an EFI system partition).
    pub kind: u8,
    /// Partition type in a GPT. With `None`, that of an EFI system partition if `kind` is 0xEF,
    /// otherwise that of basic data.
    pub gpt_kind: Option<Guid>,
    /// Contents of the partition.
    pub contents: PartitionContents,
}

/// Contents of a partition.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum PartitionContents {
    /// A file of the host.
    File(PathBuf),
    /// A range of bytes of a file of the host.
    Interval(Interval),
    /// Any other source.
    Source(Arc<dyn Source>),
}

impl AppendedPartition {
    /// Creates a partition with the contents of the host file at `path`.
    pub fn new(number: u32, kind: u8, path: impl Into<PathBuf>) -> Self {
        Self::with_contents(number, kind, PartitionContents::File(path.into()))
    }

    /// Creates a partition.
    pub fn with_contents(number: u32, kind: u8, contents: PartitionContents) -> Self {
        Self { number, kind, gpt_kind: None, contents }
    }
}
