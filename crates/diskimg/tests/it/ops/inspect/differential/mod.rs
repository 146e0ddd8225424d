//! `inspect` compared with other readers, for thousands of generated files: what it calls safe,
//! QEMU, Python's tarfile and zipfile, GNU tar, bsdtar, unzip, 7-Zip and namespace-aware XML parsers
//! read as the same format, the same disk and the same members.
//!
//! ```text
//!   seed ──► file ──► inspect ──► unsafe: nothing to compare
//!                             └─► safe ──► qemu-img info, with and without -f
//!                                          qemu-img convert: the same guest bytes
//!                                          archive_readers.py: lists of members, files in an OVF
//! ```
//!
//! `DISKIMG_FULL=1` judges 20,000 files, otherwise a sample.

mod archives;
mod descriptors;
mod random;
mod readers;
mod signatures;
mod valid;
mod volumes;

use archives::Disks;
use diskimg::inspection::Code;
use diskimg::{Format, InspectOptions, Inspection, OpenOptions, inspect};
use diskimg_testkit::tool::{full, run};
use random::Random;
use std::collections::BTreeMap;
use std::path::Path;

/// Number of files of a full run.
const FILES: u64 = 20_000;

/// Number of files of a sample.
const SAMPLE: u64 = 1_540;

/// Number of files that exist at a time.
const BATCH: u64 = 250;

/// Images on which the generated files are based.
pub struct Bases {
    sparse: Vec<u8>,
    first_stream: Vec<u8>,
    second_stream: Vec<u8>,
    qcow2: Vec<u8>,
    iso: Vec<u8>,
    volume: Vec<u8>,
}

