//! Comparisons of images with what is expected, by both tools.

use super::Tool;
use super::model::Image;
use crate::support::Lab;
use diskimg::{Check, ExternalFiles, Format, OpenOptions, SnapshotSelector};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ops::Range;

/// Compares the images in a directory.
pub(super) struct Verifier<'a> {
    lab: &'a Lab,
}

impl<'a> Verifier<'a> {
    pub(super) fn new(lab: &'a Lab) -> Self {
        Self { lab }
    }

    /// Verifies everything, snapshots included.
    pub(super) fn all(&self, images: &mut [Image]) {
        for image in images.iter_mut() {
            self.image(image);
            self.snapshots(image);
        }
        self.backing_names(images);
    }

    /// Verifies the image that a step has changed, and those whose disks are unknown.
    pub(super) fn changed(&self, images: &mut [Image], at: usize) {
        for (n, image) in images.iter_mut().enumerate() {
            if n == at || image.bytes.is_none() {
                self.image(image);
            }
        }
    }

    fn image(&self, image: &mut Image) {
        let info = self.info(image);
        assert_eq!(info["virtual-size"], image.size, "{}", image.name);
        self.check(image, info["dirty-flag"] == true);
        if image.is_qcow2() {
            compare_lists(image, &info);
            image.is_old = info["format-specific"]["data"]["compat"] == "0.10";
        }
        self.bytes(image);
    }

    /// Compares what both tools read, and returns the information about an image.
    fn info(&self, image: &Image) -> Value {
        let (ours, theirs) =
            (info(self.lab, image, Tool::Diskimg), info(self.lab, image, Tool::Qemu));
        assert_eq!(ours, theirs, "{}", image.name);
        theirs
    }

    /// Verifies that both tools find no corruption, and leaks only where they are expected.
    fn check(&self, image: &mut Image, is_dirty: bool) {
        if image.format == "raw" {
            return;
        }
        let line = format!("check -f {} {}", image.format, image.name);
        let theirs = self.lab.qemu(&line);
        let is_fine = match theirs.code {
            Some(0) => true,
            Some(3) => image.may_leak,
            // Not every format can be checked.
            code => code == Some(63) && !image.is_qcow2(),
        };
        assert!(is_dirty || is_fine, "{}: {theirs:?}", image.name);
        let opened = options(image).metadata_only(true).with_extents(true);
        let opened = opened.open(self.lab.path(&image.name)).expect("opens");
        let mut findings = Vec::new();
        let report = Check::new(&opened).run(&mut |finding| findings.push(format!("{finding:?}")));
        let report = report.expect("is checked").expect("is checked");
        let is_fine = report.corruptions + report.check_errors == 0;
        let is_fine = is_fine && (report.leaks == 0 || image.may_leak);
        assert!(is_dirty || is_fine, "{}: {report:?} {findings:?}", image.name);
    }

    /// Verifies the disk, read by both tools.
    fn bytes(&self, image: &mut Image) {
        let ours = self.ours(image, None);
        let theirs = self.theirs(image, "");
        let name = &image.name;
        assert_same(&ours, &theirs, &format!("{name}: diskimg and qemu-img read different bytes"));
        match &image.bytes {
            Some(expected) => assert_same(&ours, expected, &format!("{name}: wrong bytes")),
            None => image.bytes = Some(ours),
        }
    }

    /// Verifies the snapshots, read by both tools.
    fn snapshots(&self, image: &mut Image) {
        for at in 0..image.snapshots.len() {
            let snapshot = &image.snapshots[at];
            let what = format!("{}, snapshot {}", image.name, snapshot.name);
            let ours = self.ours(image, Some(&snapshot.name));
            assert_eq!(ours.len() as u64, snapshot.size, "{what}");
            // qemu-img converts as much as the disk has now.
            let theirs = self.theirs(image, &format!("-l snapshot.name={}", snapshot.name));
            let common = ours.len().min(theirs.len());
            assert_same(&ours[..common], &theirs[..common], &format!("{what}: the tools differ"));
            match &snapshot.bytes {
                Some(expected) => assert_same(&ours, expected, &what),
                None => image.snapshots[at].bytes = Some(ours),
            }
        }
    }

    /// Sets the bitmaps that are expected to those that an image has.
    pub(super) fn learn_bitmaps(&self, image: &mut Image) {
        image.bitmaps = bitmaps(&info(self.lab, image, Tool::Qemu));
    }

