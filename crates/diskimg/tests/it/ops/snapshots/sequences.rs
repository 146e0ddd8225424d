//! Random operations, of which some are made here and some by qemu-img, compared with a model.

use super::{MIB, bytes_of, id_or_name, options, qemu};
use diskimg::formats::qcow2::Qcow2Mut;
use diskimg::{NewSize, Resize, SnapshotSelector};
use diskimg_testkit::tool::{assert_qemu_check, cases, run, try_run};
use std::path::{Path, PathBuf};

/// Marsaglia's xorshift64.
pub(in crate::ops) struct Random(u64);

impl Random {
    pub(in crate::ops) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % end
    }
}

/// Create options, the cluster size, and whether the disk may be resized.
const IMAGES: &[(&str, u64, bool)] = &[
    ("cluster_size=64k", 64 << 10, true),
    ("cluster_size=4k,compat=0.10", 4 << 10, false),
    ("cluster_size=512,refcount_bits=64", 512, true),
    ("cluster_size=512,refcount_bits=8", 512, true),
    ("cluster_size=16k,extended_l2=on", 16 << 10, true),
    ("cluster_size=2M,refcount_bits=8", 2 << 20, true),
    ("cluster_size=4k,refcount_bits=32,compression_type=zstd", 4 << 10, true),
];

/// An image, and what it should contain.
pub(in crate::ops) struct Lab {
    pub(in crate::ops) path: PathBuf,
    cluster: u64,
    pub(in crate::ops) resizable: bool,
    pub(in crate::ops) max_snapshots: usize,
    pub(in crate::ops) random: Random,
    /// What the disk should contain.
    pub(in crate::ops) disk: Vec<u8>,
    /// The snapshots with their IDs, in the order of the table.
    pub(in crate::ops) snapshots: Vec<(u64, Vec<u8>)>,
    pub(in crate::ops) log: Vec<String>,
}

impl Lab {
    /// Creates an image with up to 3 MiB in a directory, over a file of random bytes if
    /// `has_backing` is true.
    pub(in crate::ops) fn new(
        dir: &Path,
        (options, cluster, resizable): (&str, u64, bool),
        seed: u64,
        has_backing: bool,
    ) -> Self {
        let path = dir.join("a.qcow2");
        let mut random = Random(seed);
        for _ in 0..20 {
            random.below(2);
        }
        let size = 512 * (1 + random.below(3 * MIB / 512));
        let mut args = vec!["create", "-q", "-f", "qcow2", "-o", options];
        let mut disk = vec![0; size as usize];
        if has_backing {
            disk.iter_mut().for_each(|byte| *byte = 1 + random.below(250) as u8);
            std::fs::write(dir.join("base"), &disk).unwrap();
            args.extend(["-b", "base", "-F", "raw"]);
        }
        let size = size.to_string();
        args.extend([path.to_str().unwrap(), &size]);
        run("qemu-img", args);
        let log = vec![format!("{options} {size} seed {seed:#x} backing {has_backing}")];
        let (max_snapshots, snapshots) = (6, Vec::new());
        Self { path, cluster, resizable, max_snapshots, random, disk, snapshots, log }
    }

    pub(in crate::ops) fn file(&self) -> &str {
        self.path.to_str().unwrap()
    }

    /// Writes with qemu-io.
    fn write(&mut self) {
        let args = || vec!["-f".to_owned(), "qcow2".to_owned(), "-c".to_owned()];
        let sectors = self.disk.len() as u64 / 512;
        for _ in 0..=self.random.below(6) {
            let start = self.random.below(sectors);
            let len = 1 + self.random.below((sectors - start).min(600));
            let (mut start, mut len) = (start * 512, len * 512);
            let byte = 1 + self.random.below(250);
            let (command, byte) = match self.random.below(8) {
                0 => {
                    // Compressed clusters are written one at a time.
                    start = start / self.cluster * self.cluster;
                    len = self.cluster.min(self.disk.len() as u64 - start);
                    (format!("write -c -P {byte} {start} {len}"), byte)
                }
                1 => (format!("write -z {start} {len}"), 0),
                2 => (format!("write -z -u {start} {len}"), 0),
                _ => (format!("write -P {byte} {start} {len}"), byte),
            };
            let args = [args(), vec![command.clone(), self.file().to_owned()]].concat();
            let is_compressed = command.starts_with("write -c");
            self.log.push(command);
            let output = try_run("qemu-io", args);
            // QEMU does not replace clusters by compressed ones.
            assert!(output.status.success() || is_compressed, "{output:?}");
            if output.status.success() {
                self.disk[start as usize..(start + len) as usize].fill(byte as u8);
            }
        }
    }

    fn create(&mut self, ours: bool) {
        let id = self.snapshots.iter().map(|s| s.0).max().unwrap_or(0) + 1;
        self.log.push(format!("create {id} ours {ours}"));
        let name = format!("n{}", self.random.below(3));
        if ours {
            let created = Qcow2Mut::open(&self.path).unwrap().create_snapshot(&name).unwrap();
            assert_eq!(created.id, id.to_string());
        } else {
            qemu(&self.path, &format!("img snapshot -c {name}"));
        }
        self.snapshots.push((id, self.disk.clone()));
    }

