//! Deviations from the specifications in existing images, which diskimg tolerates. The comments
//! cite where each was seen.

use crate::iso::hostile::truncation::raw;
use diskimg::iso::{FileType, IsoImage, IsoOptions, Namespace};
use diskimg::storage::source::MemorySource;
use diskimg_testkit::iso::{
    FREE, GOOD, GOOD_AT, IsoBuilder, JOLIET_ROOT, PATH_L, ROOT, Record, SECONDS, SECTOR, both32,
    susp, utf16, volume,
};
use std::sync::Arc;

fn open(bytes: &[u8], namespace: Namespace) -> Result<IsoImage, diskimg::Error> {
    let mut options = IsoOptions::default();
    options.namespace = namespace;
    IsoImage::open(Arc::new(MemorySource::new(bytes)), &options)
}

/// Returns the names in an image, or an error if anything, such as `good.txt`, cannot be read.
fn names(bytes: &[u8], namespace: Namespace) -> Result<Vec<String>, String> {
    let image = open(bytes, namespace).map_err(|e| e.to_string())?;
    let mut names = Vec::new();
    let mut good = false;
    for found in image.walk() {
        let found = found.map_err(|e| e.to_string())?;
        if found.path.eq_ignore_ascii_case(b"good.txt") {
            let contents = image.contents(&found.node).map_err(|e| e.to_string())?;
            let mut bytes = vec![0; contents.len() as usize];
            contents.read_exact_at(&mut bytes, 0).map_err(|e| e.to_string())?;
            good = bytes == GOOD;
        }
        names.push(String::from_utf8_lossy(&found.path).into_owned());
    }
    if good { Ok(names) } else { Err(format!("good.txt is not read: {names:?}")) }
}

/// Asserts that each image can be read and shows this namespace by default.
fn assert_read(cases: Vec<(&str, Namespace, Vec<u8>)>) {
    let mut failures = Vec::new();
    for (what, namespace, bytes) in cases {
        let shown = open(&bytes, Namespace::Auto).map(|image| image.namespace());
        match (names(&bytes, Namespace::Auto), shown) {
            (Ok(_), Ok(shown)) if shown == namespace => {}
            (Ok(_), shown) => {
                failures.push(format!("{what}: {shown:?} is shown instead of {namespace}"))
            }
            (Err(error), _) => failures.push(format!("{what}: {error}")),
        }
    }
    assert!(failures.is_empty(), "not read:\n  {}", failures.join("\n  "));
}

/// Returns a plain image with a change.
fn plain(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = IsoBuilder::new(&[Record::file("OTHER.TXT;1", GOOD_AT, 33)]).finish();
    change(&mut bytes);
    bytes
}

/// Returns an image with Rock Ridge and Joliet with a change.
fn both(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut builder = IsoBuilder::rock_ridge(&[]);
    builder.joliet(&[]);
    let mut bytes = builder.finish();
    change(&mut bytes);
    bytes
}

const PRIMARY: usize = 16 * SECTOR;
const TERMINATOR: usize = 17 * SECTOR;

