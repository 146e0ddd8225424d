//! Rebuilt images: the boot structure is compared with that of the original, for the shapes that
//! other programs make, and booted in a virtual machine.

use super::boot::{TestDir, assert_boots, assert_no_findings, grub, isohybrid, open};
use super::machine::{Firmware, Medium, bios_image};
use diskimg::ErrorKind;
use diskimg::iso::boot::Loader;
use diskimg::iso::write::{Builder, Plan};
use diskimg::iso::{Droppable, IsoImage, Namespace, RemasterOptions};
use diskimg_testkit::tool::{cases, run, sample};
use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;

const ISOLINUX: &str = "-b boot.bin -no-emul-boot -boot-load-size 4 -boot-info-table";
const GRUB: &str = "-b boot.bin -no-emul-boot -boot-load-size 4 -boot-info-table --grub2-boot-info";
const EFI: &str = "-eltorito-alt-boot -e efi.img -no-emul-boot";
const APPENDED: &str = "-eltorito-alt-boot -e --interval:appended_partition_2:all:: -no-emul-boot";
const ESP: &str = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B";

/// Returns the options of xorriso for images like those of distributions, and others.
fn shapes() -> Vec<(&'static str, String)> {
    let gpt = format!("-append_partition 2 {ESP} @efi.img -appended_part_as_gpt");
    vec![
        (
            "debian",
            format!(
                "-isohybrid-mbr @apm-mbr {ISOLINUX} {EFI} -isohybrid-gpt-basdat \
                    -isohybrid-apm-hfsplus"
            ),
        ),
        ("alpine", format!("-isohybrid-mbr @mbr432 {ISOLINUX} {EFI} -isohybrid-gpt-basdat")),
        (
            "arch",
            format!(
                "-isohybrid-mbr @mbr432 --mbr-force-bootable -partition_offset 16 {ISOLINUX} \
                    {gpt} {APPENDED}"
            ),
        ),
        (
            "ubuntu",
            format!(
                "--grub2-mbr @mbr --protective-msdos-label -partition_cyl_align off \
                    -partition_offset 16 --mbr-force-bootable {gpt} -iso_mbr_part_type \
                    a2a0d0ebe5b9334487c068b6b72699c7 {GRUB} {APPENDED}"
            ),
        ),
        (
            "fedora",
            format!(
                "--grub2-mbr @mbr -partition_offset 16 {gpt} -append_partition 3 \
                    48465300-0000-11AA-AA11-00306543ECAC @other.img -iso_mbr_part_type \
                    EBD0A0A2-B9E5-4433-87C0-68B6B72699C7 {GRUB} {APPENDED}"
            ),
        ),
        (
            "mkrescue",
            format!(
                "{GRUB} --grub2-mbr @mbr --efi-boot efi.img -efi-boot-part --efi-boot-image \
                    --protective-msdos-label"
            ),
        ),
        (
            "MBR only",
            format!("--grub2-mbr @mbr -append_partition 2 0xef @efi.img {GRUB} {APPENDED}"),
        ),
        ("isohybrid", format!("-isohybrid-mbr @mbr432 {ISOLINUX}")),
        (
            "EFI partition without a name",
            format!("{GRUB} --grub2-mbr @mbr -efi-boot-part @efi.img --protective-msdos-label"),
        ),
        ("protective", format!("{ISOLINUX} {EFI} --protective-msdos-label")),
        ("any system area", format!("-G @other.img {ISOLINUX} {EFI}")),
        ("any code", format!("-G @other.img --protective-msdos-label {ISOLINUX}")),
        ("data", "-append_partition 2 0x0c @efi.img -append_partition 3 0x83 @other.img".into()),
        (
            "active data",
            "-append_partition 1 0x83 @efi.img --mbr-force-bootable --protective-msdos-label"
                .into(),
        ),
        ("Apple", "-append_partition 2 0xef @efi.img -appended_part_as_apm".into()),
        (
            "GPT and Apple",
            format!(
                "{ISOLINUX} {EFI} -isohybrid-gpt-basdat -isohybrid-apm-hfsplus \
                    -part_like_isohybrid -G @mbr -append_partition 3 0x83 @other.img"
            ),
        ),
        ("PReP", format!("{ISOLINUX} -prep-boot-part @efi.img")),
        ("CHRP", "-chrp-boot-part".into()),
        ("type", format!("-isohybrid-mbr @mbr432 {ISOLINUX} -iso_mbr_part_type 0x83")),
        (
            "geometry",
            format!("-isohybrid-mbr @mbr432 {ISOLINUX} -partition_hd_cyl 255 -partition_sec_hd 63"),
        ),
        (
            "aligned",
            format!(
                "{GRUB} --protective-msdos-label -partition_cyl_align all -append_partition 2 \
                    0xef @efi.img"
            ),
        ),
        (
            "identifiers",
            format!(
                "{ISOLINUX} -eltorito-id one {EFI} -eltorito-id two -eltorito-selcrit 0102030405"
            ),
        ),
        ("only an offset", format!("{ISOLINUX} -partition_offset 16")),
    ]
}

