//! Images created by xorriso.

use super::Reader::{Bsdtar, BsdtarWith, Pycdlib, SevenZip, Xorriso};
use super::tree::{self, TestDir};
use super::{Reader, Report, View};
use crate::iso::reference::{self, Tree};
use diskimg::iso::{FileType, Namespace};
use diskimg_testkit::tool::run;
use std::path::PathBuf;

/// Creates `NAME.iso` from the tree with `xorriso -as mkisofs`.
pub(super) fn make(dir: &TestDir, name: &str, options: &str) -> PathBuf {
    let out = dir.path(&format!("{name}.iso"));
    let mut args: Vec<_> = ["-as", "mkisofs", "-quiet"].map(str::to_owned).to_vec();
    args.extend(options.split_whitespace().map(str::to_owned));
    args.extend(["-o".into(), out.to_str().unwrap().to_owned(), dir.arg("tree")]);
    run("xorriso", &args);
    out
}

#[test]
fn rock_ridge_trees_of_xorriso_contain_the_source_tree() {
    let dir = TestDir::new(tree::posix);
    let wanted = dir.wanted();
    let rational = tree::rational(&wanted);
    let mut report = Report::new("xorriso, Rock Ridge");
    let cases: [(&str, &str, &Tree, &[Reader]); 13] = [
        ("level 3", "-R", &wanted, &[Bsdtar, Xorriso("any")]),
        ("level 1", "-iso-level 1 -R", &wanted, &[Bsdtar]),
        ("level 2", "-iso-level 2 -R -l", &wanted, &[Bsdtar]),
        ("rationalized permissions", "-r", &rational, &[Bsdtar]),
        ("cloud-init's seed", "-volid cidata -joliet -rock", &wanted, &[Bsdtar]),
        (
            "Nova's config drive",
            "-ldots -allow-lowercase -allow-multidot -l -publisher PROD -J -r -V config-2",
            &rational,
            &[Bsdtar],
        ),
        ("long Joliet names", "-J -joliet-long -R", &wanted, &[Bsdtar]),
        ("hard links", "-R --hardlinks", &wanted, &[Bsdtar]),
        ("checksums", "-R --md5", &wanted, &[Bsdtar]),
        ("attributes and ACLs", "-R --acl --xattr --for_backup", &wanted, &[Bsdtar]),
        ("untranslated names", "-R -U -N -d", &wanted, &[Bsdtar]),
        ("with HFS+", "-R -hfsplus", &wanted, &[]),
        ("no padding", "-R -no-pad", &wanted, &[Bsdtar]),
    ];
    for (name, options, wanted, readers) in cases {
        let image = make(&dir, name, options);
        report.check(&View {
            name,
            image: &image,
            namespace: Namespace::RockRidge,
            preferred: true,
            wanted,
            readers,
        });
    }
    report.finish();
}

/// bsdtar does not read these correctly: it drops the slash between two entries.
#[test]
fn long_links_are_read() {
    let dir = TestDir::new(tree::links);
    let wanted = dir.wanted();
    let mut report = Report::new("xorriso, links");
    let image = make(&dir, "long", "-R");
    report.check(&View {
        name: "long",
        image: &image,
        namespace: Namespace::RockRidge,
        preferred: true,
        wanted: &wanted,
        readers: &[Xorriso("any")],
    });
    report.finish();
}

#[test]
fn names_of_arbitrary_bytes_are_read() {
    let dir = TestDir::new(tree::bytes);
    let wanted = dir.wanted();
    let mut report = Report::new("xorriso, bytes");
    let image = make(&dir, "any bytes", "-R");
    report.check(&View {
        name: "any bytes",
        image: &image,
        namespace: Namespace::RockRidge,
        preferred: true,
        wanted: &wanted,
        readers: &[Bsdtar, Xorriso("any")],
    });
    report.finish();
}

#[test]
fn joliet_trees_of_xorriso_contain_the_source_tree() {
    let dir = TestDir::new(tree::names);
    let wanted = tree::bare(&dir.wanted());
    let mut report = Report::new("xorriso, Joliet");
    let joliet: &[Reader] =
        &[BsdtarWith("!rockridge"), Xorriso("norock"), SevenZip("iso"), Pycdlib("joliet")];
    for (name, options, preferred, readers) in [
        ("with Rock Ridge", "-J -R", false, joliet),
        ("without Rock Ridge", "-J --norock", true, joliet),
        ("long", "-J -joliet-long -R", false, joliet),
        ("level 1", "-iso-level 1 -J --norock -V cidata", true, joliet),
    ] {
        let image = make(&dir, name, options);
        report.check(&View {
            name,
            image: &image,
            namespace: Namespace::Joliet,
            preferred,
            wanted: &wanted,
            readers,
        });
    }
    let dir = TestDir::new(tree::emoji);
    let wanted = tree::bare(&dir.wanted());
    let image = make(&dir, "UTF-16", "-J -joliet-utf16 --norock");
    report.check(&View {
        name: "UTF-16",
        image: &image,
        namespace: Namespace::Joliet,
        preferred: true,
        wanted: &wanted,
        readers: &[BsdtarWith("!rockridge"), SevenZip("iso")],
    });
    report.finish();
}

