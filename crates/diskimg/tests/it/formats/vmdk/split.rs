//! Reading VMDKs of several files, and their parents.

use crate::verified;
use diskimg::{Convert, ErrorKind, ExternalFiles, Format, Image, OpenOptions, Remedy, conformance};
use diskimg_testkit::disk::{self, Disk, noise};
use diskimg_testkit::tool::{cases, qemu_bytes, run, try_run};
use proptest::prelude::*;
use std::path::{Path, PathBuf};

const SECTOR: usize = 512;

/// A temporary directory with a disk.
struct TestDir(tempfile::TempDir);

impl TestDir {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    /// Writes a descriptor `disk.vmdk` with these extent lines.
    fn describe(&self, lines: &[&str]) -> PathBuf {
        self.describe_with("createType=\"custom\"", lines)
    }

    /// Writes a descriptor `disk.vmdk` with these header and extent lines.
    fn describe_with(&self, header: &str, lines: &[&str]) -> PathBuf {
        let text = format!(
            "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\n{header}\n\n\
             # Extent description\n{}\n\n#DDB\nddb.adapterType = \"ide\"\n",
            lines.join("\n")
        );
        self.write("disk.vmdk", text.as_bytes());
        self.path("disk.vmdk")
    }

    /// Creates a sparse extent with these guest bytes with qemu-img.
    fn sparse(&self, name: &str, bytes: &[u8]) {
        self.write("sparse.raw", bytes);
        let (raw, out) = (self.path("sparse.raw"), self.path(name));
        let args = ["convert", "-f", "raw", "-O", "vmdk", raw.to_str().unwrap()];
        run("qemu-img", [&args[..], &[out.to_str().unwrap()]].concat());
    }
}

/// Returns all guest bytes and runs the conformance checks.
fn bytes(path: &Path) -> Vec<u8> {
    let image = verified::open(&OpenOptions::new(), path);
    let mut bytes = vec![0xa5; image.size() as usize];
    image.read_at(&mut bytes, 0).unwrap();
    bytes
}

/// Returns the error of opening or reading the image.
fn error(path: &Path) -> diskimg::Error {
    let read = |image: Image| image.read_at(&mut vec![0; image.size() as usize], 0);
    Image::open(path).and_then(read).expect_err("no error")
}

proptest! {
    #![proptest_config(cases(30))]

    #[test]
    fn images_split_by_qemu_img_read_the_same(
        disk in disk::disk_of(1..=(5 << 20)),
        subformat in prop_oneof![
            Just("monolithicFlat"), Just("twoGbMaxExtentSparse"), Just("twoGbMaxExtentFlat"),
        ],
        zeroed_grain in any::<bool>(),
    ) {
        let dir = TestDir::new();
        disk.write(&dir.path("a.raw"));
        let options = match zeroed_grain && subformat == "twoGbMaxExtentSparse" {
            true => format!("subformat={subformat},zeroed_grain=on"),
            false => format!("subformat={subformat}"),
        };
        let (raw, out) = (dir.path("a.raw"), dir.path("a.vmdk"));
        run("qemu-img", [
            "convert", "-f", "raw", "-O", "vmdk", "-o", &options,
            raw.to_str().unwrap(), out.to_str().unwrap(),
        ]);
        let mut expected = disk.bytes();
        expected.resize(expected.len().next_multiple_of(SECTOR), 0);
        prop_assert!(bytes(&out) == expected);
        prop_assert!(qemu_bytes(&out, "vmdk") == expected);
    }
}

#[test]
fn a_disk_of_several_gigabytes_is_assembled_from_its_extents() {
    const BOUNDARY: u64 = 2 << 30;
    for subformat in ["twoGbMaxExtentSparse", "twoGbMaxExtentFlat"] {
        let dir = TestDir::new();
        let path = dir.path("a.vmdk");
        let options = format!("subformat={subformat}");
        run(
            "qemu-img",
            ["create", "-q", "-f", "vmdk", "-o", &options, path.to_str().unwrap(), "5G"],
        );
        // Data across both boundaries and at the end.
        for (at, pattern) in [(BOUNDARY - 70_144, "1"), (2 * BOUNDARY - 512, "2"), (5 << 30, "3")] {
            let at = at.min((5 << 30) - 140_288);
            let write = format!("write -q -P {pattern} {at} 140288");
            run("qemu-io", ["-f", "vmdk", "-c", &write, path.to_str().unwrap()]);
        }
        let image = verified::open(&OpenOptions::new(), &path);
        assert_eq!((image.size(), image.layers().next().unwrap().files().len()), (5 << 30, 4));
        Convert::new(image).format(Format::Qcow2).run(dir.path("a.qcow2")).unwrap();
        run("qemu-img", ["compare", path.to_str().unwrap(), dir.path("a.qcow2").to_str().unwrap()]);
    }
}

