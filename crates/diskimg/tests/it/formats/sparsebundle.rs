//! Sparse bundles. libmodi reads them, if all bands are complete.

use diskimg::inspection::Code;
use diskimg::storage::source::MemorySource;
use diskimg::{
    Convert, Error, ErrorKind, ExternalFiles, Format, Image, InspectOptions, Limits, OpenOptions,
    Probing, Remedy, inspect,
};
use diskimg_testkit::disk::{Disk, Fill, Run, noise};
use diskimg_testkit::oracles::{Oracle, Verdict};
use diskimg_testkit::sparsebundle::SparseBundle;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const BAND: u64 = 64 << 10;

/// A disk of 32 bands, the last of which is not complete: those with the numbers 0, 16 and 31 are
/// stored.
fn sample() -> SparseBundle {
    let last = vec![0x1f; 1024];
    SparseBundle::new(31 * BAND + 1024, BAND).band(0, 0x10).band(16, 0x1a).band_of(31, last)
}

fn sample_disk() -> Disk {
    let run = |band: u64, byte| Run { at: band * BAND, len: BAND, fill: Fill::Byte(byte) };
    Disk { size: 31 * BAND + 1024, runs: vec![run(0, 0x10), run(16, 0x1a), run(31, 0x1f)] }
}

/// Writes the bundle to `disk.sparsebundle` in a new directory.
fn written(bundle: &SparseBundle) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.sparsebundle");
    bundle.write(&path);
    (dir, path)
}

fn bytes_with(options: &OpenOptions, path: &Path) -> Vec<u8> {
    let image = crate::verified::open(options, path);
    assert_eq!(image.format(), Format::Sparsebundle);
    let mut bytes = vec![1; image.size() as usize];
    image.read_at(&mut bytes, 0).unwrap();
    bytes
}

fn our_bytes(path: &Path) -> Vec<u8> {
    bytes_with(&OpenOptions::new(), path)
}

fn error_with(options: &OpenOptions, path: &Path) -> Error {
    let read = options.open(path).and_then(|image| {
        let mut bytes = vec![0; image.size() as usize];
        image.read_at(&mut bytes, 0)
    });
    read.unwrap_err()
}

fn error(path: &Path) -> Error {
    error_with(&OpenOptions::new(), path)
}

/// Returns the message of an error with that of the system, or of a source, behind it.
fn text(error: &Error) -> String {
    let source = error.io_error().map(|error| format!(": {error}")).unwrap_or_default();
    format!("{error}{source}")
}

fn findings(path: &Path) -> Vec<String> {
    let mut found = Vec::new();
    Image::open(path).unwrap().check(&mut |finding| found.push(finding.message)).unwrap();
    found
}

fn warnings(path: &Path) -> Vec<String> {
    Image::open(path).unwrap().warnings().map(|warning| warning.to_string()).collect()
}

fn assert_read_by_libmodi(path: &Path, disk: &Disk) {
    let verdict = Oracle::Libyal.compare("sparsebundle", path, disk);
    assert!(matches!(verdict, Verdict::Same | Verdict::NotInstalled), "{verdict}");
}

#[test]
fn a_bundle_is_opened_by_its_directory_or_its_property_list() {
    let (_dir, path) = written(&sample());
    assert_read_by_libmodi(&path, &sample_disk());
    for path in [path.clone(), path.join("Info.plist")] {
        for format in [None, Some(Format::Sparsebundle)] {
            let options = OpenOptions::new().format(format);
            assert_eq!(bytes_with(&options, &path), sample_disk().bytes());
        }
    }
    assert_eq!(findings(&path), [""; 0]);
    assert_eq!(warnings(&path), [""; 0]);
    let image = Image::open(&path).unwrap();
    let info = image.info(0).unwrap();
    assert_eq!((info.cluster_size, info.format.as_str()), (Some(BAND), "sparsebundle"));
    // The property list, and the bands.
    let bytes = info.actual_size.unwrap();
    assert!(!cfg!(unix) || (2 * BAND..4 * BAND).contains(&bytes), "{bytes}");
    let report = image.check(&mut |_| {}).unwrap().unwrap();
    assert_eq!((report.total_clusters, report.allocated_clusters), (32, 3));
    let like_qemu = OpenOptions::new().probing(Probing::LikeQemu);
    assert_eq!(like_qemu.open(path.join("Info.plist")).unwrap().format(), Format::Raw);
}

