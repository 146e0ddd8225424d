//! Guest data that is written into existing images: random images of qemu-img, crashes at every
//! point, and targets whose tables lie.

mod devices;
mod failures;
mod holes;
mod hostile;
mod scale;

use diskimg::check::{Code, Finding};
use diskimg::storage::source::MemorySource;
use diskimg::{Backing, Convert, ErrorKind, Format, Image, OpenOptions, Severity, Source, Sparse};
use diskimg_testkit::crash::RecordingStorage;
use diskimg_testkit::disk;
use diskimg_testkit::tool::{assert_qemu_check, full, qemu_bytes, run, try_run};
use proptest::prelude::*;
use proptest::sample::select;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Value of the bytes of the backing file.
const BASE: u8 = 0x77;

/// A directory with a target that qemu-img makes.
struct Lab {
    dir: tempfile::TempDir,
    format: &'static str,
}

impl Lab {
    fn new(format: &'static str) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), format }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn target(&self) -> PathBuf {
        self.path("target")
    }

    /// Creates the target, over a full backing file of `backing` bytes.
    fn create(&self, options: &str, size: u64, backing: Option<u64>) -> bool {
        let target = self.target();
        let (size, base) = (size.to_string(), self.path("base"));
        let mut args = vec!["create", "-q", "-f", self.format];
        if !options.is_empty() {
            args.extend(["-o", options]);
        }
        if let Some(len) = backing {
            let file = base.to_str().unwrap();
            run("qemu-img", ["create", "-q", "-f", self.format, file, &len.to_string()]);
            self.io(&base, &[format!("write -q -P {BASE} 0 {len}")]);
            args.extend(["-b", file, "-F", self.format]);
        }
        args.extend([target.to_str().unwrap(), &size]);
        try_run("qemu-img", args).status.success()
    }

    fn io(&self, file: &Path, commands: &[String]) {
        for command in commands {
            // Some are not possible with every image.
            try_run("qemu-io", ["-f", self.format, "-c", command, file.to_str().unwrap()]);
        }
    }

    fn img(&self, args: &[&str]) -> bool {
        let target = self.target();
        try_run("qemu-img", [args, &[target.to_str().unwrap()]].concat()).status.success()
    }

    /// Returns the content of a snapshot.
    fn snapshot(&self, name: &str) -> Vec<u8> {
        let (raw, target) = (self.path("snapshot.raw"), self.target());
        let selector = format!("snapshot.name={name}");
        let files = [&target, &raw].map(|path| path.to_str().unwrap());
        run(
            "qemu-img",
            ["convert", "-f", "qcow2", "-l", &selector, "-O", "raw", files[0], files[1]],
        );
        std::fs::read(raw).unwrap()
    }

    fn bitmaps(&self) -> serde_json::Value {
        let text = run("qemu-img", ["info", "--output=json", self.target().to_str().unwrap()]);
        let info: serde_json::Value = serde_json::from_str(&text).unwrap();
        info["format-specific"]["data"]["bitmaps"].clone()
    }

    fn convert(&self, source: &[u8]) -> Convert<'static> {
        let image = OpenOptions::new()
            .format(Format::Raw)
            .open_source(Arc::new(MemorySource::new(source.to_vec())), "source")
            .unwrap();
        Convert::new(image).format(self.format.parse().unwrap())
    }

    fn open(&self) -> Image {
        OpenOptions::new().open(self.target()).unwrap()
    }

    /// Asserts that the target is consistent except for leaks, and that each of its sectors is that
    /// of `old` or that of `new`.
    fn assert_old_or_new(&self, old: &[u8], new: &[u8], context: &dyn Fn() -> String) {
        let image = self.open();
        let assert_leak = |finding: Finding| {
            let is_harmless = finding.code == Code::Leak || finding.severity == Severity::Warning;
            assert!(is_harmless, "{}: {finding:?}", context());
        };
        image.check(&mut |finding| assert_leak(finding)).unwrap();
        let mut found = vec![0; new.len()];
        image.read_at(&mut found, 0).unwrap();
        let sectors = found.chunks(512).zip(old.chunks(512).zip(new.chunks(512)));
        for (index, (found, (old, new))) in sectors.enumerate() {
            assert!(found == old || found == new, "{}: sector {index}", context());
        }
    }

    fn assert_clean(&self) {
        let report = self.open().check(&mut |_| {}).unwrap().unwrap();
        assert_eq!((report.corruptions, report.leaks), (0, 0));
        if self.format == "qcow2" {
            assert_qemu_check(&self.target(), "qcow2");
        }
    }
}