#[test]
fn extents_of_every_access_and_type_are_included() {
    let dir = TestDir::new();
    let (a, c) = (noise(1, 128 * SECTOR), noise(3, 256 * SECTOR));
    dir.write("a flat.vmdk", &a);
    dir.sparse("c.vmdk", &c);
    let zeros = vec![0; 64 * SECTOR];
    let path = dir.describe_with(
        "createType=\"twoGbMaxExtentSparse\"",
        &[
            "RW 128 FLAT \"a flat.vmdk\" 0",
            "RW 64 ZERO",
            "RDONLY 256 SPARSE \"c.vmdk\"",
            "RW 64 ZERO \"\"",
        ],
    );
    assert!(bytes(&path) == [&a[..], &zeros, &c, &zeros].concat());
    // qemu-img omits the types that it does not know.
    assert_eq!(qemu_bytes(&path, "vmdk").len(), a.len());
}

#[test]
fn flat_extents_may_share_a_file_and_start_anywhere_in_it() {
    let dir = TestDir::new();
    let whole = noise(7, 100 * SECTOR);
    dir.write("shared.bin", &whole);
    let path = dir.describe_with(
        "createType=\"2GbMaxExtentFlat\"",
        &[
            "RW 10 FLAT \"shared.bin\" 60",
            "RW 50 VMFS \"shared.bin\"",
            "rdonly 2 flat shared.bin 98",
        ],
    );
    let part = |range: std::ops::Range<usize>| &whole[range.start * SECTOR..range.end * SECTOR];
    assert!(bytes(&path) == [part(60..70), part(0..50), part(98..100)].concat());
}

#[test]
fn every_spelling_of_the_layouts_is_read() {
    let dir = TestDir::new();
    let disk = noise(5, 300 * SECTOR);
    dir.sparse("x-s001.vmdk", &disk[..128 * SECTOR]);
    dir.sparse("x-s002.vmdk", &disk[128 * SECTOR..]);
    dir.write("x-flat.vmdk", &disk);
    let sparse = ["RW 128 SPARSE \"x-s001.vmdk\"", "RW 172 SPARSE \"x-s002.vmdk\""];
    for create_type in ["twoGbMaxExtentSparse", "2GbMaxExtentSparse", "custom", ""] {
        let path = dir.describe_with(&format!("createType=\"{create_type}\""), &sparse);
        assert!(bytes(&path) == disk, "{create_type}");
    }
    for (create_type, line) in [
        ("monolithicFlat", "RW 300 FLAT \"x-flat.vmdk\" 0"),
        ("vmfs", "RW 300 VMFS \"x-flat.vmdk\""),
        ("vmfsThin", "RW 300 VMFS \"x-flat.vmdk\""),
        ("fullDevice", "RW 300 FLAT \"x-flat.vmdk\" 0"),
        ("vmfsRawDeviceMap", "RW 300 VMFSRDM \"x-flat.vmdk\""),
        ("vmfsPassthroughRawDeviceMap", "RW 300 VMFSRAW \"x-flat.vmdk\""),
        ("partitionedDevice", "RW 300 FLAT \"x-flat.vmdk\" 0 partitionUUID device"),
    ] {
        let path = dir.describe_with(&format!("createType=\"{create_type}\"\r"), &[line]);
        assert!(bytes(&path) == disk, "{create_type}");
        assert_eq!(Image::open(&path).unwrap().disk_layout().cluster_size, 1);
    }
}