    /// Verifies the names and formats of backing files.
    fn backing_names(&self, images: &[Image]) {
        for (n, image) in images.iter().enumerate().filter(|(_, image)| image.is_qcow2()) {
            let info = info(self.lab, image, Tool::Qemu);
            let backing = images.get(n + 1);
            assert_eq!(info["backing-filename"].as_str(), backing.map(|image| image.name.as_str()));
            assert_eq!(info["backing-filename-format"].as_str(), backing.map(|image| image.format));
        }
    }

    /// Verifies that an image in another directory has the same disk, except for some bytes, and
    /// the same description.
    pub(super) fn same_as(&self, other: &Lab, image: &Image, except: &Range<u64>) {
        let other = Verifier::new(other);
        let without_times = |mut info: Value| {
            for snapshot in info["snapshots"].as_array_mut().into_iter().flatten() {
                for key in ["date-sec", "date-nsec"] {
                    snapshot.as_object_mut().expect("an object").remove(key);
                }
            }
            info
        };
        let of = |verifier: &Verifier<'_>| without_times(info(verifier.lab, image, Tool::Qemu));
        assert_eq!(of(self), of(&other), "{}: the results of the tools differ", image.name);
        let (a, b) = (self.ours(image, None), other.ours(image, None));
        let differs = |at: &usize| a[*at] != b[*at] && !except.contains(&(*at as u64));
        let at = (0..a.len()).find(differs);
        assert_eq!(at, None, "{}: this byte depends on the tool", image.name);
    }

    /// Returns a disk, or that of a snapshot, read with the library.
    fn ours(&self, image: &Image, snapshot: Option<&str>) -> Vec<u8> {
        let mut options = options(image);
        if let Some(name) = snapshot {
            options = options.snapshot(SnapshotSelector::IdOrName(name.to_owned()));
        }
        let opened = options.open(self.lab.path(&image.name)).expect("opens");
        let mut bytes = vec![0; opened.size() as usize];
        opened.read_at(&mut bytes, 0).expect("reads");
        bytes
    }

    /// Returns a disk, read with qemu-img.
    fn theirs(&self, image: &Image, words: &str) -> Vec<u8> {
        self.lab
            .qemu(&format!("convert -f {} -O raw {words} {} guest.raw", image.format, image.name))
            .ok();
        self.lab.read("guest.raw")
    }
}

fn options(image: &Image) -> OpenOptions {
    let format: Format = image.format.parse().expect("a format");
    OpenOptions::new().format(format).external_files(ExternalFiles::SameDir)
}

/// Returns what a tool says of an image, without what is not part of it.
fn info(lab: &Lab, image: &Image, tool: Tool) -> Value {
    let line = format!("info --output=json -f {} {}", image.format, image.name);
    let arguments: Vec<_> = line.split(' ').map(str::to_owned).collect();
    let text = tool.run(lab, &arguments).ok();
    let mut info: Value = serde_json::from_str(&text).expect("JSON");
    let object = info.as_object_mut().expect("an object");
    for key in ["children", "notes", "actual-size", "full-backing-filename"] {
        object.remove(key);
    }
    if !image.is_qcow2() {
        // diskimg says more.
        object.remove("format-specific");
        object.remove("cluster-size");
        object.remove("dirty-flag");
    }
    info
}

/// Verifies the snapshots and the bitmaps in the description of an image.
fn compare_lists(image: &Image, info: &Value) {
    let snapshots: Vec<_> = list(&info["snapshots"]).iter().map(name).collect();
    let expected: Vec<_> = image.snapshots.iter().map(|snapshot| snapshot.name.clone()).collect();
    assert_eq!(snapshots, expected, "{}", image.name);
    assert_eq!(bitmaps(info), image.bitmaps, "{}", image.name);
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

fn name(value: &Value) -> String {
    value["name"].as_str().expect("a name").to_owned()
}

/// Returns the names of bitmaps with their granularity, and whether they are enabled.
fn bitmaps(info: &Value) -> BTreeMap<String, (u64, bool)> {
    let bitmaps = list(&info["format-specific"]["data"]["bitmaps"]).into_iter().map(|bitmap| {
        let is_enabled = list(&bitmap["flags"]).iter().any(|flag| flag == "auto");
        (name(&bitmap), (bitmap["granularity"].as_u64().expect("a number"), is_enabled))
    });
    bitmaps.collect()
}

#[track_caller]
fn assert_same(a: &[u8], b: &[u8], what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    if let Some(at) = (0..a.len()).find(|&at| a[at] != b[at]) {
        let end = (at..a.len()).find(|&at| a[at] == b[at]).unwrap_or(a.len());
        panic!("{what}: bytes {at}..{end}: {} and {}", a[at], b[at]);
    }
}