fn lab() -> TestDir {
    let dir = TestDir::new();
    std::fs::copy(dir.path("tree/efi.img"), dir.path("efi.img")).unwrap();
    let other: Vec<u8> = (0..70_000u32).map(|n| (n.wrapping_mul(n) >> 8) as u8).collect();
    std::fs::write(dir.path("other.img"), other).unwrap();
    // An MBR that can be combined with an Apple partition map.
    let mut apm = [0x33, 0xed].to_vec();
    apm.resize(432, 0x90);
    std::fs::write(dir.path("apm-mbr"), apm).unwrap();
    dir
}

fn plan(image: &IsoImage, drop: &[Droppable], change: impl FnOnce(&mut Builder)) -> Plan {
    let mut options = RemasterOptions::default();
    options.drop = drop.to_vec();
    let mut builder = image.remaster_with(&options).unwrap();
    // Before all other files, so that everything moves.
    builder.add_bytes(b"aaa/added", vec![7; 300_000]).unwrap();
    change(&mut builder);
    builder.plan().unwrap()
}

fn remaster(bytes: &[u8], drop: &[Droppable]) -> Vec<u8> {
    let mut new = Vec::new();
    plan(&open(bytes), drop, |_| {}).emit(&mut new).unwrap();
    new
}

fn hash(bytes: &[u8]) -> u64 {
    let end = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    let mut hasher = DefaultHasher::new();
    bytes[..end].hash(&mut hasher);
    hasher.finish()
}

/// Describes the contents of a range of sectors of 512 bytes: by a digest or, for the volume and
/// what is in the system area, by its start.
fn contents(bytes: &[u8], first: u64, end: u64) -> String {
    assert!(end * 512 <= bytes.len() as u64, "{first}..{end}");
    match first {
        0..=64 if end <= 64 => format!("{first}..{end}"),
        0..=64 => format!("volume from {first}"),
        _ => format!("{:x}", hash(&bytes[first as usize * 512..end as usize * 512])),
    }
}

