//! Directory trees of ISO images that show different files.

use diskimg::inspection::Code;
use diskimg::{InspectOptions, Inspection, Severity, inspect};
use diskimg_testkit::tool::run;
use tempfile::TempDir;

/// A directory with two files, and images of it.
struct Lab(TempDir);

impl Lab {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("files/sub")).unwrap();
        for (name, content) in [("good", "good\n"), ("evil", "evil\n"), ("sub/third", "3")] {
            std::fs::write(dir.path().join("files").join(name), content).unwrap();
        }
        Self(dir)
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn image(&self, program: &[&str], options: &[&str]) -> Vec<u8> {
        let (image, files) = (self.path("a.iso"), self.path("files"));
        let (command, first) = program.split_first().unwrap();
        let args = first.iter().chain(options).copied();
        run(command, args.chain(["-quiet", "-o", &image, &files]).collect::<Vec<_>>());
        std::fs::read(image).unwrap()
    }

    fn inspect(&self, image: &[u8]) -> Inspection {
        let path = self.path("b.iso");
        std::fs::write(&path, image).unwrap();
        inspect(path, &InspectOptions::new()).unwrap()
    }

    /// Returns the severity of the finding about the trees.
    fn severity(&self, image: &[u8]) -> Option<Severity> {
        self.inspect(image).finding(Code::TreesDiffer).map(|finding| finding.severity)
    }
}

const XORRISO: [&str; 3] = ["xorriso", "-as", "mkisofs"];
const GENISOIMAGE: [&str; 1] = ["genisoimage"];

/// Returns the offsets of the directory records with this name.
fn records(image: &[u8], name: &[u8]) -> Vec<usize> {
    const NAME: usize = 33;
    let found = image.windows(name.len()).enumerate().filter(|(_, found)| *found == name);
    let found = found.map(|(at, _)| at - NAME);
    found.filter(|&at| usize::from(image[at + NAME - 1]) == name.len()).collect()
}

fn joliet(name: &str) -> Vec<u8> {
    name.encode_utf16().flat_map(u16::to_be_bytes).collect()
}

/// Exchanges the locations and lengths of two files in a tree.
fn exchange(image: &mut [u8], names: [&[u8]; 2]) {
    let [first, second] = names.map(|name| records(image, name)[0]);
    for at in 2..18 {
        image.swap(first + at, second + at);
    }
}

#[test]
fn trees_of_programs_do_not_differ() {
    let lab = Lab::new();
    let programs: [(&[&str], &[&[&str]]); 2] = [
        (
            &XORRISO,
            &[&["-R", "-J"], &["-J"], &["-R"], &["-iso-level", "4", "-J"], &["-R", "-hfsplus"]],
        ),
        (
            &GENISOIMAGE,
            &[
                &["-R", "-J"],
                &["-J"],
                &["-udf"],
                &["-R", "-J", "-udf"],
                &["-J", "-udf"],
                &["-iso-level", "4", "-J"],
                &["-iso-level", "4", "-R", "-J", "-udf"],
                &["-R", "-J", "-b", "good", "-no-emul-boot", "-udf"],
            ],
        ),
    ];
    // Names that are shortened to the same one, and links.
    for name in ["a long name.text", "a long name.tex", "a long name.textual", "Long", "long"] {
        std::fs::write(lab.path("files/sub/").to_owned() + name, name).unwrap();
        std::fs::write(lab.path("files/").to_owned() + &name.repeat(12), name).unwrap();
    }
    std::os::unix::fs::symlink("good", lab.path("files/link")).unwrap();
    for (program, variants) in programs {
        for options in variants {
            let found = lab.inspect(&lab.image(program, options));
            let finding = found.finding(Code::TreesDiffer);
            // Without Rock Ridge, names are shortened to those of other files.
            let worst = (!options.contains(&"-R")).then_some(Severity::Warning);
            let severity = finding.map(|finding| finding.severity);
            assert!(severity <= worst, "{program:?} {options:?}: {finding:?}");
        }
    }
}

