//! Every field of `Limits`: an image that exceeds a limit is refused with the limit's name, and
//! accepted if the limit is raised.

use diskimg::iso::{IsoImage, IsoOptions};
use diskimg::storage::source::{FileSource, MemorySource, Source};
use diskimg::{
    Backing, Convert, Create, Error, ErrorKind, ExternalFiles, Format, Image, Limits, OpenOptions,
    Options, Output, Remedy,
};
use diskimg_testkit::appliance::{OvfDisk, OvfFile, PackageBuilder, VMDK_FORMAT, descriptor};
use diskimg_testkit::iso::{FREE, IsoBuilder, MORE, Record, susp};
use diskimg_testkit::qcow2::{Entry, Qcow2};
use diskimg_testkit::tool::run;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An operation on an image under the given limits.
type Attempt<'a> = Box<dyn Fn(&Limits) -> Result<(), Error> + 'a>;

/// Small images, each of which needs at least 1 of some limit.
struct Images {
    package: PackageBuilder,
    qcow2: PathBuf,
    ova: PathBuf,
}

impl Images {
    fn new() -> Self {
        let package = PackageBuilder::new();
        let qcow2 = package.path("a.qcow2");
        let name = qcow2.to_str().unwrap();
        run("qemu-img", ["create", "-q", "-f", "qcow2", name, "1G"]);
        run("qemu-io", ["-f", "qcow2", "-c", "write -q 0 64k", name]);
        for label in ["one", "two"] {
            run("qemu-img", ["snapshot", "-c", label, name]);
            run("qemu-img", ["bitmap", "--add", name, label]);
        }
        let (ova, _) = package.single_disk_ova();
        Self { package, qcow2, ova }
    }

    /// Returns operations that are bounded by a limit.
    fn attempts<'a>(&'a self, name: &str) -> Vec<Attempt<'a>> {
        let qcow2 = || open(&self.qcow2);
        let ova = || open(&self.ova);
        match name {
            "chain_depth" => vec![open(&self.overlay())],
            "data_sharing" => vec![map_all(std::fs::read(&self.qcow2).unwrap(), false)],
            "expansion" => vec![map_all(expanding(), true)],
            "output_bytes" => vec![convert(&self.qcow2)],
            // Exceeding it is not an error: findings are counted.
            "check_findings" => Vec::new(),
            "table_bytes" => vec![qcow2(), open(&self.vmdk("monolithicSparse", 1 << 30))],
            "unit_bytes" => vec![open(&self.vmdk("streamOptimized", 1 << 20))],
            "check_bytes" | "shared_table_bytes" => vec![check(&self.qcow2)],
            "snapshots"
            | "snapshot_table_bytes"
            | "snapshot_extra_bytes"
            | "bitmaps"
            | "bitmap_directory_bytes" => vec![qcow2(), check(&self.qcow2)],
            "descriptor_bytes" => vec![
                open(&self.vmdk("monolithicSparse", 1 << 20)),
                open(&self.vmdk("monolithicFlat", 1 << 20)),
                self.cue_sheet(),
            ],
            "extent_files" => vec![open(&self.vmdk("twoGbMaxExtentSparse", 5 << 30))],
            "sibling_files" => vec![open(&self.child_without_a_name())],
            "ovf_bytes" | "ovf_nodes" | "ovf_attributes" | "ovf_disks" | "archive_members"
            | "archive_name_bytes" => vec![ova()],
            "file_chunks" => vec![open(&self.chunks())],
            "archive_header_bytes" => vec![open(&self.long_name())],
            "unpacked_bytes" => vec![open(&self.packed()), open(&self.zipped())],
            "unpacked_ratio" => vec![open(&self.packed()), zisofs()],
            "directory_depth" => vec![walk(nested()), lookup(nested())],
            "tree_entries" | "directory_bytes" => vec![walk(nested())],
            "file_sections" => vec![walk(sections())],
            "link_bytes" => vec![strict(link())],
            "continuations" => vec![strict(continued())],
            other => panic!("no image is bounded by '{other}'"),
        }
    }

    /// Creates a chain of three images.
    fn overlay(&self) -> PathBuf {
        let mut top = self.qcow2.clone();
        for index in 0..2 {
            let path = self.package.path(&format!("overlay{index}.qcow2"));
            let name = top.to_string_lossy().into_owned();
            let backing = Backing::new(name).with_format("qcow2");
            Create::new(Format::Qcow2).backing(Some(backing)).run(&path).unwrap();
            top = path;
        }
        top
    }

    fn vmdk(&self, subformat: &str, size: u64) -> PathBuf {
        let path = self.package.path(&format!("{subformat}-{size}.vmdk"));
        let mut options = Options::default();
        options.set("subformat", subformat);
        Create::new(Format::Vmdk).size(size).options(options).run(&path).unwrap();
        path
    }

    fn cue_sheet(&self) -> Attempt<'_> {
        self.package.write("disc.bin", nested());
        let sheet = "FILE \"disc.bin\" BINARY\n  TRACK 01 MODE1/2048\n    INDEX 01 00:00:00\n";
        self.package.write("disc.cue", sheet);
        let path = self.package.path("disc.cue");
        Box::new(move |limits| {
            let source: Arc<dyn Source> = Arc::new(FileSource::open(&path).unwrap());
            IsoImage::open(source, &iso_options(limits)).map(drop)
        })
    }

    /// A child as VirtualBox writes it: the parent is the file in the same directory with this
    /// UUID.
    fn child_without_a_name(&self) -> PathBuf {
        let text = |kind, lines: &str| {
            format!(
                "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID={kind}\n\
                 createType=\"custom\"\nRW 2048 ZERO\n{lines}"
            )
        };
        let uuid = "11111111-aaaa-4444-8888-000000000001";
        let parent = text("ffffffff", &format!("ddb.uuid.image=\"{uuid}\"\n"));
        self.package.write("uuid/z.vmdk", parent);
        self.package
            .write("uuid/a.vmdk", text("ffffffff", &format!("ddb.uuid.parent=\"{uuid}\"\n")));
        self.package.path("uuid/a.vmdk")
    }

    /// An appliance whose disk is split into two chunks.
    fn chunks(&self) -> PathBuf {
        self.package.create_vmdk("cut.vmdk", 2);
        let bytes = std::fs::read(self.package.path("cut.vmdk")).unwrap();
        let chunk = bytes.len() / 2 + 1;
        self.package.write("cut.vmdk.000000000", &bytes[..chunk]);
        self.package.write("cut.vmdk.000000001", &bytes[chunk..]);
        let attributes = format!("ovf:size=\"{}\" ovf:chunkSize=\"{chunk}\"", bytes.len());
        let files = [OvfFile { href: "cut.vmdk", attributes: &attributes }];
        let disks = [OvfDisk { file: Some(1), format: VMDK_FORMAT, attributes: "" }];
        self.package.write("cut.ovf", descriptor(&files, &disks));
        self.package.tar(
            "cut.ova",
            "ustar",
            &["cut.ovf", "cut.vmdk.000000000", "cut.vmdk.000000001"],
        )
    }

    /// An archive with a member whose name has its own header.
    fn long_name(&self) -> PathBuf {
        let name = format!("{}/x", "n".repeat(200));
        self.package.write(&name, "");
        self.package.tar("long.ova", "gnu", &["a.ovf", "a-disk1.vmdk", &name])
    }

    fn packed(&self) -> PathBuf {
        self.package.tool("sh", &["-c", "gzip -kc a.ova > packed.ova"]);
        self.package.path("packed.ova")
    }

    fn zipped(&self) -> PathBuf {
        self.package.tool("7zz", &["a", "-tzip", "-mx1", "zipped.ova", "a.ovf", "a-disk1.vmdk"]);
        self.package.path("zipped.ova")
    }
}

