//! Parts of a conversion, and the buffers of its workers.
//!
//! A conversion that is cut into parts, whose tasks are encoded independently, in any order and
//! without an output, and then placed in guest order, writes the same bytes as a single run.

use super::place::InFlight;
use super::run::refuse_own_files;
use super::salvage::SalvageLog;
use super::share::Sharing;
use super::task::{EncodedTask, Placed};
use super::transfer::{OutputFile, Transfer};
use super::*;
use crate::model::target::{CreateRequest, TargetSpec};
use crate::ops::pipeline::Job;
use crate::storage::sink::MemorySink;
use crate::storage::source::{MemorySource, Source};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// Format, options and compression of the targets: each format, codec and layout.
const TARGETS: &[(&str, &str, bool)] = &[
    ("raw", "", false),
    ("qcow2", "", false),
    ("qcow2", "cluster_size=4k,refcount_bits=64", false),
    ("qcow2", "cluster_size=2M", false),
    ("qcow2", "extended_l2=on,cluster_size=128k", false),
    ("qcow2", "preallocation=metadata", false),
    ("qcow2", "compression_type=zlib", true),
    ("qcow2", "compression_type=zlib,cluster_size=512", true),
    ("qcow2", "compression_type=zstd", true),
    ("vmdk", "subformat=monolithicSparse", false),
    ("vmdk", "subformat=streamOptimized", true),
    ("vmdk", "subformat=monolithicFlat", false),
    ("vmdk", "subformat=twoGbMaxExtentSparse", false),
    ("vmdk", "subformat=twoGbMaxExtentFlat", false),
    ("vmdk", "subformat=vmfs", false),
    ("ova", "", false),
];

/// Returns true if this build includes the format and the codec.
fn is_included((format, options, _): &(&str, &str, bool)) -> bool {
    format.parse::<Format>().is_ok() && (cfg!(feature = "zstd") || !options.contains("zstd"))
}

/// Length in guest bytes of the smallest part of the test's sources: 32,768 clusters.
const STEP: u64 = 512 << 15;

/// A source with clusters of 512 bytes, so that its parts are small.
fn source(runs: &[(u64, usize, u8)], size: u64, compress: bool) -> Vec<u8> {
    let mut disk = vec![0; size as usize];
    for &(at, len, fill) in runs {
        let at = (at % size) as usize;
        let end = (at + len).min(disk.len());
        for (index, byte) in disk[at..end].iter_mut().enumerate() {
            *byte = if fill % 3 == 0 { fill } else { (index / 7 * 31) as u8 ^ fill };
        }
    }
    let sink = Arc::new(MemorySink::new());
    let raw = OpenOptions::new().format(Format::Raw);
    let image = raw.open_source(Arc::new(MemorySource::new(disk)), "raw").expect("opens");
    Convert::new(image)
        .format(Format::Qcow2)
        .options(Options::parse("cluster_size=512").expect("parses"))
        .compress(compress)
        .run_to(Output::to_sink(Arc::clone(&sink) as _))
        .expect("converts");
    let written = sink.to_source();
    let mut bytes = vec![0; written.len() as usize];
    written.read_exact_at(&mut bytes, 0).expect("reads");
    bytes
}

fn convert(source: &[u8], (format, options, compress): (&str, &str, bool)) -> Convert<'static> {
    let image = OpenOptions::new().format(Format::Qcow2);
    let image = image.open_source(Arc::new(MemorySource::new(source)), "source").expect("opens");
    Convert::new(image)
        .format(format.parse().expect("a format"))
        .options(Options::parse(options).expect("parses"))
        .compress(compress)
        .reflink(Reflink::Never)
}

/// Specifies the target anew, as on another machine.
fn specify(settings: &Settings<'_>, size: u64) -> Box<dyn TargetSpec> {
    let request = CreateRequest {
        size,
        options: &settings.options,
        backing: None,
        compress: settings.compress,
    };
    settings.format.creator().expect("it is written")(request).expect("valid options")
}

/// Encodes the tasks of one part of the disk.
fn encode_part(source: &[u8], target: (&str, &str, bool), part: Range<u64>) -> Vec<EncodedTask> {
    let Convert { images, settings } = convert(source, target);
    let input = settings.join(images).expect("fits");
    let (salvaged, sharing) = (SalvageLog::new(false, false), Sharing::none());
    let spec = specify(&settings, input.size());
    let (plan, encoding) = settings.encoding(&input, None, &*spec, &salvaged, &sharing, 1);
    assert!(STEP.is_multiple_of(plan.step()), "{}", plan.step());
    let (mut plan, mut worker) = (plan.part(part), encoding.worker());
    std::iter::from_fn(|| plan.next_task().expect("maps"))
        .map(|task| encoding.encode(&mut worker, task).expect("encodes"))
        .collect()
}

