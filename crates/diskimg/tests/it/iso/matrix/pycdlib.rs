//! Images created by pycdlib, if `DISKIMG_ORACLES` names a virtual environment with pycdlib.

use super::Reader::{Bsdtar, BsdtarWith, Pycdlib};
use super::tree::{self, TestDir};
use super::{Reader, Report, View};
use crate::iso::reference::{self, Tree, pycdlib_run};
use diskimg::iso::{FileType, Namespace};
use std::path::PathBuf;

/// Creates `NAME.iso` from the tree with these settings. Returns `None` without pycdlib.
fn make(dir: &TestDir, name: &str, settings: &str) -> Option<PathBuf> {
    let out = dir.path(&format!("{name}.iso"));
    let tree = dir.path("tree");
    let program = include_str!("../../../../../diskimg-testkit/src/oracles/pycdlib_make.py");
    let made = pycdlib_run(program, &[out.as_os_str(), tree.as_os_str(), settings.as_ref()])?;
    made.unwrap_or_else(|error| panic!("pycdlib, {name}: {error}"));
    Some(out)
}

/// Name, settings, namespace, whether it is shown by default, expected tree, tools that must agree.
type Case<'a> = (&'a str, &'a str, Namespace, bool, &'a Tree, &'a [Reader]);

#[test]
#[allow(clippy::print_stderr)]
fn images_of_pycdlib_contain_the_source_tree() {
    if std::env::var_os("DISKIMG_ORACLES").is_none() {
        eprintln!("skipped: DISKIMG_ORACLES names no virtual environment with pycdlib");
        return;
    }
    let dir = TestDir::new(|root| {
        tree::names(root);
        std::os::unix::fs::symlink("sub.directory/inside.txt", root.join("link")).unwrap();
        std::os::unix::fs::symlink("/absolute/../target", root.join("absolute")).unwrap();
    });
    let whole = dir.wanted();
    // pycdlib records its own owner and the creation time of the image.
    let rock = reference::without(&whole, |facts| {
        (facts.owner, facts.mtime, facts.mode) = (None, None, None)
    });
    let bare = tree::bare(&whole);
    let mut report = Report::new("pycdlib");
    let cases: [Case<'_>; 8] = [
        (
            "Rock Ridge 1.09",
            r#"{"rock_ridge": "1.09"}"#,
            Namespace::RockRidge,
            true,
            &rock,
            &[Bsdtar, Pycdlib("rr")],
        ),
        (
            "Rock Ridge 1.10",
            r#"{"rock_ridge": "1.10"}"#,
            Namespace::RockRidge,
            true,
            &rock,
            &[Bsdtar],
        ),
        // bsdtar treats the files as one because all have serial number 0.
        ("Rock Ridge 1.12", r#"{"rock_ridge": "1.12"}"#, Namespace::RockRidge, true, &rock, &[]),
        (
            "Joliet",
            r#"{"joliet": 3}"#,
            Namespace::Joliet,
            true,
            &bare,
            &[BsdtarWith("!rockridge"), Pycdlib("joliet")],
        ),
        (
            "Rock Ridge and Joliet",
            r#"{"rock_ridge": "1.09", "joliet": 3}"#,
            Namespace::RockRidge,
            true,
            &rock,
            &[],
        ),
        (
            "Rock Ridge, XA",
            r#"{"rock_ridge": "1.09", "xa": true}"#,
            Namespace::RockRidge,
            true,
            &rock,
            &[],
        ),
        ("UDF 2.60", r#"{"udf": "2.60"}"#, Namespace::Udf, false, &bare, &[Pycdlib("udf")]),
        (
            "UDF with all others",
            r#"{"udf": "2.60", "joliet": 3, "rock_ridge": "1.12"}"#,
            Namespace::Udf,
            false,
            &bare,
            &[],
        ),
    ];
    for (name, settings, namespace, preferred, wanted, readers) in cases {
        let Some(image) = make(&dir, name, settings) else { return };
        report.check(&View { name, image: &image, namespace, preferred, wanted, readers });
    }
    report.require(
        whole.values().any(|facts| facts.kind == FileType::Symlink),
        "the tree must have links",
    );
    report.finish();
}
