//! The work of every operation on a disk image is bounded by the stored bytes: hostile tables of
//! sizes n, 2n and 4n take at most work in proportion, or are errors.

use diskimg::storage::sink::MemorySink;
use diskimg::storage::source::MemorySource;
use diskimg::{
    Compare, Convert, Error, Format, Image, InspectOptions, Limits, OpenOptions, Output, Source,
    inspect_source, map, measure,
};
use diskimg_testkit::disk::{Disk, Fill, Run};
use diskimg_testkit::esx::{Cowd, Grain, Grains, SeSparse, put};
use diskimg_testkit::growth::{CountingSource, require_linear, require_linear_time};
use diskimg_testkit::hosted::{Sparse, Stream, Writer};
use diskimg_testkit::qcow2::{Entry, Qcow2};
use diskimg_testkit::tool::run;
use flate2::Compression;
use flate2::write::ZlibEncoder;
use std::io::Write;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// An image whose work is counted.
struct Subject {
    image: Image,
    source: Arc<CountingSource>,
}

impl Subject {
    fn open(bytes: &[u8], format: Format) -> Self {
        Self::open_with(bytes, &OpenOptions::new().format(format))
    }

    fn open_with(bytes: &[u8], options: &OpenOptions) -> Self {
        let source: Arc<dyn Source> = Arc::new(MemorySource::new(bytes.to_vec()));
        let source = Arc::new(CountingSource::new(source));
        let image = options.open_source(source.clone(), "image").unwrap();
        Self { image, source }
    }

    /// Bytes read so far, and 4 KiB for each read.
    fn work(&self) -> u64 {
        self.source.bytes() + self.source.reads() * 4096
    }
}

type Operation = fn(&Subject) -> (Option<Error>, u64);

/// Operations that read the tables. Each returns its error, and the number of its steps.
const OPERATIONS: [(&str, Operation); 6] = [
    ("extents", |subject| {
        let extents = subject.image.extents(0..subject.image.size()).unwrap();
        count(extents.map(|extent| extent.map(drop)))
    }),
    ("map", |subject| {
        count(map(&subject.image, 0..subject.image.size()).map(|entry| entry.map(drop)))
    }),
    ("compare", |subject| {
        let other = subject.image.clone();
        let outcome = Compare::new(&subject.image, &other).threads(1).run();
        (outcome.err().map(|failed| failed.error), 0)
    }),
    ("measure", |subject| {
        (measure(Format::Qcow2, &diskimg::Options::default(), &subject.image).err(), 0)
    }),
    ("convert", |subject| convert(subject, false)),
    ("salvage", |subject| convert(subject, true)),
];

fn count(steps: impl Iterator<Item = Result<(), Error>>) -> (Option<Error>, u64) {
    let mut taken = 0;
    for step in steps {
        taken += 1;
        if let Err(error) = step {
            return (Some(error), taken);
        }
    }
    (None, taken)
}

/// Converts to qcow2. The steps are the calls of the progress function, one for each task.
fn convert(subject: &Subject, salvage: bool) -> (Option<Error>, u64) {
    let steps = AtomicU64::new(0);
    let progress = |_| {
        steps.fetch_add(1, Ordering::Relaxed);
        ControlFlow::Continue(())
    };
    let convert = Convert::new(subject.image.clone()).format(Format::Qcow2).threads(1);
    let convert = convert.salvage(salvage).progress(&progress);
    let outcome = convert.run_to(Output::to_sink(Arc::new(MemorySink::new())));
    let salvaged = outcome.as_ref().map_or(0, |report| report.salvaged.len() as u64);
    let error = outcome.err();
    (error, steps.load(Ordering::Relaxed) + salvaged)
}

/// Requires that every operation on the image that `build` returns takes at most linear work, and
/// that the operations that do not salvage fail with this text, or succeed.
fn require_bounded(
    what: &str,
    n: usize,
    build: impl Fn(usize) -> (Vec<u8>, Format),
    error: Option<&str>,
) {
    for (name, operation) in OPERATIONS {
        require_linear(&format!("{name} of {what}"), n, |n| {
            let (bytes, format) = build(n);
            let subject = Subject::open(&bytes, format);
            let (found, steps) = operation(&subject);
            match (found, error) {
                (Some(found), Some(wanted)) => {
                    assert!(found.to_string().contains(wanted), "{name} of {what}: {found}");
                }
                (None, None) => {}
                (None, Some(_)) if name == "salvage" => {}
                (found, wanted) => panic!("{name} of {what}: {found:?}, expected {wanted:?}"),
            }
            // A step of any kind costs as much as a read of 4 KiB at most.
            subject.work() + steps * 4096
        });
    }
}