/// Time Machine names them so.
#[test]
fn the_name_of_the_directory_does_not_matter_if_it_has_bands() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["disk", "disk.backupbundle", "disk.dmg"] {
        let path = dir.path().join(name);
        sample().write(&path);
        assert_eq!(our_bytes(&path), sample_disk().bytes(), "{name}");
    }
    // A directory that only has a property list is no image.
    let path = dir.path().join("disk");
    std::fs::remove_dir_all(path.join("bands")).unwrap();
    assert!(text(&error(&path)).contains("it is a directory"));
    // By the name of a bundle, it is a damaged one.
    let path = dir.path().join("disk.backupbundle");
    std::fs::remove_dir_all(path.join("bands")).unwrap();
    let found = error(&path);
    assert!(found.to_string().contains("cannot open its directory 'bands'"), "{found}");
}

#[test]
fn bands_of_any_size_are_read() {
    for (band_bytes, size) in [(512, 512 * 5), (1536, 1536 * 4 + 512), (1 << 20, (2 << 20) + 512)] {
        let mut bundle = SparseBundle::new(size, band_bytes);
        let mut runs = Vec::new();
        for index in (0..size.div_ceil(band_bytes)).step_by(2) {
            let at = index * band_bytes;
            let len = band_bytes.min(size - at);
            bundle = bundle.band_of(index, noise(index + 1, len as usize));
            runs.push(Run { at, len, fill: Fill::Noise(index + 1) });
        }
        let (_dir, path) = written(&bundle);
        let disk = Disk { size, runs };
        assert_eq!(our_bytes(&path), disk.bytes(), "{band_bytes}");
        assert_read_by_libmodi(&path, &disk);
    }
    let (_dir, path) = written(&SparseBundle::new(0, BAND));
    assert!(our_bytes(&path).is_empty());
}

/// libmodi 20260902 fails to read such bands.
#[test]
fn what_is_beyond_the_end_of_a_band_is_zeros() {
    let bundle = sample().band_of(1, vec![0x11; 1000]).band_of(2, Vec::new());
    let (_dir, path) = written(&bundle);
    let mut disk = sample_disk();
    disk.runs.push(Run { at: BAND, len: 1000, fill: Fill::Byte(0x11) });
    assert_eq!(our_bytes(&path), disk.bytes());
    assert_eq!(findings(&path), [""; 0]);
    let image = Image::open(&path).unwrap();
    let extents: Vec<_> = image.extents(0..4 * BAND).unwrap().map(Result::unwrap).collect();
    assert_eq!(extents[0].guest, 0..BAND + 1000, "{extents:?}");
    assert_eq!(extents[1].guest, BAND + 1000..4 * BAND);
}

/// A wrong size of bands would move all others.
#[test]
fn a_band_that_is_too_long_is_a_finding() {
    let (_dir, path) = written(&sample().band_of(0, vec![0x10; BAND as usize + 512]));
    let found = findings(&path);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("the file of band 0 has 66048 bytes"), "{found:?}");
    let report = Image::open(&path).unwrap().check(&mut |_| {}).unwrap().unwrap();
    assert_eq!((report.corruptions, report.leaks), (1, 0));
}

#[test]
fn other_files_in_the_directory_of_the_bands_are_findings() {
    let (_dir, path) = written(&sample().band(32, 0x20));
    for name in ["00", "1F", "._0", "10000000000000000"] {
        std::fs::write(path.join("bands").join(name), "x").unwrap();
    }
    assert_eq!(our_bytes(&path), sample_disk().bytes());
    let found = findings(&path);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("band 20 is beyond the end of the disk, which has 32"), "{found:?}");
    assert!(found[1].contains("4 files in the directory of the bands are not bands"), "{found:?}");
    let report = Image::open(&path).unwrap().check(&mut |_| {}).unwrap().unwrap();
    assert_eq!((report.corruptions, report.leaks, report.warnings), (0, 1, 1));
}

