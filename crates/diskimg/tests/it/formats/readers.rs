//! Images written by QEMU read the same in diskimg and in qemu-img.

use crate::verified;
use diskimg::{Convert, ExternalFiles, Format, Image, OpenOptions, SnapshotSelector};
use diskimg_testkit::disk::{self, noise};
use diskimg_testkit::tool::{cases, run, try_run};
use proptest::prelude::*;
use std::path::{Path, PathBuf};

/// A guest's write or discard, performed with qemu-io.
#[derive(Debug, Clone)]
enum Request {
    Byte { at: u64, len: u64, byte: u8 },
    Noise { at: u64, len: u64 },
    Zero { at: u64, len: u64, unmap: bool },
    Compressed { cluster: u64, byte: u8 },
    Discard { at: u64, len: u64 },
}

impl Request {
    /// Returns the qemu-io command for a disk of `size` bytes; `None` if it would be empty.
    fn command(&self, size: u64, cluster_size: u64, noise: &Path) -> Option<String> {
        // Requests are aligned to sectors.
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
                let at = cluster * cluster_size % size.max(1) / cluster_size * cluster_size;
                let len = cluster_size.min(size - at) / 512 * 512;
                (len > 0).then(|| format!("write -q -c -P {byte} {at} {len}"))
            }
            Self::Discard { at, len } => {
                let (at, len) = clip(at, len);
                (len > 0).then(|| format!("discard -q {at} {len}"))
            }
        }
    }
}

fn request(size: u64) -> impl Strategy<Value = Request> {
    let at = 0..size.max(1);
    prop_oneof![
        (at.clone(), 1..200_000u64, any::<u8>()).prop_map(|(at, len, byte)| Request::Byte {
            at,
            len,
            byte
        }),
        (at.clone(), 1..200_000u64).prop_map(|(at, len)| Request::Noise { at, len }),
        (at.clone(), 1..400_000u64, any::<bool>()).prop_map(|(at, len, unmap)| Request::Zero {
            at,
            len,
            unmap
        }),
        (0..200u64, any::<u8>()).prop_map(|(cluster, byte)| Request::Compressed { cluster, byte }),
        (at, 1..400_000u64).prop_map(|(at, len)| Request::Discard { at, len }),
    ]
}

/// The size of an image and the requests performed on it.
#[derive(Debug, Clone)]
struct History {
    size: u64,
    requests: Vec<Request>,
}

fn history(max: u64) -> impl Strategy<Value = History> {
    disk::size(max).prop_flat_map(|size| {
        prop::collection::vec(request(size), 0..10)
            .prop_map(move |requests| History { size, requests })
    })
}

