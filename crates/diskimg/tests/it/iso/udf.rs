//! UDF file systems created by other tools.

use diskimg::Image;
use diskimg::iso::{FileType, IsoImage, IsoOptions, Namespace, Node};
use diskimg::storage::source::{FileSource, MemorySource};
use diskimg_testkit::tool::run;
use sha2::Digest;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

fn open(path: &Path) -> IsoImage {
    let mut options = IsoOptions::default();
    options.namespace = Namespace::Udf;
    IsoImage::open(Arc::new(FileSource::open(path).unwrap()), &options).unwrap()
}

/// Returns path and contents of every regular file in an image.
fn files(image: &IsoImage) -> BTreeMap<String, Vec<u8>> {
    let found = image.walk().map(|found| found.unwrap());
    let regular = found.filter(|found| found.node.file_type == FileType::Regular);
    let read = regular.map(|found| {
        let contents = image.contents(&found.node).unwrap();
        let mut bytes = vec![0; contents.len() as usize];
        contents.read_exact_at(&mut bytes, 0).unwrap();
        (String::from_utf8(found.path).unwrap(), bytes)
    });
    read.collect()
}

#[test]
fn a_bridge_image_contains_the_source_tree() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    std::fs::create_dir_all(tree.join("one/two/three")).unwrap();
    let mut wanted = BTreeMap::new();
    let mut add = |name: String, bytes: Vec<u8>| {
        std::fs::write(tree.join(&name), &bytes).unwrap();
        wanted.insert(name, bytes);
    };
    add("empty".into(), vec![]);
    add("ünïcode-名前.txt".into(), b"names of two widths".to_vec());
    add("big".into(), (0..1_000_003u32).flat_map(|n| n.to_le_bytes()).collect());
    for n in 0..200 {
        add(format!("one/two/a file with a rather long name, number {n}"), vec![n; 40 * 50]);
    }
    add("one/two/three/deep".into(), b"deep".to_vec());
    let image = dir.path().join("image.iso");
    let (output, tree) = (image.to_str().unwrap(), tree.to_str().unwrap());
    run("genisoimage", ["-quiet", "-udf", "-V", "BRIDGE", "-o", output, tree]);
    let image = open(&image);
    assert_eq!(files(&image), wanted);
    let info = image.info().unwrap().udf.unwrap();
    assert_eq!((&*info.label, &*info.revision, info.block_size), ("BRIDGE", "1.02", 2048));
}

#[test]
fn empty_file_systems_of_every_media_type_and_block_size_are_read() {
    let dir = tempfile::tempdir().unwrap();
    for (media, revision, block, kinds) in [
        ("hd", "1.02", 512, &["plain"][..]),
        ("hd", "1.50", 1024, &["plain"]),
        ("hd", "2.01", 4096, &["plain"]),
        ("hd", "2.01", 32768, &["plain"]),
        ("dvd", "1.02", 2048, &["plain"]),
        ("dvdram", "2.00", 2048, &["plain"]),
        ("cdrw", "1.50", 2048, &["sparable"]),
        ("dvdrw", "2.01", 2048, &["sparable"]),
        ("cdr", "1.50", 2048, &["plain", "virtual"]),
        ("cdr", "2.01", 2048, &["plain", "virtual"]),
        ("dvdr", "2.60", 2048, &["plain", "virtual"]),
    ] {
        let name = format!("{media} {revision} {block}");
        let path = dir.path().join(&name);
        std::fs::File::create(&path).unwrap().set_len(48 << 20).unwrap();
        let options = [
            format!("--media-type={media}"),
            format!("--udfrev={revision}"),
            format!("--blocksize={block}"),
            "--label=Etikett ü".into(),
            path.to_str().unwrap().into(),
        ];
        run("mkudffs", options);
        let image = open(&path);
        let info = image.info().unwrap().udf.unwrap();
        assert_eq!((&*info.label, &*info.revision), ("Etikett ü", revision), "{name}");
        assert_eq!(info.block_size, block, "{name}");
        let found: Vec<_> = info.partitions.iter().map(|partition| partition.kind).collect();
        assert_eq!(found, kinds, "{name}");
        // Unusable space is recorded as a file of this name.
        let mut names = image.walk().map(|found| String::from_utf8(found.unwrap().path).unwrap());
        assert!(names.all(|name| name == "Non-Allocatable Space"), "{name}");
    }
}

