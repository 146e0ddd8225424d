//! Formats of which only marks and counters are repaired.

use super::*;

/// Writes an image of 1 MiB with 200 KiB of data. Returns its bytes.
fn make(dir: &Path, format: &str) -> (PathBuf, Vec<u8>) {
    let path = dir.join("a");
    let file = path.to_str().unwrap();
    run("qemu-img", ["create", "-q", "-f", format, file, "8M"]);
    run("qemu-io", ["-f", format, "-c", "write -P 5 1M 2M", file]);
    let bytes = std::fs::read(&path).unwrap();
    (path, bytes)
}

fn repair_as(format: Format, scope: RepairScope, bytes: &[u8]) -> (Vec<u8>, diskimg::Repaired) {
    let storage = Arc::new(MemoryStorage::new(bytes.to_vec()));
    let repair = Repair::new(scope).open_options(OpenOptions::new().format(format));
    let done = repair.run_on(Arc::clone(&storage) as _, "a", &mut |_, _| {});
    (storage.to_vec(), done.unwrap().unwrap())
}

#[test]
fn the_number_of_blocks_of_a_vdi_is_corrected() {
    let dir = tempfile::tempdir().unwrap();
    let (path, bytes) = make(dir.path(), "vdi");
    assert_eq!(bytes[388], 2);
    for (count, scope, wanted) in [
        (5, RepairScope::Leaks, 2),
        (5, RepairScope::All, 2),
        (1, RepairScope::Leaks, 1),
        (1, RepairScope::All, 2),
        (2, RepairScope::All, 2),
    ] {
        let mut damaged = bytes.clone();
        damaged[388] = count;
        let (repaired, done) = repair_as(Format::Vdi, scope, &damaged);
        assert_eq!((repaired[388], repaired.len()), (wanted, bytes.len()), "{count} {scope}");
        assert_eq!(done.after.leaks + done.after.corruptions == 0, wanted == 2, "{done:?}");
        if wanted == 2 {
            assert!(repaired == bytes);
        }
    }
    // A block that is invalid: the counter is left.
    let mut damaged = bytes.clone();
    damaged[388] = 9;
    let map = u32::from_le_bytes(bytes[340..344].try_into().unwrap()) as usize;
    damaged[map + 4..map + 8].copy_from_slice(&77u32.to_le_bytes());
    let (repaired, _) = repair_as(Format::Vdi, RepairScope::All, &damaged);
    assert!(repaired == damaged);
    std::fs::write(&path, &bytes).unwrap();
    run("qemu-img", ["check", "-q", "-f", "vdi", path.to_str().unwrap()]);
}

#[test]
fn a_qed_image_that_was_not_closed_is_marked_as_closed_if_it_is_consistent() {
    let dir = tempfile::tempdir().unwrap();
    let (path, bytes) = make(dir.path(), "qed");
    let mut damaged = bytes.clone();
    damaged[16] |= 2;
    for scope in [RepairScope::Leaks, RepairScope::All] {
        let (repaired, done) = repair_as(Format::Qed, scope, &damaged);
        assert!(repaired == bytes, "{scope}");
        assert_eq!(done.after.corruptions, 0);
    }
    // Two entries of the L2 table for one cluster.
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
    let table = word(word(40));
    damaged.copy_within(table + 16 * 8..table + 17 * 8, table + 17 * 8);
    let (repaired, _) = repair_as(Format::Qed, RepairScope::All, &damaged);
    assert!(repaired == damaged);
    std::fs::write(&path, &bytes).unwrap();
    run("qemu-img", ["check", "-q", "-f", "qed", path.to_str().unwrap()]);
}

#[test]
fn a_parallels_image_that_was_not_closed_is_marked_as_closed_if_it_is_consistent() {
    let dir = tempfile::tempdir().unwrap();
    let (path, bytes) = make(dir.path(), "parallels");
    let mut damaged = bytes.clone();
    damaged[44..48].copy_from_slice(&0x746f_6e59u32.to_le_bytes());
    let (repaired, done) = repair_as(Format::Parallels, RepairScope::All, &damaged);
    assert_eq!((done.after.corruptions, done.after.corruptions_fixed), (0, 1), "{done:?}");
    std::fs::write(&path, &repaired).unwrap();
    run("qemu-img", ["check", "-q", "-f", "parallels", path.to_str().unwrap()]);
}
