//! What qemu wrote reads the same here as there.

use diskimg::{Convert, ExternalFiles, Format, Image, OpenOptions, SnapshotSelector};
use diskimg_testkit::disk::{self, noise};
use diskimg_testkit::opened;
use diskimg_testkit::tool::{cases, run, try_run};
use proptest::prelude::*;
use std::path::{Path, PathBuf};

/// A guest's doings, as qemu-io does them.
#[derive(Debug, Clone)]
enum Act {
    Byte { at: u64, len: u64, byte: u8 },
    Noise { at: u64, len: u64 },
    Zero { at: u64, len: u64, unmap: bool },
    Compressed { cluster: u64, byte: u8 },
    Discard { at: u64, len: u64 },
}

impl Act {
    /// The qemu-io command, on a disk of `size` bytes with clusters of `unit`.
    fn command(&self, size: u64, unit: u64, noise: &Path) -> Option<String> {
        // qemu-io works on whole sectors here; what it refuses, it refuses.
        let clip = |at: u64, len: u64| {
            let at = at % size.max(1) / 512 * 512;
            (at, len.next_multiple_of(512).min((size - at) / 512 * 512))
        };
        match *self {
            Self::Byte { at, len, byte } => {
                let (at, len) = clip(at, len);
                (len > 0).then(|| format!("write -q -P {byte} {at} {len}"))
            }
            Self::Noise { at, len } => {
                let (at, len) = clip(at, len);
                (len > 0).then(|| format!("write -q -s {} {at} {len}", noise.display()))
            }
            Self::Zero { at, len, unmap } => {
                let (at, len) = clip(at, len);
                let unmap = if unmap { "-u " } else { "" };
                (len > 0).then(|| format!("write -q -z {unmap}{at} {len}"))
            }
            Self::Compressed { cluster, byte } => {
                let at = cluster * unit % size.max(1) / unit * unit;
                let len = unit.min(size - at) / 512 * 512;
                (len > 0).then(|| format!("write -q -c -P {byte} {at} {len}"))
            }
            Self::Discard { at, len } => {
                let (at, len) = clip(at, len);
                (len > 0).then(|| format!("discard -q {at} {len}"))
            }
        }
    }
}

fn act(size: u64) -> impl Strategy<Value = Act> {
    let at = 0..size.max(1);
    prop_oneof![
        (at.clone(), 1..200_000u64, any::<u8>()).prop_map(|(at, len, byte)| Act::Byte {
            at,
            len,
            byte
        }),
        (at.clone(), 1..200_000u64).prop_map(|(at, len)| Act::Noise { at, len }),
        (at.clone(), 1..400_000u64, any::<bool>()).prop_map(|(at, len, unmap)| Act::Zero {
            at,
            len,
            unmap
        }),
        (0..200u64, any::<u8>()).prop_map(|(cluster, byte)| Act::Compressed { cluster, byte }),
        (at, 1..400_000u64).prop_map(|(at, len)| Act::Discard { at, len }),
    ]
}

/// How an image was made and used.
#[derive(Debug, Clone)]
struct History {
    size: u64,
    acts: Vec<Act>,
}

fn history(max: u64) -> impl Strategy<Value = History> {
    disk::size(max).prop_flat_map(|size| {
        prop::collection::vec(act(size), 0..10).prop_map(move |acts| History { size, acts })
    })
}

/// Options of a qcow2 image that qemu-img accepts together.
#[derive(Debug, Clone)]
struct Qcow2 {
    cluster_bits: u32,
    v2: bool,
    refcount_order: u32,
    extended_l2: bool,
    zstd: bool,
    lazy: bool,
    data_file: u8,
    preallocation: u8,
}

