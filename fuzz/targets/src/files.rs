//! Partition tables, and file systems whose names are listed.

use crate::exercise;
use crate::samples;
use crate::scatter::Scatter;
use diskimg::files::{FileSystem, recognize};
use diskimg::storage::source::{MemorySource, Source, WindowSource};
use diskimg::{Limits, partition};
use std::sync::{Arc, OnceLock};

/// Length of the parts of an image that are part of an input if they are not all zeros.
const BLOCK: usize = 1024;

/// Maximum number of blocks in an input.
const MAX_BLOCKS: usize = 85;

/// An image made by mkfs or sfdisk, and its blocks that are not zeros.
struct Base {
    image: Vec<u8>,
    blocks: Vec<usize>,
}

fn bases() -> &'static [Base] {
    static BASES: OnceLock<Vec<Base>> = OnceLock::new();
    BASES.get_or_init(|| {
        // The image of FAT32 is too large to be copied for every input.
        let images = samples::file_systems().into_iter().filter(|image| image.len() <= 8 << 20);
        let base = |image: Vec<u8>| {
            let used = image.chunks(BLOCK).enumerate();
            let used = used.filter(|(_, block)| block.iter().any(|&byte| byte != 0));
            let blocks = used.map(|(index, _)| index).take(MAX_BLOCKS).collect();
            Base { image, blocks }
        };
        images.map(base).collect()
    })
}

impl Base {
    fn scatter(&self) -> Scatter<'_> {
        Scatter { sector_bytes: BLOCK, sectors: &self.blocks }
    }
}

/// Input: a byte that selects an image, and the blocks of the image that are not zeros.
pub(crate) fn file_systems(input: &[u8]) {
    let Some((selector, blocks)) = input.split_first() else { return };
    let base = &bases()[usize::from(*selector) % bases().len()];
    let disk: Arc<dyn Source> =
        Arc::new(MemorySource::new(base.scatter().put(&base.image, blocks)));
    list(Arc::clone(&disk));
    for sector_bytes in [None, Some(512), Some(4096)] {
        let Ok(Some(table)) = partition::table(&*disk, sector_bytes) else { continue };
        for oddity in &table.oddities {
            exercise::assert_line(&oddity.message);
        }
        for partition in table.partitions.iter().take(8) {
            let Some(range) = partition.range(disk.len()) else { continue };
            assert!(range.start < range.end && range.end <= disk.len(), "outside of the disk");
            let source = WindowSource::new(Arc::clone(&disk), range).expect("inside the disk");
            list(Arc::new(source));
        }
    }
}

/// Lists all names, and looks for some of them.
fn list(source: Arc<dyn Source>) {
    let mut limits = Limits::default();
    limits.tree_entries = 20_000;
    limits.directory_bytes = 1 << 20;
    let recognized = recognize(&source).expect("memory can be read");
    let files = match FileSystem::open(source, &limits) {
        Ok(files) => files,
        Err(error) => return exercise::assert_line(&error.to_string()),
    };
    assert_eq!(Some(files.recognized()), recognized.as_ref());
    files.warnings().iter().for_each(|warning| exercise::assert_line(warning));
    let Ok(walk) = files.walk(b"/") else { return };
    for (index, found) in walk.enumerate() {
        match found {
            Ok(found) => {
                assert!(!found.path.contains(&0) && !found.path.starts_with(b"/"), "a bad path");
                if index < 16 && !found.path.contains(&b'/') {
                    // A name may be there twice, so the file need not be the same one.
                    files.lookup(&found.path).expect("a listed file is found");
                    drop(files.lookup(&[&found.path, &b"/"[..]].concat()));
                }
            }
            Err(error) => exercise::assert_line(&error.to_string()),
        }
    }
}

pub(crate) fn file_systems_seeds() -> Vec<Vec<u8>> {
    let seed = |(selector, base): (usize, &Base)| {
        [&[selector as u8][..], &base.scatter().take(&base.image)].concat()
    };
    bases().iter().enumerate().map(seed).collect()
}
