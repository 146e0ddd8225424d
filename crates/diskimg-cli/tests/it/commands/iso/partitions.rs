//! The boot and partition options of `xorriso -as mkisofs`: images are compared with xorriso's.

use crate::support::Lab;
use std::fs;

const BIOS: &str = "-b boot.bin -no-emul-boot -boot-load-size 4 -boot-info-table";
const EFI: &str = "-eltorito-alt-boot -e efi.img -no-emul-boot";
const APPENDED: &str = "-eltorito-alt-boot -e --interval:appended_partition_2:all:: -no-emul-boot";
const ESP: &str = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B";

/// Creates boot images, MBR templates and a disk with an MBR and a GPT.
fn lab() -> Lab {
    let lab = Lab::new();
    let noise = |len: u32| (0..len).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect::<Vec<_>>();
    fs::create_dir(lab.path("tree")).expect("mkdir");
    let mut boot = noise(9000);
    boot[64..68].copy_from_slice(&[0xfb, 0xc0, 0x78, 0x70]);
    let mut isohybrid = vec![0x90; 432];
    isohybrid[..2].copy_from_slice(&[0x33, 0xed]);
    for (name, bytes) in [
        ("tree/boot.bin", boot),
        ("tree/efi.img", noise(51_200)),
        ("tree/other", noise(100_000)),
        ("isohybrid", isohybrid),
        ("grub", noise(512)),
        ("efi.img", noise(72_000)),
        ("other.img", noise(33_333)),
    ] {
        fs::write(lab.path(name), bytes).expect("writes");
    }
    let options = "-append_partition 2 0x83 other.img -appended_part_as_gpt -G grub";
    let args = ["-as", "mkisofs", "-quiet", "-o", "template"];
    let args: Vec<_> = args.into_iter().chain(options.split(' ')).chain(["tree"]).collect();
    lab.tool("xorriso", &args);
    lab
}

/// Returns what xorriso reports about an image, without addresses, lengths that depend on the
/// layout, and identifiers. Partitions that fill gaps are left out.
fn report(lab: &Lab, image: &str) -> Vec<String> {
    let report = ["-indev", image, "-report_el_torito", "plain", "-report_system_area", "plain"];
    let text = String::from_utf8(lab.tool("xorriso", &report)).expect("UTF-8");
    let lines: Vec<Vec<&str>> =
        text.lines().map(|line| line.split_whitespace().collect()).collect();
    let gaps: Vec<(&str, &str)> = lines
        .iter()
        .filter_map(|words| match words[..] {
            ["GPT", "partname", "local", ":", number, name] if name.starts_with("Gap") => {
                Some(("GPT", number))
            }
            ["APM", "partition", "name", ":", number, name] if name.starts_with("Gap") => {
                Some(("APM", number))
            }
            _ => None,
        })
        .collect();
    let mut found = Vec::new();
    for words in &lines {
        let shown = match words[..] {
            [table @ ("GPT" | "APM"), .., ":", number, _] if gaps.contains(&(table, number)) => {
                None
            }
            [table @ ("GPT" | "APM"), "start", "and", "size", ":", number, first, len] => {
                let gap = gaps.contains(&(table, number)) || first == "64" || first == "0";
                (!gap).then(|| format!("{table} {number}: {len}"))
            }
            ["GPT", "partition", "flags:", number, _] if gaps.contains(&("GPT", number)) => None,
            ["GPT", "type" | "partition", "GUID" | "flags:", .., _] => Some(words.join(" ")),
            ["GPT" | "APM", "partname" | "partition", "local" | "name" | "type", ..] => {
                Some(words.join(" "))
            }
            ["MBR", "partition", ":", number, status, kind, first, len] => {
                let (in_system_area, first) = match first.parse::<u32>() {
                    Ok(0..=64) => (true, first),
                    _ => (false, "?"),
                };
                let len = if in_system_area && len != "1" { "?" } else { len };
                Some(format!("MBR {number} {status} {kind} {first} {len}"))
            }
            ["MBR", "heads" | "secs", ..] => Some(words.join(" ")),
            ["El", "Torito", "boot", ref entry @ .., _] => Some(entry.join(" ")),
            ["El", "Torito", "id" | "selcrit", ..] => Some(words.join(" ")),
            ["System", "area", "summary:", ..] => Some(words.join(" ")),
            ["Partition", "offset", ..] => Some(words.join(" ")),
            _ => None,
        };
        // Partition identifiers are random.
        found.extend(shown.filter(|line| !line.starts_with("GPT partition GUID")));
    }
    found
}