impl Qcow2 {
    fn options(&self, name: &str) -> String {
        let mut options = format!("cluster_size={}", self.unit());
        if self.v2 {
            return options + ",compat=0.10";
        }
        options += &format!(",refcount_bits={}", 1 << self.refcount_order);
        if self.extended_l2 && self.cluster_bits >= 14 {
            options += ",extended_l2=on";
        }
        if self.zstd {
            options += ",compression_type=zstd";
        }
        if self.lazy {
            options += ",lazy_refcounts=on";
        }
        match self.data_file {
            1 => options += &format!(",data_file={name}.data"),
            2 => options += &format!(",data_file={name}.data,data_file_raw=on"),
            _ => {}
        }
        options
    }

    fn unit(&self) -> u64 {
        1 << self.cluster_bits
    }
}

fn qcow2() -> impl Strategy<Value = Qcow2> {
    (
        prop_oneof![Just(9u32), Just(12), Just(14), Just(16), Just(16), Just(18), Just(21)],
        prop::bool::weighted(0.2),
        0..=6u32,
        prop::bool::weighted(0.3),
        any::<bool>(),
        prop::bool::weighted(0.1),
        prop_oneof![8 => Just(0u8), 1 => Just(1), 1 => Just(2)],
        prop_oneof![6 => Just(0u8), 1 => Just(1), 1 => Just(2)],
    )
        .prop_map(
            |(cluster_bits, v2, refcount_order, extended_l2, zstd, lazy, data_file, pre)| Qcow2 {
                cluster_bits,
                v2,
                refcount_order,
                extended_l2,
                zstd,
                lazy,
                data_file,
                preallocation: pre,
            },
        )
}

/// Creates an image with qemu-img and lets qemu-io live its history.
fn make(
    path: &Path,
    format: &str,
    options: &str,
    backing: Option<(&str, &str)>,
    history: &History,
    unit: u64,
) {
    let dir = path.parent().unwrap();
    let noise_file = dir.join("noise");
    if !noise_file.exists() {
        std::fs::write(&noise_file, noise(7, 256 << 10)).unwrap();
    }
    let mut create = std::process::Command::new("qemu-img");
    create.current_dir(dir).args(["create", "-q", "-f", format]);
    if !options.is_empty() {
        create.args(["-o", options]);
    }
    if let Some((name, format)) = backing {
        create.args(["-b", name, "-F", format]);
    }
    create.arg(path).arg(history.size.to_string());
    let output = create.output().expect("qemu-img runs: install qemu-utils");
    assert!(output.status.success(), "{create:?}: {}", String::from_utf8_lossy(&output.stderr));
    live(path, format, history, unit);
}

fn live(path: &Path, format: &str, history: &History, unit: u64) {
    let dir = path.parent().unwrap();
    let size = history.size.next_multiple_of(512);
    let mut io = std::process::Command::new("qemu-io");
    io.current_dir(dir).args(["-f", format, "-d", "unmap"]);
    let noise_file = dir.join("noise");
    let commands: Vec<_> =
        history.acts.iter().filter_map(|a| a.command(size, unit, &noise_file)).collect();
    if commands.is_empty() {
        return;
    }
    for command in &commands {
        io.args(["-c", command]);
    }
    // Some acts are refused (compressed writes into a data file): that is fine.
    io.arg(path).output().expect("qemu-io runs: install qemu-utils");
}

fn open(path: &Path) -> Image {
    OpenOptions::new().external_files(ExternalFiles::Any).open(path).unwrap()
}

/// Our bytes, read in uneven pieces.
fn our_bytes(image: &Image) -> Vec<u8> {
    let mut bytes = vec![0xee; image.size() as usize];
    for (i, part) in bytes.chunks_mut(777_777).enumerate() {
        image.read_at(part, i as u64 * 777_777).unwrap();
    }
    bytes
}