/// Some programs read the size 0 then.
#[test]
fn the_copy_of_the_property_list_is_used_with_a_warning_if_that_is_damaged_or_missing() {
    let (_dir, path) = written(&sample());
    let plist = path.join("Info.plist");
    let cut = &sample().plist()[..400];
    for damage in ["", "bands", cut] {
        std::fs::write(&plist, damage).unwrap();
        assert_eq!(our_bytes(&path), sample_disk().bytes());
        let found = warnings(&path);
        assert!(found[0].contains("Info.plist is damaged"), "{found:?}");
        assert_eq!(findings(&path).len(), 1);
    }
    std::fs::remove_file(&plist).unwrap();
    assert_eq!(our_bytes(&path), sample_disk().bytes());
    assert!(warnings(&path)[0].contains("this is its copy"));
    // A version that is not supported is not damage.
    let newer = sample().plist().replace("<integer>1<", "<integer>2<");
    std::fs::write(&plist, newer).unwrap();
    assert_eq!(error(&path).kind(), ErrorKind::Unsupported);
    std::fs::write(&plist, "").unwrap();
    std::fs::remove_file(path.join("Info.bckup")).unwrap();
    assert_eq!(error(&path).kind(), ErrorKind::Corrupt);
}

#[test]
fn a_copy_of_the_property_list_that_differs_is_found_by_the_check() {
    let (_dir, path) = written(&sample());
    let other = SparseBundle::new(BAND, BAND).plist();
    std::fs::write(path.join("Info.bckup"), other).unwrap();
    assert_eq!(our_bytes(&path), sample_disk().bytes());
    let found = findings(&path);
    assert!(found[0].contains("Info.bckup has other sizes: 65536 bytes"), "{found:?}");
}

#[test]
fn an_encrypted_bundle_is_refused() {
    let token = Some(b"encrcdsa\0\0\0\x02".to_vec());
    let (_dir, path) = written(&SparseBundle { token, ..sample() });
    let found = error(&path);
    assert_eq!(found.kind(), ErrorKind::Unsupported);
    assert!(found.to_string().contains("an encrypted disk"), "{found}");
    let metadata = OpenOptions::new().metadata_only(true).with_extents(true);
    let image = metadata.open(&path).unwrap();
    assert!(image.info(0).unwrap().encrypted);
    assert_eq!(image.read_at(&mut [0], 0).unwrap_err().kind(), ErrorKind::Unsupported);
    // Without the file, it is not.
    let (_dir, path) = written(&SparseBundle { token: None, ..sample() });
    assert_eq!(our_bytes(&path), sample_disk().bytes());
}

/// Bands are opened under the policy for files that an image refers to.
#[test]
#[cfg(unix)]
fn bands_that_are_links_out_of_the_bundle_fifos_or_devices_are_refused() {
    use std::os::unix::fs::symlink;
    let (dir, path) = written(&sample());
    let band = path.join("bands/5");
    let secret = dir.path().join("secret");
    std::fs::write(&secret, vec![0x55; BAND as usize]).unwrap();
    for target in [secret.as_path(), Path::new("../../secret"), Path::new("/dev/zero")] {
        symlink(target, &band).unwrap();
        let found = error(&path);
        assert_eq!(found.kind(), ErrorKind::Refused, "{found}");
        assert_eq!(found.remedy(), Some(Remedy::AllowExternalFiles));
        assert_eq!(found.lost(), Some(5 * BAND..6 * BAND));
        assert!(!found.to_string().contains("secret"), "{found}");
        assert!(findings(&path)[0].contains("band 5"));
        std::fs::remove_file(&band).unwrap();
    }
    // Within the bundle, a link is a file like any other, once.
    std::fs::rename(path.join("bands/10"), path.join("other")).unwrap();
    symlink("../other", path.join("bands/10")).unwrap();
    assert_eq!(our_bytes(&path), sample_disk().bytes());
    let any = OpenOptions::new().external_files(ExternalFiles::Any);
    symlink(&secret, &band).unwrap();
    let mut disk = sample_disk();
    disk.runs.push(Run { at: 5 * BAND, len: BAND, fill: Fill::Byte(0x55) });
    assert_eq!(bytes_with(&any, &path), disk.bytes());
    std::fs::remove_file(&band).unwrap();
    for kind in ["p", "d"] {
        match kind {
            "p" => {
                assert!(std::process::Command::new("mkfifo").arg(&band).status().unwrap().success())
            }
            _ => std::fs::create_dir(&band).unwrap(),
        }
        for options in [OpenOptions::new(), any.clone()] {
            let found = error_with(&options, &path);
            assert!(matches!(found.kind(), ErrorKind::Refused | ErrorKind::Io), "{found}");
        }
        if kind == "p" {
            std::fs::remove_file(&band).unwrap();
        }
    }
}

