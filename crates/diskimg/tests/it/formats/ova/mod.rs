//! Tests of OVA and OVF.

mod boxes;
mod holes;
pub(crate) mod hostile;
mod integrity;
mod reading;
mod writing;

use crate::verified;
use diskimg_testkit::appliance::guest_bytes;
use std::path::Path;

/// Asserts that reading the appliance and converting it to raw both return `bytes`, and that the
/// image passes the conformance checks.
pub(crate) fn assert_guest_bytes(ova: &Path, bytes: &[u8]) {
    let image = verified::open(&diskimg::OpenOptions::new(), ova);
    assert_eq!(image.format(), diskimg::Format::Ova);
    assert!(guest_bytes(&image) == bytes, "{}: the guest bytes differ", ova.display());
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("raw");
    diskimg::Convert::new(image).run(&raw).unwrap();
    assert!(std::fs::read(&raw).unwrap() == bytes, "{}: the converted bytes differ", ova.display());
}
