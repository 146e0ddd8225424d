//! `resize` that moves the backup of a GUID partition table, verified by sgdisk and sfdisk.

use diskimg::partition::{self, Scheme};
use diskimg::{
    Convert, ErrorKind, Format, Image, NewSize, OpenOptions, Options, Preallocation, Resize,
};
use diskimg_testkit::crash::RecordingStorage;
use diskimg_testkit::tool::{full, run, try_run};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MIB: u64 = 1 << 20;

/// Size of a disk whose partitions end before 12 MiB.
const SIZE: u64 = 20 * MIB;

/// Creates a raw disk with two partitions of data.
fn partitioned(dir: &Path) -> PathBuf {
    let path = dir.join("disk.raw");
    std::fs::File::create(&path).unwrap().set_len(SIZE).unwrap();
    let partitions = ["-n", "1:2048:+4M", "-n", "2:14336:+5M", "-c", "1:Größe", "-t", "1:ef00"];
    run("sgdisk", partitions.iter().copied().chain([path.to_str().unwrap()]));
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    use std::os::unix::fs::FileExt;
    file.write_all_at(&[0x77; 5 << 20], 7 * MIB).unwrap();
    file.write_all_at(b"boot code", 0).unwrap();
    path
}

/// Asserts that both programs find no problem in a raw disk.
fn assert_verified(raw: &Path, what: &str) {
    let name = raw.to_str().unwrap();
    let text = run("sgdisk", ["-v", name]);
    assert!(text.contains("No problems found"), "{what}: {text}");
    let ran = try_run("sfdisk", ["--verify", name]);
    let text = format!("{ran:?}");
    assert!(ran.status.success() && text.contains("No errors detected"), "{what}: {text}");
}

fn resize(path: &Path, format: Format, size: u64) -> Result<(), diskimg::Error> {
    Resize::new(NewSize::Bytes(size))
        .open_options(OpenOptions::new().format(format))
        .shrink(true)
        .fix_gpt(true)
        .run(path)
        .map(|_| ())
}

/// Returns the guest's bytes, and writes them to `raw`.
fn to_raw(path: &Path, format: Format, raw: &Path) -> Vec<u8> {
    let image = OpenOptions::new().format(format).open(path).unwrap();
    let mut bytes = vec![0; image.size() as usize];
    image.read_at(&mut bytes, 0).unwrap();
    std::fs::write(raw, &bytes).unwrap();
    bytes
}

#[test]
fn partition_tables_in_images_of_every_format_follow_the_size() {
    let formats = [
        (Format::Raw, ""),
        (Format::Qcow2, ""),
        (Format::Vhd, "subformat=dynamic"),
        (Format::Vhd, "subformat=fixed"),
        (Format::Vhdx, ""),
        (Format::Vdi, ""),
        (Format::Vmdk, ""),
        (Format::Vmdk, "subformat=monolithicFlat"),
        (Format::Vmdk, "subformat=twoGbMaxExtentSparse"),
    ];
    for (format, options) in formats {
        let dir = tempfile::tempdir().unwrap();
        let (raw, copy) = (partitioned(dir.path()), dir.path().join("copy.raw"));
        let before = std::fs::read(&raw).unwrap();
        let path = dir.path().join("image");
        let image = OpenOptions::new().format(Format::Raw).open(&raw).unwrap();
        let convert = Convert::new(image).format(format);
        convert.options(Options::parse(options).unwrap()).run(&path).unwrap();
        for size in [50 * MIB, 30 * MIB, 30 * MIB, 13 * MIB] {
            let what = format!("{format:?} {options} {size}");
            resize(&path, format, size).unwrap_or_else(|e| panic!("{what}: {e}"));
            let bytes = to_raw(&path, format, &copy);
            assert_eq!(bytes.len() as u64, size, "{what}");
            assert_verified(&copy, &what);
            // Boot code, entries and partitions are as before.
            assert!(
                bytes[..446] == before[..446] && bytes[1024..13 << 10] == before[1024..13 << 10]
            );
            assert!(bytes[1 << 20..12 << 20] == before[1 << 20..12 << 20], "{what}");
            let headers = bytes.chunks(512).filter(|sector| sector.starts_with(b"EFI PART"));
            assert_eq!(headers.count(), 2, "{what}");
        }
        // The second partition would be cut.
        let error = resize(&path, format, 12 * MIB).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
        assert!(error.to_string().contains("partition 2 ends at byte 12582912"), "{error}");
        assert_eq!(to_raw(&path, format, &copy).len() as u64, 13 * MIB);
    }
}