/// Describes the boot structure without addresses, and checks those that must agree with others.
fn structure(bytes: &[u8]) -> String {
    let image = open(bytes);
    let info = image.info().unwrap();
    let mut text = String::new();
    let area = info.system_area;
    let disk_end = bytes.len() as u64 / 512;
    if let Some(mbr) = area.mbr {
        writeln!(text, "MBR {:08x} code {:x}", mbr.disk_id, hash(&bytes[8..432])).unwrap();
        for p in mbr.partitions {
            let (first, end) = (u64::from(p.first_sector), u64::from(p.first_sector + p.sectors));
            let what = match p.kind {
                0xee => format!("{first}..{}", if end == disk_end { "end" } else { "?" }),
                // Gaps between other partitions.
                0xcd if first > 64 => "gap".into(),
                0xcd if p.number == 1 && end < disk_end / 4 => "gap".into(),
                _ => contents(bytes, first, end),
            };
            writeln!(text, "MBR {} {} {:#x}: {what}", p.number, p.active, p.kind).unwrap();
        }
    }
    if let Some(gpt) = area.gpt {
        assert!(gpt.primary_valid && gpt.backup_valid);
        let (at, count) = (gpt.entries_sector, gpt.entry_count);
        writeln!(text, "GPT {} {} at {at}, {count}", gpt.disk_id, gpt.first_usable).unwrap();
        for p in gpt.partitions {
            let what = match p.name.starts_with("Gap") {
                true => "gap".into(),
                false => contents(bytes, p.first_sector, p.last_sector + 1),
            };
            assert!(p.last_sector <= gpt.last_usable);
            let (kind, id, name) = (p.kind, p.id, p.name);
            writeln!(text, "GPT {} {kind} {id} {:x} {name}: {what}", p.number, p.attributes)
                .unwrap();
        }
    }
    if let Some(apm) = area.apm {
        let unit = u64::from(apm.block_bytes / 512);
        for p in apm.partitions {
            let (first, end) = (u64::from(p.first_block), u64::from(p.first_block + p.blocks));
            let what = match p.name.starts_with("Gap") {
                true => "gap".into(),
                false => contents(bytes, first * unit, end * unit),
            };
            writeln!(text, "APM {} {} {} {:x}: {what}", p.number, p.name, p.kind, p.status)
                .unwrap();
        }
    }
    match area.loader {
        Some(Loader::Isohybrid { .. }) => text.push_str("isohybrid\n"),
        Some(Loader::Grub2 { .. }) => text.push_str("GRUB\n"),
        _ => {}
    }
    for entry in info.boot.iter().flat_map(|boot| &boot.entries) {
        let start = entry.start() as usize;
        let boot_image = &bytes[start..][..4096];
        let table =
            boot_image[8..16] == [&[16, 0, 0, 0][..], &entry.start_sector.to_le_bytes()].concat();
        let grub = boot_image[2548..2556] == (start as u64 / 512 + 5).to_le_bytes();
        writeln!(
            text,
            "{} {} {} {:x} {} {} '{}' {:?} table {table} GRUB {grub}: {:x}",
            entry.platform,
            entry.bootable,
            entry.media,
            entry.load_segment,
            entry.system_type,
            entry.load_sectors,
            entry.identifier,
            entry.criteria,
            hash(&boot_image[64..2000])
        )
        .unwrap();
    }
    // The second set of volume descriptors.
    writeln!(text, "descriptors at 32: {}", bytes[32 * 2048..][..6] == *b"\x01CD001").unwrap();
    writeln!(text, "volume time: {:?}", &bytes[16 * 2048 + 830..][..17]).unwrap();
    text
}

fn assert_same_structure(name: &str, old: &[u8], new: &[u8]) {
    let (old, new) = (structure(old), structure(new));
    assert!(old == new, "{name}:\n{old}\n{new}");
}

#[test]
fn the_boot_structure_of_every_shape_of_xorriso_is_kept() {
    let dir = lab();
    for (name, options) in shapes() {
        let old = dir.xorriso(&options);
        let new = remaster(&old, &[]);
        assert_same_structure(name, &old, &new);
        assert_eq!(new.len() % 512, 0);
        // Rebuilding it again changes nothing more.
        let again = remaster(&new, &[]);
        assert!(again == new, "{name}");
    }
}

#[test]
fn the_boot_structure_of_our_images_is_kept() {
    let dir = lab();
    let mut as_gpt = grub(&dir);
    as_gpt.hybrid.appended_as_gpt = true;
    for options in [isohybrid(), grub(&dir), as_gpt] {
        let (old, _) = dir.build(options);
        let new = remaster(&old, &[]);
        assert_same_structure("ours", &old, &new);
        assert_no_findings(&new);
    }
}

