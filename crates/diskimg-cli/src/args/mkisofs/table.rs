//! The table of options. Each may begin with one hyphen or two, as with getopt_long_only(3).

use super::Dialect;
use super::draft::{Draft, PADDING};
use super::values::{self, Value};
use crate::failure::Failure;
use diskimg::iso::boot::Platform;
use diskimg::iso::write::{Emulation, Joliet};

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
    ROWS.iter().find(|row| row.names.contains(&name))
}

/// Returns whether this is an option of genisoimage or xorrisofs that is not supported.
pub(super) fn is_unsupported(name: &str) -> bool {
    UNSUPPORTED.contains(&name)
}

const fn row(
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

const FILE: &[&str] = &["FILE"];
const ID: &[&str] = &["ID"];
const NUMBER: &[&str] = &["N"];

/// The supported options, in the order of `-help`.
#[rustfmt::skip]
pub(super) static ROWS: &[Row] = &[
    // Input and output.
    row(&["o", "output"], FILE, "Write the image to FILE (default: standard output)", |d, v| {
        d.output = Some(v[0].arg.to_owned());
        Ok(())
    }),
    row(&["graft-points"], &[], "Accept PLACE=FILE; write = and \\ in names as \\= and \\\\", |d, _| {
        d.graft_points = true;
        Ok(())
    }),
    row(&["path-list"], FILE, "Read more FILE arguments, one per line; - is standard input", |d, v| {
        d.path_lists.push(v[0].path());
        Ok(())
    }),
    row(&["m", "exclude"], &["GLOB"], "Exclude files whose name or path matches GLOB", |d, v| {
        d.excludes.push(v[0].text()?.to_owned());
        Ok(())
    }),
    row(&["x", "old-exclude"], FILE, "Like -m, but FILE is a literal name or path", |d, v| {
        d.excludes.push(values::literal_pattern(v[0].text()?));
        Ok(())
    }),
    row(&["exclude-list"], FILE, "Read patterns to exclude from FILE, one per line", |d, v| {
        d.exclude_lists.push(v[0].path());
        Ok(())
    }),
    row(&["f", "follow-links"], &[], "Follow symbolic links", |d, _| {
        d.options.follow_symlinks = true;
        Ok(())
    }),
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
    row(&["input-charset"], &["CHARSET"], "Character set of file names; only UTF-8", |_, v| v[0].check_utf8()),
    row(&["output-charset"], &["CHARSET"], "Character set of Rock Ridge names; only UTF-8", |_, v| v[0].check_utf8()),
    // ISO 9660 names.
    row(&["iso-level"], &["1..3"], "1: 8.3 names; 2: 31 characters; 3: also files of 4 GiB and more", |d, v| {
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
    row(&["D", "disable-deep-relocation"], &[], "Do not relocate directories deeper than eight levels", |d, _| {
        d.options.deep_directories = true;
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
    row(&["c", "eltorito-catalog"], &["PATH"], "Boot catalog, a path in the image", |d, v| {
        d.options.boot_catalog = v[0].text()?.to_owned();
        Ok(())
    }),
    row(&["boot-catalog-hide"], &[], "Hide the boot catalog", |d, _| {
        d.options.boot_catalog_visible = false;
        Ok(())
    }),
    // Booting from disk.
    row(&["isohybrid-mbr"], FILE, "Make the image bootable from disk with an isohybrid MBR", |d, v| {
        d.isohybrid_mbr = Some(v[0].path());
        Ok(())
    }),
    row(&["grub2-mbr"], FILE, "Make the image bootable from disk with a GRUB MBR", |d, v| {
        d.grub2_mbr = Some(v[0].path());
        Ok(())
    }),
    row(&["isohybrid-gpt-basdat"], &[], "Add the boot image to the GPT as a basic data partition", |d, _| {
        d.boot.in_gpt = true;
        Ok(())
    }),
    row(&["append_partition"], &["N", "TYPE", "FILE"], "Append FILE as partition N, such as 2 0xef efi.img", |d, v| {
        d.append_partition(&v[0], &v[1], &v[2])
    }),
    row(&["appended_part_as_gpt"], &[], "List appended partitions in a GPT", |d, _| {
        d.options.hybrid.appended_as_gpt = true;
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
    row(&["gui"], &[], "Accepted for compatibility; has no effect", ignore),
];

/// Options of genisoimage and xorrisofs that are not supported.
const UNSUPPORTED: &[&str] = &[
    "abstract",
    "acl",
    "alpha-boot",
    "allow-limited-size",
    "apple",
    "application_use",
    "appended_part_as_apm",
    "biblio",
    "B",
    "boot-hfs-file",
    "C",
    "cache-inodes",
    "cdrecord-params",
    "check-oldnames",
    "check-session",
    "checksum-list",
    "chrp-boot",
    "chrp-boot-part",
    "copyright",
    "debug",
    "dev",
    "disallow_dir_id_ext",
    "dvd-video",
    "efi-boot-part",
    "eltorito-id",
    "eltorito-selcrit",
    "embedded-boot",
    "emul-toc",
    "file_name_limit",
    "for_backup",
    "force-rr",
    "G",
    "g",
    "generic-boot",
    "gpt_disk_guid",
    "h",
    "hardlinks",
    "hfs",
    "hfs-bless",
    "hfsplus",
    "hidden",
    "hidden-list",
    "hide",
    "hide-hfs",
    "hide-joliet",
    "hide-joliet-list",
    "hide-joliet-trans-tbl",
    "hide-list",
    "hide-rr-moved",
    "iso_mbr_part_type",
    "isohybrid-apm-hfsplus",
    "isohybrid-gpt-hfsplus",
    "jcharset",
    "jigdo-jigdo",
    "jigdo-template",
    "joliet-utf16",
    "log-file",
    "M",
    "map",
    "max-iso9660-filenames",
    "mbr-force-bootable",
    "md5",
    "md5-list",
    "mips-boot",
    "mipsel-boot",
    "new-dir-mode",
    "no-boot",
    "no-cache-inodes",
    "no-emul-toc",
    "no-iso-translate",
    "no-rr",
    "nobak",
    "no-bak",
    "old-empty",
    "old-root",
    "part",
    "part_like_isohybrid",
    "partition_cyl_align",
    "partition_hd_cyl",
    "partition_sec_hd",
    "prep-boot",
    "prep-boot-part",
    "prev-session",
    "print-size",
    "protective-msdos-label",
    "quoted_path_list",
    "root",
    "rr_reloc_dir",
    "s",
    "scdbackup_tag",
    "sectype",
    "sort",
    "sort-weight",
    "sort-weight-list",
    "sparc-boot",
    "sparc-label",
    "split-output",
    "stdio_sync",
    "sunx86-boot",
    "T",
    "table-name",
    "translation-table",
    "transparent-compression",
    "ucs-level",
    "udf",
    "untranslated_name_len",
    "use-fileversion",
    "volset-seqno",
    "volset-size",
    "XA",
    "xa",
    "xattr",
    "z",
    "zisofs-version-2",
];