/// An L1 table of `n` entries that refer to one of two L2 tables.
fn shared_l2(n: usize, entries: &[Entry]) -> (Vec<u8>, Format) {
    let mut image = Qcow2::repeating(16, 2, entries);
    image.l1 = (0..n as u64).map(|i| Some(i % 2)).collect();
    (image.build(), Format::Qcow2)
}

const ALTERNATING: [Entry; 2] = [Entry::Zero, Entry::Unallocated];

#[test]
fn a_shared_l2_table_is_an_error() {
    let error = "L1 table: entries 0 and 2 refer to the same L2 table";
    for entries in [&ALTERNATING[..], &[Entry::Data(0)], &[Entry::Compressed(1)]] {
        require_bounded("shared L2 tables", 512, |n| shared_l2(n, entries), Some(error));
    }
}

#[test]
fn distinct_tables_take_work_in_proportion() {
    let tables = |n| (Qcow2::repeating(12, n, &ALTERNATING).build(), Format::Qcow2);
    require_bounded("alternating entries", 32, tables, None);
    let extended = |n| {
        let mut image = Qcow2::repeating(14, 0, &[]);
        image.extended = true;
        image.l1 = (0..n as u64).map(Some).collect();
        image.tables = vec![vec![Entry::Zero; image.entries()]; n];
        (image.build(), Format::Qcow2)
    };
    require_bounded("alternating subclusters", 8, extended, None);
}

#[test]
fn clusters_that_many_entries_share_exceed_the_budget() {
    for entry in [Entry::Data(0), Entry::Compressed(1)] {
        let image = Qcow2::repeating(15, 4, &[entry]).build();
        // Raising the limit is the caller's decision.
        let mut limits = Limits::default();
        limits.data_sharing = 1 << 20;
        let options = OpenOptions::new().format(Format::Qcow2).limits(limits);
        let subject = Subject::open_with(&image, &options);
        for (name, operation) in &OPERATIONS[..2] {
            assert!(operation(&subject).0.is_none(), "{name}");
        }
        for (name, operation) in OPERATIONS {
            let subject = Subject::open(&image, Format::Qcow2);
            let (error, _) = operation(&subject);
            let error = error.unwrap_or_else(|| panic!("{name} succeeds"));
            assert_eq!(error.exceeded(), Some("data_sharing"), "{name}: {error}");
        }
    }
}

#[test]
fn compressed_clusters_that_overlap_exceed_the_budget() {
    // Decoding may read all sectors that each entry states, although the best case takes 64 bytes.
    let overlapping = |n: usize| {
        let mut image = Qcow2::repeating(16, 1, &[Entry::Unallocated]);
        image.tables[0][..n].fill(Entry::CompressedSectors(0, 128));
        image.clusters.push(Vec::new());
        (image.build(), Format::Qcow2)
    };
    require_bounded("overlapping units", 512, overlapping, Some("share stored bytes"));
}

#[test]
fn small_compressed_clusters_in_one_sector_are_within_the_budget() {
    let dir = tempfile::tempdir().unwrap();
    let [raw, path] = ["a.raw", "a.qcow2"].map(|name| dir.path().join(name));
    let runs = vec![Run { at: 0, len: 256 << 20, fill: Fill::Byte(0x55) }];
    Disk { size: 256 << 20, runs }.write(&raw);
    for cluster_size in ["4k", "64k", "256k", "2M"] {
        let [from, to] = [&raw, &path].map(|path| path.to_str().unwrap());
        let option = format!("cluster_size={cluster_size}");
        let args = ["convert", "-f", "raw", "-O", "qcow2", "-c", "-o", &option, from, to];
        run("qemu-img", args);
        let image = Image::open(&path).unwrap();
        assert!(image.extents(0..image.size()).unwrap().all(|extent| extent.is_ok()), "{option}");
    }
}