fn open_within(path: &Path, limits: &Limits) -> Result<Image, Error> {
    OpenOptions::new().external_files(ExternalFiles::Any).limits(limits.clone()).open(path)
}

fn open<'a>(path: &Path) -> Attempt<'a> {
    let path = path.to_owned();
    Box::new(move |limits| open_within(&path, limits).map(drop))
}

fn check<'a>(path: &Path) -> Attempt<'a> {
    let path = path.to_owned();
    Box::new(move |limits| {
        let options = OpenOptions::new().metadata_only(true).limits(limits.clone());
        let report = options.open(&path)?.check(&mut |finding| panic!("{finding:?}"))?;
        assert!(report.is_some());
        Ok(())
    })
}

fn iso_options(limits: &Limits) -> IsoOptions {
    let mut options = IsoOptions::default();
    options.limits = limits.clone();
    options
}

fn iso(bytes: &[u8], limits: &Limits, strict: bool) -> Result<IsoImage, Error> {
    let mut options = iso_options(limits);
    options.strict = strict;
    IsoImage::open(Arc::new(MemorySource::new(bytes)), &options)
}

/// Maps the whole disk, whose clusters may share stored bytes if `is_shared`.
fn map_all<'a>(qcow2: Vec<u8>, is_shared: bool) -> Attempt<'a> {
    Box::new(move |limits| {
        let mut limits = limits.clone();
        if is_shared {
            limits.data_sharing = u64::MAX;
        }
        let options = OpenOptions::new().format(Format::Qcow2).limits(limits);
        let image = options.open_source(Arc::new(MemorySource::new(qcow2.clone())), "image")?;
        image.extents(0..image.size())?.try_for_each(|extent| extent.map(drop))
    })
}

/// An image whose clusters expand to 1.1 GiB, below the default limit.
fn expanding() -> Vec<u8> {
    let mut image = Qcow2::repeating(16, 0, &[]);
    image.l1 = (0..3).map(Some).collect();
    image.tables = vec![vec![Entry::Compressed(1); 8192 * 3 / 4]; 3];
    image.build()
}

fn convert<'a>(path: &Path) -> Attempt<'a> {
    let path = path.to_owned();
    Box::new(move |limits| {
        let image = open_within(&path, limits)?;
        Convert::new(image).run_to(Output::writer(std::io::sink())).map(drop)
    })
}

