//! Images that qemu-img does not write, but that exist. They are built by
//! `diskimg_testkit::parallels`.

use super::{error, findings, our_bytes, write, write_bytes};
use diskimg::check::Code;
use diskimg::inspection::Code as Inspected;
use diskimg::{ErrorKind, Format, Image, InspectOptions, OpenOptions, Probing, inspect};
use diskimg_testkit::parallels::{Feature, IN_USE, Parallels};
use diskimg_testkit::tool::{qemu_bytes, try_run};
use std::path::Path;

/// A disk of four clusters of 4 KiB and a sector, of which three clusters are allocated.
fn sample() -> Parallels {
    Parallels::new(33).cluster(3, 0x33).cluster(0, 0x10).cluster(4, 0x44)
}

fn codes(path: &Path) -> Vec<Inspected> {
    let found = inspect(path, &InspectOptions::new()).unwrap();
    found.findings.iter().map(|finding| finding.code).collect()
}

/// Runs `qemu-img check` and returns the counts of corruptions and leaks, or `None` if it crashes: an
/// assertion of QEMU 10.0 fails if a cluster is outside of the file.
fn qemu_check(path: &Path) -> Option<(u64, u64)> {
    let args = ["check", "--output", "json", "-f", "parallels", path.to_str().unwrap()];
    let output = try_run("qemu-img", args);
    output.status.code()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let json: serde_json::Value = serde_json::from_str(&text[text.find('{').unwrap()..]).unwrap();
    let count = |key: &str| json[key].as_u64().unwrap_or(0);
    Some((count("corruptions"), count("leaks")))
}

/// The same counts of ours.
fn our_check(path: &Path) -> (u64, u64) {
    let report = Image::open(path).unwrap().check(&mut |_| {}).unwrap().unwrap();
    (report.corruptions, report.leaks)
}

#[test]
fn both_magics_and_all_cluster_sizes_are_read_as_by_qemu_img() {
    let dir = tempfile::tempdir().unwrap();
    for cluster in [1, 8, 63, 504, 512, 2048] {
        let sectors = u64::from(cluster) * 5 - u64::from(cluster / 2);
        let fill = |image: Parallels| image.cluster(4, 4).cluster(1, 1).cluster(3, 3);
        for image in [
            fill(Parallels::old(sectors, cluster)),
            fill(Parallels { omit_data_off: false, ..Parallels::old(sectors, cluster) }),
            fill(Parallels { cluster_sectors: cluster, ..Parallels::new(sectors) }),
        ] {
            let path = write(dir.path(), "disk.hds", &image);
            assert!(our_bytes(&path) == image.bytes(), "{cluster}, {}", image.extended);
            assert!(qemu_bytes(&path, "parallels") == image.bytes(), "{cluster}");
            assert_eq!(findings(&path), [""; 0], "{cluster}, {}", image.extended);
            let info = Image::open(&path).unwrap().info(0).unwrap();
            assert_eq!(info.cluster_size, Some(u64::from(cluster) * 512));
        }
    }
}

/// The upper half of the size is undefined with the old magic.
#[test]
fn the_old_magic_has_a_size_of_32_bits() {
    let dir = tempfile::tempdir().unwrap();
    let image = Parallels::old(40, 8).cluster(1, 7);
    let mut file = image.build();
    file[40..44].fill(0xff);
    let path = write_bytes(dir.path(), "disk.hds", &file);
    assert_eq!(our_bytes(&path), image.bytes());
    assert_eq!(qemu_bytes(&path, "parallels"), image.bytes());
}

/// Programs of Parallels write other values than the specification lists when they close an image.
#[test]
fn only_one_value_says_that_an_image_was_not_closed() {
    let dir = tempfile::tempdir().unwrap();
    for (in_use, is_dirty) in
        [(0, false), (0x312e_3276, false), (0x3731_6470, false), (7, false), (IN_USE, true)]
    {
        let path = write(dir.path(), "disk.hds", &Parallels { in_use, ..sample() });
        assert_eq!(our_bytes(&path), sample().bytes());
        assert_eq!(Image::open(&path).unwrap().info(0).unwrap().dirty_flag, is_dirty);
        assert_eq!(our_check(&path), (u64::from(is_dirty), 0));
        assert_eq!(qemu_check(&path), Some(our_check(&path)), "{in_use:#x}");
        assert_eq!(codes(&path).contains(&Inspected::Dirty), is_dirty);
    }
}