/// The disk after `source` was written to the beginning of `old`.
fn expected(source: &[u8], old: &[u8]) -> Vec<u8> {
    let mut bytes = source.to_vec();
    bytes.resize(source.len().next_multiple_of(512), 0);
    bytes.extend_from_slice(&old[bytes.len().min(old.len())..]);
    bytes
}

/// A part of the source: start and length in bytes, and its value, of which 0 is noise.
type Part = (u64, u64, u8);

fn source_of(len: u64, parts: &[Part]) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    for &(at, part, value) in parts {
        let at = (at % len) as usize;
        let end = (at + part as usize).min(bytes.len());
        match value {
            0 => bytes[at..end].copy_from_slice(&disk::noise(at as u64, end - at)),
            value => bytes[at..end].fill(value),
        }
    }
    bytes
}

/// Commands of qemu-io that write to a disk of `size` bytes.
fn commands(size: u64) -> impl Strategy<Value = Vec<String>> {
    let kinds = ["write -q -P 5", "write -q -P 6", "write -q -z", "write -q -z -u", "discard -q"];
    let kinds = kinds.into_iter().chain(["write -q -c -P 9"]).collect::<Vec<_>>();
    let one = (select(kinds), 0..size / 512, 1..=64u64, any::<bool>());
    prop::collection::vec(one, 0..6).prop_map(move |all| {
        let command = |(kind, at, len, long): (&str, u64, u64, bool)| {
            let (at, len) = match kind.contains("-c") {
                true => (at * 512 / 65536 * 65536, 65536),
                false => (at * 512, len * 512 * if long { 16 } else { 1 }),
            };
            format!("{kind} {at} {}", len.min(size - at).max(512))
        };
        all.into_iter().map(command).collect()
    })
}

/// Options of `qemu-img create`.
fn options() -> impl Strategy<Value = String> {
    let cluster = select(vec!["512", "4k", "64k", "64k", "2M"]);
    let version = select(vec![
        "compat=0.10",
        "refcount_bits=1",
        "refcount_bits=16",
        "refcount_bits=64",
        "compression_type=zstd",
        "lazy_refcounts=on",
        "data_file=DATA",
        "data_file=DATA,data_file_raw=on",
        "extended_l2=on",
        "preallocation=metadata",
        "preallocation=full",
    ]);
    (cluster, version).prop_map(|(cluster, other)| {
        let cluster =
            if other.starts_with("extended") && cluster == "512" { "16k" } else { cluster };
        format!("cluster_size={cluster},{other}")
    })
}

fn config(cases: u32) -> ProptestConfig {
    let cases = if full() { cases * 20 } else { cases };
    ProptestConfig { cases, failure_persistence: None, ..Default::default() }
}

const SIZES: [u64; 4] = [64 << 10, 333 * 512, 1 << 20, 3 << 20];

