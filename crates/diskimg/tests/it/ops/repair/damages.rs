//! Every kind of damage.

use super::*;

/// A kind of damage.
pub(super) struct Damage {
    pub(super) name: &'static str,
    /// Returns false if the image does not have the structure.
    pub(super) make: fn(&mut Bytes<'_>) -> bool,
    /// The damage is left on purpose, although qemu-img says that it has repaired it.
    left: bool,
}

const fn damage(name: &'static str, make: fn(&mut Bytes<'_>) -> bool) -> Damage {
    Damage { name, make, left: false }
}

const fn left(name: &'static str, make: fn(&mut Bytes<'_>) -> bool) -> Damage {
    Damage { name, make, left: true }
}

const COPIED: u64 = 1 << 63;

/// Changes the entry of the first L2 table with this index.
fn entry(image: &mut Bytes<'_>, index: u64, change: impl FnOnce(u64) -> u64) -> bool {
    let at = image.l2_entry(index);
    image.change(at, change);
    true
}

pub(super) const DAMAGES: &[Damage] = &[
    damage("none", |_| true),
    damage("a refcount too high", |b| {
        b.set_refcount(b.l2(0) / b.cluster_size(), 3);
        b.refcount_bits() > 1
    }),
    damage("a leaked cluster", |b| {
        let cluster = b.0.len() as u64 / b.cluster_size();
        b.0.resize(b.0.len() + 3 * b.cluster_size() as usize, 0x5a);
        b.set_refcount(cluster + 1, 1);
        true
    }),
    damage("a refcount of zero", |b| {
        b.set_refcount(b.l2(0) / b.cluster_size(), 0);
        true
    }),
    damage("all refcounts too high", |b| {
        (0..20).for_each(|cluster| b.set_refcount(cluster, 7));
        b.refcount_bits() >= 16
    }),
    damage("a leak and a copied flag", |b| {
        // As after a crash while a snapshot was deleted.
        let offset = b.get(b.l2_entry(3)) & !COPIED;
        entry(b, 3, |_| offset);
        b.set_refcount(offset / b.cluster_size(), 2);
        b.refcount_bits() > 1 && !b.has_data_file()
    }),
    damage("a copied flag that is not set", |b| entry(b, 3, |entry| entry & !COPIED)),
    damage("a copied flag that is set", |b| entry(b, 0, |entry| entry | COPIED)),
    damage("all copied flags wrong", |b| {
        for index in 0..16 {
            entry(b, index, |entry| entry ^ COPIED);
        }
        b.change(b.l1(), |entry| entry ^ COPIED);
        true
    }),
    damage("a block of zeros", |b| {
        let (block, size) = (b.refcount_block() as usize, b.cluster_size() as usize);
        b.0[block..block + size].fill(0);
        true
    }),
    damage("a refcount table of zeros", |b| {
        let (table, size) = (b.refcount_table() as usize, b.cluster_size() as usize);
        b.0[table..table + size].fill(0);
        true
    }),
    damage("no refcount table", |b| {
        b.set(48, 0);
        b.set_u32(56, 0);
        true
    }),
    damage("a refcount table beyond the end of the file", |b| {
        b.set(48, 1 << 30);
        true
    }),
    damage("a block beyond the end of the file", |b| {
        b.set(b.refcount_table(), 1 << 30);
        true
    }),
    damage("a block that is not aligned", |b| {
        b.change(b.refcount_table(), |entry| entry + 512);
        b.cluster_size() > 512
    }),
    damage("reserved bits of the refcount table", |b| {
        b.change(b.refcount_table(), |entry| entry | 1);
        true
    }),
    damage("two entries for one block", |b| {
        let block = b.refcount_block();
        b.set(b.refcount_table() + 8, block);
        true
    }),
    damage("a block over guest data", |b| {
        let block = b.refcount_block();
        entry(b, 1, |_| block | COPIED) && !b.has_data_file()
    }),
    damage("the refcount table over guest data", |b| {
        let table = b.refcount_table();
        entry(b, 1, |_| table | COPIED) && !b.has_data_file()
    }),
    damage("an L2 entry that is not aligned", |b| {
        entry(b, 1, |entry| entry + 512) && b.cluster_size() > 512
    }),
    damage("an L2 entry beyond the end of the file", |b| {
        entry(b, 1, |entry| entry + (1 << 40)) && !b.has_data_file()
    }),
    damage("reserved bits of an L2 entry", |b| entry(b, 1, |entry| entry | 1 << 57)),
    damage("a preallocated cluster that is not aligned", |b| {
        // An extended entry has a bitmap instead.
        entry(b, 200, |_| COPIED | 0x5200 | 1)
            && b.version() == 3
            && !b.is_extended()
            && b.cluster_size() > 2048
    }),
    damage("an L1 entry that is not aligned", |b| {
        b.change(b.l1(), |entry| entry + 512);
        b.cluster_size() > 512
    }),
    damage("an L1 entry beyond the end of the file", |b| {
        b.change(b.l1(), |entry| entry + (1 << 40));
        true
    }),
    damage("reserved bits of an L1 entry", |b| {
        b.change(b.l1(), |entry| entry | 1 << 58);
        true
    }),
    damage("an L1 table beyond the end of the file", |b| {
        b.set(40, 1 << 40);
        true
    }),
    damage("two guest clusters in one", |b| {
        let other = b.get(b.l2_entry(10));
        entry(b, 1, |_| other) && !b.is_extended() && !b.has_data_file()
    }),
    left("guest data in an L2 table", |b| {
        let table = b.l2(0);
        entry(b, 1, |_| table | COPIED) && !b.has_data_file()
    }),
    left("guest data in the L1 table", |b| {
        let table = b.l1();
        entry(b, 1, |_| table | COPIED) && !b.has_data_file()
    }),
    left("guest data in the header", |b| {
        b.change(b.l1() + 8, |_| COPIED | 512);
        false
    }),
    damage("not closed properly", |b| {
        b.change(72, |bits| bits | 1);
        b.set_refcount(b.l2(0) / b.cluster_size(), 0);
        b.version() == 3
    }),
    damage("marked as corrupt", |b| {
        b.change(72, |bits| bits | 2);
        b.version() == 3
    }),
    damage("a snapshot without extra data", |b| {
        let Some(table) = b.snapshots() else { return false };
        let extra = (b.get(table + 32) & 0xffff_ffff) as usize;
        b.set_u32(table + 36, 0);
        // ID and name have one byte each.
        let names = table as usize + 40 + extra;
        b.0.copy_within(names..names + 2, table as usize + 40);
        b.version() == 3 && b.get(60) >> 32 == 1
    }),
    damage("a snapshot table that is not aligned", |b| {
        let is_empty = b.get(60) >> 32 == 0;
        b.change(64, |offset| offset + 8);
        !is_empty
    }),
    damage("an empty snapshot table that is not aligned", |b| {
        let is_empty = b.get(60) >> 32 == 0;
        b.change(64, |offset| offset + 8);
        is_empty
    }),
    damage("a snapshot's L1 table that is not aligned", |b| {
        let Some(table) = b.snapshots() else { return false };
        b.change(table, |offset| offset + 8);
        true
    }),
    damage("a compressed cluster with a copied flag", |b| {
        entry(b, 64, |entry| entry | COPIED) && b.get(b.l2_entry(64)) & 1 << 62 != 0
    }),
    damage("a truncated file", |b| {
        let len = b.0.len() - b.0.len() / 4;
        b.0.truncate(len);
        true
    }),
];