#[test]
fn the_boot_structure_of_isohybrid_is_kept() {
    let dir = lab();
    std::fs::copy(dir.path("efi.img"), dir.path("tree/mac.img")).unwrap();
    let mac = "-eltorito-alt-boot -e mac.img -no-emul-boot";
    for (boot, isohybrid) in [
        (EFI.to_owned(), "--entry 2 --type 0x83 --id 0x12345678"),
        (EFI.to_owned(), "--partok --offset 64"),
        (EFI.to_owned(), "--uefi"),
        (format!("{EFI} {mac}"), "--uefi --mac"),
    ] {
        let path = dir.path("old.iso");
        let path = path.to_str().unwrap();
        let tree = dir.path("tree");
        let mut args: Vec<&str> = ["-quiet", "-R", "-J", "-o", path].into();
        args.extend(ISOLINUX.split(' ').chain(boot.split(' ')));
        args.push(tree.to_str().unwrap());
        run("genisoimage", args);
        run("isohybrid", isohybrid.split(' ').chain([path]));
        let old = std::fs::read(path).unwrap();
        assert_same_structure(isohybrid, &old, &remaster(&old, &[]));
    }
}

#[test]
fn rebuilt_images_boot_with_bios_and_uefi_from_disc_and_disk() {
    let dir = lab();
    let booted = ["alpine", "arch", "ubuntu", "mkrescue", "MBR only"];
    let shapes: Vec<_> = shapes().into_iter().filter(|(name, _)| booted.contains(name)).collect();
    assert_eq!(shapes.len(), booted.len());
    for (_, options) in shapes {
        let new = remaster(&dir.xorriso(&options), &[]);
        let path = dir.path("new.iso");
        std::fs::write(&path, new).unwrap();
        // GRUB's MBR skips the first sectors of the boot image.
        let from_disk = if options.contains("grub2") { "from-mbr" } else { "from-image" };
        let boots = [
            (Medium::Disc, Firmware::Bios, "from-image"),
            (Medium::Disk, Firmware::Bios, from_disk),
            (Medium::Disc, Firmware::Uefi, "from-efi"),
            (Medium::Disk, Firmware::Uefi, "from-efi"),
        ];
        for (medium, firmware, word) in sample(boots, 2) {
            assert_boots(&path, medium, firmware, word);
        }
    }
}

/// GRUB finds the rest of its files by the time of the volume.
#[test]
fn an_image_of_grub_mkrescue_boots_after_its_hfs_plus_is_dropped() {
    let dir = lab();
    let tree = dir.path("rescue");
    std::fs::create_dir_all(tree.join("boot/grub")).unwrap();
    let script = "serial --unit=0\nterminal_output serial\necho from-grub\nhalt\n";
    std::fs::write(tree.join("boot/grub/grub.cfg"), script).unwrap();
    let path = dir.path("old.iso");
    run("grub-mkrescue", ["-o", path.to_str().unwrap(), tree.to_str().unwrap()]);
    let old = std::fs::read(&path).unwrap();
    let refused = open(&old).remaster();
    let dropped = match &refused {
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains("HFS+"), "{error}");
            &[Droppable::HfsPlus][..]
        }
        Ok(_) => &[],
    };
    let plan = plan(&open(&old), dropped, |_| {});
    assert_eq!(plan.warnings().is_empty(), refused.is_ok());
    let mut new = Vec::new();
    plan.emit(&mut new).unwrap();
    assert_no_findings(&new);
    let keeps =
        |line: &&str| !line.starts_with("APM") && !line.contains("HFS") && !line.contains("Gap");
    let (before, after) = (structure(&old), structure(&new));
    assert!(before.lines().filter(keeps).eq(after.lines().filter(keeps)), "{before}\n{after}");
    std::fs::write(&path, new).unwrap();
    let boots = [
        (Medium::Disk, Firmware::Uefi),
        (Medium::Disk, Firmware::Bios),
        (Medium::Disc, Firmware::Bios),
        (Medium::Disc, Firmware::Uefi),
    ];
    for (medium, firmware) in sample(boots, 2) {
        assert_boots(&path, medium, firmware, "from-grub");
    }
}

