//! Runs every read operation on an ISO image.

use crate::exercise::{assert_line, is_clear, open};
use diskimg::Severity;
use diskimg::iso::write::Builder;
use diskimg::iso::{ExtractOptions, FileType, Finding, IsoImage, IsoOptions, Namespace};
use diskimg::storage::source::{MemorySource, Source};
use diskimg::{ExternalFiles, Format, OpenOptions};
use std::sync::Arc;

/// Maximum number of files and directories that are visited in each tree.
const MAX_NODES: usize = 500;

/// Maximum number of files that are read in each tree.
const MAX_FILES: usize = 20;

/// Number of bytes read at each end of a file.
const BYTES_AT_ENDS: u64 = 80 << 10;

/// Opens the image with all options and runs every read operation.
pub(super) fn exercise(source: Arc<dyn Source>) {
    let metadata_only = OpenOptions::new()
        .format(Format::Iso)
        .external_files(ExternalFiles::None)
        .metadata_only(true);
    open(|| metadata_only.open_source(Arc::clone(&source), "fuzzed.iso"));
    let namespaces = [Namespace::RockRidge, Namespace::Joliet, Namespace::Iso, Namespace::Udf];
    let mut options = IsoOptions::default();
    options.external_files = ExternalFiles::None;
    let Some(image) = open_iso(&source, &options) else { return };
    check_image(&image);
    let available: Vec<_> = image.namespaces().collect();
    for namespace in namespaces {
        options.namespace = namespace;
        let tree = open_iso(&source, &options);
        let listed = available.contains(&namespace);
        assert!(tree.is_none() || listed, "{namespace} opens but is not listed");
        tree.iter().for_each(check_tree);
    }
    options.namespace = Namespace::Auto;
    options.strict = true;
    open_iso(&source, &options).iter().for_each(check_tree);
}

fn open_iso(source: &Arc<dyn Source>, options: &IsoOptions) -> Option<IsoImage> {
    IsoImage::open(Arc::clone(source), options).map_err(|error| is_clear(&error)).ok()
}

/// Reads everything that is not specific to a tree.
fn check_image(image: &IsoImage) {
    image.info().map_err(|e| is_clear(&e)).ok();
    image.boot_catalog().map_err(|e| is_clear(&e)).ok();
    image.system_area().map_err(|e| is_clear(&e)).ok();
    let mut report = |finding: Finding| assert_line(&finding.to_string());
    image.verify(&mut report).map_err(|e| is_clear(&e)).ok();
}

/// Walks the tree and reads files.
fn check_tree(image: &IsoImage) {
    let mut files = 0;
    for found in image.walk().take(MAX_NODES) {
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                is_clear(&error);
                continue;
            }
        };
        let names = found.path.split(|&byte| byte == b'/');
        for name in names {
            assert!(!matches!(name, b"" | b"." | b"..") && !name.contains(&0), "{:?}", found.path);
        }
        if found.node.file_type != FileType::Regular || files >= MAX_FILES {
            continue;
        }
        files += 1;
        image.lookup(&found.path).map_err(|e| is_clear(&e)).ok();
        match image.contents(&found.node) {
            Ok(contents) => read(&*contents),
            Err(error) => is_clear(&error),
        }
    }
}

/// Reads the beginning and the end, as a whole and in parts, which must be equal.
fn read(contents: &dyn Source) {
    let len = contents.len().min(BYTES_AT_ENDS);
    let mut whole = vec![0; len as usize];
    for start in [0, contents.len() - len] {
        if contents.read_exact_at(&mut whole, start).is_err() {
            continue;
        }
        for (index, expected) in whole.chunks(7001).enumerate().step_by(3) {
            let mut part = vec![0xa5; expected.len()];
            let at = start + index as u64 * 7001;
            let again = contents.read_exact_at(&mut part, at);
            assert!(again.is_ok() && part == expected, "a part at {at} differs from the whole");
        }
    }
}

/// Maximum size in bytes of extracted files and of a remastered image.
const MAX_WRITTEN: u64 = 4 << 20;

/// Extracts the image, which must not create files outside the target directory, and remasters it
/// with UDF; verification of the new image must find no errors.
pub(super) fn remaster(source: Arc<dyn Source>) {
    let Some(image) = open_iso(&source, &IsoOptions::default()) else { return };
    extract(&image);
    let with_udf = |mut builder: Builder| {
        builder.options_mut().udf = true;
        builder.plan()
    };
    let remastered = image.remaster().and_then(with_udf).and_then(|plan| {
        plan.warnings().iter().for_each(|warning| assert_line(warning));
        let mut bytes = Vec::new();
        if plan.size() <= MAX_WRITTEN {
            plan.emit(&mut bytes)?;
            assert_eq!(bytes.len() as u64, plan.size(), "the planned size differs from the length");
        }
        Ok(bytes)
    });
    let bytes = match remastered {
        Ok(bytes) if bytes.is_empty() => return,
        Ok(bytes) => bytes,
        Err(error) => return is_clear(&error),
    };
    let source: Arc<dyn Source> = Arc::new(MemorySource::new(bytes));
    let opened = IsoImage::open(source, &IsoOptions::default());
    let opened = opened.unwrap_or_else(|error| panic!("the new image does not open: {error}"));
    assert!(opened.namespaces().any(|namespace| namespace == Namespace::Udf), "no UDF");
    let mut errors = Vec::new();
    let mut report = |finding: Finding| {
        if finding.severity == Severity::Error {
            errors.push(finding.to_string());
        }
    };
    let verified = opened.verify(&mut report);
    assert!(verified.is_ok() && errors.is_empty(), "the new image has errors: {errors:?}");
}

fn extract(image: &IsoImage) {
    let scratch = tempfile::tempdir()
        .unwrap_or_else(|error| panic!("cannot create a temporary directory: {error}"));
    let mut options = ExtractOptions::default();
    options.max_bytes = MAX_WRITTEN;
    match image.extract(&scratch.path().join("out"), &options) {
        Ok(done) => done.failures.iter().take(20).for_each(|(_, error)| is_clear(error)),
        Err(error) => is_clear(&error),
    }
    let entries = std::fs::read_dir(scratch.path()).map(Iterator::count);
    assert!(entries.is_ok_and(|count| count <= 1), "extraction wrote outside its directory");
}
