//! What writers in the wild get wrong, and we read all the same. Each has been seen: the
//! comments say where.

use crate::iso::hostile::truncation::raw;
use diskimg::iso::{FileType, IsoImage, IsoOptions, Namespace};
use diskimg::storage::source::MemorySource;
use diskimg_testkit::iso::{
    Craft, FREE, GOOD, GOOD_AT, JOLIET_ROOT, PATH_L, ROOT, Record, SECONDS, SECTOR, both32, susp,
    utf16, volume,
};
use diskimg_testkit::tool::run;
use std::sync::Arc;

fn open(bytes: &[u8], namespace: Namespace) -> Result<IsoImage, diskimg::Error> {
    let mut options = IsoOptions::default();
    options.namespace = namespace;
    IsoImage::open(Arc::new(MemorySource::new(bytes)), &options)
}

/// The names in an image, and its `good.txt` read; an error in words.
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

/// Each must be read, in the name space that is shown by itself.
fn assert_read(cases: Vec<(&str, Namespace, Vec<u8>)>) {
    let mut wrong = Vec::new();
    for (what, namespace, bytes) in cases {
        let shown = open(&bytes, Namespace::Auto).map(|image| image.namespace());
        match (names(&bytes, Namespace::Auto), shown) {
            (Ok(_), Ok(shown)) if shown == namespace => {}
            (Ok(_), shown) => {
                wrong.push(format!("{what}: {shown:?} is shown instead of {namespace}"))
            }
            (Err(words), _) => wrong.push(format!("{what}: {words}")),
        }
    }
    assert!(wrong.is_empty(), "not read:\n  {}", wrong.join("\n  "));
}

/// A plain image, changed.
fn plain(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Craft::new(&[Record::file("OTHER.TXT;1", GOOD_AT, 33)]).finish();
    change(&mut bytes);
    bytes
}

/// An image with Rock Ridge and Joliet, changed.
fn both(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut craft = Craft::rock_ridge(&[]);
    craft.joliet(&[]);
    let mut bytes = craft.finish();
    change(&mut bytes);
    bytes
}

const PRIMARY: usize = 16 * SECTOR;
const TERMINATOR: usize = 17 * SECTOR;