/// A sparse extent of 512 compressed grains whose sizes are not recorded. `sector` returns that of
/// each of the first `n`, of those after the tables.
fn bare_grains(n: usize, sector: impl Fn(u32) -> u32) -> (Vec<u8>, Format) {
    let (mut file, format) = grain_tables(1, |_, first| first);
    let directory = u64::from_le_bytes(file[56..64].try_into().unwrap()) as usize * 512;
    let first = u32::from_le_bytes(file[directory..directory + 4].try_into().unwrap());
    put(&mut file, 8, &0x1_0001u32.to_le_bytes());
    put(&mut file, 77, &1u16.to_le_bytes());
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&[b'A'; 65536]).unwrap();
    let grain = encoder.finish().unwrap();
    file.resize(file.len() + (1 << 20), 0);
    file[first as usize * 512..][..2048].fill(0);
    for i in 0..n {
        let at = first + 4 + sector(i as u32);
        put(&mut file, first as usize * 512 + i * 4, &at.to_le_bytes());
        put(&mut file, at as usize * 512, &grain);
    }
    (file, format)
}

#[test]
fn grains_without_sizes_that_overlap_exceed_the_budget() {
    let shared = |n| bare_grains(n, |_| 0);
    require_bounded("shared grains", 64, shared, Some("share stored bytes"));
    let distinct = |n| bare_grains(n, |i| i);
    require_bounded("grains without sizes", 64, distinct, None);
    let descending = |n| bare_grains(n, |i| 1024 - i);
    require_bounded("grains in descending order", 64, descending, None);
}

#[test]
fn valid_images_of_constant_data_are_within_the_budget() {
    let dir = tempfile::tempdir().unwrap();
    let [raw, path] = ["a.raw", "a.img"].map(|name| dir.path().join(name));
    // Some of the disk is not compressible, and some is a hole.
    let runs = vec![
        Run { at: 0, len: 40 << 20, fill: Fill::Byte(0xff) },
        Run { at: 50 << 20, len: 1 << 20, fill: Fill::Noise(1) },
    ];
    Disk { size: 64 << 20, runs }.write(&raw);
    for (format, args) in [
        (Format::Qcow2, &["-c", "-o", "cluster_size=512"][..]),
        (Format::Qcow2, &["-c"]),
        (Format::Qcow2, &["-c", "-o", "cluster_size=2M"]),
        (Format::Qcow2, &["-c", "-o", "compression_type=zstd"]),
        (Format::Qcow2, &["-c", "-o", "cluster_size=2M,compression_type=zstd"]),
        (Format::Qcow2, &["-c", "-o", "extended_l2=on"]),
        (Format::Qcow2, &["-o", "extended_l2=on"]),
        (Format::Qcow2, &["-o", "preallocation=full"]),
        (Format::Vmdk, &[]),
        (Format::Vmdk, &["-o", "subformat=monolithicFlat"]),
        (Format::Vmdk, &["-o", "subformat=streamOptimized"]),
        (Format::Vmdk, &["-o", "subformat=twoGbMaxExtentSparse"]),
    ] {
        let [from, to] = [&raw, &path].map(|path| path.to_str().unwrap());
        let head = ["convert", "-f", "raw", "-O", format.name()];
        run("qemu-img", head.iter().chain(args).chain(&[from, to]));
        if format == Format::Qcow2 {
            // Its clusters are those of the disk, too.
            run("qemu-img", ["snapshot", "-c", "s", to]);
            run("qemu-io", ["-f", "qcow2", "-c", "write -q -P 7 1M 2M", to]);
        }
        let image = OpenOptions::new().format(format).open(&path).unwrap();
        assert!(image.extents(0..image.size()).unwrap().all(|extent| extent.is_ok()), "{args:?}");
        assert!(Compare::new(&image, &image).run().is_ok(), "{args:?}");
    }
}