#[test]
#[cfg(unix)]
fn the_directory_of_the_bands_must_be_in_the_bundle() {
    let (dir, path) = written(&sample());
    let outside = dir.path().join("outside");
    std::fs::rename(path.join("bands"), &outside).unwrap();
    std::os::unix::fs::symlink(&outside, path.join("bands")).unwrap();
    let found = error(&path);
    assert_eq!(found.kind(), ErrorKind::Refused, "{found}");
    let any = OpenOptions::new().external_files(ExternalFiles::Any);
    assert_eq!(bytes_with(&any, &path), sample_disk().bytes());
    // What only reports does not list a directory elsewhere.
    let metadata = any.metadata_only(true).with_extents(true);
    let notes = metadata.open(&path).unwrap().info(0).unwrap().notes;
    assert!(notes[0].contains("the bands cannot be listed"), "{notes:?}");
}

#[test]
fn without_permission_for_other_files_only_the_metadata_are_read() {
    let (_dir, path) = written(&sample());
    let none = OpenOptions::new().external_files(ExternalFiles::None);
    let found = error_with(&none, &path);
    assert_eq!(found.kind(), ErrorKind::Refused);
    assert_eq!(found.remedy(), Some(Remedy::AllowFilesInSameDir));
    let image = none.metadata_only(true).open(&path).unwrap();
    assert_eq!(image.size(), sample_disk().size);
    assert!(image.read_at(&mut [0], 0).is_err());
    let bytes = std::fs::read(path.join("Info.plist")).unwrap();
    let source = Arc::new(MemorySource::new(bytes));
    let found = OpenOptions::new().open_source(source, "image").unwrap_err();
    assert_eq!(found.kind(), ErrorKind::Refused);
}

/// The bands are one source, so that what two bands share is not noticed by its length.
#[test]
#[cfg(unix)]
fn bands_that_are_the_same_file_are_limited() {
    let (_dir, path) = written(&sample());
    std::fs::hard_link(path.join("bands/0"), path.join("bands/3")).unwrap();
    let found = error(&path);
    assert_eq!(found.exceeded(), Some("data_sharing"), "{found}");
    assert!(found.to_string().contains("the bands 0 and 3 are the same file"), "{found}");
    let mut limits = Limits::default();
    limits.data_sharing = 2;
    let mut disk = sample_disk();
    disk.runs.push(Run { at: 3 * BAND, len: BAND, fill: Fill::Byte(0x10) });
    assert_eq!(bytes_with(&OpenOptions::new().limits(limits), &path), disk.bytes());
}

#[test]
fn a_band_that_changes_while_the_image_is_open_is_an_error() {
    let (_dir, path) = written(&sample());
    let image = Image::open(&path).unwrap();
    std::fs::write(path.join("bands/0"), [1; 100]).unwrap();
    let found = image.read_at(&mut [0; 512], 0).unwrap_err();
    assert!(text(&found).contains("'bands/0' was changed"), "{found:?}");
}

/// A few kilobytes that claim exabytes: mapping and converting take no time.
#[test]
fn an_exabyte_is_mapped_at_once() {
    let (_dir, path) = written(&SparseBundle::new(1 << 60, 512).band(7, 0x11));
    let image = Image::open(&path).unwrap();
    let extents: Vec<_> = image.extents(0..image.size()).unwrap().map(Result::unwrap).collect();
    assert_eq!(extents.len(), 3, "{extents:?}");
    assert_eq!(extents[1].guest, 7 * 512..8 * 512);
    assert_eq!(findings(&path), [""; 0]);
}

