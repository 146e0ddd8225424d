//! Every VMDK subformat, read by every VMDK reader.
//!
//! The results are printed as tables; `--nocapture` shows them if the tests pass.

use diskimg::{Convert, Format, Image, OpenOptions, Options};
use diskimg_testkit::disk::{Disk, Fill, Run};
use diskimg_testkit::oracles::{Oracle, Verdict, compare_bytes};
use diskimg_testkit::tool::{full, run};
use std::path::Path;

/// The subformats that qemu-img writes too.
const COMMON: [&str; 5] = [
    "monolithicSparse",
    "streamOptimized",
    "monolithicFlat",
    "twoGbMaxExtentSparse",
    "twoGbMaxExtentFlat",
];

/// Offset of the second extent of a split disk in VMware's layout.
const SPLIT: u64 = 2047 << 20;

/// A subformat that a reader is known not to open.
struct Refusal {
    subformat: &'static str,
    reader: &'static str,
    /// A part of its error message.
    reason: &'static str,
}

/// Disks with boundary cases.
fn contents() -> [(&'static str, Disk); 6] {
    let run = |at, len, fill| Run { at, len, fill };
    [
        ("empty", Disk { size: 3 << 20, runs: vec![] }),
        (
            "text, zeros",
            Disk {
                size: 4 << 20,
                runs: vec![
                    run(0, 500_000, Fill::Words(1)),
                    run(1 << 20, 200_000, Fill::Byte(0)),
                    run(2 << 20, 500_000, Fill::Words(2)),
                ],
            },
        ),
        (
            // Deflate makes it larger.
            "noise",
            Disk {
                size: 4 << 20,
                runs: vec![run(0, 1 << 20, Fill::Noise(3)), run(3 << 20, 1 << 20, Fill::Noise(4))],
            },
        ),
        (
            "half a last grain",
            Disk {
                size: (3 << 20) + 32_768,
                runs: vec![run((3 << 20) + 32_000, 768, Fill::Words(5))],
            },
        ),
        (
            "half a last sector",
            Disk {
                size: (3 << 20) + 1000,
                runs: vec![
                    run(100, 500_000, Fill::Words(6)),
                    run((3 << 20) + 900, 100, Fill::Noise(7)),
                ],
            },
        ),
        (
            // Data across VMware's extent boundary at 2047 MiB and qemu-img's at 2048 MiB.
            "two extents",
            Disk {
                size: SPLIT + (5 << 20) + 1536,
                runs: vec![
                    run(0, 100_000, Fill::Words(8)),
                    run(SPLIT - 70_000, 140_000, Fill::Noise(9)),
                    run((2048 << 20) - 70_000, 140_000, Fill::Words(10)),
                    run(SPLIT + (5 << 20) + 1000, 536, Fill::Noise(11)),
                ],
            },
        ),
    ]
}

/// The verdicts of all readers on an image.
struct Row {
    subformat: &'static str,
    content: &'static str,
    cells: Vec<(&'static str, Verdict)>,
}

impl Row {
    /// Reads the image with every oracle.
    fn new(subformat: &'static str, content: &'static str, image: &Path, disk: &Disk) -> Self {
        let cells = Oracle::ALL.map(|oracle| (oracle.name(), oracle.compare("vmdk", image, disk)));
        Self { subformat, content, cells: cells.into() }
    }

    /// Asserts that all readers read the expected bytes, except known refusals, which must still
    /// occur.
    fn assert(&self, known: &[Refusal]) {
        for (reader, verdict) in &self.cells {
            let refusal =
                known.iter().find(|k| k.subformat == self.subformat && k.reader == *reader);
            let expected = match (verdict, refusal) {
                (Verdict::NotInstalled, _) | (Verdict::Same, None) => true,
                (Verdict::Refuses(reason), Some(known)) => reason.contains(known.reason),
                _ => false,
            };
            assert!(expected, "{}, {}: {reader}: {verdict}", self.subformat, self.content);
        }
    }
}

#[allow(clippy::print_stdout)]
fn print(title: &str, rows: &[Row]) {
    let cells = rows.iter().map(|row| {
        let verdicts = row.cells.iter().map(|(_, verdict)| verdict.to_string());
        [row.subformat, row.content].map(str::to_owned).into_iter().chain(verdicts).collect()
    });
    let readers = rows.iter().take(1).flat_map(|row| &row.cells).map(|(reader, _)| *reader);
    let head = ["subformat", "content"].into_iter().chain(readers).map(str::to_owned).collect();
    let lines: Vec<Vec<String>> = std::iter::once(head).chain(cells).collect();
    println!("\n{title}");
    for line in &lines {
        let cells = line.iter().enumerate().map(|(column, cell)| {
            let width = lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
            format!("{cell:<width$}  ")
        });
        println!("{}", cells.collect::<String>().trim_end());
    }
}

/// Returns all subformats if the tests run in full, otherwise every third, beginning with another
/// one for each content, so that every subformat and every content is tested.
fn sample_of(
    number: usize,
    subformats: impl IntoIterator<Item = &'static str>,
) -> impl Iterator<Item = &'static str> {
    let subformats = subformats.into_iter().enumerate();
    subformats.filter(move |(i, _)| full() || i % 3 == (number + 1) % 3).map(|(_, name)| name)
}

fn write(source: &Path, subformat: &str, image: &Path) {
    let raw = OpenOptions::new().format(Format::Raw).open(source).unwrap();
    let options = Options::parse(&format!("subformat={subformat}")).unwrap();
    Convert::new(raw).format(Format::Vmdk).options(options).run(image).unwrap();
}

#[test]
fn every_reader_reads_the_same_bytes_from_our_images() {
    // There are no refusals.
    let known = [];
    let mut rows = Vec::new();
    for (number, (content, disk)) in contents().into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source.raw");
        disk.write(&source);
        for subformat in sample_of(number, COMMON.into_iter().chain(["vmfs"])) {
            let dir = tempfile::tempdir().unwrap();
            let image = dir.path().join("disk.vmdk");
            write(&source, subformat, &image);
            rows.push(Row::new(subformat, content, &image, &disk));
        }
    }
    print("VMDK written by diskimg", &rows);
    for row in rows {
        row.assert(&known);
        let agreeing = row.cells.iter().filter(|(_, verdict)| *verdict == Verdict::Same).count();
        assert!(agreeing >= 2, "{}, {}: fewer than two readers agree", row.subformat, row.content);
    }
}