/// The guest's bytes according to qemu-img; `None` if it cannot read the image.
fn their_bytes(path: &Path, format: &str) -> Option<Vec<u8>> {
    let raw = path.with_extension("oracle");
    // qemu looks for a data file in the working directory.
    let output = std::process::Command::new("qemu-img")
        .current_dir(path.parent().unwrap())
        .args(["convert", "-f", format, "-O", "raw"])
        .args([path, &raw])
        .output()
        .unwrap();
    let bytes = output.status.success().then(|| std::fs::read(&raw).unwrap());
    let _ = std::fs::remove_file(raw);
    bytes
}

/// The reader, the conversion to raw and the conformance suite against
/// qemu-img. Gives the bytes; `None` if nobody can read them.
fn assert_reads_as_qemu_does(path: &Path, format: &str) -> Option<Vec<u8>> {
    let out = path.with_extension("ours");
    let image = open(path);
    assert_eq!(image.format().name(), format);
    let Some(expected) = their_bytes(path, format) else {
        // QEMU 10 can spoil an image of its own making: a plain write that
        // shares a host cluster with a compressed one. Then we must see it too.
        Convert::new(image).format(Format::Raw).run(&out).unwrap_err();
        return None;
    };
    assert!(our_bytes(&image) == expected, "the reader differs from qemu-img");
    opened::verified(&OpenOptions::new().external_files(ExternalFiles::Any), path);
    Convert::new(image).format(Format::Raw).run(&out).unwrap();
    assert!(std::fs::read(&out).unwrap() == expected, "the conversion differs from qemu-img");
    Some(expected)
}

/// Our check finds as much as qemu-img's.
fn assert_checks_as_qemu_does(path: &Path, format: &str) {
    let output = std::process::Command::new("qemu-img")
        .current_dir(path.parent().unwrap())
        .args(["check", "-f", format, "--output=json"])
        .arg(path)
        .output()
        .unwrap();
    let theirs: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let ours = open(path).check(&mut |_| {}).unwrap().unwrap();
    let number = |key: &str| theirs.get(key).and_then(serde_json::Value::as_u64).unwrap_or(0);
    assert_eq!(ours.corruptions, number("corruptions"), "corruptions");
    assert_eq!(ours.leaks, number("leaks"), "leaks");
    assert_eq!(ours.check_errors, number("check-errors"), "check errors");
    assert_eq!(ours.total_clusters, number("total-clusters"), "total clusters");
    assert_eq!(ours.allocated_clusters, number("allocated-clusters"), "allocated");
    assert_eq!(ours.compressed_clusters, number("compressed-clusters"), "compressed");
    assert_eq!(ours.fragmented_clusters, number("fragmented-clusters"), "fragmented");
    assert_eq!(ours.image_end_offset.unwrap_or(0), number("image-end-offset"), "end offset");
}