#[test]
fn a_device_extent_requires_the_policy_any() {
    let dir = TestDir::new();
    dir.write("elsewhere.bin", &[6; 4096]);
    let subdir = TestDir(tempfile::tempdir_in(dir.0.path()).unwrap());
    let line = format!("RW 8 FLAT \"{}\" 0", dir.path("elsewhere.bin").display());
    let path = subdir.describe_with("createType=\"fullDevice\"", &[&line]);
    assert_eq!(error(&path).kind(), ErrorKind::Refused);
    let image = OpenOptions::new().external_files(ExternalFiles::Any).open(&path).unwrap();
    let mut read = [0; 4096];
    image.read_at(&mut read, 0).unwrap();
    assert_eq!(read, [6; 4096]);
    let path = subdir.describe(&[r#"RW 8 FLAT "\\.\PhysicalDrive0" 0"#]);
    let error = OpenOptions::new().external_files(ExternalFiles::Any).open(&path).unwrap_err();
    assert!(error.to_string().contains("PhysicalDrive0"), "{error}");
}

#[test]
fn a_sparse_header_of_capacity_zero_contains_the_descriptor_of_other_extents() {
    let dir = TestDir::new();
    let disk = noise(8, 128 * SECTOR);
    dir.write("x-flat.vmdk", &disk);
    dir.sparse("outer.vmdk", &[0; 512]);
    let mut file = std::fs::read(dir.path("outer.vmdk")).unwrap();
    file[12..20].fill(0); // capacity
    let text = "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\n\
        createType=\"monolithicFlat\"\nRW 128 FLAT \"x-flat.vmdk\" 0\n";
    file[512..21 * 512].fill(0);
    file[512..512 + text.len()].copy_from_slice(text.as_bytes());
    dir.write("outer.vmdk", &file);
    assert!(bytes(&dir.path("outer.vmdk")) == disk);
    assert!(qemu_bytes(&dir.path("outer.vmdk"), "vmdk") == disk);
}

#[test]
fn a_noaccess_extent_is_an_error_only_when_it_is_read() {
    let dir = TestDir::new();
    dir.write("a.bin", &[1; 8192]);
    let lines = ["RW 16 FLAT \"a.bin\" 0", "NOACCESS 16 FLAT \"b.bin\" 0", "RW 1 ZERO"];
    let image = Image::open(dir.describe(&lines)).unwrap();
    assert_eq!(image.size(), 33 * 512);
    image.read_at(&mut [0; 8192], 0).unwrap();
    image.read_at(&mut [0; 512], 16384).unwrap();
    let error = image.read_at(&mut [0; 512], 8192).unwrap_err();
    assert!(error.to_string().contains("NOACCESS 16 FLAT"), "{error}");
    assert!(image.info(0).unwrap().notes[0].contains("cannot be read"));
    let out = dir.path("out.raw");
    let report = Convert::new(image).salvage(true).run(&out).unwrap();
    assert_eq!(report.salvaged.len(), 1);
    assert_eq!(report.salvaged[0].guest, 8192..16384);
    assert_eq!(std::fs::read(&out).unwrap(), [&[1; 8192][..], &[0; 8704]].concat());
}

#[test]
fn an_extent_that_is_missing_or_too_short_is_an_error_that_names_it() {
    let dir = TestDir::new();
    let path = dir.describe(&["RW 8 FLAT \"a.bin\" 0"]);
    let missing = error(&path);
    assert_eq!(missing.kind(), ErrorKind::Io);
    assert!(missing.to_string().contains("a.bin"), "{missing}");
    dir.write("a.bin", &[1; 4095]);
    let short = error(&path);
    assert_eq!(short.kind(), ErrorKind::Corrupt);
    assert!(
        short.to_string().contains("a.bin: extent file at offset 0xfff: the file ends here"),
        "{short}"
    );
    // The image opens, and the check reports the missing byte.
    let image = Image::open(&path).unwrap();
    let report = image.check(&mut |_| ()).unwrap().unwrap();
    assert_eq!(report.corruptions, 1);
    dir.sparse("s.vmdk", &[1; 4096]);
    let whole = std::fs::read(dir.path("s.vmdk")).unwrap();
    dir.write("s.vmdk", &whole[..60_000]);
    let path = dir.describe(&["RW 8 SPARSE \"s.vmdk\""]);
    let error = error(&path).to_string();
    assert!(error.contains("s.vmdk: ") && error.contains("truncated"), "{error}");
}

#[test]
fn a_lost_range_with_one_cause_is_reported_once_whatever_its_size() {
    let dir = TestDir::new();
    dir.write("a.bin", &[1; 5000]);
    let lines = ["RW 20000000000 FLAT \"a.bin\" 0", "NOACCESS 20000000000 FLAT \"b\" 0"];
    let image = Image::open(dir.describe(&lines)).unwrap();
    let size = image.size();
    let report =
        Convert::new(image).format(Format::Qcow2).salvage(true).run(dir.path("o")).unwrap();
    let lost: Vec<_> = report.salvaged.iter().map(|s| s.guest.clone()).collect();
    assert_eq!(lost, [5000..size / 2, size / 2..size]);
}

#[test]
fn a_line_after_zero_bytes_in_the_descriptor_is_an_error() {
    let dir = TestDir::new();
    let path = dir.describe(&["RW 8 ZERO"]);
    let text = std::fs::read(&path).unwrap();
    dir.write("disk.vmdk", &[&text[..], &[0; 512], b"RW 8 ZERO\n"].concat());
    assert_eq!(error(&path).kind(), ErrorKind::Corrupt);
    dir.write("disk.vmdk", &[&text[..], &[0; 512]].concat());
    assert_eq!(Image::open(&path).unwrap().size(), 4096);
}

#[test]
fn an_empty_extent_does_not_shift_the_next_one() {
    let dir = TestDir::new();
    dir.write("a.bin", &[7; 4096]);
    let path = dir.describe(&["RW 0 ZERO", "RW 8 FLAT \"a.bin\" 0", "RW 0 FLAT \"a.bin\" 0"]);
    assert_eq!(bytes(&path), [7; 4096]);
}

#[test]
fn metadata_can_be_read_without_the_extents() {
    let dir = TestDir::new();
    let path = dir.describe(&["RW 8 FLAT \"gone.bin\" 0", "RW 8 SPARSE \"../a.vmdk\""]);
    let metadata = |options: OpenOptions| options.metadata_only(true).open(&path).unwrap();
    let closed = metadata(OpenOptions::new().external_files(ExternalFiles::None));
    assert_eq!((closed.size(), closed.info(0).unwrap().children.len()), (8192, 1));
    let with_notes =
        metadata(OpenOptions::new().external_files(ExternalFiles::Any).with_extents(true));
    let notes = with_notes.info(0).unwrap().notes;
    assert!(notes.len() == 2 && notes[0].contains("gone.bin"), "{notes:?}");
    let report = with_notes.check(&mut |_| ()).unwrap().unwrap();
    assert_eq!(report.check_errors, 2);
    assert!(closed.read_at(&mut [0; 512], 0).is_err());
    let report = closed.check(&mut |_| ()).unwrap().unwrap();
    assert_eq!(report.check_errors, 2, "extents that were not opened count as errors");
}

/// Redundant grain directories and tables.
mod redundant {
    use super::*;

    /// Creates a sparse extent of twenty grains with qemu-img. Returns the file and the offsets of
    /// its directory, its first table and that table's redundant copy.
    fn sample(dir: &TestDir) -> (Vec<u8>, usize, usize, usize) {
        dir.sparse("s.vmdk", &noise(9, 20 * 65536));
        let file = std::fs::read(dir.path("s.vmdk")).unwrap();
        let sector = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap()) as usize;
        let (rgd, gd) = (sector(48) * SECTOR, sector(56) * SECTOR);
        (file.clone(), gd, sector(gd) * SECTOR, sector(rgd) * SECTOR)
    }

    #[test]
    fn a_damaged_table_is_read_from_its_copy_unless_the_copy_is_stale() {
        let dir = TestDir::new();
        let (whole, _, table, copy) = sample(&dir);
        let path = dir.path("s.vmdk");
        let expected = bytes(&path);
        let mut damaged = whole.clone();
        damaged[table + 19 * 4..][..4].fill(0xfe);
        dir.write("s.vmdk", &damaged);
        assert!(bytes(&path) == expected);
        assert_eq!(Image::open(&path).unwrap().warnings().count(), 0, "the table was not read yet");
        // The copy does not have the damaged entry, or differs in another entry.
        for (entry, value) in [(19, [0; 4]), (3, [9, 1, 0, 0])] {
            let mut stale = damaged.clone();
            stale[copy + entry * 4..][..4].copy_from_slice(&value);
            dir.write("s.vmdk", &stale);
            let error = error(&path);
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
            let image = Image::open(&path).unwrap();
            let report = Convert::new(image).salvage(true).run(dir.path("o")).unwrap();
            assert_eq!(report.salvaged[0].guest, 19 * 65536..20 * 65536);
            assert!(std::fs::read(dir.path("o")).unwrap()[..19 * 65536] == expected[..19 * 65536]);
        }
    }

    #[test]
    fn a_damaged_directory_is_not_treated_as_an_empty_disk() {
        let dir = TestDir::new();
        let (mut file, gd, ..) = sample(&dir);
        let rgd = u64::from_le_bytes(file[48..56].try_into().unwrap()) as usize * SECTOR;
        assert!(rgd < gd);
        file[56..64].copy_from_slice(&(1u64 << 40).to_le_bytes());
        dir.write("s.vmdk", &file);
        let path = dir.path("s.vmdk");
        let image = Image::open(&path).unwrap();
        assert!(image.warnings().next().unwrap().contains("directory"));
        file[rgd..rgd + 4].fill(0);
        dir.write("s.vmdk", &file);
        assert_eq!(error(&path).kind(), ErrorKind::Corrupt);
    }
}

#[test]
fn colons_in_names_have_no_special_meaning() {
    let dir = TestDir::new();
    dir.sparse("vm-10:30:00-s001.vmdk", &[5; 4096]);
    let path = dir.describe(&["RW 8 SPARSE \"vm-10:30:00-s001.vmdk\""]);
    assert!(bytes(&path) == [5; 4096]);
}

#[test]
fn extents_are_searched_for_next_to_a_symbolic_link_then_next_to_its_target() {
    let dir = TestDir::new();
    dir.write("secret", &[9; 4096]);
    let (store, links) = (dir.path("store"), dir.path("links"));
    for directory in [&store, &links] {
        std::fs::create_dir(directory).unwrap();
    }
    let described = dir.describe(&["RW 8 FLAT \"a.bin\" 0"]);
    std::fs::rename(described, store.join("disk.vmdk")).unwrap();
    let link = links.join("here.vmdk");
    std::os::unix::fs::symlink("../store/disk.vmdk", &link).unwrap();
    let missing = error(&link);
    assert!(missing.to_string().contains("links/a.bin"), "{missing}");
    std::fs::write(store.join("a.bin"), [1; 4096]).unwrap();
    assert!(bytes(&link) == [1; 4096]);
    std::fs::write(links.join("a.bin"), [2; 4096]).unwrap();
    assert!(bytes(&link) == [2; 4096]);
    for directory in [&store, &links] {
        std::fs::remove_file(directory.join("a.bin")).unwrap();
        std::os::unix::fs::symlink("../secret", directory.join("a.bin")).unwrap();
    }
    assert_eq!(error(&link).kind(), ErrorKind::Refused);
}

mod hostile {
    use super::*;

    #[test]
    fn names_that_lead_out_of_the_directory_are_refused_whether_or_not_the_file_exists() {
        let dir = TestDir::new();
        dir.write("secret", &[1; 4096]);
        let subdir = TestDir(tempfile::tempdir_in(dir.0.path()).unwrap());
        std::os::unix::fs::symlink(dir.path("secret"), subdir.path("link")).unwrap();
        std::os::unix::fs::symlink(dir.path("nothing"), subdir.path("dangling")).unwrap();
        let absolute = |name| dir.path(name).display().to_string();
        for (existing, missing) in [
            (absolute("secret").as_str(), absolute("nothing").as_str()),
            ("../secret", "../nothing"),
            ("./../secret", "./../nothing"),
            ("link", "dangling"),
        ] {
            for kind in ["FLAT", "SPARSE", "VMFS", "VMFSSPARSE", "SESPARSE", "VMFSRDM"] {
                let message = |name: &str| {
                    let path = subdir.describe(&[&format!("RW 8 {kind} \"{name}\"")]);
                    let error = error(&path);
                    assert_eq!(error.kind(), ErrorKind::Refused, "{kind} {name}: {error}");
                    error.to_string().replace(name, "NAME")
                };
                assert_eq!(message(existing), message(missing), "{kind}");
                assert!(!message("link").contains("secret"), "{kind}");
            }
        }
    }

    #[test]
    fn names_that_look_like_protocols_are_treated_as_missing_files() {
        let dir = TestDir::new();
        dir.write("a.bin", &[1; 4096]);
        for name in ["nbd:localhost:1", "http://h/x", "json:{}", "file:a.bin", "fat:rw:."] {
            let path = dir.describe(&[&format!("RW 8 FLAT \"{name}\" 0")]);
            for references in [ExternalFiles::SameDir, ExternalFiles::Any] {
                let error = OpenOptions::new().external_files(references).open(&path).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Io, "{name}: {error}");
                assert!(error.to_string().contains(name), "{error}");
            }
        }
        for name in ["/dev/stdin", "/proc/self/mem", "\0"] {
            let path = dir.describe(&[&format!("RW 8 FLAT \"{name}\" 0")]);
            assert!(Image::open(&path).is_err(), "{name}");
        }
        for name in ["vsan://52e8cd5f-1/vm.vmdk", "vvol://x/y.vmdk"] {
            let path = dir.describe(&[&format!("RW 8 VMFS \"{name}\"")]);
            let message = error(&path).to_string();
            assert!(message.contains(name) && message.contains("vmkfstools -i"), "{message}");
        }
    }

    #[test]
    fn extents_that_overlap_or_overflow_are_errors() {
        let dir = TestDir::new();
        dir.write("a.bin", &[1; 8192]);
        dir.sparse("s.vmdk", &[1; 65536]);
        std::os::unix::fs::symlink("a.bin", dir.path("b.bin")).unwrap();
        let huge = "RW 9007199254740992 ZERO";
        for (lines, message) in [
            (&["RW 8 FLAT \"a.bin\" 0", "RW 8 FLAT \"a.bin\" 7"][..], "same bytes"),
            (&["RW 8 FLAT \"a.bin\" 0", "RW 8 FLAT \"b.bin\" 0"], "same bytes"),
            (&["RW 128 SPARSE \"s.vmdk\"", "RW 128 SPARSE \"s.vmdk\""], "same bytes"),
            (&["RW 128 SPARSE \"s.vmdk\"", "RW 1 FLAT \"s.vmdk\" 900"], "same bytes"),
            (&["RW 8 FLAT \"a.bin\" 18446744073709551615"], "end beyond 8 EiB"),
            (&["RW 8 FLAT \"a.bin\" 18014398509481983"], "end beyond 8 EiB"),
            (&["RW 8 FLAT \"a.bin\" 99999999999999999999"], "offset"),
            (&["RW 18446744073709551615 ZERO"], "sectors"),
            (&[huge, huge, huge], "8 EiB"),
            (&["RW 129 SPARSE \"s.vmdk\""], "129 sectors, but 128"),
            (&["RW 8 SPARSE \"a.bin\""], "is not that of a SPARSE extent"),
            (&["RW 8 SPARSE \"disk.vmdk\""], "is not that of a SPARSE extent"),
            (&["RW 128 VMFSSPARSE \"s.vmdk\" 5"], "at an offset"),
            (&[], "lists no extent"),
        ] {
            let path = dir.describe(lines);
            let error = std::panic::catch_unwind(|| error(&path)).expect(message);
            assert!(error.to_string().contains(message), "{lines:?}: {error}");
            assert!(
                [ErrorKind::Corrupt, ErrorKind::Unsupported].contains(&error.kind()),
                "{lines:?}: {error}"
            );
        }
    }

    #[test]
    fn the_number_of_extent_lines_and_files_is_limited() {
        let dir = TestDir::new();
        dir.write("a.bin", &[1; 512]);
        let many = vec!["RW 1 ZERO"; 1_000_000];
        let error = error(&dir.describe(&many));
        assert_eq!(error.kind(), ErrorKind::Limit, "{error}");
        // The limit itself is accepted.
        let image = Image::open(dir.describe(&many[..100_000])).unwrap();
        assert_eq!(image.size(), 100_000 * 512);
        conformance::verify(&image).unwrap();
        let names: Vec<_> = (0..33_000).map(|i| format!("RW 1 FLAT \"{i}\" 0")).collect();
        let lines: Vec<_> = names.iter().map(String::as_str).collect();
        for i in 0..33_000 {
            std::os::unix::fs::symlink("a.bin", dir.path(&i.to_string())).unwrap();
        }
        let error = super::error(&dir.describe(&lines));
        assert_eq!(error.kind(), ErrorKind::Limit, "{error}");
    }

    #[test]
    fn the_grain_directories_of_all_extents_share_one_limit() {
        let dir = TestDir::new();
        let huge = dir.path("huge.vmdk");
        // 16 MiB of directory each.
        run("qemu-img", ["create", "-q", "-f", "vmdk", huge.to_str().unwrap(), "60T"]);
        let mut lines = Vec::new();
        for i in 0..40 {
            std::fs::hard_link(&huge, dir.path(&format!("h{i}"))).unwrap();
            let copy = dir.path(&format!("c{i}"));
            run("cp", ["--sparse=always", huge.to_str().unwrap(), copy.to_str().unwrap()]);
            lines.push(format!("RW {} SPARSE \"c{i}\"", (60u64 << 40) / 512));
        }
        let lines: Vec<_> = lines.iter().map(String::as_str).collect();
        let error = error(&dir.describe(&lines));
        assert_eq!(error.kind(), ErrorKind::Limit, "{error}");
    }
}

