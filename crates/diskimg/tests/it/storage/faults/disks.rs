//! A small disk in every format.

use diskimg::iso::write::{Builder, CreateOptions};
use diskimg::storage::source::FileSource;
use diskimg::{
    Backing, Convert, Durability, ExternalFiles, Format, Image, OpenOptions, Options, Output,
    Source,
};
use diskimg_testkit::disk::{Disk, Fill, Run};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An image and its guest bytes.
#[derive(Debug, Clone)]
pub struct TestImage {
    pub name: &'static str,
    pub format: Format,
    pub path: PathBuf,
    /// All guest bytes.
    pub bytes: Arc<Vec<u8>>,
}

/// The converted images: name, format, create options, compressed.
const CONVERTED: &[(&str, Format, &str, bool)] = &[
    ("qcow2", Format::Qcow2, "", false),
    ("qcow2-zlib", Format::Qcow2, "", true),
    ("qcow2-zstd", Format::Qcow2, "compression_type=zstd,cluster_size=16k", true),
    ("qcow2-subclusters", Format::Qcow2, "extended_l2=on,cluster_size=128k", false),
    ("qcow2-data-file", Format::Qcow2, "data_file=made.data,data_file_raw=on", false),
    ("vmdk-sparse", Format::Vmdk, "", false),
    ("vmdk-stream", Format::Vmdk, "subformat=streamOptimized", true),
    ("vmdk-flat", Format::Vmdk, "subformat=monolithicFlat", false),
    ("vmdk-split", Format::Vmdk, "subformat=twoGbMaxExtentSparse", false),
    ("vmdk-vmfs", Format::Vmdk, "subformat=vmfs", false),
    ("ova", Format::Ova, "", false),
];

/// A directory with an image of every kind.
pub struct TestImages {
    pub dir: tempfile::TempDir,
    pub images: Vec<TestImage>,
    /// A raw disk with a part of the content, used as backing file.
    pub base: PathBuf,
}

impl TestImages {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let run = |at, len, fill| Run { at, len, fill };
        let mut disk = Disk {
            size: 640 << 10,
            runs: vec![
                run(0, 70_000, Fill::Noise(7)),
                run(128 << 10, 100_000, Fill::Words(9)),
                run(330 << 10, 5_000, Fill::Byte(3)),
                run(600 << 10, 40 << 10, Fill::Words(4)),
            ],
        };
        let bytes = Arc::new(disk.bytes());
        disk.write(&path("raw"));
        disk.runs.truncate(2);
        disk.write(&path("base"));
        let test_image = |name, format| {
            let (path, bytes) = (dir.path().join(name), Arc::clone(&bytes));
            TestImage { name, format, path, bytes }
        };
        let raw = test_image("raw", Format::Raw);
        let mut images = vec![raw.clone()];
        for &(name, format, options, compress) in CONVERTED {
            let converted = test_image(name, format);
            Convert::new(raw.open())
                .format(format)
                .options(parse(options))
                .compress(compress)
                .durability(Durability::Cached)
                .run(&converted.path)
                .unwrap();
            images.push(converted);
        }
        let overlay = test_image("qcow2-overlay", Format::Qcow2);
        Convert::new(raw.open())
            .format(Format::Qcow2)
            .backing(backing(&path("base")))
            .durability(Durability::Cached)
            .run(&overlay.path)
            .unwrap();
        images.push(overlay);
        images.push(create_iso(&path("iso")));
        let base = path("base");
        Self { dir, images, base }
    }

    pub fn image(&self, name: &str) -> &TestImage {
        self.images.iter().find(|image| image.name == name).unwrap()
    }
}

impl TestImage {
    /// Opens the image.
    pub fn open(&self) -> Image {
        self.open_with(Arc::new(FileSource::open(&self.path).unwrap())).unwrap()
    }

    /// Opens the image with `source` instead of its main file.
    pub fn open_with(&self, source: Arc<dyn Source>) -> diskimg::Result<Image> {
        options(self.format).open_source(source, self.path.display().to_string())
    }
}

pub fn options(format: Format) -> OpenOptions {
    OpenOptions::new().format(format).external_files(ExternalFiles::Any)
}

pub fn parse(text: &str) -> Options {
    Options::parse(text).unwrap()
}

pub fn backing(base: &Path) -> Backing {
    Backing::new(base.display().to_string()).with_format("raw")
}

/// Creates an ISO image, which can be read as a disk too.
fn create_iso(path: &Path) -> TestImage {
    let mut builder = Builder::new(CreateOptions::default());
    for (name, len) in [("a/small", 100), ("a/b/large", 200_000), ("other", 5_000)] {
        builder.add_bytes(name.as_bytes(), Fill::Noise(len as u64).bytes(len)).unwrap();
    }
    let plan = builder.plan().unwrap();
    plan.write(Output::create(path).unwrap(), Durability::Cached, &mut |_| Ok(())).unwrap();
    let bytes = Arc::new(std::fs::read(path).unwrap());
    TestImage { name: "iso", format: Format::Iso, path: path.to_owned(), bytes }
}