proptest! {
    #![proptest_config(cases(120))]

    #[test]
    fn a_qcow2_image_reads_and_checks_as_in_qemu_img(
        options in qcow2(),
        history in history(6 << 20),
        later in prop::option::of(history(6 << 20)),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.qcow2");
        let mut text = options.options("a");
        match options.preallocation {
            1 => text += ",preallocation=metadata",
            2 => text += ",preallocation=falloc",
            _ => {}
        }
        make(&path, "qcow2", &text, None, &history, options.unit());
        let before = assert_reads_as_qemu_does(&path, "qcow2");
        assert_checks_as_qemu_does(&path, "qcow2");
        let later = later.filter(|_| options.data_file == 0);
        if let (Some(before), Some(later)) = (before, later) {
            // The disk as it was when the snapshot was taken, and as it went on.
            let snapshot = try_run("qemu-img", ["snapshot", "-c", "then", path.to_str().unwrap()]);
            if snapshot.status.success() {
                live(&path, "qcow2", &History { size: history.size, ..later }, options.unit());
                assert_reads_as_qemu_does(&path, "qcow2");
                assert_checks_as_qemu_does(&path, "qcow2");
                let then = SnapshotSelector::IdOrName("then".into());
                let then = opened::verified(&OpenOptions::new().snapshot(then), &path);
                prop_assert!(our_bytes(&then) == before, "the snapshot differs");
            }
        }
    }

    #[test]
    fn a_chain_of_images_reads_as_in_qemu_img(
        base in history(4 << 20),
        base_format in prop_oneof![Just("raw"), Just("qcow2"), Just("vmdk")],
        middle in history(4 << 20),
        middle_options in qcow2(),
        top in history(4 << 20),
        top_options in qcow2(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| -> PathBuf { dir.path().join(name) };
        // qemu-img makes empty VMDKs, and cannot open them.
        let base = History { size: base.size.max(512), ..base };
        make(&path("base"), base_format, "", None, &base, 65536);
        let no_file = |options: Qcow2| Qcow2 { data_file: 0, preallocation: 0, ..options };
        let (m, t) = (no_file(middle_options), no_file(top_options));
        make(&path("middle"), "qcow2", &m.options(""), Some(("base", base_format)), &middle, m.unit());
        make(&path("top"), "qcow2", &t.options(""), Some(("middle", "qcow2")), &top, t.unit());
        assert_reads_as_qemu_does(&path("top"), "qcow2");
        assert_eq!(open(&path("top")).layers().len(), 3);
    }

    #[test]
    fn a_vmdk_image_reads_and_checks_as_in_qemu_img(
        history in history(6 << 20),
        zeroed_grain in any::<bool>(),
        streamed in any::<bool>(),
    ) {
        // qemu-img makes empty VMDKs, and cannot open them.
        let history = History { size: history.size.max(512), ..history };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.vmdk");
        if streamed {
            let raw = dir.path().join("a.raw");
            make(&raw, "raw", "", None, &history, 65536);
            run("qemu-img", [
                "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized",
                raw.to_str().unwrap(), path.to_str().unwrap(),
            ]);
        } else {
            let options = if zeroed_grain { "zeroed_grain=on" } else { "" };
            make(&path, "vmdk", options, None, &history, 65536);
        }
        assert_reads_as_qemu_does(&path, "vmdk");
    }

    #[test]
    fn a_raw_file_reads_as_itself(disk in disk::disk(3 << 20)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.raw");
        disk.write(&path);
        let image = opened::verified(&OpenOptions::new().format(Format::Raw), &path);
        prop_assert_eq!(image.size(), disk.size);
        prop_assert!(our_bytes(&image) == disk.bytes());
    }
}

#[test]
fn a_dirty_image_opens_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.qcow2");
    run("qemu-img", ["create", "-q", "-f", "qcow2", path.to_str().unwrap(), "1M"]);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[79] |= 1; // incompatible feature bit 0
    std::fs::write(&path, bytes).unwrap();
    let info = open(&path).info(0).unwrap();
    assert!(info.dirty_flag);
}

#[test]
fn an_encrypted_image_is_named_as_such_and_never_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.qcow2");
    run(
        "qemu-img",
        [
            "create",
            "-q",
            "-f",
            "qcow2",
            "--object",
            "secret,id=s,data=x",
            "-o",
            "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10",
            path.to_str().unwrap(),
            "1M",
        ],
    );
    let image = open(&path);
    assert!(image.info(0).unwrap().encrypted);
    let error = image.read_at(&mut [0; 512], 0).unwrap_err();
    assert_eq!(error.kind(), diskimg::ErrorKind::Unsupported);
    assert!(error.to_string().contains("encrypted"), "{error}");
}

#[test]
fn a_data_file_is_looked_for_beside_the_image() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.qcow2");
    let status = std::process::Command::new("qemu-img")
        .current_dir(dir.path())
        .args(["create", "-q", "-f", "qcow2", "-o", "data_file=a.data", "a.qcow2", "1M"])
        .status()
        .unwrap();
    assert!(status.success());
    // The test's own working directory is elsewhere.
    let image = Image::open(&path).unwrap();
    assert_eq!(our_bytes(&image), vec![0; 1 << 20]);
}