#[test]
fn a_path_that_is_another_file_in_another_tree_is_an_error() {
    let lab = Lab::new();
    let names = [joliet("good"), joliet("evil")];
    let in_joliet = [&names[0][..], &names[1]];
    let mut image = lab.image(&XORRISO, &["-R", "-J"]);
    exchange(&mut image, in_joliet);
    let found = lab.inspect(&image);
    let finding = found.finding(Code::TreesDiffer).unwrap();
    assert_eq!((finding.severity, found.is_safe()), (Severity::Error, false));
    assert!(["good", "evil"].contains(&finding.path.as_deref().unwrap()), "{finding:?}");

    // Without Rock Ridge the names of one tree may be shortened, but not these.
    let mut image = lab.image(&GENISOIMAGE, &["-J"]);
    exchange(&mut image, in_joliet);
    assert_eq!(lab.severity(&image), Some(Severity::Error));
    let mut image = lab.image(&GENISOIMAGE, &["-J"]);
    let at = records(&image, &names[0])[0];
    image[at + 2..at + 10].copy_from_slice(&[16, 0, 0, 0, 0, 0, 0, 16]);
    assert_eq!(lab.severity(&image), Some(Severity::Error));

    // UDF.
    let mut image = lab.image(&GENISOIMAGE, &["-R", "-udf"]);
    exchange(&mut image, [b"GOOD.;1", b"EVIL.;1"]);
    assert_eq!(lab.severity(&image), Some(Severity::Error));

    // A file that some programs do not show, because it is part of another one.
    let mut image = lab.image(&XORRISO, &["-R", "-J"]);
    exchange(&mut image, in_joliet);
    for name in &names {
        let at = records(&image, name)[0];
        image[at + 25] |= 4;
    }
    assert_eq!(lab.severity(&image), Some(Severity::Error));

    // The same contents at another place.
    let mut image = lab.image(&XORRISO, &["-R", "-J"]);
    let at = records(&image, &names[0])[0];
    let sector = u32::try_from(image.len() / 2048).unwrap();
    image.extend(b"good\n");
    image.resize(image.len().next_multiple_of(2048), 0);
    image[at + 2..at + 6].copy_from_slice(&sector.to_le_bytes());
    image[at + 6..at + 10].copy_from_slice(&sector.to_be_bytes());
    let found = lab.inspect(&image);
    assert!(found.findings.iter().all(|finding| finding.severity < Severity::Error), "{found:?}");
}

#[test]
fn all_paths_are_compared_however_many_are_usual() {
    let lab = Lab::new();
    let names = |n: usize| [format!("f{n:02}.text"), format!("f{n:02}.tex")];
    for name in (0..40).flat_map(names) {
        std::fs::write(lab.path("files/") + &name, &name).unwrap();
    }
    let mut image = lab.image(&GENISOIMAGE, &["-J"]);
    let others = |image: &[u8]| {
        let found = lab.inspect(image);
        assert!(found.is_safe(), "{found:?}");
        found
            .findings
            .iter()
            .any(|finding| finding.message.ends_with("other paths are different files"))
    };
    // Files whose names are shortened may have the names of each other.
    if !others(&image) {
        for pair in (0..40).map(names) {
            let [first, second] = pair.map(|name| joliet(&name));
            exchange(&mut image, [&first, &second]);
        }
        assert!(others(&image));
    }
    let at = records(&image, &joliet("good"))[0];
    image[at + 2..at + 10].copy_from_slice(&[16, 0, 0, 0, 0, 0, 0, 16]);
    assert_eq!(lab.severity(&image), Some(Severity::Error));
}

#[test]
fn names_are_compared_with_and_without_rock_ridge_and_case() {
    let lab = Lab::new();
    let swapped = |image: &mut [u8], records: [usize; 2], names: [&[u8]; 2]| {
        for (at, from, to) in [(records[0], names[0], names[1]), (records[1], names[1], names[0])] {
            let len = usize::from(image[at]);
            let record = &mut image[at..at + len];
            let name = record.windows(from.len()).rposition(|found| found == from).unwrap();
            record[name..name + to.len()].copy_from_slice(to);
        }
    };
    // The names of Rock Ridge are exchanged, those of ISO 9660 are not.
    let mut image = lab.image(&GENISOIMAGE, &["-R"]);
    let of_files = [&b"GOOD.;1"[..], b"EVIL.;1"].map(|name| records(&image, name)[0]);
    swapped(&mut image, of_files, [b"good", b"evil"]);
    assert_eq!(lab.severity(&image), Some(Severity::Error));

    // Windows does not distinguish the names of Joliet from those of Rock Ridge.
    for (good, evil) in [("good", "evil"), ("Good", "Evil"), ("gooD", "EVIL")] {
        let mut image = lab.image(&XORRISO, &["-R", "-J"]);
        for (from, to) in [("good", evil), ("evil", good)] {
            let at = records(&image, &joliet(from))[0] + 33;
            image[at..at + 8].copy_from_slice(&joliet(to));
        }
        assert_eq!(lab.severity(&image), Some(Severity::Error), "{good}");
    }

    // A file that is empty in one of the trees.
    let mut image = lab.image(&XORRISO, &["-R", "-J"]);
    let at = records(&image, &joliet("good"))[0];
    image[at + 10..at + 18].fill(0);
    assert_eq!(lab.severity(&image), Some(Severity::Error));
}

