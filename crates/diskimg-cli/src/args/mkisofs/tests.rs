//! Tests of mkisofs command lines.

use super::*;
use crate::args::recipe::{Destination, Graft};
use diskimg::iso::boot::Platform;
use diskimg::iso::write::{
    BootImage, CylinderAlignment, Emulation, Joliet, Level, NameRules, PartitionContents,
    PartitionKind, RockRidge,
};
use diskimg::partition::Guid;

fn parse_line(dialect: Dialect, line: &str) -> Result<Recipe, Failure> {
    let args: Vec<OsString> = line.split_whitespace().map(Into::into).collect();
    recipe(dialect, &args)
}

fn mkisofs(line: &str) -> Recipe {
    parse_line(Dialect::Mkisofs, line).unwrap_or_else(|e| panic!("{line}: {e:?}"))
}

fn xorriso(line: &str) -> Recipe {
    parse_line(Dialect::Xorriso, line).unwrap_or_else(|e| panic!("{line}: {e:?}"))
}

#[track_caller]
fn error_of(line: &str) -> String {
    match parse_line(Dialect::Mkisofs, line) {
        Err(Failure::Error { message, .. } | Failure::Usage { message, .. }) => message,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn every_option_name_is_unique_and_not_also_unsupported() {
    let mut seen = std::collections::HashSet::new();
    for name in table::rows().flat_map(|row| row.names) {
        assert!(seen.insert(*name), "{name}");
        assert!(!table::is_unsupported(name), "{name}");
    }
}

#[test]
fn one_hyphen_two_hyphens_and_joined_values_are_equivalent() {
    for line in ["-volid cidata d", "--volid cidata d", "--volid=cidata d", "d -V cidata"] {
        let recipe = mkisofs(line);
        assert_eq!(recipe.options.volume_id, "cidata", "{line}");
        assert_eq!(recipe.grafts, [Graft::root("d".into())], "{line}");
    }
}

#[test]
fn short_options_share_a_hyphen_and_only_the_last_takes_a_value() {
    let recipe = mkisofs("-lJRo out.iso d");
    assert!(recipe.options.names.full_length);
    assert_eq!(recipe.options.joliet, Some(Joliet::Standard));
    assert_eq!(recipe.options.rock_ridge, Some(RockRidge::Preserved));
    assert!(matches!(recipe.output, Destination::File(path) if path == *"out.iso"));
    for line in ["-foo d", "-oJ d", "-output-file x d", "-Jx", "-Vlabel d"] {
        error_of(line);
    }
}

#[test]
fn unknown_and_unsupported_options_and_invalid_values_are_named() {
    for (line, message) in [
        ("-qux d", "unrecognized option '-qux'"),
        ("--frob d", "unrecognized option '--frob'"),
        ("-hfs d", "the option -hfs is not supported"),
        ("-V", "option requires an argument: -V"),
        ("-append_partition 2 0xef", "option requires an argument: -append_partition"),
        ("-quiet", "Missing pathspec"),
        ("-iso-level 5 d", "-iso-level 5: expected 1, 2, 3 or 4"),
        ("-input-charset utf-16 d", "-input-charset utf-16: expected a known character set"),
        ("-uid x d", "-uid x: expected a number"),
        ("-uid +1 d", "-uid +1: expected a number"),
        ("-dir-mode 999 d", "-dir-mode 999: expected permissions"),
        ("-boot-load-size 65536 -b b d", "-boot-load-size 65536: expected a number in range"),
        ("-boot-info-table d", "-boot-info-table requires a boot image"),
        ("-b a -b b d", "a second boot image, b, requires -eltorito-alt-boot"),
        ("-eltorito-platform z80 d", "-eltorito-platform z80: expected"),
        ("--modification-date=2010 d", "--modification-date 2010: expected"),
        ("-append_partition 2 0x1ef f d", "-append_partition 0x1ef: expected a partition type"),
        ("-e --interval:local_fs:0-1::x d", "is not supported"),
        ("-G --interval:imported_iso:0:: d", "has no range"),
        ("-efi-boot-part --efi-boot-image -b x d", "requires an EFI boot image"),
        ("-iso_mbr_part_type 256 d", "a number up to 255"),
        ("-partition_sec_hd 64 d", "a number up to 63"),
        ("-partition_cyl_align yes d", "auto, on, all or off"),
        ("--gpt_disk_guid 12 d", "'12' is not a GUID"),
        ("--gpt_disk_guid modification-date d", "requires --modification-date"),
        ("-eltorito-selcrit 123 d", "hexadecimal digits"),
        ("-isohybrid-apm-hfsplus d", "requires a boot image"),
    ] {
        let found = error_of(line);
        assert!(found.contains(message), "{line}: {found}");
    }
}

#[test]
fn each_program_has_its_own_defaults() {
    let genisoimage = mkisofs("d");
    assert_eq!(genisoimage.options.volume_id, "CDROM");
    assert_eq!(genisoimage.options.names, NameRules::strict());
    assert_eq!((genisoimage.options.rock_ridge, genisoimage.options.joliet), (None, None));
    assert!(!genisoimage.options.deep_directories);
    assert_eq!(genisoimage.options.padding, 150);
    assert!(matches!(genisoimage.output, Destination::Stdout));
    let xorriso_defaults = xorriso("d");
    assert_eq!(xorriso_defaults.options.volume_id, "ISOIMAGE");
    assert_eq!(xorriso_defaults.options.rock_ridge, Some(RockRidge::Preserved));
    assert!(xorriso_defaults.options.deep_directories);
    assert_eq!(xorriso("--norock d").options.rock_ridge, None);
}

#[test]
fn rationalized_wins_and_owners_imply_rock_ridge() {
    for line in ["-r -R d", "-R -r d", "-r d"] {
        assert_eq!(mkisofs(line).options.rock_ridge, Some(RockRidge::Rationalized), "{line}");
    }
    for line in ["-uid 5 d", "-file-mode 0644 d"] {
        assert_eq!(mkisofs(line).options.rock_ridge, Some(RockRidge::Preserved), "{line}");
    }
    assert_eq!(mkisofs("-file-mode 0644 d").options.file_mode, Some(0o644));
}

#[test]
fn boot_options_may_come_before_or_after_their_image() {
    let recipe = mkisofs(
        "-no-emul-boot -boot-load-size 4 -boot-info-table -b isolinux/isolinux.bin \
         -eltorito-alt-boot -e boot/efi.img -no-emul-boot -isohybrid-gpt-basdat d",
    );
    let [bios, efi] = &recipe.options.boot[..] else { panic!("{:?}", recipe.options.boot) };
    assert_eq!((bios.platform, bios.emulation), (Platform::Bios, Emulation::None));
    assert_eq!((bios.load_sectors, bios.info_table, bios.in_gpt), (Some(4), true, false));
    assert_eq!(bios.image, BootImage::File("isolinux/isolinux.bin".into()));
    assert_eq!((efi.platform, efi.emulation), (Platform::Efi, Emulation::None));
    assert_eq!((efi.load_sectors, efi.info_table, efi.in_gpt), (None, false, true));
    assert_eq!(mkisofs("-b x d").options.boot[0].emulation, Emulation::Floppy);
}

#[test]
fn an_efi_boot_image_gets_its_own_entry() {
    let recipe = xorriso("-b bios.img -no-emul-boot --efi-boot efi.img -no-emul-boot d");
    let platforms: Vec<_> = recipe.options.boot.iter().map(|entry| entry.platform).collect();
    assert_eq!(platforms, [Platform::Bios, Platform::Efi]);
    let recipe = mkisofs("-eltorito-platform efi -b x -eltorito-platform 0x55 -b y d");
    let platforms: Vec<_> = recipe.options.boot.iter().map(|entry| entry.platform).collect();
    assert_eq!(platforms, [Platform::Efi, Platform::Other(0x55)]);
}

#[test]
fn an_appended_partition_is_also_a_boot_image() {
    for name in ["appended_partition_2:all::", "appended_partition_2_start_9s_size_8d:all::"] {
        let recipe = xorriso(&format!(
            "-append_partition 2 C12A7328-F81F-11D2-BA4B-00A0C93EC93B efi.img \
             -appended_part_as_gpt -e --interval:{name} -no-emul-boot d"
        ));
        let hybrid = &recipe.options.hybrid;
        assert!(hybrid.appended_as_gpt);
        assert_eq!((hybrid.appended[0].number, hybrid.appended[0].kind), (2, 0xef));
        assert_eq!(recipe.options.boot[0].image, BootImage::AppendedPartition(2));
    }
}

#[test]
fn partition_options_set_the_fields_of_the_same_meaning() {
    let recipe = xorriso(
        "-G sys -isohybrid-mbr --interval:local_fs:0-431::x.iso --mbr-force-bootable \
         --protective-msdos-label -iso_mbr_part_type 0xcd -partition_hd_cyl 255 \
         -partition_sec_hd 63 -partition_cyl_align all -appended_part_as_apm \
         --gpt_disk_guid 28732ac11ff8d211ba4b00a0c93ec93b -b x -isohybrid-apm-hfsplus \
         -eltorito-id one -eltorito-selcrit 0102 -append_partition 2 FAT16 y d",
    );
    let hybrid = &recipe.options.hybrid;
    assert!(hybrid.force_active && hybrid.protective_label && hybrid.appended_as_apm);
    assert_eq!(hybrid.volume_kind, Some(PartitionKind::Mbr(0xcd)));
    assert_eq!((hybrid.heads, hybrid.sectors_per_track), (255, 63));
    assert_eq!(hybrid.cylinder_alignment, CylinderAlignment::All);
    assert_eq!(hybrid.gpt_disk_id, Some(Guid::EFI_SYSTEM));
    assert_eq!((hybrid.appended[0].kind, hybrid.appended[0].gpt_kind), (6, None));
    let interval = recipe.hybrid.isohybrid_mbr;
    assert!(matches!(interval, Some(PartitionContents::Interval(i)) if i.range == (0..432)));
    assert!(matches!(recipe.hybrid.system_area, Some(PartitionContents::File(_))));
    let entry = &recipe.options.boot[0];
    assert_eq!(
        (entry.in_apm, &*entry.identifier, &*entry.criteria),
        (true, &b"one"[..], &[1, 2][..])
    );
}

#[test]
fn an_efi_boot_partition_is_the_first_efi_image_or_a_file() {
    let recipe = xorriso("-b x --efi-boot y --efi-boot z -efi-boot-part --efi-boot-image d");
    let image = BootImage::File("y".into());
    assert_eq!(recipe.options.hybrid.efi_partition, Some(image));
    let recipe = xorriso("-efi-boot-part y d");
    assert_eq!(recipe.options.hybrid.efi_partition, Some(BootImage::Unlisted(0)));
    let recipe = xorriso("-iso_mbr_part_type C12A7328-F81F-11D2-BA4B-00A0C93EC93B d");
    let kind = Some(PartitionKind::Gpt(Guid::EFI_SYSTEM));
    assert_eq!(recipe.options.hybrid.volume_kind, kind);
}

#[test]
fn dates_are_in_utc() {
    let recipe = mkisofs("--modification-date=2024022912345678 --set_all_file_dates =17 d");
    let volume = recipe.options.volume_time.expect("given");
    assert_eq!((volume.seconds, volume.nanoseconds), (1_709_210_096, 780_000_000));
    assert_eq!(recipe.options.file_time.map(|time| time.seconds), Some(17));
}

#[test]
fn the_options_that_nova_passes_are_supported() {
    let recipe = mkisofs(
        "-o P -ldots -allow-lowercase -allow-multidot -l -publisher Nova -quiet -J -r \
         -V config-2 DIR",
    );
    let names = &recipe.options.names;
    assert!(names.leading_dots && names.lowercase && names.multiple_dots && names.full_length);
    assert!(!names.relaxed && names.level == Level::One);
    assert_eq!(recipe.options.publisher, "Nova");
    assert!(recipe.quiet);
}

#[test]
fn grafts_are_parsed_only_with_graft_points() {
    assert_eq!(mkisofs("a=b").grafts, [Graft::root("a=b".into())]);
    let graft = Graft { place: b"a".to_vec(), path: "b".into() };
    assert_eq!(mkisofs("a=b -graft-points").grafts, [graft]);
    assert_eq!(mkisofs("-- -a").grafts, [Graft::root("-a".into())]);
    assert_eq!(xorriso("a --").grafts, [Graft::root("a".into())]);
    assert!(parse_line(Dialect::Xorriso, "a -- -map b c").is_err());
}

#[test]
fn an_excluded_path_is_not_a_pattern() {
    assert_eq!(mkisofs("-x a[1]* -m *.o d").excludes, [r"a\[1\]\*", "*.o"]);
}