proptest! {
    #![proptest_config(config(40))]

    #[test]
    fn a_qcow2_image_has_the_sources_bytes_and_keeps_everything_else(
        (size, before, after) in select(SIZES.to_vec())
            .prop_flat_map(|size| (Just(size), commands(size), commands(size))),
        options in options(),
        backing in select(vec![None, None, Some(40 << 10), Some(4 << 20)]),
        (snapshots, bitmap) in (any::<bool>(), any::<bool>()),
        source_len in 1..=u64::MAX,
        parts in prop::collection::vec((any::<u64>(), 1..300_000u64, 0..4u8), 0..5),
        (compress, sparse, same) in (any::<bool>(), select(vec![None, Some(512), Some(4096)]), any::<bool>()),
    ) {
        let lab = Lab::new("qcow2");
        let data = lab.path("data");
        let options = options.replace("DATA", data.to_str().unwrap());
        // QEMU refuses some combinations.
        prop_assume!(lab.create(&options, size, backing));
        lab.io(&lab.target(), &before);
        let has_snapshot = snapshots && lab.img(&["snapshot", "-c", "s"]);
        if has_snapshot {
            lab.io(&lab.target(), &after);
        }
        // A snapshot that could not be made has left leaks.
        lab.img(&["check", "-q", "-r", "leaks"]);
        let target = lab.target();
        let add = ["bitmap", "--add", target.to_str().unwrap(), "b"];
        let has_bitmap = bitmap && try_run("qemu-img", add).status.success();
        let old = qemu_bytes(&lab.target(), "qcow2");
        let snapshot = has_snapshot.then(|| lab.snapshot("s"));
        let bitmaps = lab.bitmaps();
        prop_assert_eq!(has_bitmap, !bitmaps.is_null());
        let source = source_of(1 + source_len % size, &parts);
        let has_data_file = options.contains("data_file");
        let mut convert = lab.convert(&source).compress(compress && !has_data_file);
        convert = convert.sparse(sparse.map_or(Sparse::Off, Sparse::Blocks));
        if same && backing.is_some() {
            let base = lab.path("base");
            convert = convert.backing(Backing::new(base.to_str().unwrap()).with_format("qcow2"));
        }
        convert.verify(true).run_existing(lab.target()).unwrap();
        lab.assert_clean();
        let wanted = expected(&source, &old);
        prop_assert!(qemu_bytes(&lab.target(), "qcow2") == wanted);
        prop_assert_eq!(has_snapshot.then(|| lab.snapshot("s")), snapshot);
        prop_assert_eq!(lab.bitmaps(), bitmaps);
        if options.contains("data_file_raw") {
            let mut stored = std::fs::read(data).unwrap();
            stored.resize(wanted.len(), 0);
            prop_assert!(stored == wanted);
        }
    }

    #[test]
    fn a_vmdk_has_the_sources_bytes_and_keeps_everything_else(
        (size, before) in select(SIZES.to_vec()).prop_flat_map(|size| (Just(size), commands(size))),
        subformat in select(vec![
            "monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat",
        ]),
        zeroed_grain in any::<bool>(),
        backing in any::<bool>(),
        source_len in 1..=u64::MAX,
        parts in prop::collection::vec((any::<u64>(), 1..300_000u64, 0..4u8), 0..5),
        (dense, same) in (any::<bool>(), any::<bool>()),
    ) {
        let lab = Lab::new("vmdk");
        let zeroed_grain = if zeroed_grain { "on" } else { "off" };
        let options = format!("subformat={subformat},zeroed_grain={zeroed_grain}");
        let backing = backing.then_some(size);
        prop_assume!(lab.create(&options, size, backing));
        lab.io(&lab.target(), &before);
        let old = qemu_bytes(&lab.target(), "vmdk");
        let source = source_of(1 + source_len % size, &parts);
        let mut convert = lab.convert(&source);
        if dense {
            convert = convert.sparse(Sparse::Off);
        }
        if same && backing.is_some() {
            let base = lab.path("base");
            convert = convert.backing(Backing::new(base.to_str().unwrap()).with_format("vmdk"));
        }
        let ids = |image: &Image| image.layers().next().unwrap().content_ids();
        let before = ids(&lab.open());
        convert.verify(true).run_existing(lab.target()).unwrap();
        lab.assert_clean();
        prop_assert!(qemu_bytes(&lab.target(), "vmdk") == expected(&source, &old));
        prop_assert_ne!(ids(&lab.open()), before);
    }
}

/// Targets for crashes: format, options, size of the backing file, and what is written before.
type CrashCase = (&'static str, &'static str, Option<u64>, &'static [&'static str], bool);

const CRASH_CASES: &[CrashCase] = &[
    ("qcow2", "cluster_size=4k", None, &["write -P 5 0 40k"], false),
    ("qcow2", "cluster_size=512,refcount_bits=64", None, &["write -P 5 0 90k"], false),
    ("qcow2", "cluster_size=512,compat=0.10", Some(64 << 10), &["write -P 5 0 20k"], false),
    ("qcow2", "cluster_size=4k", Some(128 << 10), &["write -P 5 8k 20k"], true),
    ("qcow2", "cluster_size=16k,extended_l2=on", Some(128 << 10), &["write -P 5 9k 20k"], false),
    (
        "qcow2",
        "cluster_size=4k",
        None,
        &["write -P 5 0 128k", "snapshot", "write -P 6 20k 9k"],
        false,
    ),
    ("qcow2", "cluster_size=4k", None, &["write -c -P 5 0 4k", "write -c -P 5 4k 4k"], true),
    ("qcow2", "cluster_size=4k,preallocation=metadata", None, &[], false),
    ("vmdk", "subformat=monolithicSparse", None, &["write -P 5 0 70k"], false),
    ("vmdk", "subformat=monolithicSparse,zeroed_grain=on", Some(128 << 10), &[], false),
    ("vpc", "force_size=on", None, &[], false),
    ("vpc", "force_size=on", None, &["write -P 5 0 70k"], false),
    ("vdi", "static=off", None, &[], false),
    ("vdi", "static=off", None, &["write -P 5 0 70k"], false),
    ("qed", "cluster_size=4k,table_size=2", None, &["write -P 5 0 20k"], false),
    ("qed", "cluster_size=16k", Some(128 << 10), &["write -P 5 8k 20k"], false),
    ("qcow", "", None, &["write -P 5 0 20k"], false),
    ("qcow", "", Some(128 << 10), &["write -P 5 8k 20k"], true),
];

