//! Repairing VMDK, VHD and VHDX: structures of which there are two copies, and logs.

use diskimg::check::RepairScope;
use diskimg::{Format, OpenOptions, Repair};
use diskimg_testkit::crash::RecordingStorage;
use diskimg_testkit::disk::{Disk, Fill, Run};
use diskimg_testkit::tool::{full, qemu_bytes, run, try_run};
use diskimg_testkit::vhdx::{Log, Vhdx, changed_pages};
use std::path::Path;
use std::sync::Arc;

const MIB: usize = 1 << 20;

/// An image, and the offsets of its structures by name.
struct Sample {
    format: Format,
    qemu: &'static str,
    file: Vec<u8>,
    bytes: Vec<u8>,
}

fn sample(format: Format, qemu: &'static str) -> Sample {
    let dir = tempfile::tempdir().unwrap();
    let (raw, path) = (dir.path().join("raw"), dir.path().join("image"));
    let runs = vec![
        Run { at: 512, len: 300 << 10, fill: Fill::Noise(3) },
        Run { at: 5 << 20, len: 100 << 10, fill: Fill::Noise(5) },
    ];
    let disk = Disk { size: 6 << 20, runs };
    disk.write(&raw);
    let options = if qemu == "vpc" { "force_size=on" } else { "" };
    let mut args = vec!["convert", "-f", "raw", "-O", qemu];
    if !options.is_empty() {
        args.extend(["-o", options]);
    }
    run("qemu-img", args.into_iter().chain([raw.to_str().unwrap(), path.to_str().unwrap()]));
    Sample { format, qemu, file: std::fs::read(&path).unwrap(), bytes: disk.bytes() }
}

fn samples() -> [Sample; 3] {
    [sample(Format::Vmdk, "vmdk"), sample(Format::Vhd, "vpc"), sample(Format::Vhdx, "vhdx")]
}

/// Repairs an image and returns the numbers of corruptions and warnings before and after.
fn repair(path: &Path, format: Format, scope: RepairScope) -> Result<[u64; 4], diskimg::Error> {
    let repair = Repair::new(scope).open_options(OpenOptions::new().format(format));
    let done = repair.run(path, &mut |_, _| {})?.expect("can be repaired");
    let (before, after) = (done.before, done.after);
    assert_eq!((before.check_errors, after.check_errors), (0, 0));
    let leaks = [before.leaks, after.leaks];
    Ok([
        before.corruptions + leaks[0],
        before.warnings,
        after.corruptions + leaks[1],
        after.warnings,
    ])
}

/// Returns the guest's bytes, or `None` if they cannot be read.
fn our_bytes(path: &Path, format: Format) -> Option<Vec<u8>> {
    let image = OpenOptions::new().format(format).open(path).ok()?;
    let mut bytes = vec![0; usize::try_from(image.size()).ok().filter(|&size| size < 1 << 28)?];
    image.read_at(&mut bytes, 0).ok()?;
    Some(bytes)
}

fn le32(file: &[u8], at: usize) -> usize {
    u32::from_le_bytes(file[at..at + 4].try_into().unwrap()) as usize
}

fn be64(file: &[u8], at: usize) -> usize {
    u64::from_be_bytes(file[at..at + 8].try_into().unwrap()) as usize
}

/// Places in a VMDK: redundant and primary directory, redundant and primary table.
fn places_in_vmdk(file: &[u8]) -> [usize; 4] {
    let [redundant, primary] = [48, 56].map(|at| le32(file, at) * 512);
    [redundant, primary, le32(file, redundant) * 512, le32(file, primary) * 512]
}

/// Damages that are repaired, as changes of bytes at an offset.
fn repaired(sample: &Sample) -> Vec<(&'static str, usize, Vec<u8>)> {
    let (file, len) = (&sample.file, sample.file.len());
    let beyond = 0x0fff_ffff_u32.to_le_bytes().to_vec();
    match sample.format {
        Format::Vmdk => {
            let [redundant, primary, copy, table] = places_in_vmdk(file);
            vec![
                ("no primary entry", primary, vec![0; 4]),
                ("a primary entry beyond the end", primary, beyond.clone()),
                ("no redundant entry", redundant, vec![0; 4]),
                ("a redundant entry beyond the end", redundant, beyond.clone()),
                ("an invalid entry of the table", table + 4, beyond.clone()),
                ("an invalid entry of the copy", copy + 4, beyond),
                ("no entries in the copy", copy, vec![0; 512]),
                ("the mark", 72, vec![1]),
            ]
        }
        Format::Vhd => {
            let header = be64(file, 16);
            let flipped = |at: usize| vec![file[at] ^ 0x10];
            vec![
                ("first footer: flag", 11, flipped(11)),
                ("first footer: size", 55, flipped(55)),
                ("first footer: none", 0, vec![0; 512]),
                ("last footer: size", len - 512 + 53, flipped(len - 512 + 53)),
                ("last footer: cookie", len - 512, vec![0; 8]),
                ("last footer: none", len - 512, vec![0; 512]),
                ("checksum of the header", header + 36, vec![0; 4]),
            ]
        }
        _ => vec![
            ("first header", 64 << 10, vec![0; 4096]),
            ("second header", 128 << 10, vec![0xff; 64]),
            ("first region table", 192 << 10, vec![0; 64]),
            ("second region table", (256 << 10) + 20, vec![0xff; 4]),
        ],
    }
}