/// Returns a line as in the recorded listings of Linux: path, mode, owner and group, size,
/// modification time, device, SHA-256, link target.
fn line(image: &IsoImage, path: &[u8], node: &Node) -> String {
    let attributes = &node.attributes;
    let kind = match node.file_type {
        FileType::Fifo => 0o010000,
        FileType::CharacterDevice => 0o020000,
        FileType::Directory => 0o040000,
        FileType::BlockDevice => 0o060000,
        FileType::Regular => 0o100000,
        FileType::Symlink => 0o120000,
        _ => 0o140000,
    };
    let (major, minor) = attributes.device.unwrap_or_default();
    let target = node.link_target.clone().unwrap_or_default();
    let (size, digest) = match node.file_type {
        FileType::Regular => {
            let contents = image.contents(node).unwrap();
            let mut bytes = vec![0; contents.len() as usize];
            contents.read_exact_at(&mut bytes, 0).unwrap();
            let digest = sha2::Sha256::digest(&bytes);
            (node.size, digest.iter().map(|byte| format!("{byte:02x}")).collect())
        }
        FileType::Symlink => (target.len() as u64, "-".to_owned()),
        _ => (node.size, "-".to_owned()),
    };
    format!(
        "{}\t{:x}\t{}:{}\t{size}\t{}\t{major:x},{minor:x}\t{digest}\t{}",
        String::from_utf8_lossy(path),
        kind | attributes.mode.unwrap(),
        attributes.uid.unwrap(),
        attributes.gid.unwrap(),
        attributes.modified.unwrap().seconds,
        String::from_utf8(target).unwrap(),
    )
}

#[test]
fn file_systems_written_by_linux_are_read_as_by_linux() {
    let testdata = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata");
    for name in ["udf-512", "udf-sparable"] {
        let disk = Image::open(testdata.join(name).with_extension("qcow2")).unwrap();
        let mut bytes = vec![0; disk.size() as usize];
        disk.read_at(&mut bytes, 0).unwrap();
        let image = IsoImage::open(Arc::new(MemorySource::new(bytes)), &IsoOptions::default());
        let image = image.unwrap();
        let found = image.walk().map(|found| found.unwrap());
        let mut lines: Vec<_> = found.map(|found| line(&image, &found.path, &found.node)).collect();
        lines.sort_unstable();
        let wanted = std::fs::read_to_string(testdata.join(name).with_extension("tsv")).unwrap();
        let mut wanted: Vec<_> = wanted.lines().collect();
        wanted.sort_unstable();
        assert_eq!(lines, wanted, "{name}");
        let info = image.info().unwrap().udf.unwrap();
        let kinds = wanted.iter().filter_map(|line| line.split('\t').nth(1));
        let directories = kinds.filter(|kind| kind.starts_with('4')).count() as u32;
        assert_eq!(info.directories, Some(directories + 1), "{name}, with the root");
        image.verify(&mut |finding| panic!("{name}: {finding}")).unwrap();
    }
}

#[test]
fn random_bytes_in_descriptors_do_not_panic() {
    let testdata = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata");
    for (name, block) in [("udf-512.qcow2", 512), ("udf-sparable.qcow2", 2048)] {
        let disk = Image::open(testdata.join(name)).unwrap();
        let mut bytes = vec![0; disk.size() as usize];
        disk.read_at(&mut bytes, 0).unwrap();
        // Blocks that begin with a valid tag. A byte changed after the tag affects only the CRC.
        let tagged = |start: &usize| {
            let tag = &bytes[*start..*start + 16];
            let sum = tag.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte));
            tag[0] != 0 && sum.wrapping_sub(tag[4]) == tag[4]
        };
        let blocks: Vec<_> = (0..bytes.len()).step_by(block).filter(tagged).collect();
        assert!(blocks.len() > 60, "{name}: {}", blocks.len());
        let mut state = 1u64;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % below
        };
        let mut detected = 0;
        for _ in 0..300 {
            let mut changed = bytes.clone();
            for _ in 0..1 + random(3) {
                let at = blocks[random(blocks.len())] + 16 + random(480);
                changed[at] = [0, 1, 0x7f, 0x80, 0xff][random(5)];
            }
            let mut options = IsoOptions::default();
            options.namespace = Namespace::Udf;
            let image = IsoImage::open(Arc::new(MemorySource::new(changed)), &options);
            let mut findings = 0;
            let whole = image.and_then(|image| image.verify(&mut |_| findings += 1));
            detected += usize::from(whole.is_err() || findings > 0);
        }
        assert!(detected > 3, "{name}: {detected} of 300 were detected");
    }
}