#[test]
fn the_check_counts_what_qemu_img_counts() {
    let dir = tempfile::tempdir().unwrap();
    let whole = sample().build();
    let entry = |file: &[u8], index: usize| file[64 + 4 * index..][..4].to_vec();
    type Damage = Box<dyn Fn(&mut Vec<u8>)>;
    let damages: [(&str, Damage, (u64, u64)); 6] = [
        ("nothing", Box::new(|_| {}), (0, 0)),
        ("leaked bytes", Box::new(|file| file.extend([1; 1000])), (0, 1)),
        ("leaked clusters", Box::new(|file| file.extend([1; 9000])), (0, 3)),
        ("a cluster outside", Box::new(|file| file[64] = 200), (1, 0)),
        (
            "the same cluster twice",
            Box::new(move |file| {
                let first = entry(file, 3);
                file[64..68].copy_from_slice(&first);
            }),
            (1, 0),
        ),
        ("a wrong start of the data area", Box::new(|file| file[48] = 0), (1, 0)),
    ];
    for (name, damage, counts) in damages {
        let mut file = whole.clone();
        damage(&mut file);
        let path = write_bytes(dir.path(), "disk.hds", &file);
        assert_eq!(our_check(&path), counts, "{name}: {:?}", findings(&path));
        let theirs = qemu_check(&path);
        assert!(theirs == Some(counts) || name == "a cluster outside", "{name}: {theirs:?}");
    }
}

/// QEMU returns the bytes of the one cluster for both, and zeros for what is outside of the file.
#[test]
fn clusters_that_overlap_others_or_metadata_or_are_outside_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let old = Parallels::old(40, 8).cluster(1, 0x11).cluster(2, 0x22);
    for (entry, message) in [
        (1, "refer to the same cluster, or to two that overlap"),
        (8, "refer to the same cluster, or to two that overlap"),
        (0x100, "beyond the end of the file"),
    ] {
        let mut file = old.build();
        file[64 + 4 * 3..][..4].copy_from_slice(&u32::to_le_bytes(entry));
        let path = write_bytes(dir.path(), "disk.hds", &file);
        let error = error(&path);
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{entry}");
        assert!(error.to_string().contains(message), "{entry}: {error}");
        assert!(our_check(&path).0 > 0 && !codes(&path).is_empty(), "{entry}");
    }
    // With a table of more than a sector, so that an entry can point to it.
    let image = Parallels::new(8 * 1100).cluster(5, 5);
    let mut file = image.build();
    file[64..68].copy_from_slice(&1u32.to_le_bytes());
    let error = error(&write_bytes(dir.path(), "disk.hds", &file));
    assert!(error.to_string().contains("overlaps the header or the table"), "{error}");
}

/// The disk of 33 sectors needs only one of the last cluster. QEMU takes it for outside the file.
#[test]
fn a_file_may_end_within_its_last_cluster_if_the_disk_does() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = sample().build();
    file.truncate(file.len() - 7 * 512);
    let path = write_bytes(dir.path(), "disk.hds", &file);
    assert_eq!(our_bytes(&path), sample().bytes());
    assert_eq!(our_check(&path), (1, 0));
    assert!(matches!(qemu_check(&path), None | Some((1, _))));
    file.pop();
    let error = error(&write_bytes(dir.path(), "short.hds", &file));
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_eq!(error.lost(), Some(32 * 512..33 * 512), "{error}");
}

/// The specification says that such an image is to be considered clear, but no reader does so.
#[test]
fn an_image_that_is_flagged_as_empty_is_read_with_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "disk.hds", &Parallels { flags: 1, ..sample() });
    assert_eq!(our_bytes(&path), sample().bytes());
    assert_eq!(qemu_bytes(&path, "parallels"), sample().bytes());
    let warnings: Vec<_> = Image::open(&path).unwrap().warnings().collect();
    assert!(warnings.concat().contains("says that the image is empty"), "{warnings:?}");
    assert!(codes(&path).contains(&Inspected::CopiesDiffer));
    let path = write(dir.path(), "empty.hds", &Parallels { flags: 1, ..Parallels::new(33) });
    assert_eq!(Image::open(&path).unwrap().warnings().count(), 0);
}