#[test]
fn damaged_copies_are_restored_from_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    for sample in samples() {
        for (what, at, bytes) in repaired(&sample) {
            let mut damaged = sample.file.clone();
            damaged[at..at + bytes.len()].copy_from_slice(&bytes);
            std::fs::write(&path, &damaged).unwrap();
            let counts = repair(&path, sample.format, RepairScope::All).unwrap();
            assert!(counts[0] + counts[1] > 0 || what == "the mark", "{what}: {counts:?}");
            assert_eq!(counts[2..], [0, 0], "{what}");
            assert!(our_bytes(&path, sample.format).as_ref() == Some(&sample.bytes), "{what}");
            assert!(qemu_bytes(&path, sample.qemu) == sample.bytes, "{what}");
            let new = std::fs::read(&path).unwrap();
            match sample.format {
                // Every byte is as it was.
                Format::Vhd => assert!(new == sample.file, "{what}"),
                // A directory may refer to the table of the other one.
                Format::Vmdk if what.contains("table") || what.contains("copy") => {
                    assert!(new == sample.file, "{what}");
                }
                _ => {}
            }
            if sample.format == Format::Vhd {
                let info = try_run("vhdiinfo", [path.to_str().unwrap()]);
                assert!(info.status.success(), "{what}: {info:?}");
            }
            if sample.format == Format::Vhdx {
                run("qemu-img", ["check", "-q", "-f", "vhdx", path.to_str().unwrap()]);
            }
            // There is nothing else to do.
            let counts = repair(&path, sample.format, RepairScope::All).unwrap();
            assert_eq!(counts, [0; 4], "{what}");
            assert!(std::fs::read(&path).unwrap() == new, "{what}");
        }
    }
}

/// Damage that is not clear is reported before and after, and the file stays as it is.
#[test]
fn nothing_is_chosen_between_two_plausible_copies() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let [vmdk, vhd, _] = samples();
    let [_, _, copy, table] = places_in_vmdk(&vmdk.file);
    let other = (le32(&vmdk.file, table + 8) as u32).to_le_bytes();
    let header = be64(&vhd.file, 16);
    for (sample, what, at, bytes) in [
        (&vmdk, "the copy has another grain", copy, other.to_vec()),
        (&vmdk, "the primary table lacks grains", table, vec![0; 512]),
        (&vhd, "the place of the table", header + 23, vec![vhd.file[header + 23] ^ 4]),
        (&vhd, "the size of a block", header + 33, vec![vhd.file[header + 33] ^ 0x30]),
    ] {
        let mut damaged = sample.file.clone();
        damaged[at..at + bytes.len()].copy_from_slice(&bytes);
        std::fs::write(&path, &damaged).unwrap();
        let counts = repair(&path, sample.format, RepairScope::All);
        assert!(!matches!(counts, Ok([_, _, 0, 0])), "{what}: {counts:?}");
        assert!(std::fs::read(&path).unwrap() == damaged, "{what}");
    }
    // Both entries for a table are damaged. What the primary one refers to is guest data.
    let [redundant, primary, _, table] = places_in_vmdk(&vmdk.file);
    let mut damaged = vmdk.file.clone();
    damaged[redundant..redundant + 4].copy_from_slice(&0x0fff_ffff_u32.to_le_bytes());
    damaged.copy_within(table + 4..table + 8, primary);
    std::fs::write(&path, &damaged).unwrap();
    let counts = repair(&path, Format::Vmdk, RepairScope::All);
    assert!(!matches!(counts, Ok([_, _, 0, 0])), "{counts:?}");
    assert!(std::fs::read(&path).unwrap() == damaged);
    // Two footers with valid checksums.
    let mut damaged = vhd.file.clone();
    damaged[54] ^= 2;
    let sum = u32::from_be_bytes(damaged[64..68].try_into().unwrap());
    let change = u32::from(damaged[54]).wrapping_sub(u32::from(vhd.file[54]));
    damaged[64..68].copy_from_slice(&sum.wrapping_sub(change).to_be_bytes());
    std::fs::write(&path, &damaged).unwrap();
    assert_eq!(repair(&path, Format::Vhd, RepairScope::All).unwrap()[2], 1);
    assert!(std::fs::read(&path).unwrap() == damaged);
}

