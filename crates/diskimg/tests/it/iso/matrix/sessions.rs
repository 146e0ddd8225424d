//! Discs written several times: the last session shows all, the first what it had.

use super::tree::{self, Lab};
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

/// Sessions that xorriso adds to a file, with its list of them at sector 32.
#[test]
fn sessions_of_xorriso_are_each_what_they_were() {
    let lab = Lab::new(tree::names);
    let first = lab.wanted();
    let image = lab.path("s.iso");
    let (out, top) = (image.to_str().unwrap(), lab.arg("tree"));
    let quiet = ["-report_about", "SORRY"];
    run(
        "xorriso",
        quiet.into_iter().chain(["-outdev", out, "-map", &top, "/"]).collect::<Vec<_>>(),
    );
    std::fs::write(lab.path("tree/new in the second"), "two").unwrap();
    std::fs::remove_file(lab.path("tree/readme.txt")).unwrap();
    run(
        "xorriso",
        quiet.into_iter().chain(["-dev", out, "-update_r", &top, "/"]).collect::<Vec<_>>(),
    );
    let second = reference::without(&lab.wanted(), |_| {});
    let mut report = Report::new("sessions");
    report.see(&View {
        name: "xorriso, the last",
        image: &image,
        namespace: Namespace::RockRidge,
        preferred: true,
        wanted: &second,
        agree: &[],
    });
    let ours = open(&image, Session::Last);
    report.must(ours.sessions().len() == 2, "two sessions are found");
    let listed = reference::listed(&open(&image, Session::First));
    // The root's own time changes; what is below it is as it was.
    let differs = reference::differences(&first, &listed);
    report.must(differs.is_empty(), &format!("the first session: {differs:?}"));
    report.done();
}

/// A session of genisoimage behind another, as a drive would leave them: no list of them.
#[test]
fn a_session_behind_another_is_found() {
    let lab = Lab::new(tree::names);
    let first = lab.wanted();
    let one = super::genisoimage::make(&lab, "one", "-R -no-pad");
    let len = std::fs::metadata(&one).unwrap().len();
    // It begins at a multiple of 16 sectors, behind the run-out of the first.
    let start = (len / 2048 + 150).next_multiple_of(16);
    std::fs::write(lab.path("tree/new in the second"), "two").unwrap();
    let params = format!("-R -C 0,{start} -M {}", one.to_str().unwrap());
    let two = super::genisoimage::make(&lab, "two", &params);
    let mut bytes = std::fs::read(&one).unwrap();
    bytes.resize(start as usize * 2048, 0);
    bytes.extend(std::fs::read(&two).unwrap());
    std::fs::write(lab.path("both.iso"), bytes).unwrap();
    let image = lab.path("both.iso");
    let mut report = Report::new("sessions without a list");
    let at = Session::At(start as u32);
    let second = lab.wanted();
    let listed = reference::listed(&open(&image, at));
    let differs = reference::differences(&second, &listed);
    report.must(differs.is_empty(), &format!("the second session: {differs:?}"));
    let listed = reference::listed(&open(&image, Session::First));
    let differs = reference::differences(&first, &listed);
    report.must(differs.is_empty(), &format!("the first session: {differs:?}"));
    report.see(&View {
        name: "the last",
        image: &image,
        namespace: Namespace::RockRidge,
        preferred: true,
        wanted: &second,
        agree: &[],
    });
    report.done();
}