/// Chains of VMDKs and the search for parents.
mod parents {
    use super::*;

    /// Creates `base.vmdk` and its child `child.vmdk` with qemu-img. Returns the guest bytes of the
    /// child.
    fn create_chain(dir: &TestDir) -> Vec<u8> {
        let (base, child) = (dir.path("base.vmdk"), dir.path("child.vmdk"));
        let disk = Disk { size: 1 << 20, runs: Vec::new() };
        disk.write(&dir.path("base.raw"));
        let raw = dir.path("base.raw");
        let args = ["convert", "-f", "raw", "-O", "vmdk", raw.to_str().unwrap()];
        run("qemu-img", [&args[..], &[base.to_str().unwrap()]].concat());
        let write = |path: &Path, pattern: &str, at: u32| {
            let command = format!("write -q -P {pattern} {at} 100k");
            run("qemu-io", ["-f", "vmdk", "-c", &command, path.to_str().unwrap()]);
        };
        write(&base, "1", 0);
        write(&base, "3", 600_064);
        let status = std::process::Command::new("qemu-img")
            .current_dir(dir.0.path())
            .args(["create", "-q", "-f", "vmdk", "-b", "base.vmdk", "-F", "vmdk", "child.vmdk"])
            .status()
            .unwrap();
        assert!(status.success());
        write(&child, "2", 51200);
        qemu_bytes(&child, "vmdk")
    }