#[test]
fn a_partition_has_the_length_of_the_boot_image_that_replaces_another() {
    let dir = lab();
    let (_, options) = shapes().swap_remove(1);
    let old = dir.xorriso(&options);
    let image: Vec<u8> = (0..9_999u32).map(|n| (n % 251) as u8 + 1).collect();
    let bios = bios_image("other", "other");
    let plan = plan(&open(&old), &[], |builder| {
        builder.add_bytes(b"efi.img", image.clone()).unwrap();
        builder.add_bytes(b"boot.bin", bios.clone()).unwrap();
    });
    let mut new = Vec::new();
    plan.emit(&mut new).unwrap();
    let info = open(&new).info().unwrap();
    let efi = &info.boot.as_ref().expect("a catalog").entries[1];
    assert_eq!(efi.load_sectors, 20);
    let mbr = info.system_area.mbr.expect("an MBR");
    let partition = mbr.partitions[1];
    assert_eq!((partition.kind, partition.sectors), (0xef, 20));
    assert_eq!(u64::from(partition.first_sector) * 512, efi.start());
    assert_eq!(new[efi.start() as usize..][..9_999], image);
    let gpt = info.system_area.gpt.expect("a GPT");
    assert_eq!(gpt.partitions[1].last_sector - gpt.partitions[1].first_sector, 19);
    let start = info.boot.expect("a catalog").entries[0].start() as usize;
    assert_eq!(new[start + 64..][..100], bios[64..164]);
    assert_eq!(new[start + 12..][..4], (start as u32 / 2048).to_le_bytes());
}

#[test]
fn a_boot_image_that_was_removed_is_an_error_that_names_it() {
    let dir = lab();
    let old = dir.xorriso(&shapes()[0].1);
    let mut builder = open(&old).remaster().unwrap();
    assert!(builder.remove(b"efi.img"));
    let error = builder.plan().expect_err("the boot image is missing").to_string();
    assert!(error.contains("efi.img"), "{error}");
}

#[test]
fn what_cannot_be_kept_is_an_error_or_on_request_a_warning() {
    let dir = lab();
    let plain = dir.xorriso(ISOLINUX);
    let isohybrid = dir.xorriso(&shapes()[7].1);
    let change = |bytes: &[u8], at: usize, new: &[u8]| {
        let mut bytes = bytes.to_vec();
        bytes[at..at + new.len()].copy_from_slice(new);
        bytes
    };
    let partition = |kind: u8, first: u32, sectors: u32| {
        let mut entry = vec![0, 0, 0, 0, kind, 0, 0, 0];
        entry.extend(first.to_le_bytes().into_iter().chain(sectors.to_le_bytes()));
        change(&isohybrid, 446 + 16, &entry)
    };
    let sparc = change(&plain, 508, &[0xda, 0xbe]);
    let hfs = dir.xorriso("-hfsplus");
    let mut unknown_code = change(&isohybrid, 432, &100u64.to_le_bytes());
    unknown_code[100] = 1;
    for (bytes, drop, what) in [
        (partition(0x83, 200, 8), Droppable::Partitions, "MBR partition 2 (type 0x83)"),
        (partition(0x05, 0, 999), Droppable::Partitions, "MBR partition 2 (type 0x05)"),
        (partition(0x83, u32::MAX, u32::MAX), Droppable::Partitions, "MBR partition 2"),
        (sparc, Droppable::SystemArea, "SUN disk label"),
        (unknown_code, Droppable::SystemArea, "sector 100"),
        (hfs, Droppable::HfsPlus, "HFS+"),
    ] {
        let image = open(&bytes);
        let error = image.remaster().expect_err(what);
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        let message = error.to_string();
        assert!(message.contains(what) && message.contains(drop.name()), "{message}");
        let plan = plan(&image, &[drop], |_| {});
        assert!(plan.warnings().iter().any(|w| w.contains(what)), "{:?}", plan.warnings());
        let mut new = Vec::new();
        plan.emit(&mut new).unwrap();
        assert!(open(&new).remaster().is_ok());
    }
}