const ID: [u8; 16] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];

fn with_features(features: &[Feature]) -> Parallels {
    Parallels { features: Some(features.to_vec()), ..sample() }
}

fn unknown(flags: u64) -> Feature {
    Feature { magic: 0x1234_5678, flags, data: b"some data".to_vec() }
}

#[test]
fn dirty_bitmaps_are_listed_and_the_digest_is_verified() {
    let dir = tempfile::tempdir().unwrap();
    let image = with_features(&[Feature::bitmap(33, 8, ID)]);
    let path = write(dir.path(), "disk.hds", &image);
    assert_eq!(our_bytes(&path), image.bytes());
    // QEMU verifies the digest, and refuses an image in which it is wrong.
    assert_eq!(qemu_bytes(&path, "parallels"), image.bytes());
    assert_eq!(findings(&path), [""; 0]);
    let info = Image::open(&path).unwrap().info(0).unwrap();
    let json = serde_json::to_value(&info).unwrap();
    let bitmap = &json["format-specific"]["data"]["bitmaps"][0];
    assert_eq!(bitmap["name"], "01020304-0506-0708-090a-0b0c0d0e0f10");
    assert_eq!(bitmap["granularity"], 4096);
    let mut file = image.build();
    *file.last_mut().unwrap() ^= 1;
    let path = write_bytes(dir.path(), "disk.hds", &file);
    assert_eq!(our_bytes(&path), image.bytes());
    assert!(findings(&path)[0].contains("digest"), "{:?}", findings(&path));
    // The disk was made larger without regard to the bitmap.
    let path = write(dir.path(), "disk.hds", &with_features(&[Feature::bitmap(32, 8, ID)]));
    assert!(findings(&path)[0].contains("has 32 sectors, but the disk has 33"));
    let path = write(dir.path(), "disk.hds", &with_features(&[Feature::bitmap(33, 3, ID)]));
    assert!(findings(&path)[0].contains("no power of two"));
}

/// The specification forbids only to write an image with an unknown feature that is necessary.
#[test]
fn an_image_with_unknown_features_is_read() {
    let dir = tempfile::tempdir().unwrap();
    for (flags, code) in [
        (0, Inspected::UnknownCompatibleFeatures),
        (2, Inspected::UnknownCompatibleFeatures),
        (1, Inspected::UnknownFeatures),
        (3, Inspected::UnknownFeatures),
    ] {
        let image = with_features(&[unknown(flags)]);
        let path = write(dir.path(), "disk.hds", &image);
        assert_eq!(our_bytes(&path), image.bytes());
        assert_eq!(codes(&path), [code], "{flags}");
        let warnings = Image::open(&path).unwrap().warnings().collect::<Vec<_>>().concat();
        let is_named = warnings.contains("0x0000000012345678");
        assert_eq!(is_named, flags & 1 != 0, "{warnings}");
    }
}

#[test]
fn a_damaged_format_extension_does_not_affect_the_data() {
    let dir = tempfile::tempdir().unwrap();
    let image = with_features(&[unknown(1), Feature::bitmap(33, 8, ID)]);
    let at = image.build().len() - 4096;
    type Damage = fn(&mut Vec<u8>, usize);
    let damages: [(&str, Damage); 5] = [
        ("the magic is", |file, at| file[at] ^= 1),
        ("extends beyond the end of the file", |file, _| file[58] = 1),
        ("extends beyond the end of the file", |file, _| file[56..64].fill(0xff)),
        ("extends beyond it", |file, at| file[at + 24 + 17] = 0xff),
        ("extends beyond its bitmap", |file, at| file[at + 24 + 40 + 24 + 28] = 2),
    ];
    for (message, damage) in damages {
        let mut file = image.build();
        damage(&mut file, at);
        let path = write_bytes(dir.path(), "disk.hds", &file);
        assert_eq!(our_bytes(&path), image.bytes(), "{message}");
        let found = findings(&path).concat();
        assert!(found.contains(message), "{message}: {found}");
        assert!(our_check(&path).0 > 0);
    }
}