#[test]
fn files_that_cannot_be_compared_are_an_error() {
    let lab = Lab::new();
    for tree in [joliet("good"), b"GOOD.;1".to_vec()] {
        // Interleaved.
        let mut image = lab.image(&GENISOIMAGE, &["-R", "-J"]);
        let at = records(&image, &tree)[0];
        image[at + 26] = 1;
        assert_eq!(lab.severity(&image), Some(Severity::Error));
        // On another volume of a set.
        let mut image = lab.image(&GENISOIMAGE, &["-R", "-J"]);
        for descriptor in [16, 17].map(|sector| sector * 2048) {
            image[descriptor + 120..descriptor + 124].copy_from_slice(&[2, 0, 0, 2]);
        }
        assert_eq!(lab.severity(&image), None);
        let at = records(&image, &tree)[0];
        image[at + 28..at + 32].copy_from_slice(&[2, 0, 0, 2]);
        assert_eq!(lab.severity(&image), Some(Severity::Error));
    }
    // A tree that cannot be opened, and one that cannot be read completely.
    let mut image = lab.image(&GENISOIMAGE, &["-R", "-J"]);
    image[17 * 2048 + 156..17 * 2048 + 190].fill(0xff);
    image[17 * 2048 + 140..17 * 2048 + 156].fill(0xff);
    assert_eq!(lab.severity(&image), Some(Severity::Error));
    let mut image = lab.image(&GENISOIMAGE, &["-R", "-J"]);
    let at = records(&image, &joliet("sub"))[0];
    image[at + 2..at + 10].fill(0xff);
    assert_eq!(lab.severity(&image), Some(Severity::Error));
}

#[test]
fn several_files_of_one_path_in_a_tree_are_an_error() {
    let lab = Lab::new();
    let rename = |image: &mut [u8], from: &[u8], to: &[u8]| {
        let at = records(image, from)[0];
        let len = usize::from(image[at]);
        let record = &mut image[at..at + len];
        for (from, to) in [(from, to), (b"evil", b"good")] {
            let name = record.windows(from.len()).position(|found| found == from);
            if let Some(name) = name {
                record[name..name + to.len()].copy_from_slice(to);
            }
        }
    };
    for options in [&["-R"][..], &[], &["-J"]] {
        let mut image = lab.image(&GENISOIMAGE, options);
        assert_eq!(lab.severity(&image), None);
        rename(&mut image, b"EVIL.;1", b"GOOD.;1");
        assert_eq!(lab.severity(&image), Some(Severity::Error), "{options:?}");
    }
    let mut image = lab.image(&XORRISO, &["-R", "-J"]);
    rename(&mut image, &joliet("evil"), &joliet("good"));
    assert_eq!(lab.severity(&image), Some(Severity::Error));
}

#[test]
fn records_that_programs_read_differently_are_an_error() {
    let lab = Lab::new();
    // An extended attribute record, a gap, and a section that no other one of the file follows.
    for (field, value) in [(1, 1), (27, 1), (25, 0x80)] {
        for options in [&["-R"][..], &[], &["-J"]] {
            let mut image = lab.image(&GENISOIMAGE, options);
            let at = records(&image, b"EVIL.;1")[0];
            image[at + field] = value;
            assert_eq!(lab.severity(&image), Some(Severity::Error), "{field} {options:?}");
        }
    }
    // A name in two entries without a flag that it continues, with unknown flags, and with bytes
    // that end it.
    let name = "0123456789abcdef";
    std::fs::write(lab.path("files/") + name, "content").unwrap();
    let entry = |flags: u8, text: &str| {
        [&[b'N', b'M', 5 + text.len() as u8, 1, flags], text.as_bytes()].concat()
    };
    let whole = entry(0, name);
    for (expected, parts) in [
        (None, vec![entry(0, name)]),
        (None, vec![entry(1, "012345"), entry(0, "abcde")]),
        (Some(Severity::Error), vec![entry(0, "012345"), entry(0, "abcde")]),
        (Some(Severity::Error), vec![entry(1, "012345"), entry(1, "abcde")]),
        (Some(Severity::Error), vec![entry(0x20, name)]),
        (Some(Severity::Error), vec![entry(0, "0123456789abcd\0f")]),
        (Some(Severity::Error), vec![entry(0, "01234567/9abcdef")]),
    ] {
        let mut image = lab.image(&GENISOIMAGE, &["-R"]);
        let at = image.windows(whole.len()).position(|found| found == whole).unwrap();
        let parts = parts.concat();
        image[at..at + parts.len()].copy_from_slice(&parts);
        assert_eq!(lab.severity(&image), expected, "{parts:?}");
    }
}

