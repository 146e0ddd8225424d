//! Every kind of image, read by every reader.

use super::our_bytes;
use diskimg::{Convert, ErrorKind, Format, Image, Options};
use diskimg_testkit::disk::{Disk, Fill, Run};
use diskimg_testkit::oracles::{Oracle, Verdict};
use diskimg_testkit::tool::{assert_qemu_check, run, try_run};
use std::path::Path;

/// Create options that qemu-img has, too.
const KINDS: [&str; 4] = ["", "cluster_size=64k", "cluster_size=512", "cluster_size=258048"];

/// Disks with boundary cases.
fn contents() -> [(&'static str, Disk); 5] {
    let run = |at, len, fill| Run { at, len, fill };
    [
        ("empty", Disk { size: 3 << 20, runs: vec![] }),
        ("one sector", Disk { size: 512, runs: vec![run(0, 512, Fill::Noise(1))] }),
        ("a full cluster", Disk { size: 1 << 20, runs: vec![run(0, 1 << 20, Fill::Noise(2))] }),
        (
            "holes in clusters, zeros",
            Disk {
                size: 5 << 20,
                runs: vec![
                    run(512, 512, Fill::Byte(3)),
                    run((1 << 20) - 512, 1024, Fill::Words(4)),
                    run(3 << 20, 1 << 20, Fill::Byte(0)),
                    run((5 << 20) - 512, 512, Fill::Noise(5)),
                ],
            },
        ),
        (
            "a last cluster of one sector",
            Disk { size: (2 << 20) + 512, runs: vec![run(2 << 20, 512, Fill::Noise(6))] },
        ),
    ]
}

fn convert(raw: &Path, kind: &str, threads: usize, out: &Path) {
    Convert::new(Image::open(raw).unwrap())
        .format(Format::Parallels)
        .options(Options::parse(kind).unwrap())
        .threads(threads)
        .verify(true)
        .run(out)
        .unwrap();
}

#[test]
fn all_readers_read_what_diskimg_writes() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, out) = (dir.path().join("disk.raw"), dir.path().join("disk.hds"));
    for (content, disk) in contents() {
        disk.write(&raw);
        for kind in KINDS.iter().chain(&["preallocation=falloc", "preallocation=full"]) {
            convert(&raw, kind, 2, &out);
            for oracle in [Oracle::QemuImg, Oracle::Dissect] {
                let verdict = oracle.compare("parallels", &out, &disk);
                let expected = matches!(verdict, Verdict::Same | Verdict::NotInstalled);
                assert!(expected, "{kind}, {content}: {}: {verdict}", oracle.name());
            }
            assert_qemu_check(&out, "parallels");
            assert_eq!(our_bytes(&out), disk.bytes(), "{kind}, {content}");
            let image = Image::open(&out).unwrap();
            image.check(&mut |finding| panic!("{kind}, {content}: {}", finding.message)).unwrap();
        }
    }
}

#[test]
fn diskimg_reads_what_qemu_img_writes() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, out) = (dir.path().join("disk.raw"), dir.path().join("disk.hds"));
    for (content, disk) in contents() {
        disk.write(&raw);
        let paths = [raw.to_str().unwrap(), out.to_str().unwrap()];
        for kind in KINDS.iter().chain(&["cluster_size=32256"]) {
            let mut args = vec!["convert", "-f", "raw", "-O", "parallels"];
            if !kind.is_empty() {
                args.extend(["-o", kind]);
            }
            run("qemu-img", args.iter().chain(&paths));
            assert_eq!(our_bytes(&out), disk.bytes(), "{kind}, {content}");
            let image = Image::open(&out).unwrap();
            let report = image.check(&mut |_| {}).unwrap().unwrap();
            let others = report.leaks + report.warnings;
            assert_eq!(report.corruptions, 0, "{kind}, {content}");
            // qemu-img "repairs" the start of the data area, and allocates clusters elsewhere.
            assert!(others == 0 || *kind == "cluster_size=32256", "{kind}, {content}");
        }
    }
}

/// qemu-img rounds to a cluster as if its size were a power of two, and finds fault with its own
/// image of clusters of 63 sectors. Such an image of diskimg has the same layout.
#[test]
fn clusters_of_63_sectors_are_laid_out_as_by_qemu_img() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let (raw, ours, theirs) = (path("disk.raw"), path("ours.hds"), path("theirs.hds"));
    Disk { size: 10 << 20, runs: vec![] }.write(&raw);
    convert(&raw, "cluster_size=32256", 1, &ours);
    let create = ["create", "-q", "-f", "parallels", "-o", "cluster_size=32256"];
    run("qemu-img", create.iter().chain(&[theirs.to_str().unwrap(), "10M"]));
    let (mut ours, mut theirs) = (std::fs::read(ours).unwrap(), std::fs::read(theirs).unwrap());
    // qemu-img does not say that the image was closed.
    assert_eq!(ours[44..48], *b"v2.1");
    ours[44..48].fill(0);
    theirs.resize(ours.len(), 0);
    assert!(ours == theirs);
    let disk =
        Disk { size: 10 << 20, runs: vec![Run { at: 0, len: 10 << 20, fill: Fill::Words(1) }] };
    disk.write(&raw);
    let ours = path("ours.hds");
    convert(&raw, "cluster_size=32256", 2, &ours);
    assert_eq!(our_bytes(&ours), disk.bytes());
    for oracle in [Oracle::QemuImg, Oracle::Dissect] {
        let verdict = oracle.compare("parallels", &ours, &disk);
        assert!(matches!(verdict, Verdict::Same | Verdict::NotInstalled), "{verdict}");
    }
    let check = try_run("qemu-img", ["check", "-f", "parallels", ours.to_str().unwrap()]);
    assert!(!check.status.success(), "QEMU has been corrected: {check:?}");
}

/// The same input gives the same bytes, whatever the number of threads.
#[test]
fn the_output_is_reproducible() {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("disk.raw");
    contents()[3].1.write(&raw);
    for kind in KINDS.iter().chain(&["cluster_size=32256", "preallocation=full"]) {
        let outputs = [1, 2, 4].map(|threads| {
            let out = dir.path().join("disk.hds");
            convert(&raw, kind, threads, &out);
            std::fs::read(out).unwrap()
        });
        assert!(outputs[0] == outputs[1] && outputs[1] == outputs[2], "{kind}");
    }
}

#[test]
fn create_options_are_those_of_qemu_img() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, out) = (dir.path().join("disk.raw"), dir.path().join("disk.hds"));
    std::fs::File::create(&raw).unwrap().set_len(1 << 20).unwrap();
    let attempt = |options: &str| {
        Convert::new(Image::open(&raw).unwrap())
            .format(Format::Parallels)
            .options(Options::parse(options).unwrap())
            .run(&out)
    };
    // Rounded up to sectors.
    attempt("cluster_size=1000").unwrap();
    assert_eq!(std::fs::read(&out).unwrap()[28], 2);
    for (options, kind) in [
        ("cluster_size=0", ErrorKind::Invalid),
        ("cluster_size=3G", ErrorKind::Invalid),
        ("preallocation=some", ErrorKind::Invalid),
        ("subformat=dynamic", ErrorKind::Invalid),
    ] {
        assert_eq!(attempt(options).unwrap_err().kind(), kind, "{options}");
    }
    std::fs::File::create(&raw).unwrap().set_len(1 << 40).unwrap();
    let error = attempt("cluster_size=512").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit);
    assert!(error.to_string().contains("too large for this cluster size"), "{error}");
}