#[test]
fn deviating_descriptors_are_tolerated() {
    use Namespace::{Iso, Joliet, RockRidge};
    assert_read(vec![
        // makeps3iso: pycdlib#99.
        ("a terminator of version 0", Iso, plain(|b| b[TERMINATOR + 6] = 0)),
        // libcdio's bad-dir.iso.
        ("a terminator with a body", Iso, plain(|b| b[TERMINATOR + 7..TERMINATOR + 2048].fill(7))),
        // Tribes: Vengeance: pycdlib#1.
        (
            "junk in the unused part of the primary descriptor",
            Iso,
            plain(|b| b[PRIMARY + 1395..PRIMARY + 2048].fill(0xAA)),
        ),
        // MagicISO: pycdlib#67; go-diskfs#386.
        ("dates of NULs", Iso, plain(|b| b[PRIMARY + 813..PRIMARY + 881].fill(0))),
        ("dates of blanks", Iso, plain(|b| b[PRIMARY + 813..PRIMARY + 881].fill(b' '))),
        // ESXi: pycdlib#106.
        (
            "a volume shorter than its files",
            Iso,
            plain(|b| b[PRIMARY + 80..PRIMARY + 88].copy_from_slice(&both32(40))),
        ),
        (
            "a path table as long as its sector",
            Iso,
            plain(|b| b[PRIMARY + 132..PRIMARY + 140].copy_from_slice(&both32(2048))),
        ),
        ("no path table", Iso, plain(|b| b[PRIMARY + 132..PRIMARY + 156].fill(0))),
        (
            "a path table of zeros",
            Iso,
            plain(|b| b[PATH_L as usize * SECTOR..][..2 * SECTOR].fill(0)),
        ),
        ("no terminator", Iso, plain(|b| b[TERMINATOR..TERMINATOR + SECTOR].fill(0))),
        // libarchive#1638; "bad root inode but good Joliet" in Linux.
        (
            "an empty root record with a path table",
            Iso,
            plain(|b| b[PRIMARY + 156..PRIMARY + 190].fill(0)),
        ),
        (
            "a root beyond the end with a path table",
            Iso,
            plain(|b| b[PRIMARY + 158..PRIMARY + 166].fill(0xFF)),
        ),
        (
            "an empty root record with Joliet",
            Joliet,
            both(|b| {
                b[PRIMARY + 156..PRIMARY + 190].fill(0);
                b[PRIMARY + 132..PRIMARY + 156].fill(0);
            }),
        ),
        // libarchive#2238.
        (
            "the primary descriptor after another",
            RockRidge,
            both(|b| {
                let (first, second) = b[PRIMARY..PRIMARY + 2 * SECTOR].split_at_mut(SECTOR);
                first.swap_with_slice(second);
            }),
        ),
        ("two primary descriptors", Iso, {
            let mut builder = IsoBuilder::new(&[]);
            builder.descriptor(volume(1, 1 << 20, 2048)).finish()
        }),
        ("300 KiB of padding", Iso, plain(|b| b.resize(b.len() + (300 << 10), 0))),
        ("other data after the volume", Iso, plain(|b| b.resize(b.len() + 100_001, 0x77))),
        (
            "not a multiple of a sector",
            Iso,
            plain(|b| {
                b.truncate((GOOD_AT as usize) * SECTOR + GOOD.len());
            }),
        ),
    ]);
}

#[test]
fn both_byte_order_numbers_with_one_wrong_half_are_tolerated() {
    use Namespace::Iso;
    let root = ROOT as usize * SECTOR;
    // All both-byte-order numbers in the descriptor and in the directory records.
    let mut places = vec![
        (PRIMARY + 80, 4),
        (PRIMARY + 120, 2),
        (PRIMARY + 124, 2),
        (PRIMARY + 128, 2),
        (PRIMARY + 132, 4),
        (PRIMARY + 158, 4),
        (PRIMARY + 166, 4),
    ];
    let mut at = root;
    let whole = plain(|_| {});
    while whole[at] != 0 {
        places.extend([(at + 2, 4), (at + 10, 4), (at + 28, 2)]);
        at += usize::from(whole[at]);
    }
    let big = |value| {
        plain(|b| places.iter().for_each(|&(at, len)| b[at + len..at + 2 * len].fill(value)))
    };
    let only_big = plain(|b| places.iter().for_each(|&(at, len)| b[at..at + len].fill(0)));
    assert_read(vec![
        ("big-endian halves of zeros", Iso, big(0)),
        ("big-endian halves of ones", Iso, big(0xFF)),
        ("no little-endian halves", Iso, only_big),
    ]);
}

