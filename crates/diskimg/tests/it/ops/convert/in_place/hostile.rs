//! Targets whose tables lie are an error before anything is written.

use super::Lab;
use diskimg::{ErrorKind, Format, NewSize, OpenOptions, Resize};
use diskimg_testkit::crash::RecordingStorage;
use diskimg_testkit::tool::{run, try_run};
use std::sync::Arc;

const MIB: u64 = 1 << 20;

/// The entry's cluster is not shared.
const COPIED: u64 = 1 << 63;

fn word(image: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(image[at..at + 8].try_into().unwrap())
}

/// The offset in the word there.
fn offset(image: &[u8], at: usize) -> usize {
    (word(image, at) & 0x00ff_ffff_ffff_fe00) as usize
}

fn with_word(image: &[u8], at: usize, word: u64) -> Vec<u8> {
    let mut image = image.to_vec();
    image[at..at + 8].copy_from_slice(&word.to_be_bytes());
    image
}

impl Lab {
    /// Asserts that neither data nor zeros are written into `image`.
    fn assert_refused(&self, image: &[u8], what: &str) {
        for source in [vec![7; 64 << 10], vec![0; 64 << 10]] {
            let storage = Arc::new(RecordingStorage::new(image.to_vec(), None));
            let outcome = self.convert(&source).run_existing_on(Arc::clone(&storage) as _, "t");
            let error = outcome.expect_err(what);
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}");
            assert!(storage.to_vec() == image, "{what}: {error}");
        }
    }

    /// Asserts that `image` cannot be resized.
    fn assert_not_resized(&self, image: &[u8], size: u64, what: &str) {
        let storage = Arc::new(RecordingStorage::new(image.to_vec(), None));
        let options = OpenOptions::new().format(Format::Qcow2);
        let resize = Resize::new(NewSize::Bytes(size)).open_options(options);
        let error = resize.run_on(Arc::clone(&storage) as _, "t").expect_err(what);
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}");
        assert!(storage.to_vec() == image, "{what}: {error}");
    }
}

#[test]
fn qcow2_tables_that_share_something_are_not_modified() {
    let lab = Lab::new("qcow2");
    assert!(lab.create("cluster_size=4k", 4 * MIB, None));
    lab.io(&lab.target(), &["write -P 5 0 4M".to_owned()]);
    let image = std::fs::read(lab.target()).unwrap();
    let (l1, refcounts) = (offset(&image, 40), offset(&image, 48));
    let l2 = offset(&image, l1);
    let lies = [
        ("L1 entries share an L2 table", l1 + 8, l2 as u64 | COPIED),
        ("L1 entries share an L2 table", l1 + 8, l2 as u64),
        ("an L2 table is a refcount block", l1 + 8, word(&image, refcounts)),
        ("refcount table entries share a block", refcounts + 8, word(&image, refcounts)),
        ("a refcount block is an L2 table", refcounts + 8, l2 as u64),
        ("the snapshot table is outside of the file", 64, 1 << 40),
        ("the snapshot table is not aligned", 64, 0x5001),
    ];
    for (what, at, value) in lies {
        let mut image = with_word(&image, at, value);
        if at == 64 {
            image[60..64].copy_from_slice(&1u32.to_be_bytes());
        }
        lab.assert_refused(&image, what);
        lab.assert_not_resized(&image, 8 * MIB, what);
    }
}

#[test]
fn the_tables_of_a_snapshot_are_not_overwritten() {
    let lab = Lab::new("qcow2");
    assert!(lab.create("cluster_size=4k", 64 << 10, None));
    lab.io(&lab.target(), &["write -P 5 0 64k".to_owned()]);
    assert!(lab.img(&["snapshot", "-c", "s"]));
    lab.io(&lab.target(), &["write -P 6 0 64k".to_owned()]);
    let image = std::fs::read(lab.target()).unwrap();
    let snapshot = word(&image, offset(&image, 64)) as usize;
    let table = offset(&image, snapshot) as u64;
    let l2 = offset(&image, offset(&image, 40));
    assert_ne!(table, l2 as u64);
    lab.assert_refused(&with_word(&image, l2, table | COPIED), "a snapshot's L2 table");
    lab.assert_refused(&with_word(&image, l2, snapshot as u64 | COPIED), "its L1 table");
}

