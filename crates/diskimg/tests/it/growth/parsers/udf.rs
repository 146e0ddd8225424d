//! UDF: file entries, allocation extents and tables that are shared.

use super::iso::work;
use diskimg_testkit::growth::{require_linear, require_linear_time};
use diskimg_testkit::iso::SECTOR;
use diskimg_testkit::udf::{
    FREE, FileEntry, PARTITION, UdfBuilder, body, identifier, long, name, short, tagged,
};

/// Returns a volume whose root directory has these entries, and `blocks` further blocks from block
/// [`FREE`] on. The root directory is after them.
fn volume(entries: &[Vec<u8>], blocks: u32) -> UdfBuilder {
    let mut volume = UdfBuilder::new(&[]);
    let entries = [identifier(10, &[], 1, 0), entries.concat()].concat();
    let (root, len) = (FREE + blocks, entries.len() as u32);
    volume.partition(PARTITION as u32, root + len.div_ceil(2048) + 1);
    volume.file(1, &FileEntry::new(4, len.into(), short(len, root)));
    volume.block(root, &entries);
    volume.anchor(&short(4 * 2048, 32));
    volume
}

fn names(n: usize, block: impl Fn(usize) -> u32) -> Vec<Vec<u8>> {
    (0..n).map(|n| identifier(0, &name(&format!("f{n}")), block(n), 0)).collect()
}

/// Returns an indirect entry (4/14.7).
fn indirect(block: u32, next: u32) -> Vec<u8> {
    tagged(259, block, &body(52, &[(24, &[1, 0, 0, 3]), (36, &long(2048, next, 0))]))
}

/// Returns an allocation extent descriptor (4/14.5) that continues at `next`.
fn continued(block: u32, next: u32) -> Vec<u8> {
    let descriptors = [short(2048, FREE), short(3 << 30 | 2048, next)].concat();
    let len = (descriptors.len() as u32).to_le_bytes();
    tagged(258, block, &body(24 + descriptors.len(), &[(20, &len), (24, &descriptors)]))
}

#[test]
fn names_of_one_file_entry_cost_no_more_than_their_number() {
    // A chain of indirect entries, which each name leads through.
    let chain = |n: usize| {
        let mut volume = volume(&names(n, |_| FREE), 80);
        for link in 0..31 {
            let mut file = FileEntry::new(5, 0, Vec::new());
            file.strategy = 4096;
            volume.file(FREE + link * 2, &file);
            volume.block(FREE + link * 2 + 1, &indirect(FREE + link * 2 + 1, FREE + link * 2 + 2));
        }
        volume.file(FREE + 62, &FileEntry::new(5, 0, Vec::new()));
        volume.finish()
    };
    let link = |n: usize| {
        let mut volume = volume(&names(n, |_| FREE), 8);
        volume.file(FREE, &FileEntry::new(12, 4096, short(4096, FREE + 1)));
        volume.finish()
    };
    // A file in two pieces, which are compared with other files when the image is rebuilt.
    let pieces = |n: usize| {
        let blocks = n as u32;
        let mut volume = volume(&names(n, |_| FREE), 2 * blocks + 8);
        let len = blocks * 2048;
        let extents = [short(len, FREE + 1), short(len, FREE + 4 + blocks)].concat();
        volume.file(FREE, &FileEntry::new(5, 2 * u64::from(len), extents));
        volume.finish()
    };
    require_linear("pieces", 250, |n| work(pieces(n)));
    require_linear("indirect entries", 500, |n| work(chain(n)));
    require_linear("symbolic links", 500, |n| work(link(n)));
}

#[test]
fn allocation_extents_that_files_share_cost_no_more_than_the_image() {
    // As many files as allocation extents: each file goes through all of them.
    let one_directory = |n: usize| {
        let blocks = n as u32 * 2 + 2;
        let mut volume = volume(&names(n, |i| FREE + n as u32 + i as u32), blocks);
        shared(&mut volume, n);
        for i in 0..n as u32 {
            let file = FileEntry::new(5, n as u64 * 2048, short(3 << 30 | 2048, FREE));
            volume.file(FREE + n as u32 + i, &file);
        }
        volume.finish()
    };
    // The same, with each file in a directory of its own.
    let directories = |n: usize| {
        let blocks = n as u32 * 3 + 2;
        let names =
            (0..n).map(|i| identifier(2, &name(&format!("d{i}")), FREE + (n + i) as u32, 0));
        let mut volume = volume(&names.collect::<Vec<_>>(), blocks);
        shared(&mut volume, n);
        for i in 0..n as u32 {
            let (dir, file) = (FREE + n as u32 + i, FREE + 2 * n as u32 + i);
            let entries =
                [identifier(10, &[], dir, 0), identifier(0, &name("f"), file, 0)].concat();
            volume.file(dir, &FileEntry::embedded(4, entries));
            let content = FileEntry::new(5, n as u64 * 2048, short(3 << 30 | 2048, FREE));
            volume.file(file, &content);
        }
        volume.finish()
    };
    require_linear("files of one directory", 100, |n| work(one_directory(n)));
    require_linear("files of several directories", 100, |n| work(directories(n)));
}

fn shared(volume: &mut UdfBuilder, n: usize) {
    for i in 0..n as u32 {
        volume.block(FREE + i, &continued(FREE + i, FREE + i + 1));
    }
}

#[test]
fn the_search_for_a_virtual_allocation_table_costs_no_more_than_the_image() {
    let image = |n: usize| {
        let mut volume = volume(&[], n as u32 + 8);
        let mut map = vec![2, 64, 0, 0];
        map.extend(b"\0*UDF Virtual Partition");
        map.resize(36, 0);
        map.extend([1, 0, 1, 0]);
        map.resize(64, 0);
        volume.logical_volume(2048, &[&[1, 6, 1, 0, 0, 0], &map], &long(2048, 0, 0));
        // Every block is a file entry that could be that of the table, with all bytes before it.
        for i in 0..n as u32 {
            let len = (n * SECTOR / 2) as u32;
            volume.file(FREE + i, &FileEntry::new(0, len.into(), short(len, FREE)));
        }
        volume.finish()
    };
    require_linear("virtual allocation tables", 64, |n| work(image(n)));
}

#[test]
fn comparing_the_names_of_iso_and_udf_takes_linear_time() {
    use diskimg_testkit::iso::{Record, directory, volume as descriptor};
    let image = |n: usize| {
        // Without terminators, the UDF structures may follow the descriptors of ISO 9660.
        let entries = names(n, |_| 3);
        let mut udf = volume(&entries, 8);
        let files: Vec<_> = (0..n).map(|n| Record::file(format!("A{n}"), 20, 10)).collect();
        let at = (udf.bytes.len() / SECTOR) as u32;
        let root = directory(at, at, &[], &files);
        udf.at(at as usize, &root);
        udf.at(16, &descriptor(1, at, root.len() as u32));
        for (sector, id) in [(17, b"\xffCD001\x01"), (18, b"\0BEA01\x01"), (19, b"\0NSR02\x01")] {
            udf.at(sector, &[0; SECTOR]);
            udf.at(sector, id);
        }
        udf.at(20, b"\0TEA01\x01");
        udf.finish()
    };
    require_linear_time("names", 200, 8000, image, |bytes| {
        let source =
            std::sync::Arc::new(diskimg::storage::source::MemorySource::new(bytes.clone()));
        let image = diskimg::iso::IsoImage::open(source, &Default::default()).unwrap();
        assert!(image.namespaces().count() >= 2);
    });
}
