//! Images of bsdtar (libarchive). Trees deeper than eight levels are not among them: version 3.6.2
//! dies of those.

use super::Reader::{Bsdtar, BsdtarWith, Pycdlib, SevenZip, Xorriso};
use super::tree::{self, Lab};
use super::{Reader, Report, View};
use diskimg::iso::Namespace;
use diskimg_testkit::tool::run;
use std::path::PathBuf;

/// Makes `NAME.iso` of the tree with these options of the format.
fn make(lab: &Lab, name: &str, options: &str) -> PathBuf {
    let out = lab.path(&format!("{name}.iso"));
    let (file, tree) = (out.to_str().unwrap().to_owned(), lab.arg("tree"));
    let mut args = vec!["-c", "-f", &file, "--format", "iso9660", "-C", &tree];
    if !options.is_empty() {
        args.extend(["--options", options]);
    }
    args.push(".");
    run("bsdtar", &args);
    out
}

#[test]
fn images_of_bsdtar_are_what_went_in() {
    let lab = Lab::new(tree::posix);
    let wanted = lab.wanted();
    let mut report = Report::new("bsdtar");
    // By itself it makes permissions rational, but keeps owners (`rockridge=useful`).
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
    for (name, options, wanted, agree) in cases {
        let image = make(&lab, name, options);
        report.see(&View {
            name,
            image: &image,
            namespace: Namespace::RockRidge,
            preferred: true,
            wanted,
            agree,
        });
    }
    report.done();
}

#[test]
fn joliet_trees_of_bsdtar_are_what_went_in() {
    let lab = Lab::new(tree::names);
    let wanted = tree::bare(&lab.wanted());
    let mut report = Report::new("bsdtar, Joliet");
    let joliet: &[Reader] =
        &[BsdtarWith("!rockridge"), Xorriso("norock"), SevenZip("iso"), Pycdlib("joliet")];
    for (name, options, preferred) in [
        ("beside Rock Ridge", "", false),
        ("without Rock Ridge", "!rockridge", true),
        ("long", "joliet=long,!rockridge", true),
    ] {
        let image = make(&lab, name, options);
        report.see(&View {
            name,
            image: &image,
            namespace: Namespace::Joliet,
            preferred,
            wanted: &wanted,
            agree: joliet,
        });
    }
    let lab = Lab::new(tree::plain);
    let wanted = tree::bare(&lab.wanted());
    let image = make(&lab, "neither", "!rockridge,!joliet");
    let agree = &[BsdtarWith("!rockridge,!joliet")];
    report.see(&View {
        name: "neither",
        image: &image,
        namespace: Namespace::Iso,
        preferred: true,
        wanted: &wanted,
        agree,
    });
    report.done();
}

#[test]
fn packed_and_bootable_images_of_bsdtar_are_what_went_in() {
    // What does not shrink it packs wrongly: it cannot unpack it itself.
    let lab = Lab::new(tree::shrinking);
    let wanted = lab.wanted();
    let mut report = Report::new("bsdtar, zisofs and boot");
    for (name, options) in [
        ("packed", "rockridge=strict,zisofs=direct"),
        ("packed hard", "rockridge=strict,zisofs=direct,compression-level=9"),
    ] {
        let image = make(&lab, name, options);
        report.see(&View {
            name,
            image: &image,
            namespace: Namespace::RockRidge,
            preferred: true,
            wanted: &wanted,
            agree: &[Bsdtar],
        });
    }
    let image = make(&lab, "boot", "rockridge=strict,boot=tiny,boot-type=no-emulation");
    let mut wanted = wanted;
    let catalog = super::reference::bsdtar(&image).unwrap();
    for (path, facts) in catalog {
        // The catalog that it adds is a file like any other.
        wanted.entry(path).or_insert(facts);
    }
    report.see(&View {
        name: "boot",
        image: &image,
        namespace: Namespace::RockRidge,
        preferred: true,
        wanted: &wanted,
        agree: &[Bsdtar],
    });
    report.done();
}