    /// Edits the descriptor embedded in a file.
    fn edit(path: &Path, edit: impl FnOnce(String) -> String) {
        let mut file = std::fs::read(path).unwrap();
        let area = &mut file[512..21 * 512];
        let end = area.iter().position(|&b| b == 0).unwrap();
        let text = edit(String::from_utf8(area[..end].to_vec()).unwrap());
        area.fill(0);
        area[..text.len()].copy_from_slice(text.as_bytes());
        std::fs::write(path, file).unwrap();
    }

    /// Returns the value of a key in the embedded descriptor.
    fn value(path: &Path, key: &str) -> String {
        let file = String::from_utf8_lossy(&std::fs::read(path).unwrap()[512..10752]).into_owned();
        file.lines().find_map(|l| l.strip_prefix(key)).unwrap().to_owned()
    }

    #[test]
    fn a_parent_is_found_by_its_hint_even_if_both_files_were_moved() {
        let dir = TestDir::new();
        let expected = create_chain(&dir);
        let child = dir.path("child.vmdk");
        assert!(bytes(&child) == expected);
        for hint in ["/vmfs/volumes/ds1/vm/base.vmdk", r"C:\\VMs\\base.vmdk", "../gone/base.vmdk"] {
            edit(&child, |text| {
                let old = text.lines().find(|l| l.starts_with("parentFileNameHint")).unwrap();
                text.replace(old, &format!("parentFileNameHint=\"{hint}\""))
            });
            assert!(bytes(&child) == expected, "{hint}");
            let info = Image::open(&child).unwrap().info(0).unwrap();
            assert_eq!(info.backing_filename.as_deref(), Some(hint));
            assert!(info.full_backing_filename.unwrap().ends_with("/base.vmdk"));
        }
        // With metadata only, no other file is searched for.
        let info = OpenOptions::new().metadata_only(true).open(&child).unwrap().info(0).unwrap();
        assert!(info.full_backing_filename.unwrap().ends_with("/../gone/base.vmdk"));
        // The parent is found in the directory to which a symbolic link leads.
        let links = TestDir::new();
        std::os::unix::fs::symlink(&child, links.path("link.vmdk")).unwrap();
        assert!(bytes(&links.path("link.vmdk")) == expected);
        std::fs::remove_file(dir.path("base.vmdk")).unwrap();
        for (hint, advice, remedy) in [
            ("base.vmdk", "parentFileNameHint", None),
            ("/x/base.vmdk", "ExternalFiles::Any", Some(Remedy::AllowExternalFiles)),
        ] {
            edit(&child, |text| {
                let old = text.lines().find(|l| l.starts_with("parentFileNameHint")).unwrap();
                text.replace(old, &format!("parentFileNameHint=\"{hint}\""))
            });
            let error = error(&child);
            assert_eq!(error.remedy(), remedy, "{error}");
            let message = error.to_string();
            for fragment in [hint, advice, "only what differs", "the same directory"] {
                assert!(message.contains(fragment), "{fragment}: {message}");
            }
        }
    }

