//! Images in `testdata/iso/` that other people made, and what bsdtar says is in them.

use super::Reader::{Bsdtar, BsdtarWith, Xorriso};
use super::{Reader, Report, View};
use crate::iso::reference;
use diskimg::iso::Namespace;
use std::path::Path;

#[test]
fn images_of_testdata_hold_what_others_say() {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/iso"));
    let mut report = Report::new("testdata");
    let cases: [(&str, Namespace, bool, Reader, &[Reader]); 5] = [
        ("joliet", Namespace::RockRidge, true, Bsdtar, &[Xorriso("any")]),
        ("joliet", Namespace::Joliet, false, BsdtarWith("!rockridge"), &[Xorriso("norock")]),
        ("rockridge_ce", Namespace::RockRidge, true, Bsdtar, &[Xorriso("any")]),
        ("zisofs", Namespace::RockRidge, true, Bsdtar, &[Xorriso("any")]),
        ("multi_extent", Namespace::RockRidge, true, Bsdtar, &[Xorriso("any")]),
    ];
    for (name, namespace, preferred, wanted, agree) in cases {
        let image = folder.join(format!("libarchive-{name}.iso"));
        let wanted = wanted.read(&image).expect("bsdtar is there").unwrap();
        assert!(!wanted.is_empty(), "{name} has files");
        report.see(&View { name, image: &image, namespace, preferred, wanted: &wanted, agree });
    }
    report.done();
}

/// A file of two sections is one, as long as both.
#[test]
fn the_image_of_several_extents_has_one_file_of_them() {
    let image =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/iso/libarchive-multi_extent.iso");
    let image = reference::open(image.as_ref(), Namespace::Auto).unwrap();
    let most = image.walk().map(|found| found.unwrap().node.extents().len()).max();
    assert!(most >= Some(2), "no file has several extents");
}
