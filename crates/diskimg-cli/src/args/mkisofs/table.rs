//! The table of options. Each may begin with one hyphen or two, as with getopt_long_only(3).

use super::Dialect;
use super::draft::{Draft, EfiBootPart, PADDING};
use super::selection;
use super::values::{self, Value};
use crate::failure::Failure;
use diskimg::iso::boot::Platform;
use diskimg::iso::write::{Emulation, Joliet};
use diskimg::partition::Guid;

/// An option.
pub(super) struct Row {
    /// All names, without hyphens. One-letter names may share a hyphen: `-JRV label`.
    pub(super) names: &'static [&'static str],
    /// The placeholders of its values, each of which is one argument.
    pub(super) values: &'static [&'static str],
    /// Text for `-help`.
    pub(super) help: &'static str,
    /// Applies the option to the draft.
    pub(super) apply: fn(&mut Draft, &[Value<'_>]) -> Result<(), Failure>,
}

/// Returns the option with this name, without hyphens.
pub(super) fn find(name: &str) -> Option<&'static Row> {
    rows().find(|row| row.names.contains(&name))
}

/// Returns all options, in the order of `-help`.
pub(super) fn rows() -> impl Iterator<Item = &'static Row> {
    selection::ROWS.iter().chain(ROWS)
}

/// Returns whether this is an option of genisoimage or xorrisofs that is not supported.
pub(super) fn is_unsupported(name: &str) -> bool {
    UNSUPPORTED.contains(&name)
}