/// Guest data that is used more often than its refcount says would be overwritten for all its uses.
#[test]
fn qcow2_clusters_that_are_shared_are_not_modified() {
    let lab = Lab::new("qcow2");
    assert!(lab.create("cluster_size=4k", 64 << 10, None));
    lab.io(&lab.target(), &["write -P 5 0 32k".to_owned(), "write -c -P 5 32k 4k".to_owned()]);
    assert!(lab.img(&["snapshot", "-c", "s"]));
    lab.io(&lab.target(), &["write -P 6 0 32k".to_owned(), "write -c -P 6 32k 4k".to_owned()]);
    let image = std::fs::read(lab.target()).unwrap();
    let (l1, snapshot_l1) = (offset(&image, 40), word(&image, offset(&image, 64)) as usize);
    let tables = [l1, snapshot_l1].map(|l1| offset(&image, l1));
    assert_ne!(tables[0], tables[1]);
    let [own, old] = tables.map(|table| offset(&image, table));
    let compressed = tables.map(|table| {
        let entry = word(&image, table + 8 * 8);
        assert_eq!(entry >> 62, 1, "{entry:#x}");
        entry
    });
    let host = |entry: u64| entry & ((1 << 58) - 1) & !4095;
    let flags = |place: u64| [place | COPIED, place];
    for (what, at, values) in [
        ("two entries of the disk", tables[0] + 8, flags(own as u64)),
        ("entries of the disk and of a snapshot", tables[0] + 8, flags(old as u64)),
        ("the same, in the last entry", tables[0] + 15 * 8, flags(old as u64)),
        ("data in a compressed cluster", tables[0] + 8, flags(host(compressed[0]))),
        ("the same, of the snapshot", tables[0] + 8, flags(host(compressed[1]))),
        ("two compressed clusters", tables[0] + 8, [compressed[0]; 2]),
        ("the L2 table of the snapshot", l1, flags(tables[1] as u64)),
    ] {
        for value in values {
            lab.assert_refused(&with_word(&image, at, value), what);
        }
    }
    // In tables that nothing is written to.
    for value in [own as u64 | COPIED, snapshot_l1 as u64, 1 << 40, 512 | COPIED] {
        lab.assert_refused(&with_word(&image, tables[1] + 8, value), "the snapshot's table");
    }
    let mut lie = image.clone();
    let block = offset(&image, offset(&image, 48));
    lie[block + old / 4096 * 2..][..2].fill(0);
    lab.assert_refused(&lie, "a refcount of 0 of data of the snapshot");
    lab.convert(&[7; 64 << 10]).run_existing(lab.target()).unwrap();
    assert!(lab.snapshot("s").starts_with(&[5; 36 << 10]));
}

#[test]
fn a_shared_last_cluster_is_not_cleared_when_the_disk_grows() {
    let lab = Lab::new("qcow2");
    assert!(lab.create("cluster_size=4k", 62 << 10, None));
    lab.io(&lab.target(), &["write -P 5 0 62k".to_owned()]);
    let image = std::fs::read(lab.target()).unwrap();
    let l2 = offset(&image, offset(&image, 40));
    let data = offset(&image, l2);
    let mut lie = with_word(&image, l2 + 15 * 8, data as u64 | COPIED);
    lie[data + 4000] = 1;
    lab.assert_not_resized(&lie, MIB, "the last cluster is the first one");
}

/// With a data file, guest data is always in the same place.
#[test]
fn a_data_file_is_not_shared_with_snapshots() {
    let lab = Lab::new("qcow2");
    let data = lab.path("data");
    assert!(lab.create(&format!("data_file={}", data.to_str().unwrap()), 64 << 10, None));
    lab.io(&lab.target(), &["write -P 5 0 64k".to_owned()]);
    let target = lab.target();
    let image = std::fs::read(&target).unwrap();
    let table = image.len().next_multiple_of(64 << 10);
    let mut lie = with_word(&image, 64, table as u64);
    lie[60..64].copy_from_slice(&1u32.to_be_bytes());
    lie.resize(table + 72, 0);
    // A snapshot with the L1 table of the disk's size, and nothing in it.
    let l1 = table + (64 << 10);
    lie[table..table + 8].copy_from_slice(&(l1 as u64).to_be_bytes());
    lie[table + 8..table + 12].copy_from_slice(&1u32.to_be_bytes());
    lie[table + 12..table + 16].copy_from_slice(&[0, 1, 0, 1]);
    lie[table + 36..table + 40].copy_from_slice(&16u32.to_be_bytes());
    lie[table + 56..table + 58].copy_from_slice(b"1s");
    lie.resize(l1 + (64 << 10), 0);
    std::fs::write(&target, &lie).unwrap();
    let error = lab.convert(&[7; 64 << 10]).run_existing(&target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("cannot have snapshots"), "{error}");
    assert!(std::fs::read(&target).unwrap() == lie);
    assert!(std::fs::read(&data).unwrap() == [5; 64 << 10]);
}

#[test]
fn the_last_cluster_of_a_disk_that_grows_is_not_metadata() {
    let lab = Lab::new("qcow2");
    assert!(lab.create("cluster_size=4k", 62 << 10, None));
    lab.io(&lab.target(), &["write -P 5 0 62k".to_owned()]);
    let image = std::fs::read(lab.target()).unwrap();
    let l1 = offset(&image, 40);
    let l2 = offset(&image, l1);
    for metadata in [0, l1, l2, offset(&image, 48)] {
        let mut lie = with_word(&image, l2 + 15 * 8, metadata as u64 | COPIED);
        // Bytes after the end of the disk, which would be cleared.
        lie[metadata + 4000] = 1;
        if metadata != 0 {
            lab.assert_not_resized(&lie, MIB, &format!("guest data at {metadata:#x}"));
        }
    }
}