/// An image in whose log is the table that it needs, and the disk.
fn logged() -> (Vec<u8>, Vec<u8>) {
    let image = Vhdx::dynamic(8 * MIB as u64).filled(2, 0x22).filled(5, 0x55);
    let new = image.build();
    let mut file = new.clone();
    let bat = image.bat_at() as usize;
    file[bat..bat + image.bat_len() as usize].fill(0);
    let log = Log::default().entry(file.len() as u64, changed_pages(&file, &new));
    image.put_log(&mut file, &log);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    std::fs::write(&path, &new).unwrap();
    (file, our_bytes(&path, Format::Vhdx).unwrap())
}

#[test]
fn what_is_in_the_log_is_made_in_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let (file, bytes) = logged();
    std::fs::write(&path, &file).unwrap();
    assert_eq!(repair(&path, Format::Vhdx, RepairScope::Leaks).unwrap()[3], 1);
    assert!(std::fs::read(&path).unwrap() == file);
    assert_eq!(repair(&path, Format::Vhdx, RepairScope::All).unwrap(), [0, 1, 0, 0]);
    assert!(our_bytes(&path, Format::Vhdx).unwrap() == bytes);
    assert!(qemu_bytes(&path, "vhdx") == bytes);
    // Children of the disk still fit it.
    let new = std::fs::read(&path).unwrap();
    let data_write = |file: &[u8]| file[(64 << 10) + 32..(64 << 10) + 48].to_vec();
    assert_eq!(data_write(&new), data_write(&file));
    // A log that cannot be read is left.
    let mut damaged = file.clone();
    let log = (1..damaged.len() / 4096).find(|n| damaged[n * 4096..].starts_with(b"loge")).unwrap();
    damaged[log * 4096 + 100] ^= 1;
    std::fs::write(&path, &damaged).unwrap();
    assert_eq!(repair(&path, Format::Vhdx, RepairScope::All).unwrap()[2], 1);
    assert!(std::fs::read(&path).unwrap() == damaged);
}

#[test]
fn after_a_crash_the_image_is_not_worse() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let mut states = 0;
    let (file, bytes) = logged();
    let mut images = vec![(Format::Vhdx, "log", file, bytes)];
    for sample in samples() {
        for (what, at, bytes) in repaired(&sample) {
            let mut damaged = sample.file.clone();
            damaged[at..at + bytes.len()].copy_from_slice(&bytes);
            images.push((sample.format, what, damaged, sample.bytes.clone()));
        }
    }
    for (format, what, file, bytes) in images {
        let storage = Arc::new(RecordingStorage::new(file, None));
        let repair_it =
            Repair::new(RepairScope::All).open_options(OpenOptions::new().format(format));
        repair_it.run_on(Arc::clone(&storage) as _, "image", &mut |_, _| {}).unwrap();
        let mut number = 0;
        states += storage.crash_states(7, if full() { 1 } else { 30 }, |state| {
            number += 1;
            if !full() && number % 16 > 1 {
                return;
            }
            std::fs::write(&path, state).unwrap();
            let is_lost = what == "checksum of the header";
            let found = our_bytes(&path, format);
            assert!(found.as_ref() == Some(&bytes) || is_lost && found.is_none(), "{what}");
            assert_eq!(repair(&path, format, RepairScope::All).unwrap()[2..], [0, 0], "{what}");
            assert!(our_bytes(&path, format).as_ref() == Some(&bytes), "{what}");
        });
    }
    assert!(states > 50, "{states}");
}

