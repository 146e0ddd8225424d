//! Images that others made.
//!
//! `DISKIMG_REAL_IMAGES=DIR` names a folder with a `MANIFEST.tsv` (columns: file, format, variant,
//! virtual size, SHA-256 of the guest's bytes, …); without it only the
//! `testdata/` of this repository is read.

use diskimg::{Convert, Format, Image, OpenOptions};
use diskimg_testkit::opened;
use diskimg_testkit::tool::run;
use std::path::Path;

fn sha256(path: &Path) -> String {
    let text = run("sha256sum", [path.to_str().unwrap()]);
    text.split_whitespace().next().unwrap().to_owned()
}

/// Opens, verifies, converts; gives the SHA-256 of the guest's bytes.
fn guest_sha256(path: &Path, format: Option<Format>) -> String {
    let image = opened::verified(&OpenOptions::new().format(format), path);
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("raw");
    Convert::new(image).run(&raw).unwrap();
    sha256(&raw)
}

#[test]
fn the_images_of_testdata_hold_what_their_list_says() {
    let testdata = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata"));
    let list = std::fs::read_to_string(testdata.join("SHA256SUMS")).unwrap();
    let mut seen = 0;
    for line in list.lines() {
        let (sum, name) = line.split_once("  ").unwrap();
        assert_eq!(guest_sha256(&testdata.join(name), None), sum, "{name}");
        seen += 1;
    }
    assert!(seen >= 4, "testdata/SHA256SUMS lists the guest bytes of every image there");
}

#[test]
fn images_from_elsewhere_hold_what_their_manifest_says() {
    let Some(folder) = std::env::var_os("DISKIMG_REAL_IMAGES") else { return };
    let folder = Path::new(&folder);
    let manifest = std::fs::read_to_string(folder.join("MANIFEST.tsv")).unwrap();
    let mut wrong = Vec::new();
    for line in manifest.lines().skip(1) {
        let fields: Vec<_> = line.split('\t').collect();
        let (name, format, sum) = (fields[0], fields[1], fields[4]);
        let Ok(format) = format.parse::<Format>() else {
            // Members of an OVF set are listed by their own kind.
            if name.ends_with(".vmdk")
                && guest_sha256(&folder.join(name), Some(Format::Vmdk)) != sum
            {
                wrong.push(name);
            }
            continue;
        };
        if format == Format::Ova {
            // Listed by the archive's own digest; `ova.rs` reads them.
            continue;
        }
        if sum.is_empty() {
            let error = OpenOptions::new().format(format).open(folder.join(name));
            assert!(error.is_err(), "{name} is no {format}");
            assert_eq!(Image::open(folder.join(name)).unwrap().format(), Format::Raw);
        } else if guest_sha256(&folder.join(name), Some(format)) != sum {
            wrong.push(name);
        }
    }
    assert!(wrong.is_empty(), "other bytes than the manifest's: {wrong:?}");
}