impl Bases {
    fn make() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let convert = |name: &str, fill: u8, size: usize, args: &[&str]| {
            std::fs::write(path("raw"), vec![fill; size]).unwrap();
            let args = ["convert", "-f", "raw", "-O"].iter().chain(args).copied();
            let (raw, image) = (path("raw"), path(name));
            run("qemu-img", args.chain([&*raw, &*image]).collect::<Vec<_>>());
            std::fs::read(path(name)).unwrap()
        };
        let stream = ["vmdk", "-o", "subformat=streamOptimized"];
        std::fs::write(path("file"), "content").unwrap();
        let (iso, file) = (path("a.iso"), path("file"));
        run("xorriso", ["-as", "mkisofs", "-quiet", "-R", "-J", "-o", &iso, &file]);
        Self {
            sparse: convert("a.vmdk", 7, 1 << 20, &["vmdk"]),
            first_stream: convert("b.vmdk", 1, 128 << 10, &stream),
            second_stream: convert("c.vmdk", 2, 128 << 10, &stream),
            qcow2: convert("a.qcow2", 3, 32 << 10, &["qcow2", "-o", "cluster_size=512"]),
            iso: std::fs::read(&iso).unwrap()[..48 << 10].to_vec(),
            volume: volumes::base(),
        }
    }

    /// Returns the name and the contents of the file with this number.
    fn file(&self, number: u64) -> (String, Vec<u8>) {
        let random = &mut Random::new(number);
        let disks = Disks { first: &self.first_stream, second: &self.second_stream };
        let (name, bytes) = match number % 11 {
            0..=2 => signatures::case(random),
            3 => self.hybrid(random, &disks),
            4 | 5 => descriptors::embedded(random, &self.sparse),
            6 => descriptors::alone(random),
            7 => archives::tar(random, &disks),
            8 => archives::descriptor(random, &disks),
            9 => volumes::case(random, &self.volume),
            _ => self.changed(random),
        };
        (format!("{number:05}-{name}"), bytes)
    }

    /// Returns an image into which parts of others are written, or to which they are appended.
    fn hybrid(&self, random: &mut Random, disks: &Disks<'_>) -> (String, Vec<u8>) {
        let (_, tar) = archives::tar(&mut Random::new(1), disks);
        let zip = b"PK\x03\x04\x0a\0\0\0\0\0\0\0!\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0x\
                    PK\x01\x02\x0a\0\x0a\0\0\0\0\0\0\0!\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\
                    \0\0\0\0\0\0\0\0\0\0\0\0\0\0x\
                    PK\x05\x06\0\0\0\0\x01\0\x01\0\x2f\0\0\0\x1f\0\0\0\0\0";
        // The end record may state another size of the directory, and its offset in the file.
        let absolute = |start: usize, size: u8| {
            let mut archive = zip.to_vec();
            let directory = u32::try_from(start + 31).unwrap().to_le_bytes();
            let end = archive.len() - 22;
            archive[end + 12] = size;
            archive[end + 16..end + 20].copy_from_slice(&directory);
            archive
        };
        // bsdtar searches the directory forward from where its stated length leads.
        let elsewhere = |size: u8, offset: u8| {
            let mut archive = zip.to_vec();
            let end = archive.len() - 22;
            (archive[end + 12], archive[end + 16]) = (0x2f + size, offset);
            archive[31 + 42] = offset;
            archive
        };
        let bases: [(&str, &[u8]); 6] = [
            ("iso", &self.iso),
            ("qcow2", &self.qcow2),
            ("vmdk", &self.first_stream),
            ("vmdk", &self.sparse),
            ("ova", &tar),
            ("img", &[0; 8192]),
        ];
        let (name, base) = bases[random.below(bases.len())];
        let mut bytes = base.to_vec();
        match random.below(10) {
            0 => bytes.extend(zip),
            6 => bytes.extend(absolute(bytes.len(), 1)),
            7 => {
                bytes.extend(absolute(bytes.len(), 0x2f));
                bytes.extend(vec![0; 65_600 + random.below(300)]);
            }
            // unzip reads whole blocks of 8 KiB until it has 66,000 bytes.
            8 => {
                bytes.extend(zip);
                bytes.extend(vec![0; 65_900 + random.below(8_300)]);
            }
            9 => {
                bytes.extend(elsewhere(random.below(60) as u8, random.below(40) as u8));
                bytes.extend(vec![0; random.below(2) * random.below(1000)]);
            }
            1 => {
                bytes.extend(zip);
                bytes.extend(vec![0; random.below(1000)]);
            }
            2 => bytes[..tar.len().min(1536)].copy_from_slice(&tar[..1536]),
            3 => bytes.extend(&tar),
            4 => {
                let at = random.below(bytes.len() - zip.len());
                bytes[at..at + zip.len()].copy_from_slice(zip);
            }
            _ => {
                bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
                (bytes[450], bytes[454], bytes[458]) = (0x17, 1, 1);
            }
        }
        (format!("hybrid.{name}"), bytes)
    }

    /// Returns an image with changed bytes in its first or last 600 bytes.
    fn changed(&self, random: &mut Random) -> (String, Vec<u8>) {
        let bases = [("qcow2", &self.qcow2), ("vmdk", &self.first_stream), ("vmdk", &self.sparse)];
        let (name, base) = bases[random.below(bases.len())];
        let mut bytes = base.clone();
        for _ in 0..1 + random.below(3) {
            let reach = if random.one_in(2) { 112 } else { 600 };
            let place = random.below(reach.min(bytes.len()));
            let at = if random.one_in(4) { bytes.len() - 1 - place } else { place };
            bytes[at] = if random.one_in(2) { random.next() as u8 } else { bytes[at] ^ 1 };
        }
        (format!("changed.{name}"), bytes)
    }
}

/// The numbers of a run.
#[derive(Default)]
struct Figures {
    safe: usize,
    /// By reader: how many files it reads differently than their claimed or detected format says.
    differently: BTreeMap<&'static str, usize>,
    failures: Vec<String>,
}

impl Figures {
    /// Records what a reader finds, `None` if it agrees.
    fn record(&mut self, name: &str, reader: &'static str, safe: bool, difference: Option<String>) {
        let Some(difference) = difference else { return };
        *self.differently.entry(reader).or_default() += 1;
        if safe {
            self.failures.push(format!("{name}: {reader}: {difference}"));
        }
    }
}

