use super::*;
use crate::storage::edit::MemoryStorage;
use crate::{Create, ErrorKind};

const SIZE: u64 = (5 << 20) + 512;

/// Marsaglia's xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % end
    }
}

fn new_image(format: Format) -> Arc<dyn Storage> {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("image");
    Create::new(format).size(SIZE).run(&path).expect("is created");
    Arc::new(MemoryStorage::new(std::fs::read(&path).expect("is read")))
}

fn formats() -> impl Iterator<Item = Format> {
    let is_modifiable = |format: &Format| {
        *format == Format::Raw || format.driver().open_mutable.is_some() && format.is_writable()
    };
    Format::ALL.iter().copied().filter(is_modifiable)
}

#[test]
fn random_writes_read_as_they_were_written() {
    for format in formats() {
        let storage = new_image(format);
        let options = OpenOptions::new().format(format);
        let mut random = Random(0x2545_f491_4f6c_dd1d);
        let mut writer = GuestWriter::open_locked(&storage, &options, "image").expect("opens");
        let size = writer.size();
        let mut disk = vec![0; size as usize];
        for number in 0..150 {
            let len = 1 + random.below(if number % 9 == 0 { 300_000 } else { 5000 });
            let at = random.below(size - len + 1);
            let bytes = vec![number as u8 + 1; len as usize];
            match random.below(6) {
                0 => {
                    let end = at + if number % 2 == 0 { len } else { random.below(size - at) };
                    writer.write_zeroes(at..end).expect("writes");
                    disk[at as usize..end as usize].fill(0);
                }
                1 => {
                    writer.fill_zeroes(at..at + len).expect("writes");
                    disk[at as usize..(at + len) as usize].fill(0);
                }
                // Memory keeps what is discarded.
                2 if format != Format::Raw => {
                    let end = at + random.below(size - at + 1);
                    writer.discard(at..end).expect("discards");
                    let (from, to) = (at.next_multiple_of(writer.unit()), end / writer.unit());
                    let to = if end == size { end } else { to * writer.unit() };
                    if from < to {
                        disk[from as usize..to as usize].fill(0);
                    }
                }
                _ => {
                    writer.write_at(&bytes, at).expect("writes");
                    disk[at as usize..(at + len) as usize].copy_from_slice(&bytes);
                }
            }
            let from = random.below(size - 4096);
            let mut read = vec![0; 4096];
            writer.read_at(&mut read, from).expect("reads");
            assert!(read == disk[from as usize..][..4096], "{format} {number}");
            match random.below(20) {
                0 => writer.flush().expect("flushes"),
                1 => {
                    writer.flush().expect("flushes");
                    writer = GuestWriter::open_locked(&storage, &options, "image").expect("opens");
                }
                _ => {}
            }
        }
        writer.flush().expect("flushes");
        drop(writer);
        let image = options.open_source(Reopened::of(&storage), "image").expect("opens");
        let mut read = vec![0; size as usize];
        image.read_at(&mut read, 0).expect("reads");
        assert!(read == disk, "{format}");
        if let Some(report) = image.check(&mut |_| {}).expect("checks") {
            assert_eq!((report.corruptions, report.leaks), (0, 0), "{format}");
        }
    }
}

#[test]
fn a_write_beyond_the_end_of_the_disk_is_an_error() {
    for format in formats() {
        let storage = new_image(format);
        let options = OpenOptions::new().format(format);
        let writer = GuestWriter::open_locked(&storage, &options, "image").expect("opens");
        for at in [writer.size() - 1, writer.size(), u64::MAX] {
            let error = writer.write_at(&[1, 2], at).expect_err("is beyond the end");
            assert_eq!(error.kind(), ErrorKind::Invalid);
            for outcome in [
                writer.write_zeroes(at..at.saturating_add(2).max(writer.size() + 1)),
                writer.fill_zeroes(at..at.saturating_add(2).max(writer.size() + 1)),
                writer.discard(at..at.saturating_add(2).max(writer.size() + 1)),
            ] {
                if at < u64::MAX {
                    assert_eq!(outcome.expect_err("is beyond").kind(), ErrorKind::Invalid);
                }
            }
        }
        writer.write_at(&[1], writer.size() - 1).expect("is within");
    }
}

