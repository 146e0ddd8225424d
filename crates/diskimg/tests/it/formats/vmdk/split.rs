//! VMDKs of several files: what a descriptor says, and what of it is believed.

use diskimg::{Convert, ErrorKind, ExternalFiles, Format, Image, OpenOptions, conformance};
use diskimg_testkit::disk::{self, Disk, noise};
use diskimg_testkit::opened;
use diskimg_testkit::tool::{cases, qemu_bytes, run, try_run};
use proptest::prelude::*;
use std::path::{Path, PathBuf};

const SECTOR: usize = 512;

/// A folder with a disk in it.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    /// A descriptor `disk.vmdk` of these extent lines.
    fn describe(&self, lines: &[&str]) -> PathBuf {
        self.describe_with("createType=\"custom\"", lines)
    }

    fn describe_with(&self, header: &str, lines: &[&str]) -> PathBuf {
        let text = format!(
            "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\n{header}\n\n\
             # Extent description\n{}\n\n#DDB\nddb.adapterType = \"ide\"\n",
            lines.join("\n")
        );
        self.write("disk.vmdk", text.as_bytes());
        self.path("disk.vmdk")
    }

    /// A sparse extent as qemu-img makes it, with these bytes on it.
    fn sparse(&self, name: &str, bytes: &[u8]) {
        self.write("sparse.raw", bytes);
        let (raw, out) = (self.path("sparse.raw"), self.path(name));
        let args = ["convert", "-f", "raw", "-O", "vmdk", raw.to_str().unwrap()];
        run("qemu-img", [&args[..], &[out.to_str().unwrap()]].concat());
    }
}

/// What the guest sees; all that is promised of an image holds.
fn bytes(path: &Path) -> Vec<u8> {
    let image = opened::verified(&OpenOptions::new(), path);
    let mut bytes = vec![0xa5; image.size() as usize];
    image.read_at(&mut bytes, 0).unwrap();
    bytes
}

fn error(path: &Path) -> diskimg::Error {
    let read = |image: Image| image.read_at(&mut vec![0; image.size() as usize], 0);
    Image::open(path).and_then(read).expect_err("no error")
}

