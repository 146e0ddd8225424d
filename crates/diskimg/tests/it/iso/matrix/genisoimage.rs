//! Images created by genisoimage.

use super::Reader::{Bsdtar, BsdtarWith, Pycdlib, SevenZip, Xorriso};
use super::tree::{self, TestDir};
use super::{Reader, Report, View};
use crate::iso::reference::{self, Tree};
use diskimg::iso::Namespace;
use diskimg_testkit::tool::run;
use std::path::PathBuf;

/// Creates `NAME.iso` from the tree.
pub(super) fn make(dir: &TestDir, name: &str, options: &str) -> PathBuf {
    make_of(dir, name, options, "tree")
}

fn make_of(dir: &TestDir, name: &str, options: &str, tree: &str) -> PathBuf {
    let out = dir.path(&format!("{name}.iso"));
    let mut args = vec!["-quiet".to_owned()];
    // The character set matters only for Unicode names.
    if ["-J", "-joliet", "-udf"].iter().any(|option| options.contains(option)) {
        args.extend(["-input-charset", "utf-8"].map(str::to_owned));
    }
    args.extend(options.split_whitespace().map(str::to_owned));
    args.extend(["-o".into(), out.to_str().unwrap().to_owned(), dir.arg(tree)]);
    run("genisoimage", &args);
    out
}

