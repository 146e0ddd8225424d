//! Stored runs that go from file to file without being read.

use crate::disk::{self, Disk, Fill, Stretch};
use crate::tool::{assert_qemu_same, cases, run};
use diskimg::{Convert, Format, Image, OpenOptions, Options, Report};
use proptest::prelude::*;
use std::path::{Path, PathBuf};

fn convert(source: &Path, from: Format, out: &Path, to: Format, threads: usize) -> Report {
    let image = OpenOptions::new().format(from).open(source).unwrap();
    Convert::new(image).format(to).offload(true).threads(threads).run(out).unwrap()
}

proptest! {
    #![proptest_config(cases(40))]

    #[test]
    fn an_offloaded_conversion_gives_the_guest_the_same_bytes(
        disk in disk::disk_of(1..=(6 << 20)),
        from in prop_oneof![Just("raw"), Just("qcow2"), Just("vmdk")],
        options in prop_oneof![Just(""), Just("cluster_size=4k")],
        to in prop_oneof![Just("raw"), Just("qcow2"), Just("vmdk")],
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let disk = Disk { size: disk.size.next_multiple_of(512), ..disk };
        disk.write(&path("a.raw"));
        let (from, to): (Format, Format) = (from.parse().unwrap(), to.parse().unwrap());
        let options = if from == Format::Qcow2 { options } else { "" };
        let raw = OpenOptions::new().format(Format::Raw).open(path("a.raw")).unwrap();
        let options = Options::parse(options).unwrap();
        Convert::new(raw).format(from).options(options).run(path("a")).unwrap();
        convert(&path("a"), from, &path("b"), to, 2);
        assert_qemu_same(&path("a.raw"), "raw", &path("b"), to.name());
        if to != Format::Raw {
            run("qemu-img", ["check", "-f", to.name(), path("b").to_str().unwrap()]);
        }
        let first = std::fs::read(path("b")).unwrap();
        convert(&path("a"), from, &path("b"), to, 1);
        prop_assert!(std::fs::read(path("b")).unwrap() == first);
    }
}

/// A file system with reflinks, mounted for the time of a test.
struct Xfs {
    dir: tempfile::TempDir,
}

impl Xfs {
    fn mount() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (file, at) = (dir.path().join("fs"), dir.path().join("mnt"));
        std::fs::File::create(&file).unwrap().set_len(400 << 20).unwrap();
        std::fs::create_dir(&at).unwrap();
        run("mkfs.xfs", ["-q", "-m", "reflink=1", file.to_str().unwrap()]);
        run("mount", ["-o", "loop", file.to_str().unwrap(), at.to_str().unwrap()]);
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("mnt").join(name)
    }
}

impl Drop for Xfs {
    fn drop(&mut self) {
        run("umount", [self.dir.path().join("mnt")]);
    }
}

#[test]
#[ignore = "needs root, xfsprogs and loop devices; ./test.sh runs it as root"]
fn on_a_file_system_with_reflinks_stored_runs_are_shared_and_stay_apart() {
    let xfs = Xfs::mount();
    let disk = Disk {
        size: 64 << 20,
        stretches: vec![
            Stretch { at: 0, len: 30 << 20, fill: Fill::Noise(1) },
            Stretch { at: 40 << 20, len: 5 << 20, fill: Fill::Words(2) },
        ],
    };
    let raw = xfs.path("a.raw");
    disk.write(&raw);
    for format in [Format::Raw, Format::Qcow2, Format::Vmdk] {
        let (out, back) = (xfs.path("b"), xfs.path("c"));
        let report = convert(&raw, Format::Raw, &out, format, 2);
        assert!(report.shared_bytes >= 34 << 20, "{format}: {report:?}");
        let report = convert(&out, format, &back, Format::Raw, 2);
        assert!(report.shared_bytes >= 34 << 20, "{format}: {report:?}");
        // Writing to the one leaves the other as it was.
        use std::os::unix::fs::FileExt;
        let file = std::fs::OpenOptions::new().write(true).open(&back).unwrap();
        file.write_all_at(&[0xee; 8192], 1 << 20).unwrap();
        let mut bytes = vec![0; 64 << 20];
        Image::open(&out).unwrap().read_at(&mut bytes, 0).unwrap();
        assert!(bytes == disk.bytes(), "{format}");
        assert!(std::fs::read(&raw).unwrap() == disk.bytes());
    }
}

#[test]
#[ignore = "needs root, xfsprogs and loop devices; ./test.sh runs it as root"]
fn a_flat_vmdk_shares_stored_runs_with_its_source() {
    let xfs = Xfs::mount();
    let border = 2047 << 20;
    let disk = Disk {
        size: border + (64 << 20),
        stretches: vec![
            Stretch { at: 0, len: 10 << 20, fill: Fill::Noise(1) },
            Stretch { at: border - (5 << 20), len: 15 << 20, fill: Fill::Words(2) },
        ],
    };
    let (raw, out) = (xfs.path("a.raw"), xfs.path("a.vmdk"));
    disk.write(&raw);
    for layout in ["monolithicFlat", "twoGbMaxExtentFlat", "vmfs"] {
        let image = OpenOptions::new().format(Format::Raw).open(&raw).unwrap();
        let options = Options::parse(&format!("subformat={layout}")).unwrap();
        let convert = Convert::new(image).format(Format::Vmdk).options(options).offload(true);
        let report = convert.run(&out).unwrap();
        assert_eq!(report.shared_bytes, 25 << 20, "{layout}: {report:?}");
        assert_qemu_same(&raw, "raw", &out, "vmdk");
    }
}