/// QEMU does not know the extension when it writes: it may store data there.
#[test]
fn data_in_place_of_the_format_extension_is_read_and_found_by_the_check() {
    let dir = tempfile::tempdir().unwrap();
    let image = sample();
    let mut file = image.build();
    file[56..64].copy_from_slice(&(image.data_at() as u64 / 512).to_le_bytes());
    let path = write_bytes(dir.path(), "disk.hds", &file);
    assert_eq!(our_bytes(&path), image.bytes());
    assert!(findings(&path).concat().contains("overlaps the format extension"));
}

#[test]
fn damage_is_an_error_that_says_what_and_where() {
    let dir = tempfile::tempdir().unwrap();
    let set = |at: usize, bytes: &[u8]| {
        let mut file = sample().build();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    for (message, kind, file) in [
        ("offset 0x10: version 3", ErrorKind::Unsupported, set(16, &[3])),
        ("offset 0x1c: clusters of 0 sectors", ErrorKind::Corrupt, set(28, &[0; 4])),
        ("clusters of 4294967295 sectors", ErrorKind::Corrupt, set(28, &[0xff; 4])),
        ("offset 0x20: the table has 4 entries", ErrorKind::Corrupt, set(32, &[4])),
        ("offset 0x24", ErrorKind::Corrupt, set(36, &[0xff; 8])),
        ("has only 40 bytes", ErrorKind::Corrupt, sample().build()[..40].to_vec()),
        ("beyond the end of the file", ErrorKind::Corrupt, sample().build()[..72].to_vec()),
    ] {
        let error = error(&write_bytes(dir.path(), "disk.hds", &file));
        assert_eq!(error.kind(), kind, "{message}: {error}");
        assert!(error.to_string().contains(message), "{message}: {error}");
    }
}

/// A small file must not claim a table of gigabytes, nor a disk that takes hours to read.
#[test]
fn exabytes_in_a_small_file_are_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = sample().build();
    file[32..36].fill(0xff);
    file[36..44].copy_from_slice(&(u64::from(u32::MAX) * 8).to_le_bytes());
    let error = error(&write_bytes(dir.path(), "disk.hds", &file));
    assert_eq!((error.kind(), error.exceeded()), (ErrorKind::Limit, Some("table_bytes")));
}

/// QEMU recognizes version 2 only, and no descriptors.
#[test]
fn images_and_descriptors_are_recognized_by_their_contents() {
    let dir = tempfile::tempdir().unwrap();
    let probe = |bytes: &[u8], probing| {
        let path = write_bytes(dir.path(), "disk.img", bytes);
        OpenOptions::new().probing(probing).open(path).map(|image| image.format())
    };
    let whole = sample().build();
    assert_eq!(probe(&whole, Probing::All).unwrap(), Format::Parallels);
    assert_eq!(probe(&whole, Probing::LikeQemu).unwrap(), Format::Parallels);
    let mut version_3 = whole.clone();
    version_3[16] = 3;
    assert_eq!(probe(&version_3, Probing::All).unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(probe(&version_3, Probing::LikeQemu).unwrap(), Format::Raw);
    assert_eq!(probe(b"<?xml?><a/>", Probing::All).unwrap(), Format::Raw);
}

/// As the specification words it.
#[test]
fn clusters_that_are_not_aligned_are_only_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let image = Parallels::old(40, 8).cluster(1, 0x11);
    let mut file = image.build();
    file.splice(image.data_at()..image.data_at(), [0; 512]);
    let entry = image.data_at() as u32 / 512 + 1;
    file[68..72].copy_from_slice(&entry.to_le_bytes());
    let path = write_bytes(dir.path(), "disk.hds", &file);
    assert_eq!(our_bytes(&path), image.bytes());
    let mut found = Vec::new();
    let image = Image::open(&path).unwrap();
    image.check(&mut |finding| found.push((finding.code, finding.message))).unwrap();
    let [(Code::Corruption, message)] = &found[..] else { panic!("{found:?}") };
    assert!(message.contains("not aligned"), "{message}");
}
