//! Images of genisoimage.

use super::Reader::{Bsdtar, BsdtarWith, Pycdlib, SevenZip, Xorriso};
use super::tree::{self, Lab};
use super::{Reader, Report, View};
use crate::iso::reference::{self, Tree};
use diskimg::iso::Namespace;
use diskimg_testkit::tool::run;
use std::path::PathBuf;

/// Makes `NAME.iso` of the tree.
pub(super) fn make(lab: &Lab, name: &str, options: &str) -> PathBuf {
    make_of(lab, name, options, "tree")
}

fn make_of(lab: &Lab, name: &str, options: &str, tree: &str) -> PathBuf {
    let out = lab.path(&format!("{name}.iso"));
    let mut args = vec!["-quiet".to_owned()];
    // It knows UTF-8 only where names become Unicode.
    if ["-J", "-joliet", "-udf"].iter().any(|option| options.contains(option)) {
        args.extend(["-input-charset", "utf-8"].map(str::to_owned));
    }
    args.extend(options.split_whitespace().map(str::to_owned));
    args.extend(["-o".into(), out.to_str().unwrap().to_owned(), lab.arg(tree)]);
    run("genisoimage", &args);
    out
}

#[test]
fn rock_ridge_trees_of_genisoimage_are_what_went_in() {
    let lab = Lab::new(tree::posix);
    let wanted = lab.wanted();
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
        ("UDF and Joliet beside it", "-R -J -udf", &wanted, &[Bsdtar]),
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
fn joliet_trees_of_genisoimage_are_what_went_in() {
    let lab = Lab::new(tree::names);
    let wanted = tree::bare(&lab.wanted());
    let mut report = Report::new("genisoimage, Joliet");
    let joliet: &[Reader] =
        &[BsdtarWith("!rockridge"), Xorriso("norock"), SevenZip("iso"), Pycdlib("joliet")];
    for (name, options, preferred) in [
        ("beside Rock Ridge", "-J -R", false),
        ("without Rock Ridge", "-J", true),
        ("level 1 of Unicode", "-J -ucs-level 1", true),
        ("long", "-J -joliet-long", true),
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
    // It cuts a name at the first character outside of the basic plane: others read the same.
    let lab = Lab::new(|root| std::fs::write(root.join("emoji-😀.txt"), "cut").unwrap());
    let image = make(&lab, "emoji", "-J");
    let cut = reference::bsdtar_with(&image, "!rockridge").unwrap();
    report.see(&View {
        name: "emoji",
        image: &image,
        namespace: Namespace::Joliet,
        preferred: true,
        wanted: &cut,
        agree: &[],
    });
    report.done();
}

#[test]
fn plain_trees_of_genisoimage_are_what_went_in() {
    let lab = Lab::new(tree::plain);
    let wanted = tree::bare(&lab.wanted());
    let mut report = Report::new("genisoimage, ISO 9660");
    let plain: &[Reader] = &[BsdtarWith("!rockridge,!joliet"), Pycdlib("iso")];
    for (name, options, preferred) in [
        ("level 1", "-iso-level 1", true),
        ("level 3", "-iso-level 3 -l", true),
        ("beside Rock Ridge and Joliet", "-J -R", false),
        ("without versions and dots", "-N -d", true),
        ("XA alone", "-XA", true),
        ("HFS beside it", "-hfs", true),
    ] {
        let image = make(&lab, name, options);
        report.see(&View {
            name,
            image: &image,
            namespace: Namespace::Iso,
            preferred,
            wanted: &wanted,
            agree: plain,
        });
    }
    let lab = Lab::new(tree::names);
    let wanted = tree::bare(&lab.wanted());
    let image = make(&lab, "version 2", "-iso-level 4");
    report.see(&View {
        name: "version 2",
        image: &image,
        namespace: Namespace::Iso,
        preferred: true,
        wanted: &wanted,
        agree: &[],
    });
    report.done();
}

#[test]
fn udf_trees_of_genisoimage_are_what_went_in() {
    let lab = Lab::new(tree::names);
    let wanted = tree::bare(&lab.wanted());
    let mut report = Report::new("genisoimage, UDF");
    for (name, options) in
        [("UDF", "-udf"), ("UDF beside all", "-udf -J -R -l"), ("UDF, not padded", "-udf -no-pad")]
    {
        let image = make(&lab, name, options);
        report.see(&View {
            name,
            image: &image,
            namespace: Namespace::Udf,
            preferred: false,
            wanted: &wanted,
            agree: &[SevenZip("udf")],
        });
    }
    report.done();
}

#[test]
fn relocated_directories_of_genisoimage_are_back_in_their_places() {
    let lab = Lab::new(tree::deep);
    let wanted = lab.wanted();
    let mut report = Report::new("genisoimage, deep trees");
    for (name, options, moved) in [
        ("not relocated", "-R -D", None),
        ("relocated", "-R", Some("rr_moved")),
        ("relocated, hidden", "-R -hide-rr-moved", Some(".rr_moved")),
    ] {
        let image = make(&lab, name, options);
        let mut wanted = wanted.clone();
        if let Some(moved) = moved {
            // Its own directory is there, too, empty then; what it is itself is nobody's.
            let empty = reference::Facts::of(diskimg::iso::FileType::Directory);
            wanted.insert(moved.into(), empty);
        }
        report.see(&View {
            name,
            image: &image,
            namespace: Namespace::RockRidge,
            preferred: true,
            wanted: &wanted,
            agree: &[],
        });
    }
    report.done();
}

#[test]
fn what_was_hidden_sorted_or_grafted_is_where_it_should_be() {
    let lab = Lab::new(tree::names);
    let whole = lab.wanted();
    let mut report = Report::new("genisoimage, choices");
    let without = |tree: &Tree, name: &str| {
        let mut tree = tree.clone();
        assert!(tree.remove(name.as_bytes()).is_some(), "{name} is in the tree");
        tree
    };
    let hidden = without(&whole, "readme.txt");
    let bare = tree::bare(&whole);
    std::fs::write(lab.path("order"), format!("{0}/two 10\n{0}/readme.txt -5\n", lab.arg("tree")))
        .unwrap();
    let order = lab.arg("order");
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
        let image = make(&lab, name, &options);
        let preferred = namespace == Namespace::RockRidge;
        report.see(&View { name, image: &image, namespace, preferred, wanted, agree: &[] });
    }
    report.done();
}

#[test]
fn files_that_mkzftree_packed_unpack_to_what_went_in() {
    let lab = Lab::new(tree::packable);
    let wanted = lab.wanted();
    run("mkzftree", [lab.path("tree"), lab.path("packed")]);
    let image = make_of(&lab, "packed", "-R -z", "packed");
    let mut report = Report::new("genisoimage, zisofs");
    report.see(&View {
        name: "packed",
        image: &image,
        namespace: Namespace::RockRidge,
        preferred: true,
        wanted: &wanted,
        agree: &[Bsdtar],
    });
    report.done();
}

#[test]
#[ignore = "needs root, to make devices"]
fn devices_of_genisoimage_are_what_went_in() {
    let lab = Lab::new(tree::devices);
    let wanted = lab.wanted();
    let mut report = Report::new("genisoimage, devices");
    let image = make(&lab, "devices", "-R");
    // Its way of recording numbers is Linux's, too, but not bsdtar's and xorriso's.
    report.see(&View {
        name: "devices",
        image: &image,
        namespace: Namespace::RockRidge,
        preferred: true,
        wanted: &wanted,
        agree: &[],
    });
    report.done();
}
