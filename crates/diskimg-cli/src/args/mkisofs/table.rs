//! The options: their names, what they take, what they do to the draft.
//!
//! Every name goes with one hyphen or two, as getopt's `getopt_long_only` and xorriso have it.

use super::Dialect;
use super::draft::{Draft, PADDING};
use super::values::{self, Value};
use crate::failure::Failure;
use diskimg::iso::boot::Platform;
use diskimg::iso::write::{Emulation, Joliet};

/// One option.
pub(super) struct Row {
    /// All its names. Those of one letter may share a hyphen: `-JRV label`.
    pub(super) names: &'static [&'static str],
    /// What it takes: one word of the command line each.
    pub(super) takes: &'static [&'static str],
    /// For `-help`.
    pub(super) help: &'static str,
    /// What it does.
    pub(super) apply: fn(&mut Draft, &[Value<'_>]) -> Result<(), Failure>,
}

/// The option of this name, without hyphens.
pub(super) fn find(name: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.names.contains(&name))
}

/// True for an option that the programs have whose place we take, and we do not.
pub(super) fn is_elsewhere(name: &str) -> bool {
    ELSEWHERE.contains(&name)
}

const fn row(
    names: &'static [&'static str],
    takes: &'static [&'static str],
    help: &'static str,
    apply: fn(&mut Draft, &[Value<'_>]) -> Result<(), Failure>,
) -> Row {
    Row { names, takes, help, apply }
}

/// An option that needs nothing done, because it asks for what is always so.
fn nothing(_: &mut Draft, _: &[Value<'_>]) -> Result<(), Failure> {
    Ok(())
}

const FILE: &[&str] = &["FILE"];
const ID: &[&str] = &["ID"];
const NUMBER: &[&str] = &["N"];

/// All of them, in the order of `-help`.
#[rustfmt::skip]
pub(super) static ROWS: &[Row] = &[
    // What goes in, and where the image goes.
    row(&["o", "output"], FILE, "The image (default: standard output)", |d, v| {
        d.output = Some(v[0].word.to_owned());
        Ok(())
    }),
    row(&["graft-points"], &[], "Files may be PLACE=FILE; \\= and \\\\ stand for = and \\", |d, _| {
        d.graft_points = true;
        Ok(())
    }),
    row(&["path-list"], FILE, "Further files, one a line (- is standard input)", |d, v| {
        d.path_lists.push(v[0].path());
        Ok(())
    }),
    row(&["m", "exclude"], &["GLOB"], "Leave out files whose name or path matches", |d, v| {
        d.excludes.push(v[0].text()?.to_owned());
        Ok(())
    }),
    row(&["x", "old-exclude"], FILE, "Leave out this file", |d, v| {
        d.excludes.push(values::literal_pattern(v[0].text()?));
        Ok(())
    }),
    row(&["exclude-list"], FILE, "Leave out what the lines of FILE match", |d, v| {
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
    // Name spaces.
    row(&["R", "rock"], &[], "Rock Ridge, with owners and permissions as they are", |d, _| {
        d.rock_ridge.wanted = true;
        Ok(())
    }),
    row(&["r", "rational-rock"], &[], "Rock Ridge: owner root, all may read, nobody may write", |d, _| {
        d.rock_ridge.rationalized = true;
        Ok(())
    }),
    row(&["norock"], &[], "No Rock Ridge, where xorriso has it by default", |d, _| {
        d.rock_ridge = Default::default();
        Ok(())
    }),
    row(&["uid"], NUMBER, "Owner of all files", |d, v| {
        d.options.uid = Some(v[0].number()?);
        Ok(())
    }),
    row(&["gid"], NUMBER, "Group of all files", |d, v| {
        d.options.gid = Some(v[0].number()?);
        Ok(())
    }),
    row(&["dir-mode"], &["MODE"], "Permissions of all directories, octal", |d, v| {
        d.options.dir_mode = Some(v[0].mode()?);
        Ok(())
    }),
    row(&["file-mode"], &["MODE"], "Permissions of all other files, octal", |d, v| {
        d.options.file_mode = Some(v[0].mode()?);
        Ok(())
    }),
    row(&["J", "joliet"], &[], "Joliet", |d, _| {
        d.options.joliet.get_or_insert(Joliet::Standard);
        Ok(())
    }),
    row(&["joliet-long"], &[], "Joliet with names of up to 103 characters", |d, _| {
        d.options.joliet = Some(Joliet::Long);
        Ok(())
    }),
    row(&["input-charset"], &["CHARSET"], "Of file names: UTF-8 is the only one", |_, v| v[0].utf8()),
    row(&["output-charset"], &["CHARSET"], "Of Rock Ridge names: UTF-8 is the only one", |_, v| v[0].utf8()),
    // Names of the primary tree.
    row(&["iso-level"], &["1..3"], "1: names 8.3; 2: 31 characters; 3: files of 4 GiB, too", |d, v| {
        d.options.names.level = values::level(&v[0])?;
        Ok(())
    }),
    row(&["l", "full-iso9660-filenames"], &[], "Names of 31 characters", |d, _| {
        d.options.names.full_length = true;
        Ok(())
    }),
    row(&["L", "ldots", "allow-leading-dots"], &[], "Names may begin with a dot", |d, _| {
        d.options.names.leading_dots = true;
        Ok(())
    }),
    row(&["allow-lowercase"], &[], "Names keep lower case", |d, _| {
        d.options.names.lowercase = true;
        Ok(())
    }),
    row(&["allow-multidot"], &[], "Names keep more than one dot", |d, _| {
        d.options.names.multiple_dots = true;
        Ok(())
    }),
    row(&["relaxed-filenames"], &[], "Names keep all of ASCII but lower case", |d, _| {
        d.options.names.relaxed = true;
        Ok(())
    }),
    row(&["d", "omit-period"], &[], "No dot behind names without extension", |d, _| {
        d.options.names.omit_period = true;
        Ok(())
    }),
    row(&["N", "omit-version-number"], &[], "No version (;1) behind names", |d, _| {
        d.options.names.omit_version = true;
        Ok(())
    }),
    row(&["U", "untranslated-filenames"], &[], "Names stay as they are: all of the above", |d, _| {
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
    row(&["D", "disable-deep-relocation"], &[], "Directories deeper than eight stay where they are", |d, _| {
        d.options.deep_directories = true;
        Ok(())
    }),
    // Boot entries: those before -eltorito-alt-boot are one, those behind it the next.
    row(&["b", "eltorito-boot"], &["PATH"], "Boot image: its path in the image", |d, v| {
        d.boot_image(v[0].text()?, None)
    }),
    row(&["e"], &["PATH"], "Boot image for EFI", |d, v| {
        d.boot_image(v[0].text()?, Some(Platform::Efi))
    }),
    row(&["efi-boot"], &["PATH"], "The same, as an entry of its own", |d, v| {
        d.next_boot_entry()?;
        d.boot.emulation = Some(Emulation::None);
        d.boot_image(v[0].text()?, Some(Platform::Efi))?;
        // genisoimage goes on with the same entry.
        if d.dialect == Dialect::Xorriso { d.next_boot_entry() } else { Ok(()) }
    }),
    row(&["eltorito-alt-boot"], &[], "Another boot entry begins", |d, _| {
        d.next_boot_entry()
    }),
    row(&["eltorito-platform"], &["NAME"], "x86, PPC, Mac, efi or a number, of the next -b", |d, v| {
        d.platform(values::platform(&v[0])?)
    }),
    row(&["no-emul-boot"], &[], "The boot image poses as no disk", |d, _| {
        d.boot.emulation = Some(Emulation::None);
        Ok(())
    }),
    row(&["hard-disk-boot"], &[], "The boot image poses as a hard disk", |d, _| {
        d.boot.emulation = Some(Emulation::HardDisk);
        Ok(())
    }),
    row(&["boot-load-seg"], &["SEGMENT"], "Where a BIOS loads it", |d, v| {
        d.boot.load_segment = Some(v[0].number()?);
        Ok(())
    }),
    row(&["boot-load-size"], &["N|full"], "How many sectors of 512 bytes it loads", |d, v| {
        d.boot.load_sectors = match v[0].text()? {
            "full" => None,
            _ => Some(v[0].number()?),
        };
        Ok(())
    }),
    row(&["boot-info-table"], &[], "Write the boot info table into the boot image", |d, _| {
        d.boot.info_table = true;
        Ok(())
    }),
    row(&["grub2-boot-info"], &[], "Write its address into the boot image, for GRUB", |d, _| {
        d.boot.grub2_info = true;
        Ok(())
    }),
    row(&["c", "eltorito-catalog"], &["PATH"], "Boot catalog: its path in the image", |d, v| {
        d.options.boot_catalog = v[0].text()?.to_owned();
        Ok(())
    }),
    row(&["boot-catalog-hide"], &[], "The boot catalog has no name", |d, _| {
        d.options.boot_catalog_visible = false;
        Ok(())
    }),
    // A disk, too.
    row(&["isohybrid-mbr"], FILE, "Start from disks, too: isohybrid's MBR", |d, v| {
        d.isohybrid_mbr = Some(v[0].path());
        Ok(())
    }),
    row(&["grub2-mbr"], FILE, "Start from disks, too: GRUB's MBR", |d, v| {
        d.grub2_mbr = Some(v[0].path());
        Ok(())
    }),
    row(&["isohybrid-gpt-basdat"], &[], "The boot image is a partition of the GPT", |d, _| {
        d.boot.in_gpt = true;
        Ok(())
    }),
    row(&["append_partition"], &["N", "TYPE", "FILE"], "A partition behind the files: 2 0xef efi.img", |d, v| {
        d.append_partition(&v[0], &v[1], &v[2])
    }),
    row(&["appended_part_as_gpt"], &[], "Appended partitions are in a GPT", |d, _| {
        d.options.hybrid.appended_as_gpt = true;
        Ok(())
    }),
    row(&["partition_offset"], &["SECTOR"], "Where partition 1 begins, in units of 2048 bytes", |d, v| {
        d.options.hybrid.partition_offset = v[0].number()?;
        Ok(())
    }),
    // Times and padding.
    row(&["modification-date"], &["DATE"], "Of the volume: YYYYMMDDhhmmsscc, UTC", |d, v| {
        d.options.volume_time = Some(values::moment(&v[0])?);
        Ok(())
    }),
    row(&["set_all_file_dates"], &["DATE"], "Of all files: YYYYMMDDhhmmsscc or =SECONDS", |d, v| {
        d.options.file_time = values::file_moment(&v[0])?;
        Ok(())
    }),
    row(&["pad"], &[], "300 KiB of zeros at the end (default)", |d, _| {
        d.options.padding = PADDING;
        Ok(())
    }),
    row(&["no-pad"], &[], "None", |d, _| {
        d.options.padding = 0;
        Ok(())
    }),
    // How much is said.
    row(&["quiet"], &[], "Say nothing of names that had to be changed", |d, _| {
        d.quiet = true;
        Ok(())
    }),
    row(&["v", "verbose"], &[], "Say how large the image is", |d, _| {
        d.verbose = true;
        Ok(())
    }),
    row(&["gui"], &[], "Accepted: changes nothing", nothing),
];

/// Options of genisoimage and xorrisofs that are refused by name.
const ELSEWHERE: &[&str] = &[
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
