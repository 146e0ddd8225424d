//! A part of a file that cannot be read for the moment: never damage, never ignored, never zeros.

use diskimg::iso::{IsoImage, IsoOptions};
use diskimg::storage::source::{MemorySource, SourceError};
use diskimg::{Error, ErrorKind, Format, Image, OpenOptions, Result, Source};
use diskimg_testkit::tool::run;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// How reads of the unreadable range fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    /// With a lost connection that looks like the end of the file.
    Lost,
    /// With EIO.
    Broken,
}

/// Bytes of which a range cannot be read. Reads that start before it succeed, unless it extends to
/// the end: probing reads a large part of a small image at once.
#[derive(Debug)]
struct Partly {
    bytes: MemorySource,
    unreadable: Range<u64>,
    failure: Failure,
}

impl Source for Partly {
    fn len(&self) -> u64 {
        self.bytes.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), SourceError> {
        let end = offset + buf.len() as u64;
        let at_the_end = self.unreadable.end == self.len() && end > self.unreadable.start;
        if self.unreadable.contains(&offset) || at_the_end {
            return Err(match self.failure {
                Failure::Lost => SourceError::Transient(io::ErrorKind::UnexpectedEof.into()),
                Failure::Broken => SourceError::Storage(io::Error::from_raw_os_error(5)),
            });
        }
        self.bytes.read_exact_at(buf, offset)
    }
}

fn partly(bytes: &[u8], unreadable: Range<u64>, failure: Failure) -> Arc<dyn Source> {
    Arc::new(Partly { bytes: MemorySource::new(bytes), unreadable, failure })
}

/// Converts a disk of 1 MiB of sevens with qemu-img.
fn qemu_image(dir: &Path, arguments: &[&str]) -> Vec<u8> {
    let (raw, image) = (dir.join("a.raw"), dir.join("a.img"));
    std::fs::write(&raw, vec![7; 1 << 20]).unwrap();
    let files = [raw.to_str().unwrap(), image.to_str().unwrap()];
    run("qemu-img", [&["convert", "-f", "raw"], arguments, &files].concat());
    std::fs::read(image).unwrap()
}

#[test]
fn a_redundant_grain_directory_that_cannot_be_read_is_not_taken_as_missing() {
    let dir = tempfile::tempdir().unwrap();
    let whole = qemu_image(dir.path(), &["-O", "vmdk"]);
    let sector = |at: usize| u64::from_le_bytes(whole[at..at + 8].try_into().unwrap());
    let (redundant, directory) = (sector(48) * 512, sector(56) as usize * 512);
    let mut damaged = whole.clone();
    damaged[directory..directory + 4].fill(0);
    let mut truncated = whole.clone();
    truncated[56..64].copy_from_slice(&u64::from(u32::MAX).to_le_bytes());
    let open = |bytes: &[u8], lost: Range<u64>, failure| {
        let options = OpenOptions::new().format(Format::Vmdk);
        options.open_source(partly(bytes, lost, failure), "a.vmdk")
    };
    let read = |image: &Image| {
        let mut bytes = [0; 4];
        image.read_at(&mut bytes, 0).map(|()| bytes)
    };
    let lost = || redundant..redundant + 4;
    for bytes in [&damaged, &truncated] {
        // The redundant directory has what the primary one lacks.
        assert_eq!(read(&open(bytes, 0..0, Failure::Lost).unwrap()).unwrap(), [7; 4]);
        let error = open(bytes, lost(), Failure::Lost).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Transient, "{error:#}");
    }
    // A bad sector does not make the rest of the disk unreadable, but the user is told.
    let image = open(&damaged, lost(), Failure::Broken).unwrap();
    let warnings: Vec<_> = image.warnings().collect();
    assert!(warnings.iter().any(|w| w.contains("redundant grain directory cannot be read")));
    assert_eq!(open(&truncated, lost(), Failure::Broken).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn a_footer_that_cannot_be_read_for_the_moment_does_not_make_a_disk_raw() {
    let dir = tempfile::tempdir().unwrap();
    let vhd = qemu_image(dir.path(), &["-O", "vpc", "-o", "subformat=fixed"]);
    let footer = vhd.len() as u64 - 512..vhd.len() as u64;
    let probe = |lost, failure| Format::probe(&*partly(&vhd, lost, failure)).map_err(|e| e.kind());
    assert_eq!(probe(0..0, Failure::Lost), Ok(Format::Vhd));
    assert_eq!(probe(footer.clone(), Failure::Lost), Err(ErrorKind::Transient));
    assert_eq!(probe(footer, Failure::Broken), Ok(Format::Raw));
}

#[test]
fn a_copy_of_a_udf_sequence_that_cannot_be_read_is_not_damaged() {
    let testdata = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata");
    let image = Image::open(testdata.join("udf-512.qcow2")).unwrap();
    let mut bytes = vec![0; image.size() as usize];
    image.read_at(&mut bytes, 0).unwrap();
    // ECMA-167, 3/10.2: the anchor has the extents of the main and the reserve sequence.
    let anchor = 256 * 512;
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let extent = |at: usize| {
        let start = u64::from(word(anchor + at + 4)) * 512;
        start..start + u64::from(word(anchor + at))
    };
    let (main, reserve) = (extent(16), extent(24));
    let mut damaged = bytes.clone();
    damaged[main.start as usize..main.end as usize].fill(0);
    let open = |lost, failure| -> Result<(), Error> {
        IsoImage::open(partly(&damaged, lost, failure), &IsoOptions::default()).map(drop)
    };
    open(0..0, Failure::Lost).unwrap();
    assert_eq!(open(reserve.clone(), Failure::Lost).unwrap_err().kind(), ErrorKind::Transient);
    assert_eq!(open(reserve, Failure::Broken).unwrap_err().kind(), ErrorKind::Io);
}