#[test]
#[allow(clippy::print_stdout, reason = "the table of damages")]
fn the_result_is_at_least_as_good_as_that_of_qemu_img() {
    let mut lines = Vec::new();
    for base in BASES {
        let original = base.make();
        for damage in DAMAGES {
            let mut bytes = original.bytes.clone();
            if !(damage.make)(&mut Bytes(&mut bytes)) {
                continue;
            }
            for scope in [RepairScope::Leaks, RepairScope::All] {
                let context = || format!("{}, {}, {scope}", base.name, damage.name);
                let image = Damaged { dir: tempfile::tempdir().unwrap(), bytes: bytes.clone() };
                let ranks @ [_, ours, qemu] = assert_repaired(&image, base, scope, &context);
                let line = format!("{}: before, ours, qemu-img: {ranks:?}", context());
                println!("{line}");
                assert!(ours <= qemu || damage.left, "{line}");
                lines.push(line);
            }
        }
    }
    assert!(lines.len() > 300, "{}", lines.len());
}

use images::BASES;

/// Restores an image from the bytes that a repair has saved, as the documentation of `check`
/// describes it.
pub(super) fn restore(image: &mut Vec<u8>, backup: &[u8]) {
    let Some(rest) = backup.strip_prefix(b"diskimg backup 1") else {
        assert!(backup.is_empty());
        return;
    };
    let number = |at: usize| u64::from_be_bytes(rest[at..at + 8].try_into().unwrap()) as usize;
    let mut ranges = Vec::new();
    let mut at = 8;
    while at < rest.len() {
        let (offset, len) = (number(at), number(at + 8));
        ranges.push((offset, &rest[at + 16..at + 16 + len]));
        at += 16 + len;
    }
    for (offset, old) in ranges.into_iter().rev() {
        image.resize(image.len().max(offset + old.len()), 0);
        image[offset..offset + old.len()].copy_from_slice(old);
    }
    image.truncate(number(0));
}

#[test]
fn saved_bytes_restore_the_image() {
    let mut changed = 0;
    for base in BASES {
        let original = base.make();
        for damage in DAMAGES {
            let mut bytes = original.bytes.clone();
            if !(damage.make)(&mut Bytes(&mut bytes)) {
                continue;
            }
            let context = format!("{}, {}", base.name, damage.name);
            let path = original.dir.path().join("backup");
            let _ = std::fs::remove_file(&path);
            let storage = Arc::new(MemoryStorage::new(bytes.clone()));
            let repair_it = Repair::new(RepairScope::All)
                .open_options(options())
                .backup(std::fs::File::create_new(&path).unwrap());
            let _ = repair_it.run_on(Arc::clone(&storage) as _, "a.qcow2", &mut |_, _| {});
            let mut after = storage.to_vec();
            assert!(after == repair(RepairScope::All, &bytes).0, "{context}: differs");
            changed += usize::from(after != bytes);
            restore(&mut after, &std::fs::read(&path).unwrap());
            assert!(after == bytes, "{context}: not restored");
        }
    }
    assert!(changed > 100, "{changed}");
}