#[test]
fn rock_ridge_trees_of_genisoimage_contain_the_source_tree() {
    let dir = TestDir::new(tree::posix);
    let wanted = dir.wanted();
    let rational = tree::rational(&wanted);
    let mut report = Report::new("genisoimage, Rock Ridge");
    let cases: [(&str, &str, &Tree, &[Reader]); 13] = [
        ("level 1", "-R", &wanted, &[Bsdtar, Xorriso("any")]),
        ("level 2", "-iso-level 2 -R -l", &wanted, &[Bsdtar]),
        ("level 3", "-iso-level 3 -R", &wanted, &[Bsdtar]),
        (
            "Nova's config drive",
            "-ldots -allow-lowercase -allow-multidot -l -publisher PROD -J -r -V config-2",
            &rational,
            &[Bsdtar],
        ),
        ("cloud-localds' seed", "-volid cidata -joliet -rock", &wanted, &[Bsdtar]),
        ("untranslated names", "-R -U", &wanted, &[Bsdtar]),
        ("37 characters", "-R -max-iso9660-filenames", &wanted, &[Bsdtar]),
        (
            "relaxed names",
            "-R -relaxed-filenames -no-iso-translate -allow-leading-dots",
            &wanted,
            &[Bsdtar],
        ),
        ("without versions and dots", "-R -N -d", &wanted, &[Bsdtar]),
        ("no padding", "-R -no-pad", &wanted, &[Bsdtar]),
        ("XA", "-R -XA", &wanted, &[]),
        ("Apple's types", "-R -apple", &wanted, &[Bsdtar]),
        ("with UDF and Joliet", "-R -J -udf", &wanted, &[Bsdtar]),
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

#[test]
fn joliet_trees_of_genisoimage_contain_the_source_tree() {
    let dir = TestDir::new(tree::names);
    let wanted = tree::bare(&dir.wanted());
    let mut report = Report::new("genisoimage, Joliet");
    let joliet: &[Reader] =
        &[BsdtarWith("!rockridge"), Xorriso("norock"), SevenZip("iso"), Pycdlib("joliet")];
    for (name, options, preferred) in [
        ("with Rock Ridge", "-J -R", false),
        ("without Rock Ridge", "-J", true),
        ("level 1 of Unicode", "-J -ucs-level 1", true),
        ("long", "-J -joliet-long", true),
    ] {
        let image = make(&dir, name, options);
        report.check(&View {
            name,
            image: &image,
            namespace: Namespace::Joliet,
            preferred,
            wanted: &wanted,
            readers: joliet,
        });
    }
    // genisoimage truncates a name at the first character outside the Basic Multilingual Plane.
    let dir = TestDir::new(|root| std::fs::write(root.join("emoji-😀.txt"), "cut").unwrap());
    let image = make(&dir, "emoji", "-J");
    let truncated = reference::bsdtar_with(&image, "!rockridge").unwrap();
    report.check(&View {
        name: "emoji",
        image: &image,
        namespace: Namespace::Joliet,
        preferred: true,
        wanted: &truncated,
        readers: &[],
    });
    report.finish();
}

#[test]
fn plain_trees_of_genisoimage_contain_the_source_tree() {
    let dir = TestDir::new(tree::plain);
    let wanted = tree::bare(&dir.wanted());
    let mut report = Report::new("genisoimage, ISO 9660");
    let plain: &[Reader] = &[BsdtarWith("!rockridge,!joliet"), Pycdlib("iso")];
    for (name, options, preferred) in [
        ("level 1", "-iso-level 1", true),
        ("level 3", "-iso-level 3 -l", true),
        ("with Rock Ridge and Joliet", "-J -R", false),
        ("without versions and dots", "-N -d", true),
        ("only XA", "-XA", true),
        ("with HFS", "-hfs", true),
    ] {
        let image = make(&dir, name, options);
        report.check(&View {
            name,
            image: &image,
            namespace: Namespace::Iso,
            preferred,
            wanted: &wanted,
            readers: plain,
        });
    }
    let dir = TestDir::new(tree::names);
    let wanted = tree::bare(&dir.wanted());
    let image = make(&dir, "version 2", "-iso-level 4");
    report.check(&View {
        name: "version 2",
        image: &image,
        namespace: Namespace::Iso,
        preferred: true,
        wanted: &wanted,
        readers: &[],
    });
    report.finish();
}

#[test]
fn udf_trees_of_genisoimage_contain_the_source_tree() {
    let dir = TestDir::new(tree::names);
    let wanted = tree::bare(&dir.wanted());
    let mut report = Report::new("genisoimage, UDF");
    for (name, options) in [
        ("UDF", "-udf"),
        ("UDF with all others", "-udf -J -R -l"),
        ("UDF, not padded", "-udf -no-pad"),
    ] {
        let image = make(&dir, name, options);
        report.check(&View {
            name,
            image: &image,
            namespace: Namespace::Udf,
            preferred: false,
            wanted: &wanted,
            readers: &[SevenZip("udf")],
        });
    }
    report.finish();
}

#[test]
fn relocated_directories_of_genisoimage_are_found_at_their_original_paths() {
    let dir = TestDir::new(tree::deep);
    let wanted = dir.wanted();
    let mut report = Report::new("genisoimage, deep trees");
    for (name, options, moved) in [
        ("not relocated", "-R -D", None),
        ("relocated", "-R", Some("rr_moved")),
        ("relocated, hidden", "-R -hide-rr-moved", Some(".rr_moved")),
    ] {
        let image = make(&dir, name, options);
        let mut wanted = wanted.clone();
        if let Some(moved) = moved {
            // The relocation directory itself is listed as empty, with attributes of genisoimage.
            let empty = reference::Facts::of(diskimg::iso::FileType::Directory);
            wanted.insert(moved.into(), empty);
        }
        report.check(&View {
            name,
            image: &image,
            namespace: Namespace::RockRidge,
            preferred: true,
            wanted: &wanted,
            readers: &[],
        });
    }
    report.finish();
}

#[test]
fn hidden_and_sorted_files_are_read() {
    let dir = TestDir::new(tree::names);
    let whole = dir.wanted();
    let mut report = Report::new("genisoimage, choices");
    let without = |tree: &Tree, name: &str| {
        let mut tree = tree.clone();
        assert!(tree.remove(name.as_bytes()).is_some(), "{name} is not in the tree");
        tree
    };
    let hidden = without(&whole, "readme.txt");
    let bare = tree::bare(&whole);
    std::fs::write(dir.path("order"), format!("{0}/two 10\n{0}/readme.txt -5\n", dir.arg("tree")))
        .unwrap();
    let order = dir.arg("order");
    for (name, options, namespace, wanted) in [
        (
            "hidden in Rock Ridge",
            "-J -R -hide readme.txt".to_owned(),
            Namespace::RockRidge,
            &hidden,
        ),
        ("hidden, but not in Joliet", "-J -R -hide readme.txt".into(), Namespace::Joliet, &bare),
        (
            "hidden in Joliet",
            "-J -R -hide-joliet readme.txt".into(),
            Namespace::Joliet,
            &tree::bare(&hidden),
        ),
        ("marked as hidden", "-J -R -hidden readme.txt".into(), Namespace::RockRidge, &whole),
        ("sorted", format!("-R -sort {order}"), Namespace::RockRidge, &whole),
    ] {
        let image = make(&dir, name, &options);
        let preferred = namespace == Namespace::RockRidge;
        report.check(&View { name, image: &image, namespace, preferred, wanted, readers: &[] });
    }
    report.finish();
}

#[test]
fn files_compressed_by_mkzftree_are_decompressed() {
    let dir = TestDir::new(tree::mixed);
    let wanted = dir.wanted();
    run("mkzftree", [dir.path("tree"), dir.path("compressed")]);
    let image = make_of(&dir, "compressed", "-R -z", "compressed");
    let mut report = Report::new("genisoimage, zisofs");
    report.check(&View {
        name: "compressed",
        image: &image,
        namespace: Namespace::RockRidge,
        preferred: true,
        wanted: &wanted,
        readers: &[Bsdtar],
    });
    report.finish();
}

#[test]
#[ignore = "needs root to create devices"]
fn devices_of_genisoimage_are_read() {
    let dir = TestDir::new(tree::devices);
    let wanted = dir.wanted();
    let mut report = Report::new("genisoimage, devices");
    let image = make(&dir, "devices", "-R");
    // It records device numbers as Linux does, which bsdtar and xorriso do not understand.
    report.check(&View {
        name: "devices",
        image: &image,
        namespace: Namespace::RockRidge,
        preferred: true,
        wanted: &wanted,
        readers: &[],
    });
    report.finish();
}