/// A bitmap's clusters are overwritten, so that nothing else may be there.
#[test]
fn a_bitmap_does_not_overwrite_what_its_table_names() {
    let lab = Lab::new("qcow2");
    assert!(lab.create("cluster_size=4k", 4 * MIB, None));
    let target = lab.target();
    let file = target.to_str().unwrap();
    for name in ["a", "b"] {
        run("qemu-img", ["bitmap", "--add", "-g", "4096", file, name]);
    }
    lab.io(&target, &["write -P 5 0 3M".to_owned()]);
    let image = std::fs::read(&target).unwrap();
    let magic = 0x2385_2875u32.to_be_bytes();
    let extension = image.windows(4).position(|bytes| bytes == magic).unwrap();
    let directory = word(&image, extension + 24) as usize;
    // Each entry has 24 bytes and a name of one byte.
    let tables = [directory, directory + 32].map(|entry| word(&image, entry) as usize);
    let clusters = tables.map(|table| offset(&image, table));
    assert!(clusters[0] != 0 && clusters[0] != clusters[1], "{clusters:?}");
    let l2 = offset(&image, offset(&image, 40));
    let data = offset(&image, l2 + 100 * 8);
    let lies = [
        ("both bitmaps share a cluster", clusters[1] as u64),
        ("guest data", data as u64),
        ("an L2 table", l2 as u64),
        ("not aligned", clusters[0] as u64 + 512),
        ("outside of the file", 1 << 40),
    ];
    for (what, value) in lies {
        lab.assert_refused(&with_word(&image, tables[0], value), what);
    }
    let block = offset(&image, offset(&image, 48));
    let mut shared = image.clone();
    shared[block + clusters[0] / 4096 * 2 + 1] = 2;
    lab.assert_refused(&shared, "a refcount of 2");
    let check = try_run("qemu-img", ["check", file]);
    assert!(check.status.success(), "{check:?}");
}

/// A sparse VMDK: its bytes, and the sectors of the directory and the redundant one.
struct Vmdk {
    lab: Lab,
    image: Vec<u8>,
    directories: [usize; 2],
}

impl Vmdk {
    fn new() -> Self {
        let lab = Lab::new("vmdk");
        assert!(lab.create("subformat=monolithicSparse", 64 * MIB, None));
        lab.io(&lab.target(), &["write -P 5 0 256k".to_owned(), "write -P 6 40M 64k".to_owned()]);
        let image = std::fs::read(lab.target()).unwrap();
        let at =
            |field: usize| u64::from_le_bytes(image[field..field + 8].try_into().unwrap()) as usize;
        let directories = [at(56), at(48)];
        Self { lab, directories, image }
    }

    fn entry(&self, sector: usize, index: usize) -> u32 {
        let at = sector * 512 + index * 4;
        u32::from_le_bytes(self.image[at..at + 4].try_into().unwrap())
    }

    fn set(&mut self, sector: usize, index: usize, value: u32) {
        let at = sector * 512 + index * 4;
        self.image[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    /// Changes an entry of both copies of the first grain table.
    fn set_grain(&mut self, index: usize, value: u32) {
        for directory in self.directories {
            let table = self.entry(directory, 0) as usize;
            self.set(table, index, value);
        }
    }
}

#[test]
fn vmdk_tables_that_share_something_are_not_modified() {
    type Lie = (&'static str, fn(&mut Vmdk));
    let lies: [Lie; 6] = [
        ("directory entries share a grain table", |vmdk| {
            for directory in vmdk.directories {
                vmdk.set(directory, 1, vmdk.entry(directory, 0));
            }
        }),
        ("a grain table is the directory", |vmdk| {
            let [directory, _] = vmdk.directories;
            vmdk.set(directory, 1, directory as u32);
        }),
        ("entries share a grain", |vmdk| {
            let table = vmdk.entry(vmdk.directories[0], 0) as usize;
            vmdk.set_grain(1, vmdk.entry(table, 0));
        }),
        ("grains overlap", |vmdk| {
            let table = vmdk.entry(vmdk.directories[0], 0) as usize;
            vmdk.set_grain(1, vmdk.entry(table, 0) + 1);
        }),
        ("a grain is in the descriptor", |vmdk| vmdk.set_grain(1, 1)),
        ("the copies contradict each other", |vmdk| {
            let table = vmdk.entry(vmdk.directories[1], 0) as usize;
            vmdk.set(table, 1, vmdk.entry(table, 0));
        }),
    ];
    for (what, change) in lies {
        let mut vmdk = Vmdk::new();
        change(&mut vmdk);
        vmdk.lab.assert_refused(&vmdk.image, what);
    }
}