/// A hosted sparse extent of `n` grain tables. `entry` returns the sector of each, given its number
/// and the sector of the first.
fn grain_tables(n: usize, entry: impl Fn(u32, u32) -> u32) -> (Vec<u8>, Format) {
    let sectors = n as u64 * 512 * 128;
    let shape = Sparse { flags: 1, ..Sparse::plain(sectors) };
    let mut file = shape.build(&Grains::from([(0, Grain::Data(1))]));
    let directory = u64::from_le_bytes(file[56..64].try_into().unwrap()) as usize * 512;
    let first = u32::from_le_bytes(file[directory..directory + 4].try_into().unwrap());
    for i in 0..n {
        put(&mut file, directory + i * 4, &entry(i as u32, first).to_le_bytes());
    }
    (file, Format::Vmdk)
}

#[test]
fn shared_and_overlapping_grain_tables_are_errors() {
    let error = "grain directory: entries 0 and 1 refer to the same grain table";
    let shared = |n| grain_tables(n, |_, first| first);
    require_bounded("shared grain tables", 64, shared, Some(error));
    // A table has four sectors.
    let shifted = |n| grain_tables(n, |i, first| first + i);
    require_bounded("overlapping grain tables", 64, shifted, Some(error));
    let disjoint = |n| grain_tables(n, |i, first| first + i * 4);
    require_bounded("grain tables", 64, disjoint, None);
}

#[test]
fn shared_grain_tables_of_esx_are_errors() {
    let cowd = |n: usize| {
        let mut file = Cowd::hosted((n * 512 * 128) as u32).build(&[(0, Grain::Data(1))].into());
        let first = file[4 * 512..4 * 512 + 4].to_vec();
        for i in 0..n {
            put(&mut file, 4 * 512 + i * 4, &first);
        }
        (file, Format::Vmdk)
    };
    let error = "grain directory: entries 0 and 1 refer to the same grain table";
    require_bounded("shared tables of COWD", 64, cowd, Some(error));
    let dir = tempfile::tempdir().unwrap();
    let (tables, sectors) = (4, 4 * 4096 * 8);
    let mut file = SeSparse::dense(sectors).build(&[(0, Grain::Zero)].into());
    let directory = SeSparse::dense(sectors).regions()[3].0 as usize * 512;
    for i in 0..tables {
        put(&mut file, directory + i * 8, &(0x1000_0000u64 << 32).to_le_bytes());
    }
    std::fs::write(dir.path().join("e.vmdk"), file).unwrap();
    let text = diskimg_testkit::esx::descriptor("seSparse", "SESPARSE", sectors, "e.vmdk", None);
    std::fs::write(dir.path().join("d.vmdk"), text).unwrap();
    let image = Image::open(dir.path().join("d.vmdk")).unwrap();
    let error_found = image.extents(0..image.size()).unwrap().find_map(Result::err).unwrap();
    assert!(error_found.to_string().contains(error), "{error_found}");
}

/// Builds an image of a given size.
type Build<'a> = &'a dyn Fn(usize) -> Vec<u8>;

#[test]
fn checks_take_work_in_proportion() {
    let check = |what: &str, n: usize, build: Build<'_>| {
        require_linear(what, n, |n| {
            let options = OpenOptions::new().format(Format::Qcow2).metadata_only(true);
            let subject = Subject::open_with(&build(n), &options);
            let mut listed = 0;
            let counts = subject.image.check(&mut |_| listed += 1).unwrap().unwrap();
            let found = counts.corruptions + counts.leaks + counts.check_errors;
            assert_eq!(listed, found.min(Limits::default().check_findings));
            assert_eq!(counts.omitted_findings, found - listed);
            subject.work() + found * 100
        });
    };
    check("check of shared L2 tables", 1024, &|n| shared_l2(n, &ALTERNATING).0);
    check("check of shared clusters", 16, &|n| Qcow2::repeating(12, n, &[Entry::Data(0)]).build());
    check("check of snapshots with one L1 table", 64, &|n| {
        let mut image = Qcow2::repeating(12, 16, &ALTERNATING);
        image.snapshots = n as u32;
        image.build()
    });
    check("check of snapshots with an L1 table of as many entries", 64, &|n| {
        let mut image = Qcow2::repeating(12, n, &ALTERNATING);
        image.snapshots = n as u32;
        image.build()
    });
}