/// Names a partition of the primary GPT.
fn name_partition(image: &mut [u8], index: usize, name: &str) {
    let entries = 2 * 512 + index * 128 + 56;
    for (n, unit) in name.encode_utf16().chain([0]).enumerate() {
        image[entries + 2 * n..][..2].copy_from_slice(&unit.to_le_bytes());
    }
    image[entries + 2 * (name.len() + 1)..entries + 72].fill(0);
    let count = u32::from_le_bytes(image[512 + 80..][..4].try_into().unwrap()) as usize;
    let checksum = crc32fast::hash(&image[1024..1024 + count * 128]).to_le_bytes();
    image[512 + 88..][..4].copy_from_slice(&checksum);
    image[512 + 16..][..4].fill(0);
    let checksum = crc32fast::hash(&image[512..512 + 92]).to_le_bytes();
    image[512 + 16..][..4].copy_from_slice(&checksum);
}

#[test]
fn a_partition_with_data_and_the_name_of_a_gap_is_kept() {
    let dir = lab();
    let basic_data = "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7";
    let options = format!("-append_partition 2 {basic_data} @efi.img -appended_part_as_gpt");
    let mut bytes = dir.xorriso(&options);
    let entry = |bytes: &[u8], index: usize| bytes[1024 + index * 128..][..128].to_vec();
    let sector = |entry: &[u8]| u64::from_le_bytes(entry[32..40].try_into().unwrap());
    let named = |bytes: &[u8], name: &str| {
        let name: Vec<_> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
        (0..8).find(|&index| entry(bytes, index)[56..].starts_with(&name)).expect("a partition")
    };
    let index = named(&bytes, "Appended2");
    let first = sector(&entry(&bytes, index));
    let contents = bytes[first as usize * 512..][..512].to_vec();
    name_partition(&mut bytes, index, "Gap9");
    let image = open(&bytes);
    let mut new = Vec::new();
    plan(&image, &[], |_| {}).emit(&mut new).unwrap();
    let kept = sector(&entry(&new, named(&new, "Gap9")));
    assert!(contents.iter().any(|&byte| byte != 0));
    assert!(new[kept as usize * 512..][..512] == contents);
    assert!(new.len() <= bytes.len() + (64 << 10));
}

#[test]
fn contents_of_overlapping_partitions_are_not_stored_several_times() {
    let dir = lab();
    let mut bytes = dir.xorriso(&shapes()[7].1);
    let end = (bytes.len() / 512) as u32;
    for (n, first) in [end - 400, end - 300, end - 200].into_iter().enumerate() {
        let mut entry = vec![0, 0, 0, 0, 0x83, 0, 0, 0];
        entry.extend(first.to_le_bytes().into_iter().chain((end - 8 - first).to_le_bytes()));
        bytes[446 + 16 * (n + 1)..][..16].copy_from_slice(&entry);
    }
    let image = open(&bytes);
    let error = image.remaster().map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("MBR partition"), "{error}");
    let plan = plan(&image, &[Droppable::Partitions], |_| {});
    assert!(plan.size() < bytes.len() as u64 + (300 << 10), "{}", plan.size());
}