#[test]
fn plain_trees_of_xorriso_contain_the_source_tree() {
    let dir = TestDir::new(tree::plain);
    let wanted = tree::bare(&dir.wanted());
    let mut report = Report::new("xorriso, ISO 9660");
    let plain: &[Reader] = &[BsdtarWith("!rockridge,!joliet"), Pycdlib("iso")];
    for (name, options, preferred, readers) in [
        ("level 1", "-iso-level 1 --norock", true, plain),
        ("level 3", "-iso-level 3 --norock", true, plain),
        ("with Rock Ridge and Joliet", "-iso-level 1 -J -R", false, plain),
        ("without versions", "-iso-level 3 --norock -N -d", true, plain),
    ] {
        let image = make(&dir, name, options);
        report.check(&View {
            name,
            image: &image,
            namespace: Namespace::Iso,
            preferred,
            wanted: &wanted,
            readers,
        });
    }
    // Version 2 records names unchanged. No other tool reads them.
    let dir = TestDir::new(tree::names);
    let wanted = tree::bare(&dir.wanted());
    for (name, options) in [
        ("version 2", "-iso-level 4 --norock"),
        ("version 2 with Rock Ridge", "-iso-level 4 -R -J"),
    ] {
        let image = make(&dir, name, options);
        let preferred = name == "version 2";
        report.check(&View {
            name,
            image: &image,
            namespace: Namespace::Iso,
            preferred,
            wanted: &wanted,
            readers: &[],
        });
    }
    report.finish();
}

#[test]
fn relocated_directories_of_xorriso_are_found_at_their_original_paths() {
    let dir = TestDir::new(tree::deep);
    let wanted = dir.wanted();
    let mut report = Report::new("xorriso, deep trees");
    for (name, options, readers) in [
        ("not relocated", "-R -D", &[Bsdtar, Xorriso("any")][..]),
        ("relocated to the root", "-R", &[Xorriso("any")]),
        ("relocated to rr_moved", "-R -rr_reloc_dir rr_moved", &[]),
        ("relocated, hidden", "-R -hide-rr-moved -J", &[]),
    ] {
        let image = make(&dir, name, options);
        let mut wanted = wanted.clone();
        // The relocation directory itself is listed as empty.
        let listed = reference::listed(&reference::open(&image, Namespace::RockRidge).unwrap());
        for moved in ["rr_moved", ".rr_moved"] {
            if let Some(facts) = listed.get(moved.as_bytes()) {
                wanted.insert(moved.into(), facts.clone());
            }
        }
        report.check(&View {
            name,
            image: &image,
            namespace: Namespace::RockRidge,
            preferred: true,
            wanted: &wanted,
            readers,
        });
    }
    report.finish();
}

#[test]
fn files_compressed_by_xorriso_are_decompressed() {
    let dir = TestDir::new(tree::mixed);
    let wanted = dir.wanted();
    let mut report = Report::new("xorriso, zisofs");
    for (name, settings) in [
        ("blocks of 32 KiB", "level=9:block_size=32k"),
        ("blocks of 64 KiB", "level=1:block_size=64k"),
        ("blocks of 128 KiB", "level=6:block_size=128k"),
    ] {
        let image = dir.path(&format!("{name}.iso"));
        let (out, tree) = (image.to_str().unwrap(), dir.arg("tree"));
        run(
            "xorriso",
            [
                "-report_about",
                "SORRY",
                "-outdev",
                out,
                "-zisofs",
                settings,
                "-map",
                &tree,
                "/",
                "-set_filter_r",
                "--zisofs",
                "/",
                "--",
            ],
        );
        report.check(&View {
            name,
            image: &image,
            namespace: Namespace::RockRidge,
            preferred: true,
            wanted: &wanted,
            readers: &[Bsdtar],
        });
    }
    report.finish();
}

