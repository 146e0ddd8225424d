//! All that can be asked of an ISO image.

use crate::exercise::{assert_line, is_clear, open};
use diskimg::host::source::Source;
use diskimg::iso::{FileType, IsoImage, IsoOptions, Namespace};
use diskimg::{Format, OpenOptions, References};
use std::sync::Arc;

/// Files and directories that are looked at in each tree …
const NODES: usize = 500;

/// … files that are read, and bytes of each.
const FILES: usize = 20;
const BYTES: u64 = 80 << 10;

/// Opens the image in every way and asks it everything.
pub(super) fn exercise(source: Arc<dyn Source>) {
    let facts =
        OpenOptions::new().format(Format::Iso).references(References::None).metadata_only(true);
    open(&facts, || facts.open_source(Arc::clone(&source), "fuzzed.iso"));
    let names = [Namespace::RockRidge, Namespace::Joliet, Namespace::Iso, Namespace::Udf];
    let mut options = IsoOptions::default();
    options.references = References::None;
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
    let mut told = |finding: diskimg::iso::Finding| assert_line(&finding.to_string());
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