/// Changes bytes of tables and of the boot catalog. The result is an error or an image that can be
/// rebuilt again.
#[test]
fn damaged_boot_structures_are_errors_or_are_kept() {
    let dir = lab();
    let all = [Droppable::HfsPlus, Droppable::Partitions, Droppable::SystemArea];
    let mut state = 1u64;
    let mut random = move |below: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for name in ["debian", "ubuntu", "GPT and Apple", "PReP"] {
        let (_, options) = shapes().into_iter().find(|(shape, _)| *shape == name).expect("a shape");
        let old = dir.xorriso(&options);
        let catalog = open(&old).boot_catalog().unwrap().expect("a catalog").offset as usize;
        for _ in 0..cases(200).cases {
            let mut damaged = old.clone();
            for _ in 0..=random(4) {
                let at = match random(5) {
                    0 => 432 + random(80),
                    1 => 512 + random(92),
                    2 => 1024 + random(9000),
                    3 => catalog + random(160),
                    _ => random(32 << 10),
                };
                damaged[at] = [0, 1, 0x7f, 0xff, random(256) as u8][random(5)];
            }
            let mut remaster = RemasterOptions::default();
            remaster.drop = all[..random(4)].to_vec();
            let builder = open(&damaged).remaster_with(&remaster);
            let Ok(plan) = builder.and_then(Builder::plan) else { continue };
            assert!(plan.size() < 2 * old.len() as u64 + (8 << 20), "{}", plan.size());
            let mut new = Vec::new();
            plan.emit(&mut new).unwrap();
            let mut remaster = RemasterOptions::default();
            remaster.drop = all.to_vec();
            open(&new).remaster_with(&remaster).and_then(Builder::plan).unwrap();
        }
    }
}

/// The ISO 9660 tree of such an image has names of eight characters.
#[test]
fn the_names_of_a_udf_bridge_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    std::fs::create_dir_all(tree.join("sources")).unwrap();
    let names = ["Autounattend.xml", "sources/Component-One-Long.man", "sources/Two long.man"];
    for name in names {
        std::fs::write(tree.join(name), name).unwrap();
    }
    std::fs::write(tree.join("boot.bin"), bios_image("a", "b")).unwrap();
    let path = dir.path().join("old.iso");
    let mut args = vec!["-quiet", "-udf"];
    args.extend(ISOLINUX.split(' ').chain(["-o", path.to_str().unwrap(), tree.to_str().unwrap()]));
    run("genisoimage", args);
    let old = std::fs::read(path).unwrap();
    let image = open(&old);
    assert_eq!(image.namespace(), Namespace::Udf);
    let plan = plan(&image, &[], |_| {});
    assert_eq!(plan.warnings(), [""; 0]);
    let mut new = Vec::new();
    plan.emit(&mut new).unwrap();
    let new = open(&new);
    assert!(new.namespaces().any(|namespace| namespace == Namespace::Udf));
    for name in names {
        let node = new.lookup(name.as_bytes()).unwrap();
        assert_eq!(node.size, name.len() as u64);
    }
    let boot = new.boot_catalog().unwrap().expect("a catalog");
    let file = new.lookup(b"boot.bin").unwrap();
    assert_eq!(file.extents()[0].offset, Some(boot.entries[0].start()));
}

/// The partition of an image with a partition offset is a file system, too.
#[test]
fn a_partition_with_an_offset_contains_the_same_files() {
    let dir = lab();
    let (_, options) = shapes().swap_remove(2);
    let new = remaster(&dir.xorriso(&options), &[]);
    let path: PathBuf = dir.path("partition.iso");
    std::fs::write(&path, &new[16 * 2048..]).unwrap();
    let found = dir.path("found");
    std::fs::create_dir(&found).unwrap();
    let (path, found_name) = (path.to_str().unwrap(), found.to_str().unwrap());
    run("bsdtar", ["-C", found_name, "-xf", path]);
    for name in ["other", "efi.img"] {
        let expected = std::fs::read(dir.path("tree").join(name)).unwrap();
        assert!(std::fs::read(found.join(name)).unwrap() == expected, "{name}");
    }
    assert_eq!(std::fs::read(found.join("aaa/added")).unwrap(), vec![7; 300_000]);
}