    #[test]
    fn a_parents_name_may_contain_colons() {
        let dir = TestDir::new();
        let expected = create_chain(&dir);
        let child = dir.path("child.vmdk");
        std::fs::rename(dir.path("base.vmdk"), dir.path("vm 10:30.vmdk")).unwrap();
        edit(&child, |text| text.replace("\"base.vmdk\"", "\"vm 10:30.vmdk\""));
        assert!(bytes(&child) == expected);
        edit(&child, |text| text.replace("\"vm 10:30.vmdk\"", "\"file:vm 10:30.vmdk\""));
        assert!(bytes(&child) == expected);
    }

    #[test]
    fn a_changed_parent_is_an_error_with_both_content_ids_and_a_hint() {
        let dir = TestDir::new();
        let expected = create_chain(&dir);
        let (base, child) = (dir.path("base.vmdk"), dir.path("child.vmdk"));
        let old = value(&base, "CID=");
        edit(&base, |text| text.replace(&format!("CID={old}"), "CID=0badcafe"));
        let error = error(&child);
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        let message = error.to_string();
        for fragment in ["0badcafe", old.as_str(), "child.vmdk", "base.vmdk"] {
            assert!(message.contains(fragment), "{fragment}: {message}");
        }
        assert_eq!(error.remedy(), Some(Remedy::IgnoreContentId), "{message}");
        let image = OpenOptions::new().ignore_content_id(true).open(&child).unwrap();
        let mut bytes = vec![0; expected.len()];
        image.read_at(&mut bytes, 0).unwrap();
        assert!(bytes == expected);
    }