#[test]
fn deviating_rock_ridge_entries_are_tolerated() {
    use Namespace::RockRidge;
    let file = |entries: &[Vec<u8>]| Record::file("F", GOOD_AT, 33).with_system_use(entries);
    let good = Record::rock("good.txt", GOOD_AT, 33, &[]);
    let px = || susp::px(0o100_644);
    let root = |own: &[Vec<u8>], files: &[Record]| IsoBuilder::with_root(own, files).finish();
    let at = |sector: u32, bytes: &[u8], own: &[Vec<u8>], files: &[Record]| {
        IsoBuilder::with_root(own, files).put(sector, bytes).finish()
    };
    let own = [susp::sp(0), susp::px(0o040_755), susp::er("IEEE_1282")];
    assert_read(vec![
        // VirtualBox Guest Additions: pycdlib#130.
        (
            "SP with other check bytes",
            RockRidge,
            root(&[susp::entry(b"SP", &[0, 0, 0]), px()], std::slice::from_ref(&good)),
        ),
        ("SP in every record", RockRidge, {
            let with_sp = Record::file("GOOD", GOOD_AT, 33).with_system_use(&[
                susp::sp(0),
                px(),
                susp::nm("good.txt"),
            ]);
            root(&own, &[with_sp])
        }),
        ("one continuation area for many records", RockRidge, {
            let ce = susp::ce(FREE, 0, 100);
            let files: Vec<_> = (0..9)
                .map(|n| Record::rock(&format!("f{n}"), GOOD_AT, 33, std::slice::from_ref(&ce)))
                .collect();
            at(FREE, &susp::tf(), &own, &[std::slice::from_ref(&good), &files[..]].concat())
        }),
        // openSUSE: pycdlib#138.
        ("PX only in a continuation area", RockRidge, {
            let record = Record::file("GOOD", GOOD_AT, 33)
                .with_system_use(&[susp::nm("good.txt"), susp::ce(FREE, 0, 44)]);
            at(FREE, &px(), &own, &[record])
        }),
        // go-diskfs#387, #392.
        ("zeros after the entries", RockRidge, {
            root(&own, &[good.clone(), file(&[px(), susp::nm("zeros"), vec![0; 40]])])
        }),
        ("an entry of four bytes at the end", RockRidge, {
            root(&own, &[good.clone(), file(&[px(), susp::nm("ended"), susp::entry(b"ST", &[])])])
        }),
        (
            "no ER",
            RockRidge,
            root(&[susp::sp(0), susp::px(0o040_755)], std::slice::from_ref(&good)),
        ),
        ("neither SP nor ER", RockRidge, root(&[susp::px(0o040_755)], std::slice::from_ref(&good))),
        (
            "IEEE_P1282",
            RockRidge,
            root(&[susp::sp(0), susp::er("IEEE_P1282")], std::slice::from_ref(&good)),
        ),
        (
            "RRIP_1991A",
            RockRidge,
            root(&[susp::sp(0), susp::er("RRIP_1991A")], std::slice::from_ref(&good)),
        ),
        ("RR of version 1.09", RockRidge, {
            root(&own, &[good.clone(), file(&[susp::entry(b"RR", &[0x89]), px(), susp::nm("old")])])
        }),
        ("entries of version 0", RockRidge, {
            let mut old = [px(), susp::nm("version")];
            old.iter_mut().for_each(|entry| entry[3] = 0);
            root(&own, &[good.clone(), file(&old)])
        }),
        ("entries of other extensions", RockRidge, {
            let others = [
                susp::entry(b"AA", b"\x02\0TEXTttxt\0\0"),
                susp::entry(b"AL", b"\0\x01\0"),
                susp::entry(b"ZZ", b""),
            ];
            root(&own, &[good.clone(), file(&[&others[..], &[px(), susp::nm("others")]].concat())])
        }),
        ("bytes to skip", RockRidge, {
            let xa = |record: Record| Record {
                system_use: [vec![0; 14], record.system_use.clone()].concat(),
                ..record
            };
            root(&[susp::sp(14), px()], &[xa(good.clone()), xa(file(&[px(), susp::nm("xa")]))])
        }),
        (
            "names that are not UTF-8",
            RockRidge,
            root(&own, &[good.clone(), file(&[px(), susp::nm(b"\xFF")])]),
        ),
    ]);
}

