//! All that can be asked of an ISO image.

use crate::exercise::{assert_line, is_clear, open};
use diskimg::iso::{ExtractOptions, FileType, Finding, IsoImage, IsoOptions, Namespace, Severity};
use diskimg::storage::source::{MemorySource, Source};
use diskimg::{ExternalFiles, Format, OpenOptions};
use std::sync::Arc;

/// Files and directories that are looked at in each tree …
const NODES: usize = 500;

/// … files that are read, and bytes of each.
const FILES: usize = 20;
const BYTES: u64 = 80 << 10;

/// Opens the image in every way and asks it everything.
pub(super) fn exercise(source: Arc<dyn Source>) {
    let facts = OpenOptions::new()
        .format(Format::Iso)
        .external_files(ExternalFiles::None)
        .metadata_only(true);
    open(|| facts.open_source(Arc::clone(&source), "fuzzed.iso"));
    let names = [Namespace::RockRidge, Namespace::Joliet, Namespace::Iso, Namespace::Udf];
    let mut options = IsoOptions::default();
    options.external_files = ExternalFiles::None;
    let Some(image) = opened(&source, &options) else { return };
    whole(&image);
    let there: Vec<_> = image.namespaces().collect();
    for namespace in names {
        options.namespace = namespace;
        let tree = opened(&source, &options);
        assert!(tree.is_none() || there.contains(&namespace), "{namespace} comes and goes");
        tree.iter().for_each(nodes);
    }
    options.namespace = Namespace::Auto;
    options.strict = true;
    opened(&source, &options).iter().for_each(nodes);
}

fn opened(source: &Arc<dyn Source>, options: &IsoOptions) -> Option<IsoImage> {
    IsoImage::open(Arc::clone(source), options).map_err(|error| is_clear(&error)).ok()
}

fn whole(image: &IsoImage) {
    image.info().map_err(|e| is_clear(&e)).ok();
    image.boot_catalog().map_err(|e| is_clear(&e)).ok();
    image.system_area().map_err(|e| is_clear(&e)).ok();
    let mut told = |finding: Finding| assert_line(&finding.to_string());
    image.verify(&mut told).map_err(|e| is_clear(&e)).ok();
}

fn nodes(image: &IsoImage) {
    let mut files = 0;
    for found in image.walk().take(NODES) {
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
        if found.node.file_type != FileType::Regular || files >= FILES {
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

/// Reads the beginning and the end. Whatever is read at once is what is read bit by bit.
fn read(contents: &dyn Source) {
    let len = contents.len().min(BYTES);
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

/// Bytes of an image that is made anew.
const MADE: u64 = 4 << 20;

/// Makes an image of what the image holds, which reads without a fault; extracts it, and nothing
/// comes to lie beside the folder.
pub(super) fn remaster(source: Arc<dyn Source>) {
    let Some(image) = opened(&source, &IsoOptions::default()) else { return };
    extract(&image);
    let made = image.remaster().and_then(|builder| builder.plan()).and_then(|plan| {
        plan.warnings().iter().for_each(|warning| assert_line(warning));
        let mut bytes = Vec::new();
        if plan.size() <= MADE {
            plan.emit(&mut bytes)?;
            assert_eq!(bytes.len() as u64, plan.size(), "planned and made differ");
        }
        Ok(bytes)
    });
    let bytes = match made {
        Ok(bytes) if bytes.is_empty() => return,
        Ok(bytes) => bytes,
        Err(error) => return is_clear(&error),
    };
    let made: Arc<dyn Source> = Arc::new(MemorySource::new(bytes));
    let again = IsoImage::open(made, &IsoOptions::default());
    let again = again.unwrap_or_else(|error| panic!("what was made does not open: {error}"));
    let mut said = Vec::new();
    let mut told = |finding: Finding| {
        if finding.severity == Severity::Error {
            said.push(finding.to_string());
        }
    };
    let verified = again.verify(&mut told);
    assert!(verified.is_ok() && said.is_empty(), "what was made has faults: {said:?}");
}

fn extract(image: &IsoImage) {
    let scratch = tempfile::tempdir().unwrap_or_else(|error| panic!("no folder: {error}"));
    let mut options = ExtractOptions::default();
    options.most_bytes = MADE;
    match image.extract(&scratch.path().join("out"), &options) {
        Ok(done) => done.failures.iter().take(20).for_each(|(_, error)| is_clear(error)),
        Err(error) => is_clear(&error),
    }
    let beside = std::fs::read_dir(scratch.path()).map(Iterator::count);
    assert!(beside.is_ok_and(|count| count <= 1), "something lies beside the folder");
}