/// A kill or a power failure at any point leaves an image that is consistent except for leaks, and
/// in which each sector has its old or its new bytes.
#[test]
fn after_a_crash_every_sector_is_old_or_new() {
    for &(format, options, backing, commands, compress) in CRASH_CASES {
        let lab = Lab::new(format);
        assert!(lab.create(options, 128 << 10, backing), "{options}");
        let mut has_snapshot = false;
        for command in commands {
            match *command {
                "snapshot" => has_snapshot = lab.img(&["snapshot", "-c", "s"]),
                command => lab.io(&lab.target(), &[command.to_owned()]),
            }
        }
        let old = qemu_bytes(&lab.target(), format);
        let snapshot = has_snapshot.then(|| lab.snapshot("s"));
        let mut source = source_of(100 << 10, &[(6 << 10, 30 << 10, 0), (60 << 10, 9000, 3)]);
        source[..512].fill(5);
        let new = expected(&source, &old);
        let target = lab.target();
        let recorded = std::fs::read(&target).unwrap();
        let storage = Arc::new(RecordingStorage::new(recorded, Some(target.clone())));
        let convert = lab.convert(&source).compress(compress).threads(1);
        convert.run_existing_on(Arc::clone(&storage) as _, "target").unwrap();
        let step = if full() { 1 } else { 13 };
        let mut number = 0;
        storage.crash_states(9, step, |state| {
            number += 1;
            std::fs::write(&target, state).unwrap();
            let context = || format!("{options}, state {number}");
            lab.assert_old_or_new(&old, &new, &context);
            if number % 151 == 1 {
                let check = try_run("qemu-img", ["check", "-f", format, target.to_str().unwrap()]);
                // 63: QEMU cannot check this format. 2: it counts space that a VDI does not use as
                // corruption.
                let code = check.status.code();
                assert!(
                    matches!(code, Some(0 | 3 | 63)) || (format == "vdi" && code == Some(2)),
                    "{}: {check:?}",
                    context()
                );
                if let Some(snapshot) = &snapshot {
                    assert!(lab.snapshot("s") == *snapshot, "{}", context());
                }
            }
        });
        let end = storage.to_vec();
        std::fs::write(&target, end).unwrap();
        assert!(qemu_bytes(&target, format) == new, "{options}");
    }
}