#[test]
fn descriptors_that_are_not_as_they_should_be_are_read() {
    use Namespace::{Iso, Joliet, RockRidge};
    assert_read(vec![
        // makeps3iso: pycdlib#99.
        ("a terminator of version 0", Iso, plain(|b| b[TERMINATOR + 6] = 0)),
        // libcdio's bad-dir.iso.
        ("a terminator with a body", Iso, plain(|b| b[TERMINATOR + 7..TERMINATOR + 2048].fill(7))),
        // Tribes: Vengeance: pycdlib#1.
        (
            "junk behind the primary descriptor",
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
            "an empty root that the path table knows",
            Iso,
            plain(|b| b[PRIMARY + 156..PRIMARY + 190].fill(0)),
        ),
        (
            "a root nowhere that the path table knows",
            Iso,
            plain(|b| b[PRIMARY + 158..PRIMARY + 166].fill(0xFF)),
        ),
        (
            "an empty root beside Joliet",
            Joliet,
            both(|b| {
                b[PRIMARY + 156..PRIMARY + 190].fill(0);
                b[PRIMARY + 132..PRIMARY + 156].fill(0);
            }),
        ),
        // libarchive#2238.
        (
            "the primary descriptor as the second",
            RockRidge,
            both(|b| {
                let (first, second) = b[PRIMARY..PRIMARY + 2 * SECTOR].split_at_mut(SECTOR);
                first.swap_with_slice(second);
            }),
        ),
        ("two primary descriptors", Iso, {
            let mut craft = Craft::new(&[]);
            craft.descriptor(volume(1, 1 << 20, 2048)).finish()
        }),
        ("300 KiB of padding", Iso, plain(|b| b.resize(b.len() + (300 << 10), 0))),
        ("something else behind it", Iso, plain(|b| b.resize(b.len() + 100_001, 0x77))),
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
fn numbers_of_which_one_half_is_wrong_are_read() {
    use Namespace::Iso;
    let root = ROOT as usize * SECTOR;
    // Every number of both orders: in the descriptor, in the root's record, in each record.
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
fn rock_ridge_that_is_not_as_it_should_be_is_read() {
    use Namespace::RockRidge;
    let file = |entries: &[Vec<u8>]| Record::file("F", GOOD_AT, 33).using(entries);
    let good = Record::rock("good.txt", GOOD_AT, 33, &[]);
    let px = || susp::px(0o100_644);
    let root = |own: &[Vec<u8>], files: &[Record]| Craft::with_root(own, files).finish();
    let at = |sector: u32, bytes: &[u8], own: &[Vec<u8>], files: &[Record]| {
        Craft::with_root(own, files).put(sector, bytes).finish()
    };
    let own = [susp::sp(0), susp::px(0o040_755), susp::er("IEEE_1282")];
    assert_read(vec![
        // VirtualBox's additions: pycdlib#130.
        (
            "SP with other check bytes",
            RockRidge,
            root(&[susp::entry(b"SP", &[0, 0, 0]), px()], std::slice::from_ref(&good)),
        ),
        ("SP in every record", RockRidge, {
            let with_sp =
                Record::file("GOOD", GOOD_AT, 33).using(&[susp::sp(0), px(), susp::nm("good.txt")]);
            root(&own, &[with_sp])
        }),
        ("one area for many records", RockRidge, {
            let ce = susp::ce(FREE, 0, 100);
            let files: Vec<_> = (0..9)
                .map(|n| Record::rock(&format!("f{n}"), GOOD_AT, 33, std::slice::from_ref(&ce)))
                .collect();
            at(FREE, &susp::tf(), &own, &[std::slice::from_ref(&good), &files[..]].concat())
        }),
        // openSUSE: pycdlib#138.
        ("PX only where the field goes on", RockRidge, {
            let record = Record::file("GOOD", GOOD_AT, 33)
                .using(&[susp::nm("good.txt"), susp::ce(FREE, 0, 44)]);
            at(FREE, &px(), &own, &[record])
        }),
        // go-diskfs#387, #392.
        ("zeros behind the entries", RockRidge, {
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
        ("others' entries", RockRidge, {
            let others = [
                susp::entry(b"AA", b"\x02\0TEXTttxt\0\0"),
                susp::entry(b"AL", b"\0\x01\0"),
                susp::entry(b"ZZ", b""),
            ];
            root(&own, &[good.clone(), file(&[&others[..], &[px(), susp::nm("others")]].concat())])
        }),
        ("bytes that are skipped", RockRidge, {
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

/// VirtualBox's additions have a name with the flag of `.` (pycdlib#151): its file is not lost.
#[test]
fn a_name_that_has_the_flag_of_dot_is_a_name() {
    let entries = [susp::px(0o100_644), susp::nm_flags(2, "cert")];
    let bytes = Craft::rock_ridge(&[Record::file("CERT.;1", GOOD_AT, 33).using(&entries)]).finish();
    let names = names(&bytes, Namespace::RockRidge).unwrap();
    assert!(names.iter().any(|name| name.eq_ignore_ascii_case("cert")), "{names:?}");
}

/// What Rock Ridge says is what a node has.
#[test]
fn both_ways_to_record_a_device_are_read() {
    let device = |name: &str, high, low| {
        Record::file(name, 0, 0).using(&[
            susp::px(0o060_640),
            susp::nm(name),
            susp::pn(high, low),
            susp::tf(),
        ])
    };
    let bytes = Craft::rock_ridge(&[device("split", 8, 1), device("whole", 0, 0x0801)]).finish();
    let image = open(&bytes, Namespace::Auto).unwrap();
    for name in ["split", "whole"] {
        let node = image.lookup(name.as_bytes()).unwrap();
        assert_eq!(node.file_type, FileType::BlockDevice, "{name}");
        assert_eq!(node.attributes.device, Some((8, 1)), "{name}");
        assert_eq!(node.attributes.mode, Some(0o640), "{name}");
        assert_eq!(node.attributes.modified.map(|moment| moment.seconds), Some(SECONDS), "{name}");
    }
}

#[test]
fn joliet_names_are_read_with_and_without_version() {
    for escape in [b"%/@", b"%/C", b"%/E"] {
        let mut craft = Craft::new(&[]);
        craft.joliet(&[
            Record::file(utf16("a name.txt;1"), GOOD_AT, 33),
            Record::file(utf16("emoji 😀"), GOOD_AT, 33),
        ]);
        craft.volume(1)[88..91].copy_from_slice(escape);
        let names = names(&craft.finish(), Namespace::Auto).unwrap();
        assert_eq!(names, ["good.txt", "a name.txt", "emoji 😀"]);
    }
    let mut craft = Craft::new(&[]);
    craft.joliet(&[]);
    assert_eq!(open(&craft.finish(), Namespace::Auto).unwrap().namespace(), Namespace::Joliet);
    const { assert!(JOLIET_ROOT < ROOT) };
}

/// Copies of whole disc sectors: none of 7-Zip, bsdtar, xorriso and pycdlib opens them.
#[test]
fn copies_of_disc_sectors_are_read() {
    let cooked = both(|_| {});
    let mut wrong = Vec::new();
    for (what, mode, before, sector) in [
        ("mode 1", 1, 16, 2352),
        ("mode 2, form 1", 2, 24, 2352),
        ("mode 2 without sync and header", 2, 8, 2336),
        ("mode 1 with subchannels", 1, 16, 2448),
    ] {
        match names(&raw(&cooked, mode, before, sector), Namespace::Auto) {
            Ok(names) if names == ["good.txt"] => {}
            other => wrong.push(format!("{what}: {other:?}")),
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// genisoimage spoils the entries of a link whose target is longer than 340 bytes or so; the
/// other files are read.
#[test]
fn a_link_that_genisoimage_spoiled_spoils_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("t");
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join("good.txt"), GOOD).unwrap();
    for len in [300, 400, 600] {
        let target = ["0123456789abcdef"; 64].join("/");
        std::os::unix::fs::symlink(&target[..len], tree.join(format!("link{len}"))).unwrap();
    }
    std::fs::write(tree.join("z.txt"), "behind").unwrap();
    let out = dir.path().join("g.iso");
    run("genisoimage", ["-quiet", "-R", "-o", out.to_str().unwrap(), tree.to_str().unwrap()]);
    let names = names(&std::fs::read(out).unwrap(), Namespace::Auto).unwrap();
    assert_eq!(names.len(), 5, "{names:?}");
}