    fn apply(&mut self, ours: bool) {
        let index = self.random.below(self.snapshots.len() as u64) as usize;
        let id = self.snapshots[index].0.to_string();
        self.log.push(format!("apply {id} ours {ours}"));
        match ours {
            true => Qcow2Mut::open(&self.path).unwrap().apply_snapshot(&id_or_name(&id)).unwrap(),
            false => qemu(&self.path, &format!("img snapshot -a {id}")),
        }
        self.disk = self.snapshots[index].1.clone();
    }

    fn delete(&mut self, ours: bool) {
        let index = self.random.below(self.snapshots.len() as u64) as usize;
        let mut image = Qcow2Mut::open(&self.path).unwrap();
        let wanted = &image.snapshots().unwrap()[index];
        let name = wanted.name.clone();
        if ours {
            let id = Some(wanted.id.clone());
            self.log.push(format!("delete {id:?}"));
            image.delete_snapshot(&SnapshotSelector::Exactly { id, name: Some(name) }).unwrap();
            self.snapshots.remove(index);
            return;
        }
        // qemu-img deletes the first of the name.
        let first = image.snapshots().unwrap().iter().position(|s| s.name == name).unwrap();
        drop(image);
        self.log.push(format!("delete {name} by qemu-img"));
        qemu(&self.path, &format!("img snapshot -d {name}"));
        self.snapshots.remove(first);
    }

    fn resize(&mut self, ours: bool) {
        let old = self.disk.len() as u64;
        let size = 512 * (1 + self.random.below(4 * MIB / 512));
        self.log.push(format!("resize {old} to {size} ours {ours}"));
        match ours {
            true => {
                let resize = Resize::new(NewSize::Bytes(size)).open_options(options());
                resize.shrink(true).run(&self.path).unwrap();
            }
            // QEMU shows old data in the rest of the last cluster.
            false if size > old && !old.is_multiple_of(self.cluster) => return,
            false => qemu(&self.path, &format!("img resize -q --shrink {size}")),
        }
        self.disk.resize(size as usize, 0);
    }

    pub(in crate::ops) fn step(&mut self) {
        let ours = self.random.below(3) > 0;
        match self.random.below(8) {
            0 | 1 if self.snapshots.len() < self.max_snapshots => self.create(ours),
            2 if !self.snapshots.is_empty() => self.apply(ours),
            3 if !self.snapshots.is_empty() => self.delete(ours),
            4 if self.resizable => self.resize(ours),
            _ => self.write(),
        }
    }

    pub(in crate::ops) fn assert_as_expected(&self) {
        let log = || self.log.join("\n");
        let image = options().open(&self.path).unwrap_or_else(|e| panic!("{e}\n{}", log()));
        let mut found = Vec::new();
        let report = image.check(&mut |finding| found.push(finding.message)).unwrap().unwrap();
        assert_eq!((report.corruptions, report.leaks), (0, 0), "{found:?}\n{}", log());
        assert!(bytes_of(&image) == self.disk, "the disk\n{}", log());
        drop(image);
        for (id, bytes) in &self.snapshots {
            let wanted = SnapshotSelector::Exactly { id: Some(id.to_string()), name: None };
            let image = options().snapshot(wanted).open(&self.path).unwrap();
            assert!(bytes_of(&image) == *bytes, "snapshot {id}\n{}", log());
        }
        assert_qemu_check(&self.path, "qcow2");
    }

    /// Compares what QEMU reads.
    pub(in crate::ops) fn assert_qemu_agrees(&self) {
        let raw = self.path.with_extension("raw");
        let raw = raw.to_str().unwrap();
        let read = |extra: &[&str]| {
            let common = ["convert", "-f", "qcow2", "-O", "raw"];
            run("qemu-img", [&common, extra, &[self.file(), raw]].concat());
            std::fs::read(raw).unwrap()
        };
        assert!(read(&[]) == self.disk, "{}", self.log.join("\n"));
        for (id, bytes) in &self.snapshots {
            // QEMU gives it the size of the disk.
            let found = read(&["-l", &id.to_string()]);
            let len = found.len().min(bytes.len());
            assert!(found[..len] == bytes[..len], "{id}\n{}", self.log.join("\n"));
        }
    }
}

#[test]
fn snapshots_have_their_contents_after_random_operations_of_both_programs() {
    let rounds = u64::from(cases(6).cases);
    let mut steps = 0;
    for (number, &image) in IMAGES.iter().enumerate() {
        for round in 0..rounds {
            let dir = tempfile::tempdir().unwrap();
            let seed = 0x9e37_79b9_7f4a_7c15 ^ (round << 8) ^ number as u64;
            let mut lab = Lab::new(dir.path(), image, seed, false);
            for _ in 0..30 {
                lab.step();
                lab.assert_as_expected();
                steps += 1;
            }
            lab.assert_qemu_agrees();
        }
    }
    assert_eq!(steps, rounds * 30 * IMAGES.len() as u64);
}