/// A disk that was made larger without that gets its backup at the end when its size stays.
#[test]
fn a_table_is_moved_without_a_change_of_size() {
    let dir = tempfile::tempdir().unwrap();
    let path = partitioned(dir.path());
    run("qemu-img", ["resize", "-q", "-f", "raw", path.to_str().unwrap(), "40M"]);
    assert!(!run("sgdisk", ["-v", path.to_str().unwrap()]).contains("No problems"));
    Resize::new(NewSize::Grow(0))
        .open_options(OpenOptions::new().format(Format::Raw))
        .fix_gpt(true)
        .run(&path)
        .unwrap();
    assert_verified(&path, "40M");
}

#[test]
fn without_a_valid_table_nothing_changes() {
    let dir = tempfile::tempdir().unwrap();
    let path = partitioned(dir.path());
    let whole = std::fs::read(&path).unwrap();
    let damaged = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    let cases = [
        (vec![0; 1 << 20], ErrorKind::Invalid),
        (damaged(512), ErrorKind::Corrupt),
        (damaged(512 + 60), ErrorKind::Corrupt),
        (damaged(1024 + 33), ErrorKind::Corrupt),
    ];
    for (bytes, kind) in cases {
        std::fs::write(&path, &bytes).unwrap();
        for size in [13 * MIB, 40 * MIB] {
            let error = resize(&path, Format::Raw, size).unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(std::fs::read(&path).unwrap() == bytes);
        }
    }
}

/// Returns a disk with sectors of 4096 bytes, whose table is written as UEFI specifies it.
fn native_4k(sectors: u64) -> Vec<u8> {
    let mut disk = vec![0; sectors as usize * 4096];
    let mut entries = vec![0; 128 * 128];
    entries[..16].fill(0x11);
    entries[16..32].fill(0x22);
    entries[32..40].copy_from_slice(&256_u64.to_le_bytes());
    entries[40..48].copy_from_slice(&700_u64.to_le_bytes());
    let header = |own: u64, other: u64, entries_at: u64| {
        let mut bytes = b"EFI PART\0\0\x01\0\x5c\0\0\0\0\0\0\0\0\0\0\0".to_vec();
        for number in [own, other, 6, sectors - 6] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend([0x33; 16]);
        bytes.extend(entries_at.to_le_bytes());
        for number in [128, 128, crc32(&entries)] {
            bytes.extend(u32::to_le_bytes(number));
        }
        let crc = crc32(&bytes);
        bytes[16..20].copy_from_slice(&crc.to_le_bytes());
        bytes
    };
    let mut put = |sector: u64, bytes: &[u8]| {
        disk[sector as usize * 4096..][..bytes.len()].copy_from_slice(bytes);
    };
    put(1, &header(1, sectors - 1, 2));
    put(2, &entries);
    put(sectors - 5, &entries);
    put(sectors - 1, &header(sectors - 1, 1, sectors - 5));
    disk[446..462].copy_from_slice(&[0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0, 0, 0, 0]);
    disk[458..462].copy_from_slice(&(sectors as u32 - 1).to_le_bytes());
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk
}

/// CRC-32 of IEEE 802.3.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & !((crc & 1).wrapping_sub(1)))
        })
    })
}

#[test]
fn sectors_of_4096_bytes_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.raw");
    for sectors in [800, 1000, 2000, 709] {
        std::fs::write(&path, native_4k(1000)).unwrap();
        resize(&path, Format::Raw, sectors * 4096).unwrap();
        // The whole disk is what a program writes for one of this size.
        let mut wanted = native_4k(sectors);
        let found = std::fs::read(&path).unwrap();
        // Not the end of the protective partition as cylinder, head and sector.
        wanted[451..454].copy_from_slice(&found[451..454]);
        if sectors > 1000 {
            // The old entries remain: nothing refers to them.
            let old = 995 * 4096..995 * 4096 + 128;
            wanted[old.clone()].copy_from_slice(&found[old]);
        }
        assert!(found == wanted, "{sectors}");
    }
    std::fs::write(&path, native_4k(1000)).unwrap();
    assert_eq!(
        resize(&path, Format::Raw, 900 * 4096 + 512).unwrap_err().kind(),
        ErrorKind::Invalid
    );
    assert_eq!(resize(&path, Format::Raw, 705 * 4096).unwrap_err().kind(), ErrorKind::Refused);
    assert!(std::fs::read(&path).unwrap() == native_4k(1000));
}

