//! Small valid images.

use diskimg::storage::sink::MemorySink;
use diskimg::storage::source::{MemorySource, Source};
use diskimg::{Convert, Format, OpenOptions, Options, Output, Report};
use flate2::read::GzDecoder;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

/// Converts an image in memory to another format in memory.
pub(crate) fn convert(
    source: Arc<dyn Source>,
    from: Format,
    to: Format,
    options: &str,
    compress: bool,
) -> diskimg::Result<(Vec<u8>, Report)> {
    let image = OpenOptions::new().format(from).open_source(source, "source.img")?;
    let sink = Arc::new(MemorySink::new());
    let options = if options.is_empty() { Options::default() } else { Options::parse(options)? };
    let report = Convert::new(image)
        .format(to)
        .options(options)
        .compress(compress)
        .threads(1)
        .run_to(Output::to_sink(sink.clone()))?;
    let written = sink.to_source();
    Ok((written.as_slice().unwrap_or_default().to_vec(), report))
}

/// Returns an image with these guest bytes.
///
/// # Panics
/// If the image cannot be created.
pub(crate) fn image(disk: &[u8], format: Format, options: &str, compress: bool) -> Vec<u8> {
    let source = Arc::new(MemorySource::new(disk));
    match convert(source, Format::Raw, format, options, compress) {
        Ok((bytes, _)) => bytes,
        Err(error) => panic!("{format} with {options}: {error}"),
    }
}

/// Returns guest bytes: one third text, one third zeros, one third incompressible.
pub(crate) fn disk(len: usize) -> Vec<u8> {
    let mut disk = vec![0; len];
    let third = len / 3;
    for (index, byte) in disk[..third].iter_mut().enumerate() {
        *byte = b"diskimg fuzz "[index / 5 % 13];
    }
    let mut state = 1u64;
    for byte in &mut disk[2 * third..] {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *byte = (state >> 56) as u8;
    }
    disk
}

/// Returns the images in the repository's test data, sorted by name.
///
/// # Panics
/// If a directory cannot be read.
pub(crate) fn testdata() -> Vec<Vec<u8>> {
    let directory = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata"));
    let mut paths = Vec::new();
    for directory in [directory.clone(), directory.join("iso")] {
        let Ok(entries) = std::fs::read_dir(&directory) else {
            panic!("cannot read the directory {}", directory.display());
        };
        paths.extend(entries.filter_map(|entry| Some(entry.ok()?.path())));
    }
    let is_image = |path: &PathBuf| {
        path.extension().is_some_and(|e| ["qcow2", "vmdk", "iso"].iter().any(|known| e == *known))
    };
    paths.retain(is_image);
    paths.sort();
    paths.iter().filter_map(|path| std::fs::read(path).ok()).collect()
}

/// Returns the disks with partition tables and file systems in the repository's test data, sorted
/// by name.
///
/// # Panics
/// If one cannot be read.
pub(crate) fn file_systems() -> Vec<Vec<u8>> {
    let directory = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/files"));
    let Ok(entries) = std::fs::read_dir(&directory) else {
        panic!("cannot read the directory {}", directory.display());
    };
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "gz"));
    paths.sort();
    let unpack = |path: &PathBuf| {
        let (packed, mut disk) = (std::fs::read(path).expect("readable"), Vec::new());
        GzDecoder::new(&packed[..]).read_to_end(&mut disk).expect("gzip");
        disk
    };
    paths.iter().map(unpack).collect()
}
