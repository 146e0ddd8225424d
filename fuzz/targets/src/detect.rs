//! Arbitrary bytes: format detection, and opening as any format.

use crate::Target;
use crate::exercise;
use crate::samples;
use diskimg::storage::source::MemorySource;
use diskimg::{ErrorKind, ExternalFiles, Format, OpenOptions, Options, measure};
use std::sync::Arc;

/// Opens the input as the detected format, which must be the same when opening, and as every
/// format.
pub(crate) fn detect(input: &[u8]) {
    let source = Arc::new(MemorySource::new(input));
    let format = Format::probe(&*source).ok();
    let options = OpenOptions::new().external_files(ExternalFiles::None).metadata_only(true);
    if let Some(image) = exercise::open(|| options.open_source(source.clone(), "any.img")) {
        assert_eq!(Some(image.format()), format, "opened as another format than detected");
    }
    for other in Format::ALL {
        let options = options.clone().format(*other);
        exercise::open(|| options.open_source(source.clone(), "any.img"));
    }
}

pub(crate) fn detect_seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<_> = samples::testdata();
    // Includes the ISO and UDF signatures at 32 KiB and beyond.
    for seed in &mut seeds {
        seed.truncate(40 << 10);
    }
    seeds.extend(
        [
            &b"QFI\xfb"[..],
            b"KDMV",
            b"COWD",
            b"# Disk DescriptorFile\n",
            b"<Envelope",
            b"PK\x03\x04",
        ]
        .map(<[u8]>::to_vec),
    );
    seeds
}

/// Maximum size of a disk that is converted.
const MAX_CONVERTED: u64 = 256 << 10;

/// Opens an image of any format. If it can be read completely, its conversion must have the same
/// contents.
pub(crate) fn open_anything(input: &[u8]) {
    exercise::image(input.to_vec(), None);
    let source = Arc::new(MemorySource::new(input));
    let options = OpenOptions::new().external_files(ExternalFiles::None);
    let Ok(image) = options.open_source(source.clone(), "fuzzed.img") else { return };
    measure(Format::Qcow2, &Options::default(), &image).ok();
    if image.size() > MAX_CONVERTED {
        return;
    }
    let (size, format) = (image.size(), image.format());
    let mut disk = vec![0xa5; size as usize];
    let reads = image.read_at(&mut disk, 0).is_ok();
    // The size of a qcow2 disk is a multiple of 512; conversion pads with zeros.
    disk.resize(disk.len().next_multiple_of(512), 0);
    match samples::convert(source, format, Format::Qcow2, "cluster_size=4k", true) {
        Ok((bytes, _)) => {
            assert!(reads, "converted an image that cannot be read");
            let written = Arc::new(MemorySource::new(bytes));
            let image = options.format(Format::Qcow2).open_source(written, "written");
            let image = image.unwrap_or_else(|error| panic!("{error}"));
            let mut read = vec![0xa5; disk.len()];
            image.read_at(&mut read, 0).unwrap_or_else(|error| panic!("{error}"));
            assert!(read == disk, "the converted image has other contents");
        }
        Err(error) => {
            exercise::is_clear(&error);
            assert!(
                !reads || error.kind() != ErrorKind::Io,
                "an image that can be read does not convert: {error}"
            );
        }
    }
}

pub(crate) fn image_seeds() -> Vec<Vec<u8>> {
    let own = ["vmdk_descriptor", "vmdk_sparse", "ova_archive", "qcow2_header"];
    let mut seeds: Vec<_> = own.iter().flat_map(|name| (Target::named(name).seeds)()).collect();
    let disk = samples::disk(20 << 10);
    for (format, options, compress) in [
        (Format::Qcow2, "cluster_size=512", false),
        (Format::Qcow2, "cluster_size=512", true),
        (Format::Vmdk, "subformat=monolithicSparse", false),
        (Format::Vmdk, "subformat=streamOptimized", true),
        (Format::Ova, "", false),
    ] {
        seeds.push(samples::image(&disk, format, options, compress));
    }
    seeds
}
