//! Snapshot tables beyond QEMU's limits, which it makes shorter.

use diskimg::check::RepairScope;
use diskimg::{ErrorKind, Format, OpenOptions, Repair};
use diskimg_testkit::tool::{assert_qemu_check, run, try_run};
use std::path::Path;

fn options() -> OpenOptions {
    OpenOptions::new().format(Format::Qcow2)
}

/// Returns an entry without a snapshot's data, with `extra` bytes of extra data.
fn entry(extra: u32, id: &[u8], name: &[u8]) -> Vec<u8> {
    let mut entry = vec![0; 40];
    entry[12..14].copy_from_slice(&(id.len() as u16).to_be_bytes());
    entry[14..16].copy_from_slice(&(name.len() as u16).to_be_bytes());
    entry[36..40].copy_from_slice(&extra.to_be_bytes());
    let mut data = vec![0; extra as usize];
    // The size of the disk.
    data[8..16].copy_from_slice(&(1u64 << 20).to_be_bytes());
    data[24..].fill(7);
    entry.extend([data.as_slice(), id, name].concat());
    entry.resize(entry.len().next_multiple_of(8), 0);
    entry
}

/// Writes a snapshot table to the end of an image.
fn set_table(path: &Path, entries: impl Iterator<Item = Vec<u8>>) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes.resize(bytes.len().next_multiple_of(64 << 10), 0);
    let (offset, mut count) = (bytes.len() as u64, 0u32);
    for entry in entries {
        bytes.extend(entry);
        count += 1;
    }
    bytes[60..64].copy_from_slice(&count.to_be_bytes());
    bytes[64..72].copy_from_slice(&offset.to_be_bytes());
    std::fs::write(path, bytes).unwrap();
}

/// Returns the entries of the snapshot table. QEMU does not clear the padding between them.
fn table(path: &Path) -> Vec<Vec<u8>> {
    let bytes = std::fs::read(path).unwrap();
    let count = u32::from_be_bytes(bytes[60..64].try_into().unwrap());
    let start = u64::from_be_bytes(bytes[64..72].try_into().unwrap()) as usize;
    let mut at = start;
    let mut entries = Vec::new();
    for _ in 0..count {
        at = start + (at - start).next_multiple_of(8);
        let [id, name] = [12, 14].map(|field| {
            u16::from_be_bytes(bytes[at + field..at + field + 2].try_into().unwrap()) as usize
        });
        let extra = u32::from_be_bytes(bytes[at + 36..at + 40].try_into().unwrap()) as usize;
        let end = at + 40 + extra + id + name;
        entries.push(bytes[at..end].to_vec());
        at = end;
    }
    entries
}

#[test]
fn a_snapshot_table_beyond_the_limits_becomes_the_one_that_qemu_makes() {
    type Entries = Box<dyn Fn() -> Box<dyn Iterator<Item = Vec<u8>>>>;
    let small = |n: u32| entry(24, n.to_string().as_bytes(), b"s");
    let large = || entry(1024, &[b'i'; 65535], &[b'n'; 65535]);
    let cases: [(&str, Entries); 4] = [
        (
            "long extra data",
            Box::new(move || {
                let entries = [small(1), entry(65536, b"2", b"long"), small(3)];
                Box::new(entries.into_iter())
            }),
        ),
        ("too many snapshots", Box::new(move || Box::new((1..=65_539).map(small)))),
        ("a table that is too long", Box::new(move || Box::new((0..509).map(move |_| large())))),
        (
            "both",
            Box::new(move || {
                let long = entry(100_000, &[b'i'; 65535], b"long");
                Box::new(std::iter::once(long).chain((0..509).map(move |_| large())))
            }),
        ),
    ];
    for (name, entries) in cases {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.qcow2");
        let file = path.to_str().unwrap();
        run("qemu-img", ["create", "-q", "-f", "qcow2", file, "1M"]);
        run("qemu-io", ["-f", "qcow2", "-c", "write -P 1 0 128k", file]);
        set_table(&path, entries());
        let error = options().open(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Limit, "{name}: {error}");
        let theirs = dir.path().join("theirs.qcow2");
        std::fs::copy(&path, &theirs).unwrap();
        let output = try_run("qemu-img", ["check", "-r", "all", theirs.to_str().unwrap()]);
        assert!(output.status.success(), "{name}: {output:?}");
        // Only the repair of all damage may do so.
        let leaks = Repair::new(RepairScope::Leaks).open_options(options());
        let refused = leaks.run(&path, &mut |_, _| {}).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Limit, "{name}: {refused}");
        let all = Repair::new(RepairScope::All).open_options(options());
        let done = all.run(&path, &mut |_, _| {}).unwrap().unwrap();
        assert_eq!((done.after.corruptions, done.after.leaks), (0, 0), "{name}: {done:?}");
        assert_qemu_check(&path, "qcow2");
        let (ours, qemus) = (table(&path), table(&theirs));
        assert_eq!(ours.len(), qemus.len(), "{name}");
        assert!(ours == qemus, "{name}");
        let image = options().open(&path).unwrap();
        assert_eq!(image.info(0).unwrap().snapshots.len(), qemus.len(), "{name}");
    }
}

#[test]
fn unknown_autoclear_bits_are_cleared_by_a_repair() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.qcow2");
    run("qemu-img", ["create", "-q", "-f", "qcow2", path.to_str().unwrap(), "1M"]);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[88] = 0x80;
    for scope in [RepairScope::All, RepairScope::Leaks] {
        std::fs::write(&path, &bytes).unwrap();
        Repair::new(scope).open_options(options()).run(&path, &mut |_, _| {}).unwrap();
        assert_eq!(std::fs::read(&path).unwrap()[88..96], [0; 8]);
    }
}