#[test]
fn zeros_deallocate_space_and_are_not_stored_where_there_are_zeros() {
    let storage = new_image(Format::Qcow2);
    let options = OpenOptions::new().format(Format::Qcow2);
    let writer = GuestWriter::open_locked(&storage, &options, "image").expect("opens");
    let states = |writer: &GuestWriter| -> Vec<_> {
        let entries = writer.map(0..SIZE, usize::MAX).expect("maps");
        entries.into_iter().map(|entry| (entry.start, entry.data, entry.zero)).collect()
    };
    writer.write_zeroes(5..SIZE - 5).expect("writes");
    writer.flush().expect("flushes");
    assert_eq!(states(&writer), [(0, false, true)]);
    writer.write_at(&[1; 3 << 16], 1 << 16).expect("writes");
    assert_eq!(states(&writer), [(0, false, true), (1 << 16, true, false), (4 << 16, false, true)]);
    assert_eq!(writer.map(0..SIZE, 2).expect("maps").len(), 2);
    writer.write_zeroes((1 << 16) + 1..4 << 16).expect("writes");
    assert_eq!(states(&writer), [(0, false, true), (1 << 16, true, false), (2 << 16, false, true)]);
}

#[test]
fn what_cannot_be_stored_takes_a_bounded_amount_of_memory() {
    const PART: u64 = 1 << 20;
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("image");
    Create::new(Format::Qcow2).size(200 * PART).run(&path).expect("is created");
    let storage: Arc<dyn Storage> =
        Arc::new(MemoryStorage::new(std::fs::read(&path).expect("is read")));
    let options = OpenOptions::new().format(Format::Qcow2);
    let writer = GuestWriter::open_locked(&storage, &options, "image").expect("opens");
    let mut header = [0; 512];
    storage.read_exact_at(&mut header, 0).expect("reads");
    // The image cannot be opened any more, and so not be changed.
    storage.write_all_at(&[0; 512], 0).expect("writes");
    let write = |part: u64, byte| writer.write_at(&[byte; PART as usize], part * PART);
    let written = (0..200).take_while(|&part| write(part, 1).is_ok()).count() as u64;
    assert!((60..=64).contains(&written), "{written}");
    for part in written..200 {
        write(part, 1).expect_err("there is no room");
        writer.write_at(&[1], (part + 1) * PART - 1).expect_err("there is no room");
    }
    let pending = || writer.read_state().pending.bytes();
    assert!(pending() < MAX_PENDING + PART as usize, "{}", pending());
    writer.write_zeroes(150 * PART..151 * PART).expect_err("there is no room");
    write(3, 2).expect("overwrites the existing data");
    let mut read = vec![0; PART as usize];
    storage.write_all_at(&header, 0).expect("writes");
    writer.flush().expect("stores");
    assert_eq!(pending(), 0);
    for part in 0..written {
        writer.read_at(&mut read, part * PART).expect("reads");
        assert!(read.iter().all(|&byte| byte == if part == 3 { 2 } else { 1 }), "{part}");
    }
    write(199, 1).expect("writes");
}

#[test]
fn an_image_is_opened_by_its_name_if_its_format_is_named_and_nobody_uses_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("image");
    Create::new(Format::Qcow2).size(SIZE).run(&path).expect("is created");
    let error = GuestWriter::open(&path, &OpenOptions::new()).expect_err("is probed");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let options = OpenOptions::new().format(Format::Qcow2);
    let writer = GuestWriter::open(&path, &options).expect("opens");
    writer.write_at(b"abc", 7).expect("writes");
    writer.flush().expect("flushes");
    let shared = options.clone().force_share(true).open(&path).expect("opens");
    let mut read = [0; 3];
    shared.read_at(&mut read, 7).expect("reads");
    assert_eq!(&read, b"abc");
    if cfg!(unix) {
        let error = GuestWriter::open(&path, &options).expect_err("is in use");
        assert_eq!(error.kind(), ErrorKind::Locked);
    }
}