/// Converts part by part, encoding the parts in the order of `order`.
fn run_in_parts(
    source: &[u8],
    target: (&str, &str, bool),
    cuts: &[u64],
    order: &[usize],
    path: &Path,
) {
    let Convert { images, settings } = convert(source, target);
    let input = settings.join(images).expect("fits");
    refuse_own_files(&input, existing_identity(path), path).expect("is another file");
    let mut parts: BTreeMap<usize, Vec<EncodedTask>> = BTreeMap::new();
    for &index in order {
        let part = cuts[index]..cuts[index + 1].min(input.size());
        parts.insert(index, encode_part(source, target, part));
    }
    let spec = specify(&settings, input.size());
    let mut output = Output::create(path).expect("creates");
    let mut started = spec.start(&mut output).expect("starts");
    let (salvaged, sharing) = (SalvageLog::new(false, false), Sharing::none());
    let (_, encoding) = settings.encoding(&input, None, &*spec, &salvaged, &sharing, 0);
    let file = |sink: &Arc<_>| OutputFile {
        sink: Arc::clone(sink),
        path: None,
        written: AtomicU64::new(0),
    };
    let in_flight = InFlight::default();
    let job = Transfer {
        encoding,
        shared: AtomicU64::new(0),
        files: started.files().iter().map(file).collect(),
        sequential: true,
        in_flight: &in_flight,
        flushes: false,
    };
    let mut placer = settings.placer(&input, &mut *started, false, &in_flight);
    let mut worker = job.worker();
    for task in parts.into_values().flatten() {
        let std::ops::ControlFlow::Continue(placed) = placer.place(task).expect("places") else {
            panic!("nothing stops it");
        };
        job.write(&mut worker, placed).expect("writes");
    }
    let digest = placer.digest;
    started.take_digest(digest);
    started.finish().expect("finishes");
    output.commit(Durability::Cached).expect("commits");
}

/// Returns name and contents of all files in a directory.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(dir).expect("lists").map(|entry| entry.expect("lists"));
    let read = |path| std::fs::read(path).expect("reads");
    entries.map(|e| (e.file_name().to_string_lossy().into_owned(), read(e.path()))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, failure_persistence: None, ..Default::default() })]

    #[test]
    fn parts_that_are_encoded_independently_give_the_bytes_of_one_run(
        runs in prop::collection::vec((0..5 * STEP, 1..400_000usize, 0..=255u8), 0..14),
        size in 4 * STEP - 70_000..4 * STEP + 70_000,
        compressed in any::<bool>(),
        cuts in prop::collection::btree_set(1..4u64, 0..4),
        shuffle in any::<prop::sample::Index>(),
    ) {
        let size = size.next_multiple_of(512);
        let bytes = source(&runs, size, compressed);
        let inner = cuts.into_iter().map(|cut| cut * STEP);
        let cuts: Vec<_> = std::iter::once(0).chain(inner).chain([size]).collect();
        let mut order: Vec<_> = (0..cuts.len() - 1).collect();
        order.reverse();
        let first = shuffle.index(order.len());
        order.rotate_left(first);
        for &target in TARGETS.iter().filter(|target| is_included(target)) {
            let [whole, parts] = [(); 2].map(|()| tempfile::tempdir().expect("tempdir"));
            let name = format!("disk.{}", target.0);
            let serial = convert(&bytes, target).threads(3).durability(Durability::Cached);
            serial.run(whole.path().join(&name)).expect("converts");
            run_in_parts(&bytes, target, &cuts, &order, &parts.path().join(&name));
            let (whole, parts) = (files(whole.path()), files(parts.path()));
            prop_assert_eq!(whole.keys().collect::<Vec<_>>(), parts.keys().collect::<Vec<_>>());
            for (name, bytes) in &whole {
                prop_assert!(parts[name] == *bytes, "{:?}: {} differs", target, name);
            }
        }
    }
}

#[test]
fn buffers_do_not_pile_up_if_another_worker_completes_the_task() {
    let bytes = source(&[(0, 1 << 20, 9)], 1 << 20, false);
    let Convert { images, settings } = convert(&bytes, ("raw", "", false));
    let input = settings.join(images).expect("fits");
    let (salvaged, sharing) = (SalvageLog::new(false, false), Sharing::none());
    let spec = specify(&settings, input.size());
    let (mut plan, encoding) = settings.encoding(&input, None, &*spec, &salvaged, &sharing, 0);
    let in_flight = InFlight::default();
    let job = Transfer {
        encoding,
        shared: AtomicU64::new(0),
        files: vec![],
        sequential: false,
        in_flight: &in_flight,
        flushes: false,
    };
    let (mut reader, mut writer) = (job.worker(), job.worker());
    let mut tasks = 0;
    while let Some(task) = plan.next_task().expect("maps") {
        let task = job.work(&mut reader, task).expect("works");
        job.write(&mut writer, Placed { task, writes: Vec::new() }).expect("writes");
        tasks += 1;
    }
    assert!(tasks > 1);
    assert_eq!(job.encoding.spare.lock().expect("locks").len(), 1);
}