#[test]
fn the_sequence_of_volume_descriptors_has_no_gaps() {
    let lab = Lab::new();
    let image = lab.image(&GENISOIMAGE, &["-R", "-J"]);
    // Behind the primary descriptor are that of Joliet, the end, and one without a meaning.
    let sector = |image: &[u8], sector: usize| image[sector * 2048..][..2048].to_vec();
    let (joliet, end) = (sector(&image, 17), sector(&image, 18));
    let id = |kind: u8, name: &[u8]| [&[kind][..], name, &[1]].concat();
    let with = |start: &[u8], more: &[(usize, &[u8])]| {
        let mut between = vec![0; 2048];
        for (at, bytes) in [&[(0, start)], more].concat() {
            between[at..at + bytes.len()].copy_from_slice(bytes);
        }
        let mut image = image.clone();
        image[17 * 2048..20 * 2048].copy_from_slice(&[&between[..], &joliet, &end].concat());
        lab.severity(&image)
    };
    let boot = id(0, b"CD001");
    assert_eq!(with(&boot, &[]), None);
    assert_eq!(with(&id(0, b"BEA01"), &[]), None);
    // Sectors that other programs skip, one of High Sierra, one of Joliet in another type.
    assert_eq!(with(b"", &[]), Some(Severity::Error));
    assert_eq!(with(&id(0, b"BEA01"), &[(9, b"CDROM")]), Some(Severity::Error));
    assert_eq!(with(&boot, &[(88, b"%/@")]), Some(Severity::Error));
    assert_eq!(with(&id(3, b"CD001"), &[]), Some(Severity::Error));
    // A descriptor that is not valid, and no end.
    let changed = |at: usize, byte: u8| {
        let mut image = image.clone();
        image[at] = byte;
        lab.severity(&image)
    };
    assert_eq!(changed(17 * 2048 + 129, 4), Some(Severity::Error));
    assert_eq!(changed(18 * 2048, 0), Some(Severity::Error));
}

#[test]
fn files_that_are_hidden_in_a_tree_are_a_warning() {
    let lab = Lab::new();
    for options in [&["-R", "-J", "-hide-joliet", "evil"][..], &["-R", "-J", "-hide", "evil"]] {
        let found = lab.inspect(&lab.image(&GENISOIMAGE, options));
        let finding = found.finding(Code::TreesDiffer).unwrap();
        assert_eq!((finding.severity, found.is_safe()), (Severity::Warning, true), "{options:?}");
        assert!(finding.message.starts_with("a file of another tree"), "{}", finding.message);
    }
}

#[test]
fn descriptors_of_one_kind_have_one_root_directory() {
    let lab = Lab::new();
    let mut image = lab.image(&XORRISO, &["-R", "-J"]);
    // The Joliet descriptor becomes a second primary one.
    let joliet = (16..32).map(|sector| sector * 2048).find(|&at| image[at] == 2).unwrap();
    let copy = image[joliet..joliet + 2048].to_vec();
    image[joliet] = 1;
    assert_eq!(lab.severity(&image), Some(Severity::Error));
    image[joliet..joliet + 2048].copy_from_slice(&copy);
    assert_eq!(lab.severity(&image), None);
}

#[test]
fn raw_sectors_have_a_note() {
    let lab = Lab::new();
    let image = lab.image(&XORRISO, &["-R"]);
    let mut raw = Vec::new();
    for (number, data) in (0u8..).zip(image.chunks(2048).take(200)) {
        raw.extend([&[0][..], &[0xff; 10], &[0, 0, 2, number % 75, 1], data, &[0; 288]].concat());
    }
    let found = lab.inspect(&raw);
    let finding = found.finding(Code::RawSectors).unwrap();
    assert_eq!((finding.severity, found.format), (Severity::Note, "iso"));
    assert!(lab.inspect(&image).finding(Code::RawSectors).is_none());
}