pub(super) const fn row(
    names: &'static [&'static str],
    values: &'static [&'static str],
    help: &'static str,
    apply: fn(&mut Draft, &[Value<'_>]) -> Result<(), Failure>,
) -> Row {
    Row { names, values, help, apply }
}

/// Ignores an option that has no effect.
fn ignore(_: &mut Draft, _: &[Value<'_>]) -> Result<(), Failure> {
    Ok(())
}

pub(super) const FILE: &[&str] = &["FILE"];
const ID: &[&str] = &["ID"];
const NUMBER: &[&str] = &["N"];

/// The supported options, in the order of `-help`.
#[rustfmt::skip]
pub(super) static ROWS: &[Row] = &[
    // Identifiers.
    row(&["V", "volid"], ID, "Volume ID", |d, v| {
        d.options.volume_id = v[0].text()?.to_owned();
        Ok(())
    }),
    row(&["volset"], ID, "Volume set ID", |d, v| {
        d.options.volume_set_id = v[0].text()?.to_owned();
        Ok(())
    }),
    row(&["A", "appid"], ID, "Application ID", |d, v| {
        d.options.application = v[0].text()?.to_owned();
        Ok(())
    }),
    row(&["P", "publisher"], ID, "Publisher", |d, v| {
        d.options.publisher = v[0].text()?.to_owned();
        Ok(())
    }),
    row(&["p", "preparer"], ID, "Data preparer", |d, v| {
        d.options.preparer = v[0].text()?.to_owned();
        Ok(())
    }),
    row(&["copyright"], FILE, "Name of the file with the copyright statement", |d, v| {
        d.options.copyright_file = v[0].text()?.to_owned();
        Ok(())
    }),
    row(&["abstract"], FILE, "Name of the file with an abstract", |d, v| {
        d.options.abstract_file = v[0].text()?.to_owned();
        Ok(())
    }),
    row(&["biblio"], FILE, "Name of the file with bibliographic records", |d, v| {
        d.options.bibliographic_file = v[0].text()?.to_owned();
        Ok(())
    }),
    row(&["volset-size"], NUMBER, "Number of volumes in the volume set; only 1", |_, v| v[0].only("1")),
    row(&["volset-seqno"], NUMBER, "Number of this volume; only 1", |_, v| v[0].only("1")),
    row(&["sysid"], ID, "System ID", |d, v| {
        d.options.system_id = v[0].text()?.to_owned();
        Ok(())
    }),
    // Rock Ridge and Joliet.
    row(&["R", "rock"], &[], "Add Rock Ridge with the files' owners and permissions", |d, _| {
        d.rock_ridge.enabled = true;
        Ok(())
    }),
    row(&["r", "rational-rock"], &[], "Add Rock Ridge with owner root and read-only permissions", |d, _| {
        d.rock_ridge.rationalized = true;
        Ok(())
    }),
    row(&["norock"], &[], "Add no Rock Ridge (default, except as xorrisofs)", |d, _| {
        d.rock_ridge = Default::default();
        Ok(())
    }),
    row(&["uid"], NUMBER, "Set the owner of all files", |d, v| {
        d.options.uid = Some(v[0].number()?);
        Ok(())
    }),
    row(&["gid"], NUMBER, "Set the group of all files", |d, v| {
        d.options.gid = Some(v[0].number()?);
        Ok(())
    }),
    row(&["dir-mode"], &["MODE"], "Set the permissions of all directories, in octal", |d, v| {
        d.options.dir_mode = Some(v[0].mode()?);
        Ok(())
    }),
    row(&["file-mode"], &["MODE"], "Set the permissions of all other files, in octal", |d, v| {
        d.options.file_mode = Some(v[0].mode()?);
        Ok(())
    }),
    row(&["J", "joliet"], &[], "Add Joliet", |d, _| {
        d.options.joliet.get_or_insert(Joliet::Standard);
        Ok(())
    }),
    row(&["joliet-long"], &[], "Add Joliet with names of up to 103 characters", |d, _| {
        d.options.joliet = Some(Joliet::Long);
        Ok(())
    }),
    row(&["input-charset"], &["CHARSET"], "Character set of file names (default: utf-8)", |d, v| {
        d.input_charset = Some(v[0].charset()?);
        Ok(())
    }),
    row(&["output-charset"], &["CHARSET"], "Character set of Rock Ridge names", |d, v| {
        d.output_charset = Some(v[0].charset()?);
        Ok(())
    }),
    row(&["jcharset"], &["CHARSET"], "As -J -input-charset CHARSET", |d, v| {
        d.options.joliet.get_or_insert(Joliet::Standard);
        d.input_charset = Some(v[0].charset()?);
        Ok(())
    }),
    row(&["ucs-level"], &["3"], "Level of the Joliet names; only 3", |_, v| v[0].only("3")),
    // ISO 9660 names.
    row(&["iso-level"], &["1..4"], "1: 8.3 names; 2: 31 characters; 3: also large files; 4: ISO 9660:1999", |d, v| {
        d.options.names.level = values::level(&v[0])?;
        Ok(())
    }),
    row(&["l", "full-iso9660-filenames"], &[], "Allow names of 31 characters", |d, _| {
        d.options.names.full_length = true;
        Ok(())
    }),
    row(&["L", "ldots", "allow-leading-dots"], &[], "Allow names that begin with a dot", |d, _| {
        d.options.names.leading_dots = true;
        Ok(())
    }),
    row(&["allow-lowercase"], &[], "Allow lowercase letters in names", |d, _| {
        d.options.names.lowercase = true;
        Ok(())
    }),
    row(&["allow-multidot"], &[], "Allow several dots in names", |d, _| {
        d.options.names.multiple_dots = true;
        Ok(())
    }),
    row(&["relaxed-filenames"], &[], "Allow all ASCII characters except lowercase in names", |d, _| {
        d.options.names.relaxed = true;
        Ok(())
    }),
    row(&["d", "omit-period"], &[], "Omit the dot of names without extension", |d, _| {
        d.options.names.omit_period = true;
        Ok(())
    }),
    row(&["N", "omit-version-number"], &[], "Omit the version number (;1) of names", |d, _| {
        d.options.names.omit_version = true;
        Ok(())
    }),
    row(&["U", "untranslated-filenames"], &[], "Keep names unchanged; implies the name options above", |d, _| {
        let names = &mut d.options.names;
        names.untranslated = true;
        names.full_length = true;
        names.leading_dots = true;
        names.lowercase = true;
        names.multiple_dots = true;
        names.relaxed = true;
        names.omit_period = true;
        names.omit_version = true;
        Ok(())
    }),
    row(&["max-iso9660-filenames"], &[], "Allow names of 37 characters; implies -N", |d, _| {
        d.options.names.maximum_length = true;
        d.options.names.omit_version = true;
        Ok(())
    }),
    row(&["udf"], &[], "Add a UDF 1.02 tree, in which files may have any length", |d, _| {
        d.options.udf = true;
        Ok(())
    }),
    row(&["allow-limited-size"], &[], "Like -udf; limit files of 4 GiB and more in ISO 9660 levels 1 and 2", |d, _| {
        (d.options.udf, d.options.limited_sizes) = (true, true);
        Ok(())
    }),
    row(&["D", "disable-deep-relocation"], &[], "Do not relocate directories deeper than eight levels", |d, _| {
        d.no_relocation = true;
        Ok(())
    }),
    row(&["hide-rr-moved"], &[], "Relocate deep directories to .rr_moved", |d, _| {
        d.options.deep_directories = false;
        d.options.relocation_directory = ".rr_moved".into();
        Ok(())
    }),
    row(&["rr_reloc_dir"], &["PATH"], "Relocate deep directories to PATH, a directory in the root", |d, v| {
        d.options.deep_directories = false;
        d.options.relocation_directory = v[0].text()?.trim_matches('/').to_owned();
        Ok(())
    }),
    // Boot entries, separated by -eltorito-alt-boot.
    row(&["b", "eltorito-boot"], &["PATH"], "Boot image, a path in the image", |d, v| {
        d.boot_image(v[0].text()?, None)
    }),
    row(&["e"], &["PATH"], "EFI boot image, a path in the image", |d, v| {
        d.boot_image(v[0].text()?, Some(Platform::Efi))
    }),
    row(&["efi-boot"], &["PATH"], "EFI boot image in a new boot entry", |d, v| {
        d.next_boot_entry()?;
        d.boot.emulation = Some(Emulation::None);
        d.boot_image(v[0].text()?, Some(Platform::Efi))?;
        // In genisoimage, options that follow still apply to this entry.
        if d.dialect == Dialect::Xorriso { d.next_boot_entry() } else { Ok(()) }
    }),
    row(&["eltorito-alt-boot"], &[], "Begin a new boot entry", |d, _| {
        d.next_boot_entry()
    }),
    row(&["eltorito-platform"], &["NAME"], "Platform of the next -b: x86, PPC, Mac, efi or a number", |d, v| {
        d.platform(values::platform(&v[0])?)
    }),
    row(&["no-emul-boot"], &[], "Do not emulate a disk", |d, _| {
        d.boot.emulation = Some(Emulation::None);
        Ok(())
    }),
    row(&["hard-disk-boot"], &[], "Emulate a hard disk", |d, _| {
        d.boot.emulation = Some(Emulation::HardDisk);
        Ok(())
    }),
    row(&["boot-load-seg"], &["SEGMENT"], "Load segment of the boot image", |d, v| {
        d.boot.load_segment = Some(v[0].number()?);
        Ok(())
    }),
    row(&["boot-load-size"], &["N|full"], "Number of 512-byte sectors to load", |d, v| {
        d.boot.load_sectors = match v[0].text()? {
            "full" => None,
            _ => Some(v[0].number()?),
        };
        Ok(())
    }),
    row(&["boot-info-table"], &[], "Patch a boot info table into the boot image", |d, _| {
        d.boot.info_table = true;
        Ok(())
    }),
    row(&["grub2-boot-info"], &[], "Write the boot image's own address into it (GRUB 2)", |d, _| {
        d.boot.grub2_info = true;
        Ok(())
    }),
    row(&["eltorito-id"], &["TEXT"], "Identifier of the boot catalog or section", |d, v| {
        d.boot.identifier = values::boot_identifier(&v[0])?;
        Ok(())
    }),
    row(&["eltorito-selcrit"], &["HEX"], "Selection criteria of the boot entry", |d, v| {
        d.boot.criteria = values::selection_criteria(&v[0])?;
        Ok(())
    }),
    row(&["c", "eltorito-catalog"], &["PATH"], "Boot catalog, a path in the image", |d, v| {
        d.options.boot_catalog = v[0].text()?.trim_start_matches('/').to_owned();
        Ok(())
    }),
    row(&["boot-catalog-hide"], &[], "Hide the boot catalog", |d, _| {
        d.options.boot_catalog_visible = false;
        Ok(())
    }),
    // Booting from disk.
    row(&["isohybrid-mbr"], FILE, "Make the image bootable from disk with an isohybrid MBR", |d, v| {
        d.hybrid.isohybrid_mbr = Some(v[0].contents()?);
        Ok(())
    }),
    row(&["grub2-mbr"], FILE, "Make the image bootable from disk with a GRUB MBR", |d, v| {
        d.hybrid.grub2_mbr = Some(v[0].contents()?);
        Ok(())
    }),
    row(&["isohybrid-gpt-basdat"], &[], "Add the boot image to the GPT as a basic data partition", |d, _| {
        d.boot.in_gpt = Some(Guid::BASIC_DATA);
        Ok(())
    }),
    row(&["isohybrid-gpt-hfsplus"], &[], "Add the boot image to the GPT as an HFS+ partition", |d, _| {
        d.boot.in_gpt = Some(Guid::APPLE_HFS);
        Ok(())
    }),
    row(&["isohybrid-apm-hfsplus"], &[], "Add the boot image to an Apple partition map", |d, _| {
        d.boot.in_apm = true;
        Ok(())
    }),
    row(&["G", "generic-boot", "embedded-boot"], FILE, "Copy up to 32 KiB of FILE to the start of the image", |d, v| {
        d.hybrid.system_area = Some(v[0].contents()?);
        Ok(())
    }),
    row(&["protective-msdos-label"], &[], "Add an MBR whose first partition is the volume", |d, _| {
        d.options.hybrid.protective_label = true;
        Ok(())
    }),
    row(&["mbr-force-bootable"], &[], "Mark a partition of the MBR as active", |d, _| {
        d.options.hybrid.force_active = true;
        Ok(())
    }),
    row(&["iso_mbr_part_type"], &["TYPE"], "Type of the volume's partition: a number or a GUID", |d, v| {
        d.options.hybrid.volume_kind = values::volume_kind(&v[0])?;
        Ok(())
    }),
    row(&["efi-boot-part"], FILE, "Add FILE, or --efi-boot-image, to a GPT as an EFI system partition", |d, v| {
        d.efi_boot_part = Some(match v[0].arg.to_str() {
            Some("--efi-boot-image") => EfiBootPart::BootImage,
            _ => EfiBootPart::Contents(v[0].contents()?),
        });
        Ok(())
    }),
    row(&["append_partition"], &["N", "TYPE", "FILE"], "Append FILE as partition N, such as 2 0xef efi.img", |d, v| {
        d.append_partition(&v[0], &v[1], &v[2])
    }),
    row(&["appended_part_as_gpt"], &[], "List appended partitions in a GPT", |d, _| {
        d.options.hybrid.appended_as_gpt = true;
        Ok(())
    }),
    row(&["appended_part_as_apm"], &[], "List appended partitions in an Apple partition map", |d, _| {
        d.options.hybrid.appended_as_apm = true;
        Ok(())
    }),
    row(&["gpt_disk_guid"], &["GUID"], "Disk GUID; modification-date for that of the volume's date", |d, v| {
        d.gpt_guid_from_date = v[0].text()? == "modification-date";
        d.options.hybrid.gpt_disk_id = match v[0].text()? {
            "modification-date" | "random" => None,
            text => Some(text.parse()?),
        };
        Ok(())
    }),
    row(&["partition_hd_cyl"], NUMBER, "Heads per cylinder in the MBR (default: 64)", |d, v| {
        d.options.hybrid.heads = values::number_up_to(&v[0], 255)?;
        Ok(())
    }),
    row(&["partition_sec_hd"], NUMBER, "Sectors per track in the MBR (default: 32)", |d, v| {
        d.options.hybrid.sectors_per_track = values::number_up_to(&v[0], 63)?;
        Ok(())
    }),
    row(&["partition_cyl_align"], &["MODE"], "Make the image whole cylinders: auto, on, all or off", |d, v| {
        d.options.hybrid.cylinder_alignment = values::cylinder_alignment(&v[0])?;
        Ok(())
    }),
    row(&["partition_offset"], &["SECTOR"], "First sector of partition 1, in 2048-byte sectors", |d, v| {
        d.options.hybrid.partition_offset = v[0].number()?;
        Ok(())
    }),
    // Times and padding.
    row(&["modification-date"], &["DATE"], "Set the date of the volume: YYYYMMDDhhmmsscc, UTC", |d, v| {
        d.options.volume_time = Some(values::date(&v[0])?);
        Ok(())
    }),
    row(&["set_all_file_dates"], &["DATE"], "Set the date of all files: YYYYMMDDhhmmsscc or =SECONDS", |d, v| {
        d.options.file_time = values::file_date(&v[0])?;
        Ok(())
    }),
    row(&["pad"], &[], "Append 300 KiB of zeros (default)", |d, _| {
        d.options.padding = PADDING;
        Ok(())
    }),
    row(&["no-pad"], &[], "Append no zeros, or only 32 KiB if bootable", |d, _| {
        d.options.padding = 0;
        Ok(())
    }),
    // Messages.
    row(&["quiet"], &[], "Print only errors", |d, _| {
        d.quiet = true;
        Ok(())
    }),
    row(&["v", "verbose"], &[], "Print the size of the image", |d, _| {
        d.verbose = true;
        Ok(())
    }),
    row(&["print-size"], &[], "Print the size of the image in sectors of 2048 bytes; write nothing", |d, _| {
        d.print_size = true;
        Ok(())
    }),
    row(NO_EFFECT, &[], "Accepted for compatibility; have no effect", ignore),
];

/// Options that only concern how the original programs work, or old sessions, and those whose
/// effect is always present.
const NO_EFFECT: &[&str] = &[
    "cache-inodes",
    "check-oldnames",
    "debug",
    "duplicates-once",
    "force-rr",
    "gui",
    "hardlinks",
    "joliet-utf16",
    "no-cache-inodes",
    "no-rr",
    "no-split-symlink-components",
    "no-split-symlink-fields",
];

/// Options of genisoimage and xorrisofs that are not supported.
const UNSUPPORTED: &[&str] = &[
    "acl",
    "alpha-boot",
    "apple",
    "application_use",
    "B",
    "boot-hfs-file",
    "C",
    "cdrecord-params",
    "check-session",
    "checksum-list",
    "chrp-boot",
    "chrp-boot-part",
    "dev",
    "disallow_dir_id_ext",
    "dvd-video",
    "emul-toc",
    "file_name_limit",
    "for_backup",
    "g",
    "h",
    "hfs",
    "hfs-bless",
    "hfsplus",
    "hide-hfs",
    "jigdo-jigdo",
    "jigdo-template",
    "log-file",
    "M",
    "map",
    "md5",
    "md5-list",
    "mips-boot",
    "mipsel-boot",
    "new-dir-mode",
    "no-boot",
    "no-emul-toc",
    "no-iso-translate",
    "old-empty",
    "old-root",
    "part",
    "part_like_isohybrid",
    "prep-boot",
    "prep-boot-part",
    "prev-session",
    "quoted_path_list",
    "s",
    "scdbackup_tag",
    "sectype",
    "sort-weight-patterns",
    "sparc-boot",
    "sparc-label",
    "split-output",
    "stdio_sync",
    "sunx86-boot",
    "transparent-compression",
    "untranslated_name_len",
    "use-fileversion",
    "XA",
    "xa",
    "xattr",
    "z",
    "zisofs-version-2",
];