#[test]
fn the_list_of_bands_is_limited() {
    let (_dir, path) = written(&sample());
    let mut limits = Limits::default();
    limits.table_bytes = 71;
    let found = OpenOptions::new().limits(limits.clone()).open(&path).unwrap_err();
    assert_eq!(found.exceeded(), Some("table_bytes"));
    limits.table_bytes = 72;
    OpenOptions::new().limits(limits).open(&path).unwrap();
    let mut limits = Limits::default();
    limits.descriptor_bytes = 100;
    let found = OpenOptions::new().limits(limits).open(&path).unwrap_err();
    assert_eq!(found.exceeded(), Some("descriptor_bytes"));
}

/// Reads all bands, which are more than stay open, with several threads, and writes only what they
/// have: a hole in a band's file is one in the output, too.
#[test]
fn a_conversion_reads_more_bands_than_stay_open_and_is_sparse() {
    let count = 300;
    let mut bundle = SparseBundle::new(2 * count * BAND, BAND);
    let mut runs = Vec::new();
    for index in 0..count {
        bundle = bundle.band_of(2 * index, noise(index + 1, BAND as usize));
        runs.push(Run { at: 2 * index * BAND, len: BAND, fill: Fill::Noise(index + 1) });
    }
    let (dir, path) = written(&bundle);
    let hole = path.join("bands/1");
    std::fs::File::create(&hole).unwrap().set_len(BAND).unwrap();
    let raw = dir.path().join("disk.raw");
    let report = Convert::new(Image::open(&path).unwrap()).format(Format::Raw).run(&raw).unwrap();
    assert_eq!(report.guest_bytes, 2 * count * BAND);
    let disk = Disk { size: 2 * count * BAND, runs };
    assert!(std::fs::read(&raw).unwrap() == disk.bytes());
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let allocated = std::fs::metadata(&raw).unwrap().blocks() * 512;
        assert!(allocated <= count * BAND + (64 << 10), "{allocated}");
    }
    // An output must not replace a band.
    let found = Convert::new(Image::open(&path).unwrap()).run(path.join("bands/0"));
    let found = found.unwrap_err();
    assert!(text(&found).contains("one of the source's own files"), "{found:?}");
}

#[test]
fn a_property_list_is_not_the_whole_disk_to_the_inspection() {
    let (_dir, path) = written(&sample());
    let found = inspect(path.join("Info.plist"), &InspectOptions::new()).unwrap();
    let codes: Vec<_> = found.findings.iter().map(|finding| finding.code).collect();
    assert_eq!((codes, found.format), (vec![Code::Extents], "sparsebundle"));
    assert_eq!(found.virtual_size, Some(sample_disk().size));
}

/// If a band has more bytes than the property list says, the places of all bands may be wrong.
#[test]
fn a_band_that_is_too_long_is_an_error_and_not_cut_off() {
    let (_dir, path) = written(&sample());
    let band = path.join("bands/10");
    let longer = std::fs::OpenOptions::new().write(true).open(&band).unwrap();
    longer.set_len(BAND + 1).unwrap();
    let error = error(&path);
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("band 10 has 65537 bytes"), "{error}");
    let mut other = [0; 512];
    Image::open(&path).unwrap().read_at(&mut other, 0).unwrap();
    assert_eq!(other, [0x10; 512]);
}

#[test]
fn an_output_is_never_a_part_of_the_bundle_that_is_read() {
    let (dir, path) = written(&sample());
    for name in ["token", "Info.bckup", "bands/5", "bands/new"] {
        let output = path.join(name);
        let before = std::fs::read(&output).ok();
        let error = Convert::new(Image::open(&path).unwrap()).run(&output).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{name}: {error}");
        assert_eq!(std::fs::read(&output).ok(), before, "{name}");
    }
    assert_eq!(our_bytes(&path), sample_disk().bytes());
    Convert::new(Image::open(&path).unwrap()).run(dir.path().join("beside")).unwrap();
}
