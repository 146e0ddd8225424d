//! Bytes of any kind: what are they, and what is in them?

use crate::Target;
use crate::exercise;
use crate::samples;
use diskimg::storage::source::MemorySource;
use diskimg::{ErrorKind, ExternalFiles, Format, OpenOptions, Options, measure};
use std::sync::Arc;

/// The same bytes are always the same format, and opening them agrees.
pub(crate) fn detect(input: &[u8]) {
    let source = Arc::new(MemorySource::new(input));
    let Ok(format) = Format::probe(&*source) else { return };
    let options = OpenOptions::new().external_files(ExternalFiles::None).metadata_only(true);
    if let Some(image) = exercise::open(|| options.open_source(source.clone(), "any.img")) {
        assert_eq!(image.format(), format, "opened as another format than it was taken for");
    }
    for other in Format::ALL {
        let options = options.clone().format(*other);
        exercise::open(|| options.open_source(source.clone(), "any.img"));
    }
}

pub(crate) fn detect_seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<_> = samples::testdata();
    // What is told by bytes far behind the beginning stays there.
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

/// Bytes of a disk that is converted.
const CONVERTED: u64 = 256 << 10;

/// An image of any format. What reads as a whole, converts to what reads the same.
pub(crate) fn open_anything(input: &[u8]) {
    exercise::image(input.to_vec(), None);
    let source = Arc::new(MemorySource::new(input));
    let options = OpenOptions::new().external_files(ExternalFiles::None);
    let Ok(image) = options.open_source(source.clone(), "fuzzed.img") else { return };
    measure(Format::Qcow2, &Options::default(), &image).ok();
    if image.size() > CONVERTED {
        return;
    }
    let (size, format) = (image.size(), image.format());
    let mut disk = vec![0xa5; size as usize];
    let reads = image.read_at(&mut disk, 0).is_ok();
    // Qcow2 has sectors: a disk is filled up with zeros.
    disk.resize(disk.len().next_multiple_of(512), 0);
    match samples::convert(source, format, Format::Qcow2, "cluster_size=4k", true) {
        Ok((bytes, _)) => {
            assert!(reads, "converted what cannot be read");
            let written = Arc::new(MemorySource::new(bytes));
            let image = options.format(Format::Qcow2).open_source(written, "written");
            let image = image.unwrap_or_else(|error| panic!("{error}"));
            let mut read = vec![0xa5; disk.len()];
            image.read_at(&mut read, 0).unwrap_or_else(|error| panic!("{error}"));
            assert!(read == disk, "converted to other bytes");
        }
        Err(error) => {
            exercise::is_clear(&error);
            assert!(!reads || error.kind() != ErrorKind::Io, "reads, but: {error}");
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