#[test]
fn boot_information_does_not_affect_files() {
    let dir = TestDir::new(|root| {
        tree::names(root);
        std::fs::write(root.join("boot.img"), vec![0xEB; 8192]).unwrap();
    });
    let wanted = dir.wanted();
    std::fs::write(dir.path("esp.img"), vec![0x5A; 300 << 10]).unwrap();
    std::fs::write(dir.path("mbr.img"), vec![0; 432]).unwrap();
    let boot = "-R -J -b boot.img -no-emul-boot -boot-load-size 4 --boot-catalog-hide";
    let (esp, mbr) = (dir.arg("esp.img"), dir.arg("mbr.img"));
    let mut report = Report::new("xorriso, bootable");
    for (name, options) in [
        ("El Torito", boot.to_owned()),
        ("EFI", format!("{boot} -eltorito-alt-boot -e boot.img -no-emul-boot")),
        ("appended partition", format!("{boot} -append_partition 2 0xef {esp}")),
        (
            "appended partition in GPT",
            format!("{boot} -append_partition 2 0xef {esp} -appended_part_as_gpt"),
        ),
        (
            "appended partition as boot image",
            format!(
                "{boot} -append_partition 2 0xef {esp} -eltorito-alt-boot -e --interval:appended_partition_2:all:: -no-emul-boot"
            ),
        ),
        ("MBR", format!("{boot} -isohybrid-mbr {mbr}")),
        (
            "MBR, GPT",
            format!(
                "{boot} -isohybrid-mbr {mbr} -eltorito-alt-boot -e boot.img -no-emul-boot -isohybrid-gpt-basdat"
            ),
        ),
        ("a second tree in a partition", format!("{boot} -partition_offset 16")),
        ("GRUB's MBR", format!("{boot} --grub2-mbr {mbr} --protective-msdos-label")),
    ] {
        let image = make(&dir, name, &options);
        let readers = &[Bsdtar];
        report.check(&View {
            name,
            image: &image,
            namespace: Namespace::RockRidge,
            preferred: true,
            wanted: &wanted,
            readers,
        });
    }
    report.finish();
}

/// The file has two extents. Only the beginning of the image, with all directories, comes from
/// xorriso; the rest is a hole with some words of the file.
#[test]
fn a_file_longer_than_4_gib_is_one_file() {
    const SIZE: u64 = (4 << 30) + 5_000_000;
    /// Writes words at the beginning, around the ends of the first extent and of 4 GiB, and at the
    /// end.
    fn write_words(file: &std::fs::File, start: u64) {
        use std::os::unix::fs::FileExt;
        let words =
            [(0, "first"), (0xFFFF_F7FE, "across"), ((4 << 30) - 2, "4 GiB"), (SIZE - 4, "last")];
        for (at, text) in words {
            file.write_all_at(text.as_bytes(), start + at).unwrap();
        }
    }
    let dir = TestDir::new(|root| {
        let file = std::fs::File::create(root.join("huge.bin")).unwrap();
        file.set_len(SIZE).unwrap();
        write_words(&file, 0);
        std::fs::write(root.join("small"), "small").unwrap();
    });
    let wanted = dir.wanted();
    let image = dir.path("huge.iso");
    let command = format!(
        "xorriso -as mkisofs -quiet -iso-level 3 -R -o - {} 2>/dev/null | head -c 500000 > {}",
        dir.arg("tree"),
        dir.arg("huge.iso")
    );
    run("sh", ["-c", &command]);
    let list = run("isoinfo", ["-R", "-l", "-i", image.to_str().unwrap()]);
    let start = |name: &str| {
        let line = list.lines().find(|line| line.contains(name)).expect("isoinfo lists it");
        let sector = line
            .split_once('[')
            .and_then(|(_, rest)| rest.split_whitespace().next()?.parse::<u64>().ok());
        sector.unwrap_or_else(|| panic!("no sector in {line:?}")) * 2048
    };
    let (start, small) = (start("huge.bin"), start("small"));
    let file = std::fs::File::options().write(true).open(&image).unwrap();
    file.set_len(start + SIZE.next_multiple_of(2048) + (300 << 10)).unwrap();
    write_words(&file, start);
    std::os::unix::fs::FileExt::write_all_at(&file, b"small", small).unwrap();
    let mut report = Report::new("xorriso, more than 4 GiB");
    let ours = reference::open(&image, Namespace::RockRidge).unwrap();
    let listed = reference::listed(&ours);
    let differs = reference::differences(&wanted, &listed);
    report.require(differs.is_empty(), &format!("{differs:?}"));
    let huge = ours.lookup(b"huge.bin").unwrap();
    report
        .require(huge.extents().len() == 2 && huge.size == SIZE, "the file must have two extents");
    report
        .require(listed[&b"small"[..]].kind == FileType::Regular, "the small file must be listed");
    report.images += 1;
    report.finish();
}

#[test]
#[ignore = "needs root to create devices"]
fn devices_of_xorriso_are_read() {
    let dir = TestDir::new(tree::devices);
    let wanted = dir.wanted();
    let mut report = Report::new("xorriso, devices");
    let image = make(&dir, "devices", "-R");
    report.check(&View {
        name: "devices",
        image: &image,
        namespace: Namespace::RockRidge,
        preferred: true,
        wanted: &wanted,
        readers: &[Bsdtar],
    });
    report.finish();
}