/// Firmware reads the primary header in sector 1, and looks for another in the last sector.
#[test]
fn after_a_crash_the_primary_table_is_valid_and_the_partitions_are_as_before() {
    let dir = tempfile::tempdir().unwrap();
    let raw = partitioned(dir.path());
    let data = std::fs::read(&raw).unwrap();
    let mut states = 0;
    for format in [Format::Raw, Format::Qcow2] {
        let path = dir.path().join("image");
        let image = OpenOptions::new().format(Format::Raw).open(&raw).unwrap();
        Convert::new(image).format(format).run(&path).unwrap();
        let file = std::fs::read(&path).unwrap();
        for size in [13 * MIB, 24 * MIB] {
            let storage = Arc::new(RecordingStorage::new(file.clone(), None));
            Resize::new(NewSize::Bytes(size))
                .open_options(OpenOptions::new().format(format))
                .shrink(true)
                .fix_gpt(true)
                .preallocation(Preallocation::Off)
                .run_on(Arc::clone(&storage) as _, "target")
                .unwrap();
            let mut number = 0;
            states += storage.crash_states(7, if full() { 1 } else { 8 }, |state| {
                number += 1;
                if !full() && number % 8 > 1 {
                    return;
                }
                std::fs::write(&path, state).unwrap();
                let image = OpenOptions::new().format(format).open(&path).unwrap();
                assert!([SIZE, size].contains(&image.size()));
                assert_table(image);
                let image = OpenOptions::new().format(format).open(&path).unwrap();
                let mut bytes = vec![0; 5 << 20];
                image.read_at(&mut bytes, 7 * MIB).unwrap();
                assert!(bytes == data[7 << 20..12 << 20]);
            });
        }
    }
    assert!(states > 100, "{states}");
}

fn assert_table(image: Image) {
    let mut header = [0; 512];
    image.read_at(&mut header, 512).unwrap();
    let other = u64::from_le_bytes(header[32..40].try_into().unwrap());
    let sectors = image.size() / 512;
    let table = partition::table(&image, None).unwrap().unwrap();
    assert_eq!((table.scheme, table.partitions.len()), (Scheme::Gpt, 2));
    assert_eq!(&header[..8], b"EFI PART");
    let sum = u32::from_le_bytes(header[16..20].try_into().unwrap());
    header[16..20].fill(0);
    assert_eq!(crc32(&header[..92]), sum);
    // A backup is where the primary header says, unless the disk has no such sector any more.
    if other < sectors {
        image.read_at(&mut header, other * 512).unwrap();
        assert_eq!(&header[..8], b"EFI PART");
    }
}

#[test]
fn if_the_disk_cannot_be_made_smaller_its_table_is_as_before() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, copy) = (partitioned(dir.path()), dir.path().join("copy.raw"));
    let open = || OpenOptions::new().format(Format::Raw).open(&raw).unwrap();
    let before = std::fs::read(&raw).unwrap();
    // QED cannot be made smaller, nor can version 2 of qcow2 with snapshots.
    for (format, options) in [(Format::Qed, ""), (Format::Qcow2, "compat=0.10")] {
        let path = dir.path().join(format.name());
        let convert = Convert::new(open()).format(format);
        convert.options(Options::parse(options).unwrap()).run(&path).unwrap();
        if format == Format::Qcow2 {
            run("qemu-img", ["snapshot", "-c", "s", path.to_str().unwrap()]);
        }
        let error = resize(&path, format, 15 * MIB).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{format:?}: {error}");
        let now = to_raw(&path, format, &copy);
        // A copy of the table may stay where its backup was for a moment, in unused space.
        let moved = 15 * MIB as usize - 33 * 512..15 * MIB as usize;
        let changed = (0..now.len()).find(|n| !moved.contains(n) && now[*n] != before[*n]);
        assert_eq!((now.len(), changed), (before.len(), None), "{format:?}");
        assert_verified(&copy, format.name());
    }
}
