//! Images created by other programs.
//!
//! `DISKIMG_REAL_IMAGES=DIR` names a directory with a `MANIFEST.tsv` (columns: file, format,
//! variant, virtual size, SHA-256 of the guest bytes, …); without it only the images in `testdata/`
//! are read.

use crate::verified;
use diskimg::{Convert, Format, Image, OpenOptions};
use diskimg_testkit::tool::run;
use std::path::Path;

fn sha256(path: &Path) -> String {
    let text = run("sha256sum", [path.to_str().unwrap()]);
    text.split_whitespace().next().unwrap().to_owned()
}

/// Opens and verifies an image, converts it to raw and returns the SHA-256 of the guest bytes.
fn guest_sha256(path: &Path, format: Option<Format>) -> String {
    let image = verified::open(&OpenOptions::new().format(format), path);
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("raw");
    Convert::new(image).run(&raw).unwrap();
    sha256(&raw)
}

#[test]
fn the_images_in_testdata_have_the_listed_digests() {
    let testdata = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata"));
    let list = std::fs::read_to_string(testdata.join("SHA256SUMS")).unwrap();
    let mut seen = 0;
    for line in list.lines() {
        let (sum, name) = line.split_once("  ").unwrap();
        assert_eq!(guest_sha256(&testdata.join(name), None), sum, "{name}");
        seen += 1;
    }
    assert!(seen >= 4, "testdata/SHA256SUMS must list the guest bytes of every image");
}

#[test]
fn real_images_have_the_digests_of_their_manifest() {
    let Some(dir) = std::env::var_os("DISKIMG_REAL_IMAGES") else { return };
    let dir = Path::new(&dir);
    let manifest = std::fs::read_to_string(dir.join("MANIFEST.tsv")).unwrap();
    let mut wrong = Vec::new();
    for line in manifest.lines().skip(1) {
        let fields: Vec<_> = line.split('\t').collect();
        let (name, format, sum) = (fields[0], fields[1], fields[4]);
        let Ok(format) = format.parse::<Format>() else {
            // The disks of an OVF package are listed with another format name.
            if name.ends_with(".vmdk") && guest_sha256(&dir.join(name), Some(Format::Vmdk)) != sum {
                wrong.push(name);
            }
            continue;
        };
        if format == Format::Ova {
            // The digest is that of the archive; `ova::reading` reads these.
            continue;
        }
        if sum.is_empty() {
            let error = OpenOptions::new().format(format).open(dir.join(name));
            assert!(error.is_err(), "{name} opens as {format}");
            assert_eq!(Image::open(dir.join(name)).unwrap().format(), Format::Raw);
        } else if guest_sha256(&dir.join(name), Some(format)) != sum {
            wrong.push(name);
        }
    }
    assert!(wrong.is_empty(), "digests differ from the manifest: {wrong:?}");
}