/// Removes the geometry of the partition table from a report.
fn remove_geometry(report: &mut Vec<String>) {
    report.retain(|line| !line.contains("heads per cyl") && !line.contains("secs per head"));
    for line in report {
        let words: Vec<_> = line.split(' ').filter(|word| !word.starts_with("cyl-align")).collect();
        *line = words.join(" ");
    }
}

#[test]
fn partition_options_have_the_same_effect_as_in_xorriso() {
    let lab = lab();
    let appended = format!("-append_partition 2 {ESP} efi.img -appended_part_as_gpt {APPENDED}");
    for options in [
        format!("{BIOS} {EFI} --protective-msdos-label"),
        format!("{BIOS} --grub2-mbr grub --protective-msdos-label -iso_mbr_part_type 0x17"),
        format!("{BIOS} -isohybrid-mbr isohybrid -iso_mbr_part_type 0x83"),
        format!(
            "{BIOS} -isohybrid-mbr isohybrid --mbr-force-bootable -partition_offset 16 \
            {appended}"
        ),
        format!(
            "{BIOS} --grub2-mbr grub --protective-msdos-label -partition_cyl_align off \
            -partition_offset 16 --mbr-force-bootable -iso_mbr_part_type {ESP} {appended}"
        ),
        format!("{BIOS} {EFI} -isohybrid-mbr isohybrid -isohybrid-apm-hfsplus"),
        format!("{BIOS} --grub2-mbr grub --efi-boot efi.img -efi-boot-part --efi-boot-image"),
        format!("{BIOS} --protective-msdos-label -efi-boot-part efi.img"),
        format!("{BIOS} -isohybrid-mbr isohybrid -partition_hd_cyl 128 -partition_sec_hd 32"),
        format!("{BIOS} -isohybrid-mbr isohybrid -partition_cyl_align off"),
        format!("{BIOS} --protective-msdos-label -partition_cyl_align on"),
        format!(
            "{BIOS} --protective-msdos-label -partition_cyl_align all -append_partition 2 \
            0xef efi.img"
        ),
        format!("{BIOS} -partition_offset 16"),
        format!("{BIOS} -G grub --protective-msdos-label"),
        format!("{BIOS} -eltorito-id first {EFI} -eltorito-id second -eltorito-selcrit 0102"),
        "-append_partition 2 0xef efi.img --mbr-force-bootable".into(),
        "-append_partition 1 FAT16 efi.img -append_partition 2 Linux other.img".into(),
        "-append_partition 1 0x83 efi.img --protective-msdos-label --mbr-force-bootable".into(),
        "-append_partition 2 48465300-0000-11AA-AA11-00306543ECAC efi.img -appended_part_as_gpt \
            --gpt_disk_guid 2303cd2a-73c7-424a-a298-25632da7f446"
            .into(),
        format!(
            "{BIOS} --grub2-mbr \
            --interval:local_fs:0s-15s:zero_mbrpt,zero_gpt,440-443:template -append_partition 2 \
            0x83 --interval:local_fs:3k-9s::other.img"
        ),
    ] {
        let args = ["-as", "mkisofs", "-R", "-quiet", "-o"];
        let args = |output| -> Vec<&str> {
            args.into_iter().chain([output]).chain(options.split(' ')).chain(["tree"]).collect()
        };
        lab.tool("xorriso", &args("theirs.iso"));
        lab.line(&format!("xorriso {}", args("ours.iso").join(" "))).ok();
        let (mut theirs, mut ours) = (report(&lab, "theirs.iso"), report(&lab, "ours.iso"));
        if !options.contains("-isohybrid") && !options.contains("-partition_") {
            // xorriso guesses it from the end of a partition.
            [&mut theirs, &mut ours].into_iter().for_each(remove_geometry);
        }
        assert_eq!(ours, theirs, "{options}");
        lab.line("iso verify ours.iso").ok();
    }
}