fn walk<'a>(bytes: Vec<u8>) -> Attempt<'a> {
    Box::new(move |limits| iso(&bytes, limits, false)?.walk().try_for_each(|found| found.map(drop)))
}

fn lookup<'a>(bytes: Vec<u8>) -> Attempt<'a> {
    Box::new(move |limits| iso(&bytes, limits, false)?.lookup(b"D/E/X").map(drop))
}

fn strict<'a>(bytes: Vec<u8>) -> Attempt<'a> {
    Box::new(move |limits| iso(&bytes, limits, true)?.walk().try_for_each(|found| found.map(drop)))
}

/// An image with a directory in a directory in the root.
fn nested() -> Vec<u8> {
    let mut builder = IsoBuilder::new(&[Record::dir("D", FREE)]);
    builder.dir(FREE, 32, &[Record::dir("E", FREE + 1)]);
    builder.dir(FREE + 1, FREE, &[Record::file("X", FREE, 7)]);
    builder.finish()
}

fn sections() -> Vec<u8> {
    let section = Record::file("BIG", FREE, 2048);
    let mut builder =
        IsoBuilder::new(&[section.clone().with_flags(MORE), section.with_flags(MORE)]);
    builder.put(FREE, &[1; 2048]);
    builder.finish()
}

fn link() -> Vec<u8> {
    IsoBuilder::rock_ridge(&[Record::rock_link("link", "a/long/way/to/go")]).finish()
}

/// An image with a name that continues in two continuation areas.
fn continued() -> Vec<u8> {
    let name = |flags, text| susp::nm_flags(flags, text);
    let first = [name(1, "a"), susp::ce(FREE, 0, 34)];
    let second = [name(1, "b"), susp::ce(FREE + 1, 0, 6)].concat();
    let mut builder =
        IsoBuilder::rock_ridge(&[Record::rock("", FREE, 0, &[]).with_system_use(&first)]);
    builder.put(FREE, &second).put(FREE + 1, &name(0, "c"));
    builder.finish()
}

fn zisofs<'a>() -> Attempt<'a> {
    let mut packed = vec![0x37, 0xe4, 0x53, 0x96, 0xc9, 0xdb, 0xd6, 0x07];
    // 32 KiB of zeros, as a stored block of deflate, at 24.
    let mut deflated = vec![0x78, 0x01, 0x01, 0x00, 0x80, 0xff, 0x7f];
    deflated.resize(deflated.len() + (32 << 10), 0);
    deflated.extend([0x80, 0x00, 0x00, 0x01]);
    packed.extend((32u32 << 10).to_le_bytes());
    packed.extend([4, 15, 0, 0]);
    packed.extend(24u32.to_le_bytes());
    packed.extend((24 + deflated.len() as u32).to_le_bytes());
    packed.extend(&deflated);
    let size = packed.len() as u32;
    let zf = susp::zf(4, 15, 32 << 10);
    let mut builder = IsoBuilder::rock_ridge(&[Record::rock("packed", FREE, size, &[zf])]);
    builder.put(FREE, &packed);
    let bytes = builder.finish();
    Box::new(move |limits| {
        let image = iso(&bytes, limits, false)?;
        let contents = image.contents(&image.lookup(b"packed")?)?;
        let mut unpacked = vec![1; contents.len() as usize];
        contents.read_exact_at(&mut unpacked, 0).map_err(|e| Error::io("cannot read", e))
    })
}

/// Returns the smallest value of a limit with which the attempt succeeds.
fn smallest_sufficient(attempt: &Attempt<'_>, name: &'static str) -> u64 {
    let try_with = |value| {
        let mut limits = Limits::default();
        limits.set(name, value).unwrap();
        attempt(&limits)
    };
    let default = Limits::default().iter().find(|limit| limit.name == name).unwrap().value;
    let (mut refused, mut enough) = (0, default);
    try_with(enough).unwrap_or_else(|e| panic!("{name}: refused with the default: {e}"));
    while enough - refused > 1 {
        let middle = refused + (enough - refused) / 2;
        match try_with(middle) {
            Ok(()) => enough = middle,
            Err(_) => refused = middle,
        }
    }
    let error = try_with(refused).expect_err(name);
    assert_eq!((error.kind(), error.exceeded()), (ErrorKind::Limit, Some(name)), "{error}");
    assert_eq!(error.remedy(), Some(Remedy::RaiseLimit(name)), "{error}");
    let text = error.to_string();
    for fragment in [format!("the limit {name} is {refused}"), format!("Limits::{name}")] {
        assert!(text.contains(&fragment), "{fragment}: {text}");
    }
    enough
}

#[test]
fn every_limit_is_named_when_exceeded_and_admits_the_image_when_raised() {
    let images = Images::new();
    for name in Limits::names() {
        for attempt in images.attempts(name) {
            assert!(smallest_sufficient(&attempt, name) >= 1, "{name}");
        }
    }
}