#[test]
fn info_and_inspect_take_work_in_proportion() {
    let builds: [(&str, Build<'_>); 3] = [
        ("shared L2 tables", &|n| shared_l2(n, &ALTERNATING).0),
        ("snapshots", &|n| {
            Qcow2 { snapshots: n as u32, ..Qcow2::repeating(12, 1, &ALTERNATING) }.build()
        }),
        ("grain tables", &|n| grain_tables(n, |i, first| first + i).0),
    ];
    for (what, build) in builds {
        require_linear(&format!("info of {what}"), 256, |n| {
            let options = OpenOptions::new().metadata_only(true);
            let subject = Subject::open_with(&build(n), &options);
            subject.image.info(0).unwrap();
            subject.work()
        });
        require_linear(&format!("inspect of {what}"), 256, |n| {
            let inner: Arc<dyn Source> = Arc::new(MemorySource::new(build(n)));
            let source = Arc::new(CountingSource::new(inner));
            let options = InspectOptions::default();
            inspect_source(source.clone(), "image", &options).unwrap();
            source.bytes() + source.reads() * 4096
        });
    }
}

#[test]
fn mapping_and_checking_take_time_in_proportion() {
    let image = |bytes: Vec<u8>| Subject::open(&bytes, Format::Qcow2).image;
    let alternating = |n| image(Qcow2::repeating(12, n, &ALTERNATING).build());
    require_linear_time("map", 16, 1024, alternating, |image| {
        assert!(map(image, 0..image.size()).all(|entry| entry.is_ok()));
    });
    require_linear_time("check", 16, 1024, alternating, |image| {
        image.check(&mut |_| ()).unwrap();
    });
    // The tables are in descending order, so that they are sorted to find any that are shared.
    let descending = |n: usize| {
        let mut image = Qcow2::repeating(9, n, &[Entry::Unallocated]);
        image.l1.reverse();
        Arc::new(MemorySource::new(image.build())) as Arc<dyn Source>
    };
    require_linear_time("sorting", 1 << 10, 1 << 15, descending, |source| {
        let options = OpenOptions::new().format(Format::Qcow2);
        let image = options.open_source(Arc::clone(source), "image").unwrap();
        assert!(image.extents(0..image.size()).unwrap().all(|extent| extent.is_ok()));
    });
}

/// A stream without tables, of which each of `n` sectors begins like a grain that ends where the file
/// ends.
fn false_markers(n: usize) -> Vec<u8> {
    const GRAIN_SECTORS: u64 = 1 << 16;
    let capacity = 4 * GRAIN_SECTORS;
    let mut file = Stream::of(Writer::VSphere).build(&[0; 64 << 10]);
    // The header says where the directory is, so that the footer is not needed to know the format.
    file.truncate(128 * 512);
    put(&mut file, 12, &[capacity.to_le_bytes(), GRAIN_SECTORS.to_le_bytes()].concat());
    let text = String::from_utf8_lossy(&file[512..21 * 512]).replace("RW 128 ", "RW 262144 ");
    put(&mut file, 512, &text.as_bytes()[..20 * 512]);
    // An interruption.
    file.extend([0xee; 512]);
    let end = file.len() + n * 512;
    for _ in 0..n {
        let mut sector = vec![0; 512];
        put(&mut sector, 8, &((end - file.len() - 12) as u32).to_le_bytes());
        // A block of zlib that is stored, and is not followed by a valid one.
        put(&mut sector, 12, &[0x78, 0x9c, 0, 0, 1, 0xff, 0xfe]);
        file.extend(sector);
    }
    let end = file.len();
    file[end - 4..].fill(0xff);
    file
}

#[test]
fn salvage_reads_false_grains_in_proportion_to_the_file() {
    require_linear("salvage of false markers", 512, |n| {
        let source: Arc<dyn Source> = Arc::new(MemorySource::new(false_markers(n)));
        let source = Arc::new(CountingSource::new(source));
        let image = OpenOptions::new().salvage(true).open_source(source.clone(), "a").unwrap();
        assert!(image.warnings().any(|warning| warning.contains("by their markers")));
        source.bytes()
    });
}

#[test]
fn salvage_of_damaged_entries_takes_work_in_proportion_to_the_tables() {
    // 512 GiB in clusters of 2 MiB: every other cluster is lost.
    let mut image = Qcow2::repeating(21, 1, &ALTERNATING);
    image.tables[0].iter_mut().step_by(2).for_each(|entry| *entry = Entry::Data(0));
    let mut damaged = image.build();
    let offset = |at: usize| {
        let word = u64::from_be_bytes(damaged[at..at + 8].try_into().unwrap());
        (word & 0x00ff_ffff_ffff_fe00) as usize
    };
    let l2 = offset(offset(40));
    for at in (l2..l2 + (1 << 21)).step_by(16) {
        damaged[at..at + 8].copy_from_slice(&((1u64 << 63) | (1 << 50)).to_be_bytes());
    }
    for with_overlay in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let [base, top] = ["base", "top"].map(|name| dir.path().join(name).display().to_string());
        std::fs::write(&base, &damaged).unwrap();
        run("qemu-img", ["create", "-q", "-f", "qcow2", "-b", &base, "-F", "qcow2", &top]);
        let name = if with_overlay { &top } else { &base };
        let steps = AtomicU64::new(0);
        let progress = |_| {
            steps.fetch_add(1, Ordering::Relaxed);
            ControlFlow::Continue(())
        };
        let convert = Convert::new(Image::open(name).unwrap()).format(Format::Qcow2);
        let convert = convert.salvage(true).verify(true).progress(&progress);
        let started = std::time::Instant::now();
        let report = convert.run(dir.path().join("out")).unwrap();
        assert!(started.elapsed().as_secs() < 20, "{with_overlay}");
        // Half of all clusters; the first ones are listed.
        assert_eq!(report.salvaged_bytes, (1 << 17) * (2 << 20), "{with_overlay}");
        assert_eq!(report.salvaged.len(), 4096);
        assert!(report.salvaged.iter().all(|lost| lost.guest.end - lost.guest.start == 2 << 20));
        assert!(report.verified);
    }
}