/// VirtualBox Guest Additions contain such a name (pycdlib#151).
#[test]
fn a_name_with_the_current_flag_is_used() {
    let entries = [susp::px(0o100_644), susp::nm_flags(2, "cert")];
    let bytes =
        IsoBuilder::rock_ridge(&[Record::file("CERT.;1", GOOD_AT, 33).with_system_use(&entries)])
            .finish();
    let names = names(&bytes, Namespace::RockRidge).unwrap();
    assert!(names.iter().any(|name| name.eq_ignore_ascii_case("cert")), "{names:?}");
}

#[test]
fn both_encodings_of_device_numbers_are_read() {
    let device = |name: &str, high, low| {
        Record::file(name, 0, 0).with_system_use(&[
            susp::px(0o060_640),
            susp::nm(name),
            susp::pn(high, low),
            susp::tf(),
        ])
    };
    let bytes =
        IsoBuilder::rock_ridge(&[device("split", 8, 1), device("whole", 0, 0x0801)]).finish();
    let image = open(&bytes, Namespace::Auto).unwrap();
    for name in ["split", "whole"] {
        let node = image.lookup(name.as_bytes()).unwrap();
        assert_eq!(node.file_type, FileType::BlockDevice, "{name}");
        assert_eq!(node.attributes.device, Some((8, 1)), "{name}");
        assert_eq!(node.attributes.mode, Some(0o640), "{name}");
        assert_eq!(node.attributes.modified.map(|time| time.seconds), Some(SECONDS), "{name}");
    }
}

#[test]
fn joliet_names_with_and_without_version_are_read() {
    for escape in [b"%/@", b"%/C", b"%/E"] {
        let mut builder = IsoBuilder::new(&[]);
        builder.joliet(&[
            Record::file(utf16("a name.txt;1"), GOOD_AT, 33),
            Record::file(utf16("emoji 😀"), GOOD_AT, 33),
        ]);
        builder.volume(1)[88..91].copy_from_slice(escape);
        let names = names(&builder.finish(), Namespace::Auto).unwrap();
        assert_eq!(names, ["good.txt", "a name.txt", "emoji 😀"]);
    }
    let mut builder = IsoBuilder::new(&[]);
    builder.joliet(&[]);
    assert_eq!(open(&builder.finish(), Namespace::Auto).unwrap().namespace(), Namespace::Joliet);
    const { assert!(JOLIET_ROOT < ROOT) };
}

/// 7-Zip, bsdtar, xorriso and pycdlib do not open images with raw sectors.
#[test]
fn raw_sectors_are_read() {
    let cooked = both(|_| {});
    let mut failures = Vec::new();
    for (what, mode, before, sector) in [
        ("mode 1", 1, 16, 2352),
        ("mode 2, form 1", 2, 24, 2352),
        ("mode 2 without sync and header", 2, 8, 2336),
        ("mode 1 with subchannels", 1, 16, 2448),
    ] {
        match names(&raw(&cooked, mode, before, sector), Namespace::Auto) {
            Ok(names) if names == ["good.txt"] => {}
            other => failures.push(format!("{what}: {other:?}")),
        }
    }
    assert!(failures.is_empty(), "{failures:?}");
}

/// genisoimage writes invalid entries for links with targets longer than about 340 bytes.
#[test]
fn an_invalid_link_of_genisoimage_does_not_affect_other_files() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("t");
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join("good.txt"), GOOD).unwrap();
    for len in [300, 400, 600] {
        let target = ["0123456789abcdef"; 64].join("/");
        std::os::unix::fs::symlink(&target[..len], tree.join(format!("link{len}"))).unwrap();
    }
    std::fs::write(tree.join("z.txt"), "last").unwrap();
    let out = dir.path().join("g.iso");
    // It sometimes does not end with such links.
    let arguments = ["60", "genisoimage", "-quiet", "-R", "-o", out.to_str().unwrap()];
    let arguments = arguments.into_iter().chain([tree.to_str().unwrap()]);
    let status = std::process::Command::new("timeout").args(arguments).status().unwrap();
    if status.code() == Some(124) {
        return;
    }
    assert!(status.success());
    let names = names(&std::fs::read(out).unwrap(), Namespace::Auto).unwrap();
    assert_eq!(names.len(), 5, "{names:?}");
}
