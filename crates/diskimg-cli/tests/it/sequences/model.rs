//! The images of a sequence, and what is expected of them.

use super::random::Random;
use crate::support::Lab;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Size in bytes of a sector.
pub(super) const SECTOR: u64 = 512;

/// An image, and its state.
#[derive(Debug, Clone)]
pub(super) struct Image {
    pub(super) name: String,
    pub(super) format: &'static str,
    /// Size in bytes of a cluster of a qcow2 image.
    pub(super) cluster: u64,
    /// Size in bytes of the disk.
    pub(super) size: u64,
    /// What the guest reads, or `None` if that is found out by reading, because both old and new
    /// bytes are allowed.
    pub(super) bytes: Option<Vec<u8>>,
    pub(super) snapshots: Vec<Snapshot>,
    /// The names of bitmaps with their granularity in bytes, and whether they are enabled.
    pub(super) bitmaps: BTreeMap<String, (u64, bool)>,
    pub(super) has_data_file: bool,
    /// It has version 2 of the format.
    pub(super) is_old: bool,
    /// There may be leaks, for a documented reason.
    pub(super) may_leak: bool,
}

/// An internal snapshot.
#[derive(Debug, Clone)]
pub(super) struct Snapshot {
    pub(super) name: String,
    pub(super) size: u64,
    /// What the guest read, or `None` if that depends on a backing file which has changed.
    pub(super) bytes: Option<Vec<u8>>,
}

/// A chain of images, the top first, in a directory.
pub(super) struct Chain {
    pub(super) lab: Lab,
    pub(super) images: Vec<Image>,
    /// The number of files that have been created.
    pub(super) files: usize,
}

impl Image {
    /// Returns an image of which nothing is known but its format and its disk.
    pub(super) fn new(name: String, format: &'static str, bytes: Vec<u8>) -> Self {
        Self {
            name,
            format,
            cluster: 64 << 10,
            size: bytes.len() as u64,
            bytes: Some(bytes),
            snapshots: Vec::new(),
            bitmaps: BTreeMap::new(),
            has_data_file: false,
            is_old: false,
            may_leak: false,
        }
    }

    pub(super) fn is_qcow2(&self) -> bool {
        self.format == "qcow2"
    }

    /// Changes the size. Added bytes are zeros.
    pub(super) fn resize(&mut self, size: u64) {
        self.size = size;
        if let Some(bytes) = &mut self.bytes {
            bytes.resize(size as usize, 0);
        }
    }
}

impl Chain {
    /// Creates a chain of one to three images.
    pub(super) fn generate(random: &mut Random) -> Self {
        let mut chain = Self { lab: Lab::new(), images: Vec::new(), files: 0 };
        let layers = 1 + random.below(3);
        if layers > 1 {
            let format = random.pick(&["qcow2", "qcow2", "raw", "vmdk", "qed"]);
            let size = random.size();
            let bytes = disk(random, size);
            let image = chain.independent(random, format, bytes);
            chain.images.push(image);
        }
        while chain.images.len() < layers as usize {
            chain.overlay(random);
        }
        chain
    }

    /// Returns the name of a file that does not exist.
    pub(super) fn new_name(&mut self, extension: &str) -> String {
        self.files += 1;
        format!("f{}.{extension}", self.files)
    }

    /// Creates an image without a backing file.
    pub(super) fn independent(
        &mut self,
        random: &mut Random,
        format: &'static str,
        bytes: Vec<u8>,
    ) -> Image {
        let name = self.new_name(format);
        if format == "raw" {
            std::fs::write(self.lab.path(&name), &bytes).expect("writes");
            return Image::new(name, format, bytes);
        }
        std::fs::write(self.lab.path("content"), &bytes).expect("writes");
        let mut image = Image::new(name.clone(), format, bytes);
        let options = match format {
            "qcow2" => self.options(random, &mut image, false),
            _ => String::new(),
        };
        let line = format!("convert -f raw -O {format} {options} content {name}");
        if random.one_in(2) {
            self.lab.line(&line).ok();
        } else {
            self.lab.qemu(&line).ok();
        }
        image
    }

