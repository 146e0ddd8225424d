//! Small images that are right.

use diskimg::storage::sink::MemorySink;
use diskimg::storage::source::{MemorySource, Source};
use diskimg::{Convert, Format, OpenOptions, Options, Output, Report};
use std::path::PathBuf;
use std::sync::Arc;

/// What converts a disk in memory to an image in memory.
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

/// An image of this disk.
///
/// # Panics
/// If it cannot be made.
pub(crate) fn image(disk: &[u8], format: Format, options: &str, compress: bool) -> Vec<u8> {
    let source = Arc::new(MemorySource::new(disk));
    match convert(source, Format::Raw, format, options, compress) {
        Ok((bytes, _)) => bytes,
        Err(error) => panic!("{format} with {options}: {error}"),
    }
}

/// A disk of words, zeros, and bytes that no codec shrinks, a third each.
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

/// All files of the repository's test data, by name.
///
/// # Panics
/// If they are not there.
pub(crate) fn testdata() -> Vec<Vec<u8>> {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata"));
    let mut paths = Vec::new();
    for folder in [folder.clone(), folder.join("iso")] {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            panic!("{} is not there", folder.display());
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
