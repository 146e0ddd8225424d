//! Images created by bsdtar (libarchive), without trees deeper than eight levels, on which version
//! 3.6.2 crashes.

use super::Reader::{Bsdtar, BsdtarWith, Pycdlib, SevenZip, Xorriso};
use super::tree::{self, TestDir};
use super::{Reader, Report, View};
use diskimg::iso::Namespace;
use diskimg_testkit::tool::run;
use std::path::PathBuf;

/// Creates `NAME.iso` from the tree with these format options.
fn make(dir: &TestDir, name: &str, options: &str) -> PathBuf {
    let out = dir.path(&format!("{name}.iso"));
    let (file, tree) = (out.to_str().unwrap().to_owned(), dir.arg("tree"));
    let mut args = vec!["-c", "-f", &file, "--format", "iso9660", "-C", &tree];
    if !options.is_empty() {
        args.extend(["--options", options]);
    }
    args.push(".");
    run("bsdtar", &args);
    out
}

#[test]
fn images_of_bsdtar_contain_the_source_tree() {
    let dir = TestDir::new(tree::posix);
    let wanted = dir.wanted();
    let mut report = Report::new("bsdtar");
    // The default `rockridge=useful` changes permissions but keeps owners.
    let mut useful = tree::rational(&wanted);
    for (path, facts) in &mut useful {
        facts.owner = wanted[path].owner;
    }
    let cases: [(&str, &str, _, &[Reader]); 4] = [
        ("useful", "", &useful, &[Bsdtar, Xorriso("any")]),
        ("strict", "rockridge=strict", &wanted, &[Bsdtar, Xorriso("any")]),
        ("no Joliet", "rockridge=strict,!joliet", &wanted, &[Bsdtar]),
        ("level 3", "rockridge=strict,iso-level=3", &wanted, &[Bsdtar]),
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
fn joliet_trees_of_bsdtar_contain_the_source_tree() {
    let dir = TestDir::new(tree::names);
    let wanted = tree::bare(&dir.wanted());
    let mut report = Report::new("bsdtar, Joliet");
    let joliet: &[Reader] =
        &[BsdtarWith("!rockridge"), Xorriso("norock"), SevenZip("iso"), Pycdlib("joliet")];
    for (name, options, preferred) in [
        ("with Rock Ridge", "", false),
        ("without Rock Ridge", "!rockridge", true),
        ("long", "joliet=long,!rockridge", true),
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
    let dir = TestDir::new(tree::plain);
    let wanted = tree::bare(&dir.wanted());
    let image = make(&dir, "neither", "!rockridge,!joliet");
    let readers = &[BsdtarWith("!rockridge,!joliet")];
    report.check(&View {
        name: "neither",
        image: &image,
        namespace: Namespace::Iso,
        preferred: true,
        wanted: &wanted,
        readers,
    });
    report.finish();
}

#[test]
fn compressed_and_bootable_images_of_bsdtar_contain_the_source_tree() {
    // bsdtar compresses incompressible files wrongly and cannot decompress them itself.
    let dir = TestDir::new(tree::compressible);
    let wanted = dir.wanted();
    let mut report = Report::new("bsdtar, zisofs and boot");
    for (name, options) in [
        ("compressed", "rockridge=strict,zisofs=direct"),
        ("maximum compression", "rockridge=strict,zisofs=direct,compression-level=9"),
    ] {
        let image = make(&dir, name, options);
        report.check(&View {
            name,
            image: &image,
            namespace: Namespace::RockRidge,
            preferred: true,
            wanted: &wanted,
            readers: &[Bsdtar],
        });
    }
    let image = make(&dir, "boot", "rockridge=strict,boot=tiny,boot-type=no-emulation");
    let mut wanted = wanted;
    let catalog = super::reference::bsdtar(&image).unwrap();
    for (path, facts) in catalog {
        // bsdtar adds the boot catalog as a file.
        wanted.entry(path).or_insert(facts);
    }
    report.check(&View {
        name: "boot",
        image: &image,
        namespace: Namespace::RockRidge,
        preferred: true,
        wanted: &wanted,
        readers: &[Bsdtar],
    });
    report.finish();
}
