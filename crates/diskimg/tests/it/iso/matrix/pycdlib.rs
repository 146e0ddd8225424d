//! Images of pycdlib, where `DISKIMG_ORACLES` names an environment that has it.

use super::Reader::{Bsdtar, BsdtarWith, Pycdlib};
use super::tree::{self, Lab};
use super::{Reader, Report, View};
use crate::iso::reference::{self, Tree, pycdlib_run};
use diskimg::iso::{FileType, Namespace};
use std::path::PathBuf;

/// Makes `NAME.iso` of the tree with these settings; `None` without pycdlib.
fn make(lab: &Lab, name: &str, settings: &str) -> Option<PathBuf> {
    let out = lab.path(&format!("{name}.iso"));
    let tree = lab.path("tree");
    let program = include_str!("../../../../../diskimg-testkit/src/oracles/pycdlib_make.py");
    let made = pycdlib_run(program, &[out.as_os_str(), tree.as_os_str(), settings.as_ref()])?;
    made.unwrap_or_else(|error| panic!("pycdlib, {name}: {error}"));
    Some(out)
}

/// Name, settings, what is shown, by itself or not, what must be there, who agrees.
type Case<'a> = (&'a str, &'a str, Namespace, bool, &'a Tree, &'a [Reader]);

#[test]
#[allow(clippy::print_stderr)]
fn images_of_pycdlib_are_what_went_in() {
    if std::env::var_os("DISKIMG_ORACLES").is_none() {
        eprintln!("skipped: DISKIMG_ORACLES names no environment with pycdlib");
        return;
    }
    let lab = Lab::new(|root| {
        tree::names(root);
        std::os::unix::fs::symlink("sub.directory/inside.txt", root.join("link")).unwrap();
        std::os::unix::fs::symlink("/absolute/../target", root.join("absolute")).unwrap();
    });
    let whole = lab.wanted();
    // It gives files its own owner and the moment of making.
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
        // bsdtar takes its files, all with serial number 0, for one.
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
            "UDF beside all",
            r#"{"udf": "2.60", "joliet": 3, "rock_ridge": "1.12"}"#,
            Namespace::Udf,
            false,
            &bare,
            &[],
        ),
    ];
    for (name, settings, namespace, preferred, wanted, agree) in cases {
        let Some(image) = make(&lab, name, settings) else { return };
        report.see(&View { name, image: &image, namespace, preferred, wanted, agree });
    }
    report.must(whole.values().any(|facts| facts.kind == FileType::Symlink), "the tree has links");
    report.done();
}
