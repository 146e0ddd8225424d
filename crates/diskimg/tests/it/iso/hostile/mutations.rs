//! Randomly damaged images: reading never panics and always returns the same results.

use diskimg::ErrorKind;
use diskimg::iso::{FileType, IsoImage, IsoOptions, Namespace};
use diskimg::storage::source::MemorySource;
use diskimg_testkit::iso::{FREE, GOOD_AT, IsoBuilder, ROOT, Record, SECTOR, susp, utf16};
use diskimg_testkit::tool::{cases, run};
use proptest::prelude::*;
use proptest::sample::Index;
use std::sync::{Arc, OnceLock};

/// Returns images with every structure that diskimg reads.
fn samples() -> &'static [Vec<u8>] {
    static SAMPLES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    SAMPLES.get_or_init(|| vec![built(), genisoimage()])
}

fn built() -> Vec<u8> {
    let entries = [susp::tf(), susp::ce(FREE + 1, 0, 200)];
    let link = Record::rock_link("link", "/usr/../d/./inside");
    let device = Record::file("N", 0, 0).with_system_use(&[
        susp::px(0o020_644),
        susp::nm("null"),
        susp::pn(1, 3),
    ]);
    let compressed = Record::rock("compressed", FREE + 4, 200, &[susp::zf(4, 15, 40_000)]);
    let moved = Record::file("M", FREE, 2048).with_system_use(&[
        susp::px(0o040_755),
        susp::nm("moved"),
        susp::cl(FREE + 2),
    ]);
    let parts = [0x80, 0].map(|flags| Record::rock("two", GOOD_AT, 2048, &[]).with_flags(flags));
    let records = [
        Record::rock("long", GOOD_AT, 33, &entries),
        link,
        device,
        compressed,
        moved,
        parts[0].clone(),
        parts[1].clone(),
    ];
    let mut builder = IsoBuilder::rock_ridge(&records);
    builder.joliet(&[Record::file(utf16("emoji 😀;1"), GOOD_AT, 33)]);
    builder.dir(FREE, ROOT, &[Record::rock("inside", GOOD_AT, 33, &[])]);
    builder.put(FREE + 1, &[susp::nm_flags(0, " and so on"), susp::ce(FREE + 3, 0, 100)].concat());
    builder.put(
        FREE + 2,
        &diskimg_testkit::iso::directory(FREE + 2, FREE, &[susp::pl(ROOT), susp::re()], &[]),
    );
    builder.put(FREE + 3, &susp::nm_flags(0, " and on"));
    let mut header = vec![0x37, 0xE4, 0x53, 0x96, 0xC9, 0xDB, 0xD6, 0x07];
    header.extend(
        [
            40_000u32.to_le_bytes(),
            [4, 15, 0, 0],
            28u32.to_le_bytes(),
            28u32.to_le_bytes(),
            28u32.to_le_bytes(),
        ]
        .concat(),
    );
    builder.put(FREE + 4, &header).finish()
}

/// Returns an image of genisoimage with UDF and a boot catalog.
fn genisoimage() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("t");
    std::fs::create_dir_all(tree.join("sub/deeper")).unwrap();
    for (name, size) in [("boot", 2048), ("a", 1), ("sub/b", 5000), ("sub/deeper/c", 100)] {
        std::fs::write(tree.join(name), vec![b'x'; size]).unwrap();
    }
    let out = dir.path().join("g.iso");
    let (out, tree) = (out.to_str().unwrap(), tree.to_str().unwrap());
    run(
        "genisoimage",
        ["-quiet", "-J", "-R", "-udf", "-no-pad", "-b", "boot", "-no-emul-boot", "-o", out, tree],
    );
    std::fs::read(out).unwrap()
}

/// Returns the sectors that contain structures.
fn structures(image: &[u8]) -> Vec<usize> {
    let sectors = image.len() / SECTOR;
    (16..sectors)
        .filter(|n| image[n * SECTOR..(n + 1) * SECTOR].iter().any(|&b| b != 0 && b != b'x'))
        .collect()
}

#[derive(Debug, Clone)]
struct Damage {
    sector: Index,
    at: Index,
    value: u64,
    width: usize,
    big_endian: bool,
}

fn damage() -> impl Strategy<Value = Damage> {
    let value = prop_oneof![
        any::<u64>(),
        Just(0),
        Just(u64::MAX),
        (0u32..64).prop_map(|bit| 1 << bit),
        0..300u64,
    ];
    let width = prop_oneof![3 => Just(1usize), 1 => Just(2), 2 => Just(4), 1 => Just(8)];
    (any::<Index>(), any::<Index>(), value, width, any::<bool>()).prop_map(
        |(sector, at, value, width, big_endian)| Damage { sector, at, value, width, big_endian },
    )
}

fn apply(damage: &Damage, image: &mut [u8], sectors: &[usize]) {
    let sector = damage.sector.get(sectors) * SECTOR;
    // Most structures are short.
    let at = sector + damage.at.index(600);
    let bytes = if damage.big_endian {
        damage.value.to_be_bytes()[8 - damage.width..].to_vec()
    } else {
        damage.value.to_le_bytes()[..damage.width].to_vec()
    };
    image[at..at + bytes.len()].copy_from_slice(&bytes);
}

/// Returns a description of everything in the image, including errors.
fn describe(bytes: &[u8], namespace: Namespace) -> Vec<String> {
    let mut options = IsoOptions::default();
    options.namespace = namespace;
    let image = match IsoImage::open(Arc::new(MemorySource::new(bytes)), &options) {
        Ok(image) => image,
        Err(error) => return vec![error.to_string()],
    };
    let mut results = vec![format!("{:?}", image.info().map_err(|e| e.to_string()))];
    results.push(format!("{:?}", image.boot_catalog().map_err(|e| e.to_string())));
    let mut files = 0u64;
    for found in image.walk() {
        let Ok(found) = found.map_err(|e| results.push(e.to_string())) else { continue };
        results.push(format!("{found:?}"));
        files += u64::from(!found.node.is_dir());
        if found.node.file_type == FileType::Regular {
            let read =
                image.contents(&found.node).map_err(|e| e.to_string()).and_then(|contents| {
                    let mut bytes = vec![0; contents.len().min(10_000) as usize];
                    contents.read_exact_at(&mut bytes, 0).map_err(|e| e.to_string())?;
                    Ok(bytes)
                });
            results.push(format!("{read:?}"));
        }
    }
    match image.verify(&mut |finding| assert!(!finding.message.is_empty())) {
        Ok(seen) if seen.errors == 0 => assert!(seen.files >= files, "verify found fewer files"),
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::Io, "{error}"),
    }
    results
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn damaged_images_are_read_and_verified_without_panics(
        which in 0..2usize,
        damages in prop::collection::vec(damage(), 1..5),
        cut in prop::option::weighted(0.1, any::<Index>()),
    ) {
        let mut image = samples()[which].clone();
        let sectors = structures(&image);
        damages.iter().for_each(|damage| apply(damage, &mut image, &sectors));
        if let Some(cut) = cut {
            image.truncate(cut.index(image.len()));
        }
        for namespace in [Namespace::Auto, Namespace::RockRidge, Namespace::Joliet, Namespace::Iso, Namespace::Udf] {
            prop_assert_eq!(describe(&image, namespace), describe(&image, namespace));
        }
    }
}