    /// Creates an overlay of the chain, with some data.
    fn overlay(&mut self, random: &mut Random) {
        let (name, size) = (self.new_name("qcow2"), random.size());
        let backing = self.images.first();
        let mut bytes = backing.and_then(|image| image.bytes.clone()).unwrap_or_default();
        bytes.resize(size as usize, 0);
        let with = backing.map(|image| format!("-b {} -F {}", image.name, image.format));
        let mut image = Image::new(name.clone(), "qcow2", bytes);
        let options = self.options(random, &mut image, with.is_some());
        let with = with.unwrap_or_default();
        self.lab.qemu(&format!("create -q -f qcow2 {options} {with} {name} {size}")).ok();
        let bytes = image.bytes.as_mut().expect("is known");
        let mut commands = Vec::new();
        for _ in 0..random.below(6) {
            let (at, len) = (random.below(size), 1 + random.below(size / 4));
            let byte = random.byte();
            let end = (at + len).min(size);
            bytes[at as usize..end as usize].fill(byte);
            commands.push(format!("write -P {byte} {at} {}", end - at));
        }
        assert_eq!(io(&self.lab, &image, &commands), Some(0), "{commands:?}");
        self.images.insert(0, image);
    }

    /// Returns options of `create` for a qcow2 image.
    fn options(&mut self, random: &mut Random, image: &mut Image, has_backing: bool) -> String {
        let sizes = [512, 512, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 64 << 10];
        image.cluster = if random.one_in(20) { 2 << 20 } else { random.pick(&sizes) };
        let mut options = format!("-o cluster_size={}", image.cluster);
        if random.one_in(4) {
            return options + ",compat=0.10";
        }
        if image.cluster >= 16 << 10 && random.one_in(3) {
            options += ",extended_l2=on";
        }
        write!(options, ",refcount_bits={}", random.pick(&[1, 2, 4, 8, 16, 16, 16, 32, 64]))
            .expect("writes");
        if random.one_in(3) {
            options += ",lazy_refcounts=on";
        }
        if random.one_in(4) {
            options += ",compression_type=zstd";
        }
        if random.one_in(6) {
            image.has_data_file = true;
            write!(options, ",data_file={}", self.new_name("data")).expect("writes");
            if !has_backing && random.one_in(2) {
                options += ",data_file_raw=on";
            }
        }
        options
    }

    /// Copies all files to another directory.
    pub(super) fn copy(&self) -> Lab {
        let copy = Lab::new();
        for entry in std::fs::read_dir(self.lab.path("")).expect("lists").flatten() {
            std::fs::copy(entry.path(), copy.path("").join(entry.file_name())).expect("copies");
        }
        copy
    }

    /// Forgets what snapshots contain whose backing files have changed: those of the images up to
    /// `last`.
    pub(super) fn forget_snapshots(&mut self, last: usize) {
        for snapshot in self.images[..=last].iter_mut().flat_map(|image| &mut image.snapshots) {
            snapshot.bytes = None;
        }
    }
}

/// Runs commands of qemu-io and returns the exit code.
pub(super) fn io(lab: &Lab, image: &Image, commands: &[String]) -> Option<i32> {
    if commands.is_empty() {
        return Some(0);
    }
    let commands = commands.iter().flat_map(|command| ["-c", command]);
    let mut qemu_io = lab.command("qemu-io");
    qemu_io.args(["-f", image.format]).args(commands).arg(&image.name);
    qemu_io.output().expect("runs").status.code()
}

/// Returns the content of a disk, with ranges of zeros.
pub(super) fn disk(random: &mut Random, size: u64) -> Vec<u8> {
    let mut bytes = vec![0; size as usize];
    for _ in 0..random.below(8) {
        let at = random.below(size);
        let end = (at + 1 + random.below(size / 4)).min(size);
        bytes[at as usize..end as usize].fill(random.byte());
    }
    bytes
}