/// The format that QEMU gives an image in a format that only other programs know.
fn qemu_name(found: &Inspection) -> &str {
    match found.format {
        "qcow2" | "vmdk" | "cloop" | "bochs" => found.format,
        "vhd" => "vpc",
        "ploop" => "parallels",
        other => match Format::ALL.iter().any(|format| format.name() == other) {
            true => "raw",
            false => other,
        },
    }
}

#[test]
#[allow(clippy::print_stdout)]
fn what_is_safe_is_read_alike_by_every_reader() {
    let bases = Bases::make();
    let (mut figures, mut files) = (Figures::default(), 0);
    // Coprime to the number of kinds of files.
    let step = if full() { 1 } else { FILES.div_ceil(SAMPLE) | 1 };
    let first = std::env::var("DISKIMG_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
    let numbers: Vec<_> = (first..first + FILES).step_by(step as usize).collect();
    for numbers in numbers.chunks(BATCH as usize) {
        let dir = tempfile::tempdir().unwrap();
        for number in numbers {
            let (name, bytes) = bases.file(*number);
            std::fs::write(dir.path().join(name), bytes).unwrap();
        }
        judge(dir.path(), &mut figures);
        files += numbers.len();
    }
    println!("{files} files, {} safe; read differently: {:?}", figures.safe, figures.differently);
    let failures = &figures.failures;
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    // The comparison means something only if there are files of both kinds.
    assert!(figures.safe > files / 20 && figures.safe < files / 2, "{}", figures.safe);
}

/// Compares the verdicts on all files of a directory.
fn judge(dir: &Path, figures: &mut Figures) {
    let qemu = readers::qemu(dir);
    let lists = readers::archives(dir);
    for (name, infos) in &qemu {
        let path = dir.join(name);
        let found = inspect(&path, &InspectOptions::new()).unwrap();
        let raw = InspectOptions::new().claimed("raw").unwrap();
        // A program that claims a format passes that format to QEMU.
        let as_raw = found.format == "raw" && inspect(&path, &raw).unwrap().is_safe();
        let safe = found.is_safe();
        figures.safe += usize::from(safe);
        let expected = qemu_name(&found);
        let unlike = |info: &readers::Info| info.unlike(expected, &found, &path);
        figures.record(name, "qemu-img", safe || as_raw, infos.probed.as_ref().and_then(unlike));
        let named = infos.named.as_ref().filter(|_| expected != "raw");
        figures.record(name, "qemu-img -f", safe, named.and_then(unlike));
        if safe && matches!(found.format, "qcow2" | "vmdk") {
            figures.record(name, "qemu-img convert", true, other_bytes(&path, found.format));
        }
        if let Some(list) = lists.get(name) {
            // A zip archive near the end is a warning: it may be the last file of a volume.
            let warned = found.finding(Code::SeveralFormats).is_some();
            let difference = list.unlike(found.format);
            figures.record(name, "archive readers", safe && !warned, difference);
        }
    }
}

/// Compares the guest bytes that QEMU and this library read; a reader may refuse the image.
fn other_bytes(path: &Path, format: &str) -> Option<String> {
    let raw = path.with_extension("converted");
    let args = ["convert", "-f", format, "-O", "raw", path.to_str()?, raw.to_str()?];
    let output = diskimg_testkit::tool::try_run("qemu-img", args);
    let theirs = std::fs::read(&raw).ok().filter(|_| output.status.success());
    std::fs::remove_file(&raw).ok();
    let options = OpenOptions::new().format(format.parse::<Format>().unwrap());
    let image = options.open(path).ok()?;
    let mut ours = vec![0; usize::try_from(image.size()).ok().filter(|&size| size < 64 << 20)?];
    image.read_at(&mut ours, 0).ok()?;
    let theirs = theirs?;
    let at = ours.iter().zip(&theirs).position(|(a, b)| a != b);
    match at {
        Some(at) => Some(format!("other bytes from {at} on")),
        None => (ours.len() != theirs.len()).then(|| "another length".to_owned()),
    }
}
