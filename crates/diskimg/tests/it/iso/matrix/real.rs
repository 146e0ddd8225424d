//! The images in `testdata/iso/`, compared with what bsdtar reads.

use super::Reader::{Bsdtar, BsdtarWith, Xorriso};
use super::{Reader, Report, View};
use crate::iso::reference;
use diskimg::iso::Namespace;
use std::path::Path;

#[test]
fn images_in_testdata_are_read_as_by_other_tools() {
    let dir = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/iso"));
    let mut report = Report::new("testdata");
    let cases: [(&str, Namespace, bool, Reader, &[Reader]); 5] = [
        ("joliet", Namespace::RockRidge, true, Bsdtar, &[Xorriso("any")]),
        ("joliet", Namespace::Joliet, false, BsdtarWith("!rockridge"), &[Xorriso("norock")]),
        ("rockridge_ce", Namespace::RockRidge, true, Bsdtar, &[Xorriso("any")]),
        ("zisofs", Namespace::RockRidge, true, Bsdtar, &[Xorriso("any")]),
        ("multi_extent", Namespace::RockRidge, true, Bsdtar, &[Xorriso("any")]),
    ];
    for (name, namespace, preferred, wanted, readers) in cases {
        let image = dir.join(format!("libarchive-{name}.iso"));
        let wanted = wanted.read(&image).expect("bsdtar is installed").unwrap();
        assert!(!wanted.is_empty(), "{name} has no files");
        report.check(&View { name, image: &image, namespace, preferred, wanted: &wanted, readers });
    }
    report.finish();
}

#[test]
fn a_file_with_two_extents_is_one_file() {
    let image =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/iso/libarchive-multi_extent.iso");
    let image = reference::open(image.as_ref(), Namespace::Auto).unwrap();
    let max_extents = image.walk().map(|found| found.unwrap().node.extents().len()).max();
    assert!(max_extents >= Some(2), "no file has several extents");
}