    #[test]
    fn an_image_that_is_its_own_parent_is_a_loop() {
        let dir = TestDir::new();
        create_chain(&dir);
        let child = dir.path("child.vmdk");
        edit(&child, |text| text.replace("\"base.vmdk\"", "\"child.vmdk\""));
        for options in [OpenOptions::new(), OpenOptions::new().ignore_content_id(true)] {
            let error = options.open(&child).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(error.to_string().contains("loops"), "{error}");
        }
    }

    /// Edits both descriptors so that parent and child look as if written by VirtualBox.
    fn convert_to_virtualbox(dir: &TestDir) {
        edit(&dir.path("base.vmdk"), |text| {
            text + "ddb.uuid.image=\"11111111-aaaa-4444-8888-000000000001\"\n\
                    ddb.uuid.modification=\"22222222-aaaa-4444-8888-000000000001\"\n\
                    ddb.uuid.parent=\"00000000-0000-0000-0000-000000000000\"\n"
        });
        edit(&dir.path("child.vmdk"), |text| {
            let kept: Vec<_> =
                text.lines().filter(|l| !l.starts_with("parentFileNameHint")).collect();
            let parent = kept.iter().find(|l| l.starts_with("parentCID")).unwrap();
            kept.join("\n").replace(parent, "parentCID=ffffffff")
                + "\nddb.uuid.image=\"33333333-aaaa-4444-8888-000000000001\"\n\
                   ddb.uuid.parent=\"11111111-AAAA-4444-8888-000000000001\"\n\
                   ddb.uuid.parentmodification=\"22222222-aaaa-4444-8888-000000000001\"\n"
        });
    }

    #[test]
    fn a_virtualbox_child_is_read_with_the_parent_of_its_uuid_or_not_at_all() {
        let dir = TestDir::new();
        let expected = create_chain(&dir);
        convert_to_virtualbox(&dir);
        let child = dir.path("child.vmdk");
        assert!(bytes(&child) == expected);
        // qemu-img ignores the parent.
        assert!(qemu_bytes(&child, "vmdk") != expected);

        let info = OpenOptions::new().metadata_only(true).open(&child).unwrap().info(0).unwrap();
        assert!(info.notes[0].contains("11111111-"), "{:?}", info.notes);
        let none = OpenOptions::new().external_files(ExternalFiles::None).open(&child).unwrap_err();
        assert_eq!(none.kind(), ErrorKind::Refused);

        std::fs::copy(dir.path("base.vmdk"), dir.path("copy.vmdk")).unwrap();
        let two = error(&child).to_string();
        assert!(two.contains("base.vmdk") && two.contains("copy.vmdk"), "{two}");
        std::fs::remove_file(dir.path("copy.vmdk")).unwrap();

        edit(&dir.path("base.vmdk"), |t| t.replace("=\"22222222-", "=\"99999999-"));
        let changed = error(&child).to_string();
        assert!(changed.contains("99999999-") && changed.contains("22222222-"), "{changed}");
        OpenOptions::new().ignore_content_id(true).open(&child).unwrap();

        std::fs::remove_file(dir.path("base.vmdk")).unwrap();
        let missing = error(&child);
        assert_eq!(missing.kind(), ErrorKind::Invalid);
        assert!(missing.to_string().contains("11111111-"), "{missing}");
    }

