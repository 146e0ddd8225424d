//! ISO images: creation from files, and extraction with the names that the system allows.

use crate::lab::{Lab, pattern};
use diskimg_testkit::iso::{FREE, GOOD, GOOD_AT, IsoBuilder, ROOT, Record};
use std::fs;

#[test]
fn an_image_of_files_is_extracted_as_it_was() {
    let lab = Lab::new();
    fs::create_dir_all(lab.path("in/sub/deeper")).unwrap();
    lab.write("in/a.txt", "text\r\n");
    lab.write("in/sub/Ünïcödé.bin", pattern(300_000));
    lab.write("in/sub/deeper/empty", "");
    lab.line("iso create -q -o a.iso in").ok();
    lab.line("iso extract -C out a.iso").ok();
    for name in ["a.txt", "sub/Ünïcödé.bin", "sub/deeper/empty"] {
        let (one, other) = (lab.read(&format!("in/{name}")), lab.read(&format!("out/{name}")));
        assert!(one == other, "{name}");
        let times = ["in", "out"].map(|directory| {
            let found = lab.path(directory).join(name).metadata().unwrap();
            found.modified().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
        });
        assert_eq!(times[0], times[1], "{name}");
    }
    // The name of a file that exists, in other letters on some systems.
    let error = lab.line("iso extract -C out a.iso").code;
    assert_eq!(error, Some(1), "existing files are kept");
    lab.line("iso extract --overwrite -C out a.iso").ok();
    let cat = lab.line("iso cat a.iso a.txt");
    assert_eq!(cat.out, b"text\r\n");
    // The image itself is neither an input nor overwritten.
    let before = lab.read("a.iso");
    lab.line("iso create -q -o a.iso in a.iso").fails();
    assert!(lab.read("a.iso") == before);
}

/// Names that Windows reserves, or takes for something else than a file.
const RESERVED: [&str; 15] = [
    "NUL", "con.txt", "COM1", "com¹", "LPT9.x.y", "aux", "a:b", "a.", "a ", "q?", "s*", "<", "p|",
    "quote\"", "tab\tx",
];

#[test]
fn names_that_the_system_does_not_allow_are_refused_one_by_one() {
    let lab = Lab::new();
    let file = |name: &str| Record::rock(name, GOOD_AT, GOOD.len() as u32, &[]);
    let mut files: Vec<_> = RESERVED.iter().map(|name| file(name)).collect();
    files.extend([file("plain"), file("back\\slash"), Record::rock_dir("nul.d", FREE, &[])]);
    let mut builder = IsoBuilder::rock_ridge(&files);
    builder.dir(FREE, ROOT, &[file("inside")]);
    lab.write("a.iso", builder.finish());
    let ran = lab.line("iso extract -C out a.iso");
    let extracted: Vec<_> = fs::read_dir(lab.path("out"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(extracted.iter().any(|name| name == "plain"), "{extracted:?}");
    assert_eq!(fs::read(lab.path("out/plain")).unwrap(), GOOD);
    if !cfg!(windows) {
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        assert!(RESERVED.iter().all(|name| extracted.iter().any(|other| other == name)));
        return;
    }
    assert_eq!(ran.code, Some(1), "{extracted:?}");
    for name in ["NUL", "COM1", "aux", "back", "nul.d"] {
        assert!(ran.err.contains(name), "{name}: {}", ran.err);
    }
    assert!(ran.err.contains("Windows reserves the name for a device"), "{}", ran.err);
    let others = ["plain", "good.txt"];
    assert!(extracted.iter().all(|name| others.contains(&&**name)), "{extracted:?}");
}

#[test]
fn files_whose_names_are_one_to_the_system_do_not_replace_each_other() {
    let lab = Lab::new();
    let file = |name: &str| Record::rock(name, GOOD_AT, GOOD.len() as u32, &[]);
    lab.write("a.iso", IsoBuilder::rock_ridge(&[file("Name"), file("name")]).finish());
    fs::create_dir(lab.path("out")).unwrap();
    lab.write("out/NAME", "old");
    let is_one = lab.path("out/name").exists();
    let ran = lab.line("iso extract --overwrite -C out a.iso");
    assert_eq!(ran.code, Some(if is_one { 1 } else { 0 }), "{}", ran.err);
    assert!(!is_one || ran.err.contains("another file of the image has this name"), "{}", ran.err);
    assert_eq!(fs::read(lab.path("out/Name")).unwrap(), GOOD);
}