#[test]
fn every_reader_and_diskimg_read_the_same_bytes_from_qemu_imgs_images() {
    let known = [Refusal {
        // A stream without markers.
        subformat: "streamOptimized",
        reader: "7-Zip",
        reason: "Cannot open the file as [VMDK] archive",
    }];
    let mut rows = Vec::new();
    for (number, (content, disk)) in contents().into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source.raw");
        disk.write(&source);
        for subformat in sample_of(number, COMMON) {
            // Above 2 GiB only split images differ from smaller ones.
            if disk.size > SPLIT && !subformat.starts_with("twoGb") {
                continue;
            }
            let dir = tempfile::tempdir().unwrap();
            let image = dir.path().join("disk.vmdk");
            let (from, to) = (source.to_str().unwrap(), image.to_str().unwrap());
            let option = format!("subformat={subformat}");
            run("qemu-img", ["convert", "-f", "raw", "-O", "vmdk", "-o", &option, from, to]);
            let mut row = Row::new(subformat, content, &image, &disk);
            let ours = Image::open(&image).map(|image| compare_bytes(image.reader(), &disk));
            let ours = ours.unwrap_or_else(|error| Verdict::Refuses(error.to_string()));
            row.cells.push(("diskimg", ours));
            rows.push(row);
        }
    }
    print("VMDK written by qemu-img", &rows);
    rows.iter().for_each(|row| row.assert(&known));
}

#[test]
fn the_oracles_detect_wrong_bytes_wrong_sizes_and_files_that_are_no_image() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, image, junk) =
        (dir.path().join("a.raw"), dir.path().join("a.vmdk"), dir.path().join("b.vmdk"));
    let runs = |byte| vec![Run { at: 70_000, len: 1, fill: Fill::Byte(byte) }];
    let disk = Disk { size: 3 << 20, runs: runs(1) };
    disk.write(&raw);
    let args = ["convert", "-f", "raw", "-O", "vmdk", raw.to_str().unwrap()];
    run("qemu-img", args.into_iter().chain([image.to_str().unwrap()]));
    std::fs::write(&junk, vec![7; 1 << 20]).unwrap();
    for oracle in Oracle::ALL {
        let verdict = oracle.compare("vmdk", &image, &disk);
        if verdict == Verdict::NotInstalled {
            continue;
        }
        assert_eq!(verdict, Verdict::Same, "{}", oracle.name());
        for other in [
            Disk { runs: runs(2), ..disk },
            Disk { runs: runs(1), size: disk.size - 512 },
            Disk { runs: runs(1), size: disk.size + 512 },
        ] {
            let verdict = oracle.compare("vmdk", &image, &other);
            assert!(matches!(verdict, Verdict::Differs(_)), "{}: {verdict}", oracle.name());
        }
        let verdict = oracle.compare("vmdk", &junk, &disk);
        // dissect reads any other file as a flat extent.
        assert_ne!(verdict, Verdict::Same, "{}", oracle.name());
    }
}