proptest! {
    #![proptest_config(cases(30))]

    #[test]
    fn what_qemu_img_splits_reads_the_same(
        disk in disk::disk_of(1..=(5 << 20)),
        subformat in prop_oneof![
            Just("monolithicFlat"), Just("twoGbMaxExtentSparse"), Just("twoGbMaxExtentFlat"),
        ],
        zeroed_grain in any::<bool>(),
    ) {
        let folder = Folder::new();
        disk.write(&folder.path("a.raw"));
        let options = match zeroed_grain && subformat == "twoGbMaxExtentSparse" {
            true => format!("subformat={subformat},zeroed_grain=on"),
            false => format!("subformat={subformat}"),
        };
        let (raw, out) = (folder.path("a.raw"), folder.path("a.vmdk"));
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
fn a_disk_of_many_gigabytes_is_put_together_from_its_pieces() {
    const BORDER: u64 = 2 << 30;
    for subformat in ["twoGbMaxExtentSparse", "twoGbMaxExtentFlat"] {
        let folder = Folder::new();
        let path = folder.path("a.vmdk");
        let options = format!("subformat={subformat}");
        run(
            "qemu-img",
            ["create", "-q", "-f", "vmdk", "-o", &options, path.to_str().unwrap(), "5G"],
        );
        // Data over both borders, and at the very end.
        for (at, pattern) in [(BORDER - 70_144, "1"), (2 * BORDER - 512, "2"), (5 << 30, "3")] {
            let at = at.min((5 << 30) - 140_288);
            let write = format!("write -q -P {pattern} {at} 140288");
            run("qemu-io", ["-f", "vmdk", "-c", &write, path.to_str().unwrap()]);
        }
        let image = opened::verified(&OpenOptions::new(), &path);
        assert_eq!((image.size(), image.layers().next().unwrap().files().len()), (5 << 30, 4));
        Convert::new(image).format(Format::Qcow2).run(folder.path("a.qcow2")).unwrap();
        run(
            "qemu-img",
            ["compare", path.to_str().unwrap(), folder.path("a.qcow2").to_str().unwrap()],
        );
    }
}

#[test]
fn no_line_is_left_out_whatever_its_access_and_type() {
    let folder = Folder::new();
    let (a, c) = (noise(1, 128 * SECTOR), noise(3, 256 * SECTOR));
    folder.write("a flat.vmdk", &a);
    folder.sparse("c.vmdk", &c);
    let zeros = vec![0; 64 * SECTOR];
    let path = folder.describe_with(
        "createType=\"twoGbMaxExtentSparse\"",
        &[
            "RW 128 FLAT \"a flat.vmdk\" 0",
            "RW 64 ZERO",
            "RDONLY 256 SPARSE \"c.vmdk\"",
            "RW 64 ZERO \"\"",
        ],
    );
    assert!(bytes(&path) == [&a[..], &zeros, &c, &zeros].concat());
    // The reference leaves out what it does not know.
    assert_eq!(qemu_bytes(&path, "vmdk").len(), a.len());
}

#[test]
fn flat_extents_start_anywhere_in_a_file_that_they_may_share() {
    let folder = Folder::new();
    let whole = noise(7, 100 * SECTOR);
    folder.write("shared.bin", &whole);
    let path = folder.describe_with(
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
    let folder = Folder::new();
    let disk = noise(5, 300 * SECTOR);
    folder.sparse("x-s001.vmdk", &disk[..128 * SECTOR]);
    folder.sparse("x-s002.vmdk", &disk[128 * SECTOR..]);
    folder.write("x-flat.vmdk", &disk);
    let sparse = ["RW 128 SPARSE \"x-s001.vmdk\"", "RW 172 SPARSE \"x-s002.vmdk\""];
    for create_type in ["twoGbMaxExtentSparse", "2GbMaxExtentSparse", "custom", ""] {
        let path = folder.describe_with(&format!("createType=\"{create_type}\""), &sparse);
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
        let path = folder.describe_with(&format!("createType=\"{create_type}\"\r"), &[line]);
        assert!(bytes(&path) == disk, "{create_type}");
        assert_eq!(Image::open(&path).unwrap().disk_layout().cluster_size, 1);
    }
}

#[test]
fn a_device_is_read_where_any_file_may_be_named() {
    let folder = Folder::new();
    folder.write("elsewhere.bin", &[6; 4096]);
    let inside = Folder(tempfile::tempdir_in(folder.0.path()).unwrap());
    let line = format!("RW 8 FLAT \"{}\" 0", folder.path("elsewhere.bin").display());
    let path = inside.describe_with("createType=\"fullDevice\"", &[&line]);
    assert_eq!(error(&path).kind(), ErrorKind::Refused);
    let image = OpenOptions::new().external_files(ExternalFiles::Any).open(&path).unwrap();
    let mut read = [0; 4096];
    image.read_at(&mut read, 0).unwrap();
    assert_eq!(read, [6; 4096]);
    let path = inside.describe(&[r#"RW 8 FLAT "\\.\PhysicalDrive0" 0"#]);
    let error = OpenOptions::new().external_files(ExternalFiles::Any).open(&path).unwrap_err();
    assert!(error.to_string().contains("PhysicalDrive0"), "{error}");
}

#[test]
fn a_header_without_capacity_is_an_envelope_for_a_descriptor() {
    let folder = Folder::new();
    let disk = noise(8, 128 * SECTOR);
    folder.write("x-flat.vmdk", &disk);
    folder.sparse("envelope.vmdk", &[0; 512]);
    let mut file = std::fs::read(folder.path("envelope.vmdk")).unwrap();
    file[12..20].fill(0); // capacity
    let text = "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\n\
        createType=\"monolithicFlat\"\nRW 128 FLAT \"x-flat.vmdk\" 0\n";
    file[512..21 * 512].fill(0);
    file[512..512 + text.len()].copy_from_slice(text.as_bytes());
    folder.write("envelope.vmdk", &file);
    assert!(bytes(&folder.path("envelope.vmdk")) == disk);
    assert!(qemu_bytes(&folder.path("envelope.vmdk"), "vmdk") == disk);
}

#[test]
fn what_nobody_may_access_is_an_error_when_read_and_no_sooner() {
    let folder = Folder::new();
    folder.write("a.bin", &[1; 8192]);
    let lines = ["RW 16 FLAT \"a.bin\" 0", "NOACCESS 16 FLAT \"b.bin\" 0", "RW 1 ZERO"];
    let image = Image::open(folder.describe(&lines)).unwrap();
    assert_eq!(image.size(), 33 * 512);
    image.read_at(&mut [0; 8192], 0).unwrap();
    image.read_at(&mut [0; 512], 16384).unwrap();
    let error = image.read_at(&mut [0; 512], 8192).unwrap_err();
    assert!(error.to_string().contains("NOACCESS 16 FLAT"), "{error}");
    assert!(image.info(0).unwrap().notes[0].contains("cannot be read"));
    let out = folder.path("out.raw");
    let report = Convert::new(image).salvage(true).run(&out).unwrap();
    assert_eq!(report.salvaged.len(), 1);
    assert_eq!(report.salvaged[0].guest, 8192..16384);
    assert_eq!(std::fs::read(&out).unwrap(), [&[1; 8192][..], &[0; 8704]].concat());
}

#[test]
fn an_extent_that_is_missing_or_too_short_is_an_error_that_names_it() {
    let folder = Folder::new();
    let path = folder.describe(&["RW 8 FLAT \"a.bin\" 0"]);
    let missing = error(&path);
    assert_eq!(missing.kind(), ErrorKind::Io);
    assert!(missing.to_string().contains("a.bin"), "{missing}");
    folder.write("a.bin", &[1; 4095]);
    let short = error(&path);
    assert_eq!(short.kind(), ErrorKind::Corrupt);
    assert!(
        short.to_string().contains("a.bin: extent file at offset 0xfff: it ends here"),
        "{short}"
    );
    // What is there can be salvaged, and the check says what is not.
    let image = Image::open(&path).unwrap();
    let report = image.check(&mut |_| ()).unwrap().unwrap();
    assert_eq!(report.corruptions, 1);
    folder.sparse("s.vmdk", &[1; 4096]);
    let whole = std::fs::read(folder.path("s.vmdk")).unwrap();
    folder.write("s.vmdk", &whole[..60_000]);
    let path = folder.describe(&["RW 8 SPARSE \"s.vmdk\""]);
    let error = error(&path).to_string();
    assert!(error.contains("s.vmdk: ") && error.contains("truncated"), "{error}");
}

#[test]
fn what_is_lost_for_one_reason_is_one_loss_however_large() {
    let folder = Folder::new();
    folder.write("a.bin", &[1; 5000]);
    let lines = ["RW 20000000000 FLAT \"a.bin\" 0", "NOACCESS 20000000000 FLAT \"b\" 0"];
    let image = Image::open(folder.describe(&lines)).unwrap();
    let size = image.size();
    let report =
        Convert::new(image).format(Format::Qcow2).salvage(true).run(folder.path("o")).unwrap();
    let lost: Vec<_> = report.salvaged.iter().map(|s| s.guest.clone()).collect();
    assert_eq!(lost, [5000..size / 2, size / 2..size]);
}

#[test]
fn a_line_behind_a_gap_in_the_text_is_not_lost_in_silence() {
    let folder = Folder::new();
    let path = folder.describe(&["RW 8 ZERO"]);
    let text = std::fs::read(&path).unwrap();
    folder.write("disk.vmdk", &[&text[..], &[0; 512], b"RW 8 ZERO\n"].concat());
    assert_eq!(error(&path).kind(), ErrorKind::Corrupt);
    folder.write("disk.vmdk", &[&text[..], &[0; 512]].concat());
    assert_eq!(Image::open(&path).unwrap().size(), 4096);
}

#[test]
fn an_empty_extent_moves_nothing() {
    let folder = Folder::new();
    folder.write("a.bin", &[7; 4096]);
    let path = folder.describe(&["RW 0 ZERO", "RW 8 FLAT \"a.bin\" 0", "RW 0 FLAT \"a.bin\" 0"]);
    assert_eq!(bytes(&path), [7; 4096]);
}

#[test]
fn facts_are_told_without_the_extents() {
    let folder = Folder::new();
    let path = folder.describe(&["RW 8 FLAT \"gone.bin\" 0", "RW 8 SPARSE \"../a.vmdk\""]);
    let facts = |options: OpenOptions| options.metadata_only(true).open(&path).unwrap();
    let closed = facts(OpenOptions::new().external_files(ExternalFiles::None));
    assert_eq!((closed.size(), closed.info(0).unwrap().children.len()), (8192, 1));
    let noted = facts(OpenOptions::new().external_files(ExternalFiles::Any).with_extents(true));
    let notes = noted.info(0).unwrap().notes;
    assert!(notes.len() == 2 && notes[0].contains("gone.bin"), "{notes:?}");
    let report = noted.check(&mut |_| ()).unwrap().unwrap();
    assert_eq!(report.check_errors, 2);
    assert!(closed.read_at(&mut [0; 512], 0).is_err());
    let report = closed.check(&mut |_| ()).unwrap().unwrap();
    assert_eq!(report.check_errors, 2, "what was not opened is not sound");
}

/// Copies of tables: what they may stand in for, and what not.
mod redundant {
    use super::*;

    /// A sparse extent of twenty grains that qemu-img wrote: the file, and where its
    /// directory, its table and the redundant table are.
    fn sample(folder: &Folder) -> (Vec<u8>, usize, usize, usize) {
        folder.sparse("s.vmdk", &noise(9, 20 * 65536));
        let file = std::fs::read(folder.path("s.vmdk")).unwrap();
        let sector = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap()) as usize;
        let (rgd, gd) = (sector(48) * SECTOR, sector(56) * SECTOR);
        (file.clone(), gd, sector(gd) * SECTOR, sector(rgd) * SECTOR)
    }

    #[test]
    fn a_damaged_table_is_read_from_its_copy_and_not_from_an_older_state() {
        let folder = Folder::new();
        let (whole, _, table, copy) = sample(&folder);
        let path = folder.path("s.vmdk");
        let expected = bytes(&path);
        let mut damaged = whole.clone();
        damaged[table + 19 * 4..][..4].fill(0xfe);
        folder.write("s.vmdk", &damaged);
        assert!(bytes(&path) == expected);
        assert_eq!(Image::open(&path).unwrap().warnings().count(), 0, "nothing was read yet");
        // The copy knows nothing of the grain, or says otherwise of another.
        for (entry, value) in [(19, [0; 4]), (3, [9, 1, 0, 0])] {
            let mut stale = damaged.clone();
            stale[copy + entry * 4..][..4].copy_from_slice(&value);
            folder.write("s.vmdk", &stale);
            let error = error(&path);
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
            let image = Image::open(&path).unwrap();
            let report = Convert::new(image).salvage(true).run(folder.path("o")).unwrap();
            assert_eq!(report.salvaged[0].guest, 19 * 65536..20 * 65536);
            assert!(
                std::fs::read(folder.path("o")).unwrap()[..19 * 65536] == expected[..19 * 65536]
            );
        }
    }

    #[test]
    fn a_lost_directory_is_not_taken_for_an_empty_disk() {
        let folder = Folder::new();
        let (mut file, gd, ..) = sample(&folder);
        let rgd = u64::from_le_bytes(file[48..56].try_into().unwrap()) as usize * SECTOR;
        assert!(rgd < gd);
        file[56..64].copy_from_slice(&(1u64 << 40).to_le_bytes());
        folder.write("s.vmdk", &file);
        let path = folder.path("s.vmdk");
        let image = Image::open(&path).unwrap();
        assert!(image.warnings().next().unwrap().contains("directory"));
        file[rgd..rgd + 4].fill(0);
        folder.write("s.vmdk", &file);
        assert_eq!(error(&path).kind(), ErrorKind::Corrupt);
    }
}

#[test]
fn colons_are_as_good_as_any_other_character_of_a_name() {
    let folder = Folder::new();
    folder.sparse("vm-10:30:00-s001.vmdk", &[5; 4096]);
    let path = folder.describe(&["RW 8 SPARSE \"vm-10:30:00-s001.vmdk\""]);
    assert!(bytes(&path) == [5; 4096]);
}

#[test]
fn an_image_reached_by_a_link_has_its_files_beside_the_link_or_beside_itself() {
    let folder = Folder::new();
    folder.write("secret", &[9; 4096]);
    let (store, links) = (folder.path("store"), folder.path("links"));
    for directory in [&store, &links] {
        std::fs::create_dir(directory).unwrap();
    }
    let described = folder.describe(&["RW 8 FLAT \"a.bin\" 0"]);
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
    fn names_that_lead_out_of_the_directory_are_refused_whether_or_not_a_file_is_there() {
        let folder = Folder::new();
        folder.write("secret", &[1; 4096]);
        let inside = Folder(tempfile::tempdir_in(folder.0.path()).unwrap());
        std::os::unix::fs::symlink(folder.path("secret"), inside.path("link")).unwrap();
        std::os::unix::fs::symlink(folder.path("nothing"), inside.path("dangling")).unwrap();
        let absolute = |name| folder.path(name).display().to_string();
        for (there, gone) in [
            (absolute("secret").as_str(), absolute("nothing").as_str()),
            ("../secret", "../nothing"),
            ("./../secret", "./../nothing"),
            ("link", "dangling"),
        ] {
            for kind in ["FLAT", "SPARSE", "VMFS", "VMFSSPARSE", "SESPARSE", "VMFSRDM"] {
                let said = |name: &str| {
                    let path = inside.describe(&[&format!("RW 8 {kind} \"{name}\"")]);
                    let error = error(&path);
                    assert_eq!(error.kind(), ErrorKind::Refused, "{kind} {name}: {error}");
                    error.to_string().replace(name, "NAME")
                };
                assert_eq!(said(there), said(gone), "{kind}");
                assert!(!said("link").contains("secret"), "{kind}");
            }
        }
    }

    #[test]
    fn names_that_look_like_protocols_are_files_that_are_not_there() {
        let folder = Folder::new();
        folder.write("a.bin", &[1; 4096]);
        for name in ["nbd:localhost:1", "http://h/x", "json:{}", "file:a.bin", "fat:rw:."] {
            let path = folder.describe(&[&format!("RW 8 FLAT \"{name}\" 0")]);
            for references in [ExternalFiles::SameDir, ExternalFiles::Any] {
                let error = OpenOptions::new().external_files(references).open(&path).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Io, "{name}: {error}");
                assert!(error.to_string().contains(name), "{error}");
            }
        }
        for name in ["/dev/stdin", "/proc/self/mem", "\0"] {
            let path = folder.describe(&[&format!("RW 8 FLAT \"{name}\" 0")]);
            assert!(Image::open(&path).is_err(), "{name}");
        }
        for name in ["vsan://52e8cd5f-1/vm.vmdk", "vvol://x/y.vmdk"] {
            let path = folder.describe(&[&format!("RW 8 VMFS \"{name}\"")]);
            let said = error(&path).to_string();
            assert!(said.contains(name) && said.contains("vmkfstools -i"), "{said}");
        }
    }

    #[test]
    fn extents_that_overlap_or_overflow_are_contradictions() {
        let folder = Folder::new();
        folder.write("a.bin", &[1; 8192]);
        folder.sparse("s.vmdk", &[1; 65536]);
        std::os::unix::fs::symlink("a.bin", folder.path("b.bin")).unwrap();
        let huge = "RW 9007199254740992 ZERO";
        for (lines, said) in [
            (&["RW 8 FLAT \"a.bin\" 0", "RW 8 FLAT \"a.bin\" 7"][..], "same bytes"),
            (&["RW 8 FLAT \"a.bin\" 0", "RW 8 FLAT \"b.bin\" 0"], "same bytes"),
            (&["RW 128 SPARSE \"s.vmdk\"", "RW 128 SPARSE \"s.vmdk\""], "same bytes"),
            (&["RW 128 SPARSE \"s.vmdk\"", "RW 1 FLAT \"s.vmdk\" 900"], "same bytes"),
            (&["RW 8 FLAT \"a.bin\" 18446744073709551615"], "beyond any file"),
            (&["RW 8 FLAT \"a.bin\" 18014398509481983"], "beyond any file"),
            (&["RW 8 FLAT \"a.bin\" 99999999999999999999"], "offset"),
            (&["RW 18446744073709551615 ZERO"], "sectors"),
            (&[huge, huge, huge], "8 EiB"),
            (&["RW 129 SPARSE \"s.vmdk\""], "129 sectors, but 128"),
            (&["RW 8 SPARSE \"a.bin\""], "starts no such extent"),
            (&["RW 8 SPARSE \"disk.vmdk\""], "starts no such extent"),
            (&["RW 128 VMFSSPARSE \"s.vmdk\" 5"], "at an offset"),
            (&[], "lists no extent"),
        ] {
            let path = folder.describe(lines);
            let error = std::panic::catch_unwind(|| error(&path)).expect(said);
            assert!(error.to_string().contains(said), "{lines:?}: {error}");
            assert!(
                [ErrorKind::Corrupt, ErrorKind::Unsupported].contains(&error.kind()),
                "{lines:?}: {error}"
            );
        }
    }

    #[test]
    fn a_million_lines_are_bounded_before_they_are_believed() {
        let folder = Folder::new();
        folder.write("a.bin", &[1; 512]);
        let many = vec!["RW 1 ZERO"; 1_000_000];
        let error = error(&folder.describe(&many));
        assert_eq!(error.kind(), ErrorKind::Limit, "{error}");
        // As many as the limit allows cost what they say and no more.
        let image = Image::open(folder.describe(&many[..100_000])).unwrap();
        assert_eq!(image.size(), 100_000 * 512);
        conformance::verify(&image).unwrap();
        let names: Vec<_> = (0..33_000).map(|i| format!("RW 1 FLAT \"{i}\" 0")).collect();
        let lines: Vec<_> = names.iter().map(String::as_str).collect();
        for i in 0..33_000 {
            std::os::unix::fs::symlink("a.bin", folder.path(&i.to_string())).unwrap();
        }
        let error = super::error(&folder.describe(&lines));
        assert_eq!(error.kind(), ErrorKind::Limit, "{error}");
    }

    #[test]
    fn directories_of_many_extents_share_one_limit() {
        let folder = Folder::new();
        let huge = folder.path("huge.vmdk");
        // 16 MiB of directory each.
        run("qemu-img", ["create", "-q", "-f", "vmdk", huge.to_str().unwrap(), "60T"]);
        let mut lines = Vec::new();
        for i in 0..40 {
            std::fs::hard_link(&huge, folder.path(&format!("h{i}"))).unwrap();
            let copy = folder.path(&format!("c{i}"));
            run("cp", ["--sparse=always", huge.to_str().unwrap(), copy.to_str().unwrap()]);
            lines.push(format!("RW {} SPARSE \"c{i}\"", (60u64 << 40) / 512));
        }
        let lines: Vec<_> = lines.iter().map(String::as_str).collect();
        let error = error(&folder.describe(&lines));
        assert_eq!(error.kind(), ErrorKind::Limit, "{error}");
    }
}

/// Chains of VMDKs: who is whose parent.
mod parents {
    use super::*;

    /// `base.vmdk` and its child `child.vmdk`, by qemu-img; what the child shows.
    fn family(folder: &Folder) -> Vec<u8> {
        let (base, child) = (folder.path("base.vmdk"), folder.path("child.vmdk"));
        let disk = Disk { size: 1 << 20, runs: Vec::new() };
        disk.write(&folder.path("base.raw"));
        let raw = folder.path("base.raw");
        let args = ["convert", "-f", "raw", "-O", "vmdk", raw.to_str().unwrap()];
        run("qemu-img", [&args[..], &[base.to_str().unwrap()]].concat());
        let write = |path: &Path, pattern: &str, at: u32| {
            let command = format!("write -q -P {pattern} {at} 100k");
            run("qemu-io", ["-f", "vmdk", "-c", &command, path.to_str().unwrap()]);
        };
        write(&base, "1", 0);
        write(&base, "3", 600_064);
        let status = std::process::Command::new("qemu-img")
            .current_dir(folder.0.path())
            .args(["create", "-q", "-f", "vmdk", "-b", "base.vmdk", "-F", "vmdk", "child.vmdk"])
            .status()
            .unwrap();
        assert!(status.success());
        write(&child, "2", 51200);
        qemu_bytes(&child, "vmdk")
    }

    /// Edits the descriptor in the first sectors of a file.
    fn edit(path: &Path, edit: impl FnOnce(String) -> String) {
        let mut file = std::fs::read(path).unwrap();
        let room = &mut file[512..21 * 512];
        let end = room.iter().position(|&b| b == 0).unwrap();
        let text = edit(String::from_utf8(room[..end].to_vec()).unwrap());
        room.fill(0);
        room[..text.len()].copy_from_slice(text.as_bytes());
        std::fs::write(path, file).unwrap();
    }

    fn line(path: &Path, key: &str) -> String {
        let file = String::from_utf8_lossy(&std::fs::read(path).unwrap()[512..10752]).into_owned();
        file.lines().find_map(|l| l.strip_prefix(key)).unwrap().to_owned()
    }

    #[test]
    fn a_parent_is_found_by_its_hint_also_when_both_were_moved() {
        let folder = Folder::new();
        let expected = family(&folder);
        let child = folder.path("child.vmdk");
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
        // Who asks for facts has no file looked at.
        let facts = OpenOptions::new().metadata_only(true).open(&child).unwrap().info(0).unwrap();
        assert!(facts.full_backing_filename.unwrap().ends_with("/../gone/base.vmdk"));
        // A link leads to the child's own folder.
        let links = Folder::new();
        std::os::unix::fs::symlink(&child, links.path("link.vmdk")).unwrap();
        assert!(bytes(&links.path("link.vmdk")) == expected);
        std::fs::remove_file(folder.path("base.vmdk")).unwrap();
        for (hint, way) in [("base.vmdk", "parentFileNameHint"), ("/x/base.vmdk", "references")] {
            edit(&child, |text| {
                let old = text.lines().find(|l| l.starts_with("parentFileNameHint")).unwrap();
                text.replace(old, &format!("parentFileNameHint=\"{hint}\""))
            });
            let said = error(&child).to_string();
            for word in [hint, way, "only what changed", "beside it"] {
                assert!(said.contains(word), "{word}: {said}");
            }
        }
    }

    #[test]
    fn a_parents_name_may_have_colons() {
        let folder = Folder::new();
        let expected = family(&folder);
        let child = folder.path("child.vmdk");
        std::fs::rename(folder.path("base.vmdk"), folder.path("vm 10:30.vmdk")).unwrap();
        edit(&child, |text| text.replace("\"base.vmdk\"", "\"vm 10:30.vmdk\""));
        assert!(bytes(&child) == expected);
        edit(&child, |text| text.replace("\"vm 10:30.vmdk\"", "\"file:vm 10:30.vmdk\""));
        assert!(bytes(&child) == expected);
    }

    #[test]
    fn a_parent_that_changed_is_an_error_that_says_which_ids_and_how_to_go_on() {
        let folder = Folder::new();
        let expected = family(&folder);
        let (base, child) = (folder.path("base.vmdk"), folder.path("child.vmdk"));
        let old = line(&base, "CID=");
        edit(&base, |text| text.replace(&format!("CID={old}"), "CID=0badcafe"));
        let error = error(&child);
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        let said = error.to_string();
        for word in ["0badcafe", old.as_str(), "child.vmdk", "base.vmdk", "--ignore-cid"] {
            assert!(said.contains(word), "{word}: {said}");
        }
        let image = OpenOptions::new().ignore_content_id(true).open(&child).unwrap();
        let mut bytes = vec![0; expected.len()];
        image.read_at(&mut bytes, 0).unwrap();
        assert!(bytes == expected);
    }

    #[test]
    fn an_image_that_is_its_own_parent_is_a_loop() {
        let folder = Folder::new();
        family(&folder);
        let child = folder.path("child.vmdk");
        edit(&child, |text| text.replace("\"base.vmdk\"", "\"child.vmdk\""));
        for options in [OpenOptions::new(), OpenOptions::new().ignore_content_id(true)] {
            let error = options.open(&child).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(error.to_string().contains("loops"), "{error}");
        }
    }

    /// Makes of qemu's child one as VirtualBox writes it.
    fn as_virtualbox_does(folder: &Folder) {
        edit(&folder.path("base.vmdk"), |text| {
            text + "ddb.uuid.image=\"11111111-aaaa-4444-8888-000000000001\"\n\
                    ddb.uuid.modification=\"22222222-aaaa-4444-8888-000000000001\"\n\
                    ddb.uuid.parent=\"00000000-0000-0000-0000-000000000000\"\n"
        });
        edit(&folder.path("child.vmdk"), |text| {
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
    fn a_virtualbox_child_is_read_with_the_parent_that_has_its_uuid_or_not_at_all() {
        let folder = Folder::new();
        let expected = family(&folder);
        as_virtualbox_does(&folder);
        let child = folder.path("child.vmdk");
        assert!(bytes(&child) == expected);
        // The reference converts the child alone.
        assert!(qemu_bytes(&child, "vmdk") != expected);

        let facts = OpenOptions::new().metadata_only(true).open(&child).unwrap().info(0).unwrap();
        assert!(facts.notes[0].contains("11111111-"), "{:?}", facts.notes);
        let none = OpenOptions::new().external_files(ExternalFiles::None).open(&child).unwrap_err();
        assert_eq!(none.kind(), ErrorKind::Refused);

        std::fs::copy(folder.path("base.vmdk"), folder.path("copy.vmdk")).unwrap();
        let two = error(&child).to_string();
        assert!(two.contains("base.vmdk") && two.contains("copy.vmdk"), "{two}");
        std::fs::remove_file(folder.path("copy.vmdk")).unwrap();

        edit(&folder.path("base.vmdk"), |t| t.replace("=\"22222222-", "=\"99999999-"));
        let changed = error(&child).to_string();
        assert!(changed.contains("99999999-") && changed.contains("22222222-"), "{changed}");
        OpenOptions::new().ignore_content_id(true).open(&child).unwrap();

        std::fs::remove_file(folder.path("base.vmdk")).unwrap();
        let missing = error(&child);
        assert_eq!(missing.kind(), ErrorKind::Invalid);
        assert!(missing.to_string().contains("11111111-"), "{missing}");
    }

    #[test]
    fn virtualbox_keeps_children_in_a_folder_of_their_own() {
        let folder = Folder::new();
        let expected = family(&folder);
        as_virtualbox_does(&folder);
        std::fs::create_dir(folder.path("Snapshots")).unwrap();
        let child = folder.path("Snapshots/{33333333}.vmdk");
        std::fs::rename(folder.path("child.vmdk"), &child).unwrap();
        let missing = error(&child);
        assert_eq!(missing.kind(), ErrorKind::Invalid);
        for word in ["only what changed", "--references=any"] {
            assert!(missing.to_string().contains(word), "{missing}");
        }
        let any = OpenOptions::new().external_files(ExternalFiles::Any);
        let image = any.open(&child).unwrap();
        let mut bytes = vec![0; expected.len()];
        image.read_at(&mut bytes, 0).unwrap();
        assert!(bytes == expected);
        // A link leads to the folder where the child is.
        let links = Folder::new();
        std::os::unix::fs::symlink(&child, links.path("link.vmdk")).unwrap();
        any.open(links.path("link.vmdk")).unwrap();
    }

    #[test]
    fn a_chain_of_virtualbox_children_is_found_link_by_link() {
        let folder = Folder::new();
        family(&folder);
        as_virtualbox_does(&folder);
        let snapshots = folder.path("Snapshots");
        std::fs::create_dir(&snapshots).unwrap();
        std::fs::rename(folder.path("child.vmdk"), snapshots.join("b.vmdk")).unwrap();
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
    fn a_guest_that_writes_a_descriptor_into_its_disk_is_nobodys_parent() {
        let folder = Folder::new();
        family(&folder);
        as_virtualbox_does(&folder);
        let child = folder.path("child.vmdk");
        let elsewhere = Folder::new();
        elsewhere.write("secret", &[7; 1 << 20]);
        let secret = elsewhere.path("secret").display().to_string();
        std::fs::remove_file(folder.path("base.vmdk")).unwrap();
        let forged = folder.describe_with(
            "ddb.uuid.image=\"11111111-aaaa-4444-8888-000000000001\"\n\
             ddb.uuid.modification=\"22222222-aaaa-4444-8888-000000000001\"",
            &[&format!("RW 2048 FLAT \"{secret}\" 0")],
        );
        std::fs::rename(forged, folder.path("x-flat.vmdk")).unwrap();
        let open = || OpenOptions::new().external_files(ExternalFiles::Any).open(&child);
        // Nothing tells that it is a guest's: then it leads out of its folder at least.
        let error = open().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
        assert!(error.to_string().contains("x-flat.vmdk: "), "{error}");
        // Its disk's descriptor does, by whatever name and from the folder above or below.
        let described = folder.describe(&["RW 8 FLAT \"x-flat.vmdk\" 0"]);
        std::fs::rename(described, folder.path("x.vmdk")).unwrap();
        assert_eq!(open().unwrap_err().kind(), ErrorKind::Invalid);
        std::fs::hard_link(folder.path("x-flat.vmdk"), folder.path("a.vmdk")).unwrap();
        assert_eq!(open().unwrap_err().kind(), ErrorKind::Invalid);
    }

    #[test]
    fn links_to_one_parent_are_one_and_a_stale_copy_is_not_meant() {
        let folder = Folder::new();
        let expected = family(&folder);
        as_virtualbox_does(&folder);
        let child = folder.path("child.vmdk");
        std::fs::hard_link(folder.path("base.vmdk"), folder.path("hard.vmdk")).unwrap();
        std::os::unix::fs::symlink("base.vmdk", folder.path("soft.vmdk")).unwrap();
        assert!(bytes(&child) == expected);
        std::fs::copy(folder.path("base.vmdk"), folder.path("a.vmdk")).unwrap();
        edit(&folder.path("a.vmdk"), |t| t.replace("=\"22222222-", "=\"99999999-"));
        assert!(bytes(&child) == expected);
    }

    #[test]
    fn a_parent_among_more_files_than_are_looked_at_is_said_to_be_so() {
        let folder = Folder::new();
        family(&folder);
        as_virtualbox_does(&folder);
        for i in 0..4096 {
            folder.write(&format!("a{i}.vmdk"), b"");
        }
        let said = error(&folder.path("child.vmdk")).to_string();
        assert!(said.contains("2 files beside it were not looked at"), "{said}");
    }

    #[test]
    fn qemu_refuses_a_changed_parent_too() {
        let folder = Folder::new();
        family(&folder);
        edit(&folder.path("base.vmdk"), |text| text.replacen("CID=", "CID=1 #", 1));
        let child = folder.path("child.vmdk");
        let raw = folder.path("out.raw");
        let args = ["convert", "-O", "raw", child.to_str().unwrap(), raw.to_str().unwrap()];
        assert!(!try_run("qemu-img", args).status.success());
    }
}