/// Create options of a qcow2 image that qemu-img accepts together.
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
        let mut options = format!("cluster_size={}", self.cluster_size());
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

    fn cluster_size(&self) -> u64 {
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

/// Creates an image with qemu-img and performs the requests on it.
fn create(
    path: &Path,
    format: &str,
    options: &str,
    backing: Option<(&str, &str)>,
    history: &History,
    cluster_size: u64,
) {
    let dir = path.parent().unwrap();
    let noise_file = dir.join("noise");
    if !noise_file.exists() {
        std::fs::write(&noise_file, noise(7, 256 << 10)).unwrap();
    }
    let mut command = std::process::Command::new("qemu-img");
    command.current_dir(dir).args(["create", "-q", "-f", format]);
    if !options.is_empty() {
        command.args(["-o", options]);
    }
    if let Some((name, format)) = backing {
        command.args(["-b", name, "-F", format]);
    }
    command.arg(path).arg(history.size.to_string());
    let output = command.output().expect("qemu-img runs: install qemu-utils");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    perform(path, format, history, cluster_size);
}

fn perform(path: &Path, format: &str, history: &History, cluster_size: u64) {
    let dir = path.parent().unwrap();
    let size = history.size.next_multiple_of(512);
    let mut io = std::process::Command::new("qemu-io");
    io.current_dir(dir).args(["-f", format, "-d", "unmap"]);
    let noise_file = dir.join("noise");
    let commands: Vec<_> = history
        .requests
        .iter()
        .filter_map(|request| request.command(size, cluster_size, &noise_file))
        .collect();
    if commands.is_empty() {
        return;
    }
    for command in &commands {
        io.args(["-c", command]);
    }
    // qemu-io may refuse some requests (compressed writes with a data file).
    io.arg(path).output().expect("qemu-io runs: install qemu-utils");
}

fn open(path: &Path) -> Image {
    OpenOptions::new().external_files(ExternalFiles::Any).open(path).unwrap()
}

/// Returns all guest bytes, read with diskimg in unaligned chunks.
fn our_bytes(image: &Image) -> Vec<u8> {
    let mut bytes = vec![0xee; image.size() as usize];
    for (i, part) in bytes.chunks_mut(777_777).enumerate() {
        image.read_at(part, i as u64 * 777_777).unwrap();
    }
    bytes
}

/// Returns all guest bytes, read with qemu-img; `None` if it cannot read the image.
fn qemu_bytes(path: &Path, format: &str) -> Option<Vec<u8>> {
    let raw = path.with_extension("oracle");
    // qemu-img resolves the data file's name against the working directory.
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

/// Asserts that reads and a conversion to raw return the bytes that qemu-img reads, and that the
/// image passes the conformance checks. Returns the bytes; `None` if the image is corrupt.
fn assert_reads_as_qemu_does(path: &Path, format: &str) -> Option<Vec<u8>> {
    let out = path.with_extension("ours");
    let image = open(path);
    assert_eq!(image.format().name(), format);
    let Some(expected) = qemu_bytes(path, format) else {
        // QEMU 10 can corrupt an image: an uncompressed write into a host cluster that contains
        // compressed data. diskimg must then fail too.
        Convert::new(image).format(Format::Raw).run(&out).unwrap_err();
        return None;
    };
    assert!(our_bytes(&image) == expected, "the reader differs from qemu-img");
    verified::open(&OpenOptions::new().external_files(ExternalFiles::Any), path);
    Convert::new(image).format(Format::Raw).run(&out).unwrap();
    assert!(std::fs::read(&out).unwrap() == expected, "the conversion differs from qemu-img");
    Some(expected)
}

/// Asserts that our check has the same results as qemu-img's.
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
        create(&path, "qcow2", &text, None, &history, options.cluster_size());
        let before = assert_reads_as_qemu_does(&path, "qcow2");
        assert_checks_as_qemu_does(&path, "qcow2");
        let later = later.filter(|_| options.data_file == 0);
        if let (Some(before), Some(later)) = (before, later) {
            // The disk changes after the snapshot.
            let snapshot = try_run("qemu-img", ["snapshot", "-c", "snap", path.to_str().unwrap()]);
            if snapshot.status.success() {
                let later = History { size: history.size, ..later };
                perform(&path, "qcow2", &later, options.cluster_size());
                assert_reads_as_qemu_does(&path, "qcow2");
                assert_checks_as_qemu_does(&path, "qcow2");
                let snapshot = SnapshotSelector::IdOrName("snap".into());
                let image = verified::open(&OpenOptions::new().snapshot(snapshot), &path);
                prop_assert!(our_bytes(&image) == before, "the snapshot differs");
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
        // qemu-img creates VMDKs of size 0 but cannot open them.
        let base = History { size: base.size.max(512), ..base };
        create(&path("base"), base_format, "", None, &base, 65536);
        let no_file = |options: Qcow2| Qcow2 { data_file: 0, preallocation: 0, ..options };
        let (m, t) = (no_file(middle_options), no_file(top_options));
        let backing = Some(("base", base_format));
        create(&path("middle"), "qcow2", &m.options(""), backing, &middle, m.cluster_size());
        let backing = Some(("middle", "qcow2"));
        create(&path("top"), "qcow2", &t.options(""), backing, &top, t.cluster_size());
        assert_reads_as_qemu_does(&path("top"), "qcow2");
        assert_eq!(open(&path("top")).layers().len(), 3);
    }

    #[test]
    fn a_vmdk_image_reads_and_checks_as_in_qemu_img(
        history in history(6 << 20),
        zeroed_grain in any::<bool>(),
        streamed in any::<bool>(),
    ) {
        // qemu-img creates VMDKs of size 0 but cannot open them.
        let history = History { size: history.size.max(512), ..history };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.vmdk");
        if streamed {
            let raw = dir.path().join("a.raw");
            create(&raw, "raw", "", None, &history, 65536);
            run("qemu-img", [
                "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized",
                raw.to_str().unwrap(), path.to_str().unwrap(),
            ]);
        } else {
            let options = if zeroed_grain { "zeroed_grain=on" } else { "" };
            create(&path, "vmdk", options, None, &history, 65536);
        }
        assert_reads_as_qemu_does(&path, "vmdk");
    }

    #[test]
    fn a_raw_file_reads_as_its_bytes(disk in disk::disk(3 << 20)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.raw");
        disk.write(&path);
        let image = verified::open(&OpenOptions::new().format(Format::Raw), &path);
        prop_assert_eq!(image.size(), disk.size);
        prop_assert!(our_bytes(&image) == disk.bytes());
    }
}

#[test]
fn a_dirty_image_opens_and_is_reported_as_dirty() {
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
fn an_encrypted_image_is_reported_as_such_and_cannot_be_read() {
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
fn a_data_file_is_searched_for_in_the_directory_of_the_image() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.qcow2");
    let status = std::process::Command::new("qemu-img")
        .current_dir(dir.path())
        .args(["create", "-q", "-f", "qcow2", "-o", "data_file=a.data", "a.qcow2", "1M"])
        .status()
        .unwrap();
    assert!(status.success());
    // The working directory of the test is another directory.
    let image = Image::open(&path).unwrap();
    assert_eq!(our_bytes(&image), vec![0; 1 << 20]);
}