    #[test]
    fn the_parent_of_a_virtualbox_child_is_found_in_the_parent_directory() {
        let dir = TestDir::new();
        let expected = create_chain(&dir);
        convert_to_virtualbox(&dir);
        std::fs::create_dir(dir.path("Snapshots")).unwrap();
        let child = dir.path("Snapshots/{33333333}.vmdk");
        std::fs::rename(dir.path("child.vmdk"), &child).unwrap();
        let missing = error(&child);
        assert_eq!(missing.kind(), ErrorKind::Invalid);
        assert!(missing.to_string().contains("the same directory"), "{missing}");
        assert_eq!(missing.remedy(), Some(Remedy::SearchParentDirectory), "{missing}");
        let any = OpenOptions::new().external_files(ExternalFiles::Any);
        let image = any.open(&child).unwrap();
        let mut bytes = vec![0; expected.len()];
        image.read_at(&mut bytes, 0).unwrap();
        assert!(bytes == expected);
        // The search starts in the directory to which a symbolic link leads.
        let links = TestDir::new();
        std::os::unix::fs::symlink(&child, links.path("link.vmdk")).unwrap();
        any.open(links.path("link.vmdk")).unwrap();
    }

    #[test]
    fn a_chain_of_virtualbox_children_is_found_parent_by_parent() {
        let dir = TestDir::new();
        create_chain(&dir);
        convert_to_virtualbox(&dir);
        let snapshots = dir.path("Snapshots");
        std::fs::create_dir(&snapshots).unwrap();
        std::fs::rename(dir.path("child.vmdk"), snapshots.join("b.vmdk")).unwrap();
        std::fs::copy(snapshots.join("b.vmdk"), snapshots.join("c.vmdk")).unwrap();
        edit(&snapshots.join("c.vmdk"), |text| {
            text.replace("image=\"3", "image=\"4")
                .replace("parent=\"11111111-AAAA", "parent=\"33333333-aaaa")
                .replace("ddb.uuid.parentmodification=\"22222222", "ddb.uuid.x=\"0")
        });
        let any = OpenOptions::new().external_files(ExternalFiles::Any);
        assert_eq!(any.open(snapshots.join("c.vmdk")).unwrap().layers().count(), 3);
    }

    #[test]
    fn a_descriptor_that_a_guest_wrote_into_its_disk_is_not_a_parent() {
        let dir = TestDir::new();
        create_chain(&dir);
        convert_to_virtualbox(&dir);
        let child = dir.path("child.vmdk");
        let elsewhere = TestDir::new();
        elsewhere.write("secret", &[7; 1 << 20]);
        let secret = elsewhere.path("secret").display().to_string();
        std::fs::remove_file(dir.path("base.vmdk")).unwrap();
        let forged = dir.describe_with(
            "ddb.uuid.image=\"11111111-aaaa-4444-8888-000000000001\"\n\
             ddb.uuid.modification=\"22222222-aaaa-4444-8888-000000000001\"",
            &[&format!("RW 2048 FLAT \"{secret}\" 0")],
        );
        std::fs::rename(forged, dir.path("x-flat.vmdk")).unwrap();
        let open = || OpenOptions::new().external_files(ExternalFiles::Any).open(&child);
        // Without a descriptor that lists the file as an extent it is a candidate, but its extent
        // outside the directory is refused.
        let error = open().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
        assert!(error.to_string().contains("x-flat.vmdk: "), "{error}");
        // A descriptor lists the file as an extent: it is no candidate under any name.
        let described = dir.describe(&["RW 8 FLAT \"x-flat.vmdk\" 0"]);
        std::fs::rename(described, dir.path("x.vmdk")).unwrap();
        assert_eq!(open().unwrap_err().kind(), ErrorKind::Invalid);
        std::fs::hard_link(dir.path("x-flat.vmdk"), dir.path("a.vmdk")).unwrap();
        assert_eq!(open().unwrap_err().kind(), ErrorKind::Invalid);
    }

    #[test]
    fn links_to_the_parent_are_not_ambiguous_and_a_stale_copy_is_ignored() {
        let dir = TestDir::new();
        let expected = create_chain(&dir);
        convert_to_virtualbox(&dir);
        let child = dir.path("child.vmdk");
        std::fs::hard_link(dir.path("base.vmdk"), dir.path("hard.vmdk")).unwrap();
        std::os::unix::fs::symlink("base.vmdk", dir.path("soft.vmdk")).unwrap();
        assert!(bytes(&child) == expected);
        std::fs::copy(dir.path("base.vmdk"), dir.path("a.vmdk")).unwrap();
        edit(&dir.path("a.vmdk"), |t| t.replace("=\"22222222-", "=\"99999999-"));
        assert!(bytes(&child) == expected);
    }

    #[test]
    fn an_error_says_if_not_all_candidates_for_the_parent_were_examined() {
        let dir = TestDir::new();
        create_chain(&dir);
        convert_to_virtualbox(&dir);
        for i in 0..4096 {
            dir.write(&format!("a{i}.vmdk"), b"");
        }
        let message = error(&dir.path("child.vmdk")).to_string();
        assert!(message.contains("2 files beside it were not examined"), "{message}");
    }

    #[test]
    fn qemu_img_refuses_a_changed_parent_too() {
        let dir = TestDir::new();
        create_chain(&dir);
        edit(&dir.path("base.vmdk"), |text| text.replacen("CID=", "CID=1 #", 1));
        let child = dir.path("child.vmdk");
        let raw = dir.path("out.raw");
        let args = ["convert", "-O", "raw", child.to_str().unwrap(), raw.to_str().unwrap()];
        assert!(!try_run("qemu-img", args).status.success());
    }
}
