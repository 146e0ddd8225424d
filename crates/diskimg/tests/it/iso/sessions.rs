//! Multi-session images.

use diskimg::iso::{IsoImage, IsoOptions, Session};
use diskimg::storage::source::FileSource;
use diskimg_testkit::tool::run;
use std::path::Path;
use std::sync::Arc;

fn open(path: &Path, session: Session) -> IsoImage {
    let mut options = IsoOptions::default();
    options.session = session;
    IsoImage::open(Arc::new(FileSource::open(path).unwrap()), &options).unwrap()
}

fn names(image: &IsoImage) -> Vec<String> {
    let names = image.walk().map(|found| String::from_utf8(found.unwrap().path).unwrap());
    names.filter(|name| !name.contains('/')).collect()
}

/// Returns a directory with files `1`, `2` and `3`.
fn tree() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for n in 1..=3 {
        let file = dir.path().join(n.to_string());
        std::fs::write(file, vec![n; 100_000 * usize::from(n)]).unwrap();
    }
    dir
}

fn check(image: &Path, labels: &[&str]) {
    let last = open(image, Session::Last);
    let found: Vec<_> = last.sessions().iter().map(|session| &*session.label).collect();
    assert_eq!(found, labels);
    assert_eq!(names(&last), ["1", "2", "3"][..labels.len()]);
    assert_eq!(names(&open(image, Session::First)), ["1"]);
    for (count, session) in last.sessions().iter().enumerate() {
        let start = u32::try_from(session.start_sector).unwrap();
        assert_eq!(names(&open(image, Session::At(start))).len(), count + 1);
    }
}

#[test]
fn sessions_written_by_xorriso_to_one_file_are_found() {
    let dir = tree();
    let image = dir.path().join("image.iso");
    for n in 1..=3 {
        let (device, label) = (format!("stdio:{}", image.display()), format!("S{n}"));
        let (file, name) = (dir.path().join(n.to_string()), format!("/{n}"));
        let mut args = vec!["-dev", &device, "-volid", &label];
        args.extend(["-map", file.to_str().unwrap(), &name, "-commit"]);
        run("xorriso", args);
    }
    check(&image, &["S1", "S2", "S3"]);
}

#[test]
fn concatenated_sessions_of_genisoimage_are_found() {
    let dir = tree();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let image = path("image.iso");
    run("genisoimage", ["-quiet", "-R", "-V", "G1", "-o", &image, &path("1")]);
    let end = std::fs::metadata(&image).unwrap().len().div_ceil(2048).next_multiple_of(16);
    let (second, position) = (path("second"), format!("0,{end}"));
    let mut args = vec!["-quiet", "-R", "-V", "G2", "-C", &position, "-M", &image, "-o", &second];
    let file = path("2");
    args.push(&file);
    run("genisoimage", args);
    let mut bytes = std::fs::read(&image).unwrap();
    bytes.resize(end as usize * 2048, 0);
    bytes.extend(std::fs::read(&second).unwrap());
    std::fs::write(&image, bytes).unwrap();
    check(Path::new(&image), &["G1", "G2"]);
}