/// Tables that say that guest data is where metadata is must not make diskimg overwrite it.
#[test]
fn metadata_is_never_overwritten_by_guest_data() {
    let lab = Lab::new("qcow2");
    assert!(lab.create("cluster_size=4k", 64 << 10, None));
    lab.io(&lab.target(), &["write -P 5 0 64k".to_owned()]);
    let image = std::fs::read(lab.target()).unwrap();
    let word = |at: usize| u64::from_be_bytes(image[at..at + 8].try_into().unwrap());
    let l1 = word(40) as usize;
    let l2 = (word(l1) & 0x00ff_ffff_ffff_fe00) as usize;
    let (refcounts, copied) = (word(48), 1 << 63);
    let block = word(refcounts as usize);
    // Each is a place in the file and the entry that is written there.
    let mut lies: Vec<(usize, u64)> = Vec::new();
    for metadata in [0, 512, l1 as u64, l2 as u64, refcounts, block] {
        lies.extend([copied, 0].map(|flag| (l2 + 8, metadata | flag)));
        // A compressed cluster there.
        lies.push((l2 + 8, metadata | 1 << 62));
        lies.extend([copied, 0].map(|flag| (l1, metadata | flag)));
    }
    lies.extend([(l2 + 8, 1 << 40 | copied), (l1, 1 << 40 | copied), (l2 + 8, 0x5200 | copied)]);
    lies.extend([l1 as u64, l2 as u64, 0].map(|at| (refcounts as usize, at)));
    for (at, entry) in lies {
        if entry == 0 && at == l2 + 8
            || entry & !copied == word(at) & !copied
            || entry & !copied == 0
        {
            continue; // Unallocated, or the truth.
        }
        let mut lie = image.clone();
        lie[at..at + 8].copy_from_slice(&entry.to_be_bytes());
        for source in [vec![7; 64 << 10], vec![0; 64 << 10]] {
            let storage = Arc::new(RecordingStorage::new(lie.clone(), None));
            let outcome = lab.convert(&source).run_existing_on(Arc::clone(&storage) as _, "lie");
            let error = outcome.expect_err(&format!("{entry:#x} at {at:#x}"));
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
            assert!(storage.to_vec() == lie, "{entry:#x} at {at:#x} was written to: {error}");
        }
    }
}

/// A refcount of 0 or of more than one contradicts the flag that says that it is one.
#[test]
fn wrong_refcounts_are_an_error_or_cost_a_new_cluster() {
    let lab = Lab::new("qcow2");
    assert!(lab.create("cluster_size=4k", 64 << 10, None));
    lab.io(&lab.target(), &["write -P 5 0 64k".to_owned()]);
    let image = std::fs::read(lab.target()).unwrap();
    let word = |at: usize| u64::from_be_bytes(image[at..at + 8].try_into().unwrap());
    let l2 = (word(word(40) as usize) & 0x00ff_ffff_ffff_fe00) as usize;
    let block = word(word(48) as usize) as usize;
    let data = word(l2 + 8) & 0x00ff_ffff_ffff_fe00;
    for count in [0, 2u16] {
        let mut lie = image.clone();
        let at = block + (data / 4096) as usize * 2;
        lie[at..at + 2].copy_from_slice(&count.to_be_bytes());
        let storage = Arc::new(RecordingStorage::new(lie, None));
        let source = vec![7; 64 << 10];
        let outcome = lab.convert(&source).run_existing_on(Arc::clone(&storage) as _, "lie");
        assert_eq!(outcome.is_ok(), count == 2, "{count}");
        let now = storage.to_vec();
        assert_eq!(now[data as usize], 5, "the cluster is not written");
        assert!(storage.len() > 0);
    }
}

#[test]
fn what_cannot_be_written_is_refused_and_unchanged() {
    let lab = Lab::new("qcow2");
    let source = vec![7; 4096];
    let refused = |convert: Convert<'_>, kind: ErrorKind, text: &str| {
        let before = std::fs::read(lab.target()).unwrap();
        let error = convert.run_existing(lab.target()).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(text), "{error}");
        assert!(std::fs::read(lab.target()).unwrap() == before, "{error}");
    };
    assert!(lab.create("", 2048, None));
    refused(lab.convert(&source), ErrorKind::Invalid, "the source needs 4096");
    let base = Backing::new(lab.target().to_str().unwrap()).with_format("qcow2");
    refused(lab.convert(&source[..512]).backing(base), ErrorKind::Invalid, "no backing file");
    assert!(lab.create("lazy_refcounts=on", 8192, None));
    let image = std::fs::read(lab.target()).unwrap();
    for (bit, text) in [(1, "not closed properly"), (2, "marked as corrupt")] {
        let mut bytes = image.clone();
        bytes[79] = bit;
        std::fs::write(lab.target(), bytes).unwrap();
        refused(lab.convert(&source), ErrorKind::Corrupt, text);
    }
    let data = lab.path("data");
    assert!(lab.create(&format!("data_file={}", data.to_str().unwrap()), 8192, None));
    refused(lab.convert(&source).compress(true), ErrorKind::Unsupported, "compressed clusters");
    std::fs::write(lab.target(), &image).unwrap();
    let used = diskimg::storage::edit::FileStorage::open(lab.target()).unwrap();
    used.lock(diskimg::storage::locking::Lock::WRITE).unwrap();
    refused(lab.convert(&source), ErrorKind::Locked, "lock");
}