#[test]
fn the_disk_guid_is_that_of_xorriso() {
    let lab = lab();
    let guids = |image: &str| -> Vec<String> {
        let report = ["-indev", image, "-report_system_area", "plain"];
        let text = String::from_utf8(lab.tool("xorriso", &report)).expect("UTF-8");
        let lines = text.lines().filter(|line| line.contains("GUID") && !line.contains("type"));
        lines.take(3).map(str::to_owned).collect()
    };
    for guid in [
        "--gpt_disk_guid 2acd0323c7734a42a29825632da7f446",
        "--gpt_disk_guid modification-date --modification-date=2024010203040506",
    ] {
        let options = format!("-append_partition 2 {ESP} efi.img -appended_part_as_gpt {guid}");
        let args = |output: &str| format!("-as mkisofs -quiet -o {output} {options} tree");
        lab.tool("xorriso", &args("theirs.iso").split(' ').collect::<Vec<_>>());
        lab.line(&format!("xorriso {}", args("ours.iso"))).ok();
        assert_eq!(guids("ours.iso"), guids("theirs.iso"), "{guid}");
    }
}

#[test]
fn an_interval_is_read_as_by_xorriso() {
    let lab = lab();
    for interval in [
        "0-32767:",
        "0-32767:zero_mbrpt",
        "0-32767:zero_gpt",
        "0s-15s:zero_mbrpt,zero_gpt,440-443",
        "1d-9k:0d-1d",
    ] {
        let options = format!("-G --interval:local_fs:{interval}:template");
        let args = |output: &str| format!("-as mkisofs -quiet -o {output} {options} tree");
        lab.tool("xorriso", &args("theirs.iso").split(' ').collect::<Vec<_>>());
        lab.line(&format!("xorriso {}", args("ours.iso"))).ok();
        let (theirs, ours) = (lab.read("theirs.iso"), lab.read("ours.iso"));
        assert!(theirs[..32 << 10] == ours[..32 << 10], "{interval}");
    }
    for (interval, message) in [
        ("local_fs:0-99999999::template", "exceeds"),
        ("local_fs:0-9::nothing", "nothing"),
        ("imported_iso:0-9::", "no image from which"),
        ("local_fs:9-0::template", "has no range"),
    ] {
        let line = format!("xorriso -as mkisofs -o ours.iso -G --interval:{interval} tree");
        let error = lab.line(&line).fails(1);
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn an_interval_of_the_loaded_image_is_read_as_by_xorriso() {
    let lab = lab();
    let interval = "--interval:imported_iso:0s-15s:zero_mbrpt,zero_gpt:";
    let line = |output: &str| {
        format!(
            "-indev template -outdev {output} -boot_image any system_area={interval} \
             -append_partition 3 0x83 --interval:imported_iso:16s-20s:: -map other.img /added"
        )
    };
    lab.tool("xorriso", &line("theirs.iso").split(' ').collect::<Vec<_>>());
    let ran = lab.line(&format!("xorriso {}", line("ours.iso")));
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let (template, theirs, ours) =
        (lab.read("template"), lab.read("theirs.iso"), lab.read("ours.iso"));
    assert_eq!(theirs[..440], ours[..440]);
    let entry = &ours[446 + 32..][..16];
    let start = u32::from_le_bytes(entry[8..12].try_into().expect("four bytes")) as usize * 512;
    assert!(ours[start..][..5 * 2048] == template[16 * 2048..21 * 2048]);
}

#[test]
fn what_remaster_cannot_keep_is_named_and_left_out_on_request() {
    let lab = lab();
    lab.tool("xorriso", &["-as", "mkisofs", "-quiet", "-hfsplus", "-o", "old.iso", "tree"]);
    let error = lab.line("iso remaster old.iso -o new.iso").fails(1);
    assert!(error.contains("HFS+") && error.contains("--drop hfsplus"), "{error}");
    assert!(!lab.path("new.iso").exists());
    let ran = lab.line("iso remaster old.iso -o new.iso --drop hfsplus");
    assert_eq!(ran.code, Some(0));
    assert!(ran.err.contains("HFS+") && ran.err.contains("left out"), "{}", ran.err);
    let error = lab.line("iso remaster old.iso -o new.iso --drop boot").fails(1);
    assert!(error.contains("system-area"), "{error}");
}