/// Bytes of metadata are changed at random: a repair changes nothing that a guest could read, and
/// leaves no more damage than there was.
#[test]
fn a_repair_does_not_make_damage_worse() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = |limit: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 16) as usize % limit
    };
    let (log, bytes) = logged();
    let logged = Sample { format: Format::Vhdx, qemu: "vhdx", file: log, bytes };
    let mut changed = 0;
    for sample in samples().iter().chain([&logged]) {
        let len = sample.file.len();
        let ranges = match sample.format {
            Format::Vmdk => {
                let [redundant, primary, copy, table] = places_in_vmdk(&sample.file);
                vec![
                    0..512,
                    redundant..redundant + 16,
                    primary..primary + 16,
                    copy..copy + 512,
                    table..table + 512,
                ]
            }
            Format::Vhd => {
                let header = be64(&sample.file, 16);
                let table = be64(&sample.file, header + 16);
                vec![0..512, header..header + 1024, table..table + 16, len - 512..len]
            }
            _ => [64, 128, 192, 256]
                .map(|kib| kib << 10..(kib << 10) + 120)
                .into_iter()
                .chain([MIB..MIB + 4096, MIB + 4096..MIB + 8192])
                .collect(),
        };
        for _ in 0..if full() { 5000 } else { 150 } {
            let mut damaged = sample.file.clone();
            for _ in 0..=next(3) {
                let range = ranges[next(ranges.len())].clone();
                let at = range.start + next(range.len());
                match next(4) {
                    0 => damaged[at] = 0,
                    1 => damaged[at] = 0xff,
                    2 => damaged[at..(at + 512).min(range.end)].fill(0),
                    _ => damaged[at] ^= 1 << next(8),
                }
            }
            std::fs::write(&path, &damaged).unwrap();
            let before = our_bytes(&path, sample.format);
            let counts = repair(&path, sample.format, RepairScope::All);
            let after = our_bytes(&path, sample.format);
            assert!(before.is_none() || before == after, "{:?}", sample.format);
            match counts {
                Ok([bad, warned, left, still]) => assert!(left <= bad + 1 && still <= warned),
                Err(_) => assert!(std::fs::read(&path).unwrap() == damaged),
            }
            let new = std::fs::read(&path).unwrap();
            changed += u32::from(new != damaged);
            let again = repair(&path, sample.format, RepairScope::All);
            assert!(again.is_err() || std::fs::read(&path).unwrap() == new);
        }
    }
    assert!(changed > 50, "{changed}");
}

/// A disk in several sparse files, each with its own directories and tables.
#[test]
fn every_extent_of_a_split_disk_is_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.vmdk");
    let file = path.to_str().unwrap();
    let options = "subformat=twoGbMaxExtentSparse";
    run("qemu-img", ["create", "-q", "-f", "vmdk", "-o", options, file, "5G"]);
    for command in ["write -P 1 1M 200k", "write -P 2 2050M 300k", "write -P 3 4097M 100k"] {
        run("qemu-io", ["-f", "vmdk", "-c", command, file]);
    }
    let extents = [1, 2, 3].map(|number| dir.path().join(format!("disk-s00{number}.vmdk")));
    let originals = extents.clone().map(|extent| std::fs::read(extent).unwrap());
    let damage = || {
        for (number, (extent, original)) in extents.iter().zip(&originals).enumerate() {
            let mut damaged = original.clone();
            let [redundant, primary, copy, _] = places_in_vmdk(original);
            match number {
                0 => damaged[primary..primary + 4].fill(0),
                1 => damaged[copy..copy + 512].fill(0),
                _ => {
                    damaged[72] = 1;
                    damaged[redundant..redundant + 4].fill(0xff);
                }
            }
            std::fs::write(extent, damaged).unwrap();
        }
    };
    let repair = |options: OpenOptions, backup: Option<&Path>| {
        let repair = Repair::new(RepairScope::All).open_options(options);
        let repair = match backup {
            Some(path) => repair.backup(std::fs::File::create_new(path).unwrap()),
            None => repair,
        };
        repair.run(&path, &mut |_, _| {}).unwrap().unwrap()
    };
    let read = || extents.clone().map(|extent| std::fs::read(extent).unwrap());
    let named = || OpenOptions::new().format(Format::Vmdk);

    // The format must be named, and what is overwritten in further files cannot be saved.
    damage();
    let damaged = read();
    let backup = dir.path().join("backup");
    for done in [repair(OpenOptions::new(), None), repair(named(), Some(&backup))] {
        assert!(done.after.corruptions >= 3 && done.after.corruptions_fixed == 0, "{done:?}");
        assert!(read() == damaged);
    }
    let done = repair(named(), None);
    assert_eq!((done.after.corruptions, done.after.leaks, done.after.check_errors), (0, 0, 0));
    assert!(done.after.corruptions_fixed >= 3, "{done:?}");
    run("qemu-img", ["check", "-q", "-f", "vmdk", file]);
    for (command, at) in [("read -P 1 1M 200k", 0), ("read -P 2 2050M 300k", 1)] {
        let output = run("qemu-io", ["-f", "vmdk", "-r", "-c", command, file]);
        assert!(!output.contains("failed"), "{at}");
    }
    // The damaged bytes of tables are as they were; a directory may refer to another copy.
    assert!(read()[1] == originals[1]);
    assert_eq!(read()[2][72], 0);
    assert_eq!(repair(named(), None).before.corruptions, 0);
}