#[test]
fn an_error_that_is_not_damage_is_not_salvaged() {
    let mut bytes = Qcow2::repeating(16, 1, &ALTERNATING).build();
    // Encryption with AES, of a disk of 1 PiB without tables.
    put(&mut bytes, 32, &1u32.to_be_bytes());
    let subject = Subject::open(&bytes, Format::Qcow2);
    let (error, steps) = convert(&subject, true);
    let error = error.expect("is encrypted");
    assert!(error.kind() == diskimg::ErrorKind::Unsupported && steps < 10, "{error}, {steps}");
}

#[test]
fn salvage_steps_over_shared_tables_and_keeps_what_other_layers_have() {
    // 256 TiB of clusters of 2 MiB, 512 GiB for each L1 entry.
    let n = 512;
    let mut image = Qcow2::repeating(21, 1, &ALTERNATING);
    image.l1 = vec![Some(0); n];
    let bytes = image.build();
    let subject = Subject::open(&bytes, Format::Qcow2);
    let (error, steps) = convert(&subject, true);
    // Two windows for each entry, and at most 4096 parts of the zeros.
    assert!(error.is_none() && steps < 8192, "{error:?}, {steps} steps");
    let dir = tempfile::tempdir().unwrap();
    let [base, top] = ["base", "top"].map(|name| dir.path().join(name).display().to_string());
    std::fs::write(&base, &bytes).unwrap();
    run("qemu-img", ["create", "-q", "-f", "qcow2", "-b", &base, "-F", "qcow2", &top]);
    // In the middle of the range of an L1 entry, whose other bytes are lost.
    run("qemu-io", ["-f", "qcow2", "-c", "write -q -P 7 2000G 3M", &top]);
    let convert = Convert::new(Image::open(&top).unwrap()).format(Format::Qcow2).salvage(true);
    let report = convert.run(dir.path().join("out")).unwrap();
    let at = 2000 << 30;
    // Clusters of 64 KiB of the overlay.
    let lost: Vec<_> = report.salvaged.into_iter().map(|lost| lost.guest).collect();
    assert_eq!(lost, [0..at, at + (3 << 20)..image.size()]);
    let mut found = vec![0; 3 << 20];
    Image::open(dir.path().join("out")).unwrap().read_at(&mut found, at).unwrap();
    assert!(found.iter().all(|&byte| byte == 7));
}
