//! Multi-session images: the last session has all files, the first its original ones.

use super::tree::{self, TestDir};
use super::{Report, View};
use crate::iso::reference;
use diskimg::iso::{IsoImage, IsoOptions, Namespace, Session};
use diskimg::storage::source::FileSource;
use diskimg_testkit::tool::run;
use std::path::Path;
use std::sync::Arc;

fn open(image: &Path, session: Session) -> IsoImage {
    let mut options = IsoOptions::default();
    options.session = session;
    IsoImage::open(Arc::new(FileSource::open(image).unwrap()), &options).unwrap()
}

/// xorriso adds sessions to a file and keeps a list of them at sector 32.
#[test]
fn each_session_of_xorriso_has_its_files() {
    let dir = TestDir::new(tree::names);
    let first = dir.wanted();
    let image = dir.path("s.iso");
    let (out, top) = (image.to_str().unwrap(), dir.arg("tree"));
    let quiet = ["-report_about", "SORRY"];
    run(
        "xorriso",
        quiet.into_iter().chain(["-outdev", out, "-map", &top, "/"]).collect::<Vec<_>>(),
    );
    std::fs::write(dir.path("tree/new in the second"), "two").unwrap();
    std::fs::remove_file(dir.path("tree/readme.txt")).unwrap();
    run(
        "xorriso",
        quiet.into_iter().chain(["-dev", out, "-update_r", &top, "/"]).collect::<Vec<_>>(),
    );
    let second = reference::without(&dir.wanted(), |_| {});
    let mut report = Report::new("sessions");
    report.check(&View {
        name: "xorriso, last session",
        image: &image,
        namespace: Namespace::RockRidge,
        preferred: true,
        wanted: &second,
        readers: &[],
    });
    let ours = open(&image, Session::Last);
    report.require(ours.sessions().len() == 2, "two sessions must be found");
    let listed = reference::listed(&open(&image, Session::First));
    // Only the time of the root itself changes.
    let differs = reference::differences(&first, &listed);
    report.require(differs.is_empty(), &format!("the first session: {differs:?}"));
    report.finish();
}

/// genisoimage writes no list of sessions; the sessions are concatenated as on a disc.
#[test]
fn concatenated_sessions_without_a_list_are_found() {
    let dir = TestDir::new(tree::names);
    let first = dir.wanted();
    let one = super::genisoimage::make(&dir, "one", "-R -no-pad");
    let len = std::fs::metadata(&one).unwrap().len();
    // It starts at a multiple of 16 sectors after the run-out of the first.
    let start = (len / 2048 + 150).next_multiple_of(16);
    std::fs::write(dir.path("tree/new in the second"), "two").unwrap();
    let params = format!("-R -C 0,{start} -M {}", one.to_str().unwrap());
    let two = super::genisoimage::make(&dir, "two", &params);
    let mut bytes = std::fs::read(&one).unwrap();
    bytes.resize(start as usize * 2048, 0);
    bytes.extend(std::fs::read(&two).unwrap());
    std::fs::write(dir.path("both.iso"), bytes).unwrap();
    let image = dir.path("both.iso");
    let mut report = Report::new("sessions without a list");
    let at = Session::At(start as u32);
    let second = dir.wanted();
    let listed = reference::listed(&open(&image, at));
    let differs = reference::differences(&second, &listed);
    report.require(differs.is_empty(), &format!("the second session: {differs:?}"));
    let listed = reference::listed(&open(&image, Session::First));
    let differs = reference::differences(&first, &listed);
    report.require(differs.is_empty(), &format!("the first session: {differs:?}"));
    report.check(&View {
        name: "last session",
        image: &image,
        namespace: Namespace::RockRidge,
        preferred: true,
        wanted: &second,
        readers: &[],
    });
    report.finish();
}
