//! Images of every format: valid, truncated, and with every checked field changed.

use diskimg::{Convert, Format, OpenOptions, Options};
use diskimg_testkit::disk::noise;
use diskimg_testkit::tool::{run, try_run};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use tempfile::TempDir;

/// A directory of images.
pub struct Images(TempDir);

impl Images {
    pub fn dir(&self) -> &Path {
        self.0.path()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    /// Creates all images.
    pub fn make() -> Self {
        let images = Self(tempfile::tempdir().unwrap());
        images.by_qemu_img();
        images.by_diskimg();
        images.iso_images();
        images.partitioned_disks();
        images.polyglots();
        images.qcow2_fields();
        images.partition_tables();
        images.descriptors();
        images.sparse_headers();
        images.truncated();
        images.mutants();
        images
    }

    fn by_qemu_img(&self) {
        let scratch = tempfile::tempdir().unwrap();
        let raw = scratch.path().join("disk.raw");
        std::fs::write(&raw, noise(1, 128 << 10)).unwrap();
        let raw = raw.to_str().unwrap();
        let tiny = scratch.path().join("tiny.raw");
        std::fs::write(&tiny, noise(2, 8 << 10)).unwrap();
        let kinds = [
            ("raw", "raw", ""),
            ("v3", "qcow2", ""),
            ("v2", "qcow2", "compat=0.10"),
            ("small", "qcow2", "cluster_size=512"),
            ("large", "qcow2", "cluster_size=2M"),
            ("zstd", "qcow2", "compression_type=zstd"),
            ("lazy", "qcow2", "lazy_refcounts=on,refcount_bits=1"),
            ("extended", "qcow2", "extended_l2=on"),
            ("sparse", "vmdk", ""),
            ("stream", "vmdk", "subformat=streamOptimized"),
            ("zeroed", "vmdk", "zeroed_grain=on"),
            ("v6", "vmdk", "compat6=on"),
            ("dynamic", "vdi", ""),
            ("static", "vdi", "preallocation=metadata"),
            ("dynamic", "vpc", ""),
            ("fixed", "vpc", "subformat=fixed"),
            ("dynamic", "vhdx", ""),
            ("old", "qcow", ""),
            ("plain", "qed", ""),
            ("plain", "parallels", ""),
        ];
        for (name, format, options) in kinds {
            let path = self.path(&format!("qemu-{name}.{format}"));
            let mut args = vec!["convert", "-f", "raw", "-O", format];
            if !options.is_empty() {
                args.extend(["-o", options]);
            }
            let raw = if name == "small" { tiny.to_str().unwrap() } else { raw };
            // Not every build of qemu-img has every format.
            try_run("qemu-img", args.into_iter().chain([raw, path.to_str().unwrap()]));
        }
        let create = |name: &str, args: &[&str]| {
            let path = self.path(name);
            let path = path.to_str().unwrap();
            run("qemu-img", ["create", "-q"].iter().chain(args).chain(&[path, "1M"]));
        };
        create("qemu-overlay.qcow2", &["-f", "qcow2", "-b", raw, "-F", "raw"]);
        let data = format!("data_file={}", scratch.path().join("data.raw").display());
        create("qemu-data-file.qcow2", &["-f", "qcow2", "-o", &data]);
        // Not created with qemu-img, whose key derivation takes seconds.
        let mut luks = vec![0; 64 << 10];
        luks[..8].copy_from_slice(b"LUKS\xba\xbe\0\x01");
        luks[104..108].copy_from_slice(&8u32.to_be_bytes());
        self.write("crafted.luks", &luks);
        for (name, subformat) in [
            ("flat", "monolithicFlat"),
            ("split-flat", "twoGbMaxExtentFlat"),
            ("split", "twoGbMaxExtentSparse"),
        ] {
            let options = format!("subformat={subformat}");
            create(&format!("qemu-{name}.vmdk"), &["-f", "vmdk", "-o", &options]);
        }
        let base = scratch.path().join("base.vmdk");
        run("qemu-img", ["create", "-q", "-f", "vmdk", base.to_str().unwrap(), "1M"]);
        create("qemu-child.vmdk", &["-f", "vmdk", "-b", base.to_str().unwrap(), "-F", "vmdk"]);
    }

    fn by_diskimg(&self) {
        let raw = self.path("qemu-raw.raw");
        for (name, format, options) in [
            ("ours.qcow2", Format::Qcow2, ""),
            ("ours-v2.qcow2", Format::Qcow2, "compat=0.10"),
            ("ours-sparse.vmdk", Format::Vmdk, ""),
            ("ours-stream.vmdk", Format::Vmdk, "subformat=streamOptimized"),
            ("ours-flat.vmdk", Format::Vmdk, "subformat=monolithicFlat"),
            ("ours-split.vmdk", Format::Vmdk, "subformat=twoGbMaxExtentSparse"),
            ("ours-vmfs.vmdk", Format::Vmdk, "subformat=vmfs"),
            ("ours.ova", Format::Ova, ""),
        ] {
            let image = OpenOptions::new().format(Format::Raw).open(&raw).unwrap();
            let options = Options::parse(options).unwrap();
            Convert::new(image).format(format).options(options).run(self.path(name)).unwrap();
        }
    }

    /// ISO images, plain and hybrid.
    fn iso_images(&self) {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::write(scratch.path().join("file"), b"content").unwrap();
        let (from, boot) = (scratch.path().to_str().unwrap(), scratch.path().join("mbr"));
        std::fs::write(&boot, [0x90; 432]).unwrap();
        let boot = boot.to_str().unwrap();
        let make = |name: &str, extra: &[&str]| {
            let path = self.path(name);
            let args = ["-as", "mkisofs", "-quiet", "-o", path.to_str().unwrap()];
            run("xorriso", args.iter().chain(extra).chain([&from]));
        };
        make("disc.iso", &["-R", "-J"]);
        let mut hybrid = std::fs::read(self.path("disc.iso")).unwrap();
        (hybrid[446 + 4], hybrid[446 + 8]) = (0x17, 1);
        hybrid[510..512].copy_from_slice(&[0x55, 0xaa]);
        self.write("disc-hybrid.iso", &hybrid);
        make("disc-gpt.iso", &["-append_partition", "2", "0xef", boot, "-appended_part_as_gpt"]);
        let mut bea = std::fs::read(self.path("disc.iso")).unwrap();
        self.write("disc-cut.iso", &bea[..40 << 10]);
        for (i, standard) in ["NSR02", "NSR03", "BEA01"].iter().enumerate() {
            bea[32769..32774].copy_from_slice(standard.as_bytes());
            self.write(&format!("disc-{i}-{standard}.iso"), &bea[..48 << 10]);
        }
    }

    /// Disks partitioned with sfdisk.
    fn partitioned_disks(&self) {
        for (name, script) in [
            ("disk-gpt.raw", "label: gpt\n,100K\n,,\n"),
            ("disk-mbr.raw", "label: dos\n,100K,83,*\n,200K,7\n"),
        ] {
            let path = self.path(name);
            std::fs::File::create(&path).unwrap().set_len(1 << 20).unwrap();
            let shell = format!(
                "printf '{}' | sfdisk -q '{}'",
                script.replace('\n', "\\n"),
                path.display()
            );
            run("sh", ["-c", &shell]);
        }
        let fat = self.path("disk-fat.raw");
        std::fs::File::create(&fat).unwrap().set_len(1 << 20).unwrap();
        // A FAT boot sector: two FATs, media type fixed disk.
        let mut sector = vec![0; 1 << 16];
        (sector[0x10], sector[0x15]) = (2, 0xf8);
        sector[510..512].copy_from_slice(&[0x55, 0xaa]);
        self.write("disk-fat.raw", &sector);
    }

    /// Files of several formats: the signatures of all formats in all combinations.
    fn polyglots(&self) {
        let stream = std::fs::read(self.path("qemu-stream.vmdk")).unwrap();
        let qcow2 = std::fs::read(self.path("qemu-small.qcow2")).unwrap();
        let heads: [(&str, &[u8]); 9] = [
            ("none", b""),
            ("qcow2", &qcow2[..qcow2.len().min(512)]),
            ("vmdk", &stream[..16 << 10]),
            ("qed", b"QED\0"),
            ("vhd", b"conectix"),
            ("vhdx", b"vhdxfile"),
            ("luks", b"LUKS\xba\xbe\0\x01"),
            ("luks2", b"LUKS\xba\xbe\0\x02"),
            ("cowd", b"COWD"),
        ];
        let marks: [(&str, usize, &[u8]); 4] = [
            ("vdi", 64, &[0x7f, 0x10, 0xda, 0xbe]),
            ("mbr", 510, &[0x55, 0xaa]),
            ("iso", 32769, b"CD001"),
            ("footer", (40 << 10) - 512, b"conectix"),
        ];
        for (name, head) in heads {
            for set in 0..1u32 << marks.len() {
                let mut bytes = vec![0; 40 << 10];
                bytes[..head.len()].copy_from_slice(head);
                let mut label = format!("poly-{name}");
                for (i, (mark, at, with)) in marks.iter().enumerate() {
                    if set >> i & 1 == 1 {
                        bytes[*at..at + with.len()].copy_from_slice(with);
                        label += &format!("-{mark}");
                    }
                }
                // With a partition, so that the table is valid if it is the only format.
                (bytes[446 + 4], bytes[446 + 8]) = if set & 2 != 0 { (0x83, 1) } else { (0, 0) };
                self.write(&label, &bytes);
            }
        }
    }

    fn qcow2_fields(&self) {
        let base = std::fs::read(self.path("qemu-small.qcow2")).unwrap();
        let old = std::fs::read(self.path("qemu-v2.qcow2")).unwrap();
        let with = |label: String, base: &[u8], at: usize, value: &[u8]| {
            let mut bytes = base[..base.len().min(64 << 10)].to_vec();
            bytes[at..at + value.len()].copy_from_slice(value);
            self.write(&format!("qcow2-{label}"), &bytes);
        };
        for version in [0u32, 1, 2, 3, 4, 0x0300_0000, u32::MAX] {
            with(format!("version-{version}"), &base, 4, &version.to_be_bytes());
        }
        for bit in 0..64 {
            for (set, at) in [("incompatible", 72), ("compatible", 80), ("autoclear", 88)] {
                with(format!("{set}-{bit}"), &base, at, &(1u64 << bit).to_be_bytes());
            }
            with(format!("old-{bit}"), &old, 72, &(1u64 << bit).to_be_bytes());
            with(format!("backing-{bit}"), &base, 8, &(1u64 << bit).to_be_bytes());
        }
        for (label, at) in
            [("crypt", 35), ("bits", 23), ("order", 99), ("length", 103), ("kind", 104)]
        {
            for value in [0u8, 1, 2, 7, 255] {
                with(format!("{label}-{value}"), &base, at, &[value]);
            }
        }
        for (label, at) in [("l1", 40), ("refcounts", 48), ("snapshots", 64)] {
            for value in [0u64, 512, 513, 1 << 20, 1 << 40, u64::MAX] {
                with(format!("{label}-{value}"), &base, at, &value.to_be_bytes());
            }
        }
    }

    fn partition_tables(&self) {
        let entry = |boot: u8, start: [u8; 3], kind: u8, first: u32| {
            let mut entry = [0; 16];
            entry[0] = boot;
            entry[1..4].copy_from_slice(&start);
            entry[4] = kind;
            entry[8..12].copy_from_slice(&first.to_le_bytes());
            entry[12..].copy_from_slice(&8u32.to_le_bytes());
            entry
        };
        let (none, linux) = ([0; 16], entry(0x80, [0, 2, 0], 0x83, 8));
        let protective = entry(0, [0, 2, 0], 0xee, 1);
        let table = |label: &str, entries: [[u8; 16]; 4]| {
            let mut bytes = vec![0; 16 << 10];
            bytes[446..510].copy_from_slice(&entries.concat());
            bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
            self.write(&format!("table-{label}"), &bytes);
        };
        table("empty", [none; 4]);
        table("linux", [linux, none, none, none]);
        table("last", [none, none, none, linux]);
        table("protective", [protective, none, none, none]);
        table("protective-second", [none, protective, none, none]);
        table("protective-and-linux", [protective, linux, none, none]);
        table("two-protectives", [protective, protective, none, none]);
        for boot in [1, 0x7f, 0x81, 0xff] {
            table(&format!("boot-{boot}"), [entry(boot, [0, 2, 0], 0x83, 8), none, none, none]);
            table(&format!("unused-boot-{boot}"), [linux, entry(boot, [0; 3], 0, 0), none, none]);
        }
        for (i, start) in [[0, 0, 0], [0, 1, 0], [1, 2, 0], [0, 2, 1], [255; 3]].iter().enumerate()
        {
            table(&format!("chs-{i}"), [entry(0, *start, 0xee, 1), none, none, none]);
        }
        for first in [0, 2, 63, u32::MAX] {
            table(&format!("lba-{first}"), [entry(0, [0, 2, 0], 0xee, first), none, none, none]);
        }
        let start = std::fs::read(self.path("disk-fat.raw")).unwrap();
        for (fats, media) in [(2, 0xf0), (1, 0xf8), (3, 0xf8), (2, 0xf8)] {
            let mut bytes = start[..4096].to_vec();
            (bytes[0x10], bytes[0x15]) = (fats, media);
            self.write(&format!("table-fat-{fats}-{media}"), &bytes);
        }
    }

    /// VMDK descriptors, embedded in a sparse extent and as files of their own.
    fn descriptors(&self) {
        let sparse = std::fs::read(self.path("qemu-sparse.vmdk")).unwrap();
        let good = "# Disk DescriptorFile\nversion=1\nCID=5b6a7c8d\nparentCID=ffffffff\n\
                    createType=\"monolithicSparse\"\n\nRW 256 SPARSE \"disk.vmdk\"\n\n#DDB\n\
                    ddb.adapterType = \"ide\"\n";
        let mut texts = vec![("good".to_owned(), good.as_bytes().to_vec())];
        for kind in [
            "streamOptimized",
            "STREAMOPTIMIZED",
            "monolithicFlat",
            "twoGbMaxExtentSparse",
            "twoGbMaxExtentFlat",
            "vmfs",
            "vmfsSparse",
            "vmfsRaw",
            "fullDevice",
            "custom",
            "",
            "x",
            "monolithicSparse ",
            "a very long name of a type that no program has ever used as a createType",
        ] {
            let text = good.replace("monolithicSparse", kind);
            texts.push((format!("type-{kind}").replace([' ', ','], "_"), text.into_bytes()));
        }
        for (i, line) in [
            "RW 256 SPARSE \"other.vmdk\"",
            "RW 256 FLAT \"/etc/passwd\" 0",
            "RW 256 FLAT \"a.raw\" 0",
            "RW 256 FLAT \"..\\a.raw\" 0",
            "RW\t256\tFLAT\t\"/etc/passwd\"\t0\t=",
            "RW 256 SPARSE \"a/b.vmdk\"",
            "RW 256 ZERO",
            "NOACCESS 256 SPARSE \"x\"",
            "noaccess 256 sparse \"x\"",
            "RWX 256 SPARSE \"x\"",
            "RW",
            "what is this",
            "word",
            "a b=c",
            "=x",
            "x=",
            "ddb",
            "DDB.x=\"/\"",
            "#createType=\"monolithicFlat\"",
            "createType=\"monolithicFlat\"",
            "createType = \"monolithicSparse\"",
            "parentFileNameHint=\"/etc/passwd\"",
            "parentCID=12345678",
            "encryptionKeys=\"x\"",
            "encoding=\"UTF-8\"",
            "changeTrackPath=\"/etc/passwd\"",
            "größe=1",
            "# größe",
            "\x07",
            "a=b\rRW 256 FLAT \"x\" 0",
            "\x0bRW 256 FLAT \"/x\" 0",
            "[section]",
            "; comment",
        ]
        .iter()
        .enumerate()
        {
            texts.push((format!("line-{i:02}"), format!("{good}{line}\n").into_bytes()));
            let front = good.replacen("version=1\n", &format!("version=1\n{line}\n"), 1);
            texts.push((format!("front-{i:02}"), front.into_bytes()));
        }
        for (label, from, to) in [
            ("no-extent", "RW 256 SPARSE \"disk.vmdk\"\n", ""),
            ("no-type", "createType=\"monolithicSparse\"\n", ""),
            ("bare-type", "\"monolithicSparse\"", "monolithicSparse"),
            ("spaced-type", "createType=", "createType ="),
            ("crlf", "\n", "\r\n"),
            ("cr", "\n", "\r"),
            ("indented", "\n", "\n  "),
            ("no-title", "# Disk DescriptorFile\nversion=1\n", ""),
            ("upper", "createType", "CREATETYPE"),
        ] {
            texts.push((label.to_owned(), good.replace(from, to).into_bytes()));
        }
        for (label, text) in texts {
            let mut bytes = sparse[..sparse.len().min(96 << 10)].to_vec();
            bytes[512..21 * 512].fill(0);
            bytes[512..512 + text.len()].copy_from_slice(&text);
            self.write(&format!("embedded-{label}"), &bytes);
            self.write(&format!("alone-{label}"), &text);
        }
    }

    /// Changed fields in the header and footer of sparse extents.
    fn sparse_headers(&self) {
        let stream = std::fs::read(self.path("ours-stream.vmdk")).unwrap();
        let sparse = std::fs::read(self.path("qemu-sparse.vmdk")).unwrap();
        let stream = if stream.len() > 160 << 10 { self.short_stream() } else { stream };
        let end = stream.len() - 1536;
        let change = |label: String, base: &[u8], at: usize, value: &[u8]| {
            let mut bytes = base[..base.len().min(160 << 10)].to_vec();
            bytes[at..at + value.len()].copy_from_slice(value);
            self.write(&format!("sparse-{label}"), &bytes);
        };
        self.write("sparse-good-stream", &stream);
        for (base_name, base) in [("sparse", &sparse), ("stream", &stream)] {
            for version in [0u32, 1, 2, 3, 4] {
                change(format!("{base_name}-version-{version}"), base, 4, &version.to_le_bytes());
            }
            for (field, at) in
                [("capacity", 12), ("grain", 20), ("place", 28), ("length", 36), ("directory", 56)]
            {
                for value in [0u64, 1, 2, 20, 2048, 1 << 40, u64::MAX] {
                    let label = format!("{base_name}-{field}-{value}");
                    change(label, base, at, &value.to_le_bytes());
                }
            }
        }
        for (part, start) in [("marker", end), ("footer", end + 512), ("last", end + 1024)] {
            for at in [0, 3, 4, 8, 12, 13, 16, 20, 28, 36, 44, 48, 56, 64, 72, 73, 77, 100, 511] {
                let flipped = stream[start + at] ^ 1;
                change(format!("{part}-{at}"), &stream, start + at, &[flipped]);
            }
        }
        change("footer-to-footer".into(), &stream, end + 512 + 56, &[0xff; 8]);
        let longer = [&stream[..], &[0; 512]].concat();
        self.write("sparse-stream-padded", &longer);
    }

    /// A stream-optimized VMDK with little data.
    fn short_stream(&self) -> Vec<u8> {
        let scratch = tempfile::tempdir().unwrap();
        let (raw, path) = (scratch.path().join("a.raw"), scratch.path().join("a.vmdk"));
        std::fs::write(&raw, vec![1; 64 << 10]).unwrap();
        let image = OpenOptions::new().format(Format::Raw).open(&raw).unwrap();
        let options = Options::parse("subformat=streamOptimized").unwrap();
        Convert::new(image)
            .format(Format::from_str("vmdk").unwrap())
            .options(options)
            .run(&path)
            .unwrap();
        std::fs::read(path).unwrap()
    }

    /// Images truncated at the boundaries of their structures.
    fn truncated(&self) {
        const CUTS: [usize; 22] = [
            0, 1, 3, 4, 7, 8, 31, 63, 64, 67, 68, 71, 103, 104, 111, 511, 512, 513, 1024, 32774,
            34815, 34816,
        ];
        for name in [
            "qemu-v3.qcow2",
            "qemu-overlay.qcow2",
            "qemu-data-file.qcow2",
            "qemu-sparse.vmdk",
            "qemu-flat.vmdk",
            "sparse-good-stream",
            "qemu-dynamic.vdi",
            "qemu-dynamic.vpc",
            "qemu-plain.qed",
            "crafted.luks",
            "disc.iso",
            "disk-gpt.raw",
            "ours.ova",
        ] {
            let Ok(bytes) = std::fs::read(self.path(name)) else { continue };
            let len = bytes.len();
            let near_the_end = [1, 511, 512, 513, 1024, 1536].map(|less| len.saturating_sub(less));
            for cut in CUTS.into_iter().chain(near_the_end.into_iter().filter(|&c| c < 200 << 10)) {
                self.write(&format!("cut-{name}-{cut}"), &bytes[..cut.min(len)]);
            }
        }
    }

    /// Images with pseudo-random changes in their first and last 1200 bytes.
    fn mutants(&self) {
        for (seed, name) in [
            "qemu-small.qcow2",
            "embedded-good",
            "alone-good",
            "sparse-good-stream",
            "table-protective",
        ]
        .iter()
        .enumerate()
        {
            let base = std::fs::read(self.path(name)).unwrap();
            let base = &base[..base.len().min(160 << 10)];
            let random = noise(seed as u64 + 7, 60 * 8 * 4);
            for (number, changes) in random.chunks_exact(32).enumerate() {
                let mut bytes = base.to_vec();
                for change in changes.chunks_exact(4).take(1 + number % 8) {
                    let reach = bytes.len().min(1200);
                    let place = (usize::from(change[0]) << 8 | usize::from(change[1])) % reach;
                    let at = if change[2] & 1 == 0 { place } else { bytes.len() - 1 - place };
                    bytes[at] = if change[2] & 2 == 0 {
                        change[3]
                    } else {
                        bytes[at] ^ 1 << (change[3] % 8)
                    };
                }
                self.write(&format!("mutant-{name}-{number:03}"), &bytes);
            }
        }
    }
}
