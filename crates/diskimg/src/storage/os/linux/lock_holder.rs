//! Which process holds a byte lock: proc_pid_fdinfo(5) lists the locks of each open file.

use super::identity_from;
use crate::storage::os::{FileId, LockHolder};
use std::fs::{self, File};
use std::path::Path;

/// Finds the process through the files that it has open. Those of other users are not visible.
pub(in crate::storage::os) fn lock_holder(file: &File, offset: u64) -> Option<LockHolder> {
    let id = FileId::of(file)?;
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find_map(|pid: u32| {
        let process = Path::new("/proc").join(pid.to_string());
        holds(&process, id, offset).then(|| LockHolder { pid, command: command(&process) })
    })
}

/// Returns true if a process has locked a byte of the file.
fn holds(process: &Path, id: FileId, offset: u64) -> bool {
    let Ok(open_files) = fs::read_dir(process.join("fd")) else { return false };
    open_files.flatten().any(|open_file| {
        let is_same = fs::metadata(open_file.path()).is_ok_and(|found| identity_from(&found) == id);
        is_same
            && fs::read_to_string(process.join("fdinfo").join(open_file.file_name()))
                .is_ok_and(|text| text.lines().any(|line| is_lock_on(line, offset)))
    })
}

/// Returns true for a line such as `lock: 1: OFDLCK ADVISORY READ -1 00:2b:92 100 101`, which ends
/// with the first and the last byte, if these include the one at `offset`.
fn is_lock_on(line: &str, offset: u64) -> bool {
    let mut fields = line.split_whitespace();
    if fields.next() != Some("lock:") || !fields.any(|field| field == "OFDLCK") {
        return false;
    }
    let mut range = fields.skip(4); // ADVISORY, READ, -1, device and inode
    let first = range.next().and_then(|first| first.parse().ok());
    let last = range.next().map(|last| last.parse().unwrap_or(u64::MAX)); // `EOF`
    first.zip(last).is_some_and(|(first, last)| (first..=last).contains(&offset))
}

/// Returns the name of the program that a process runs, cut by the system after 15 bytes.
fn command(process: &Path) -> String {
    let name = fs::read(process.join("comm")).unwrap_or_default();
    let name = String::from_utf8_lossy(&name);
    name.trim_end().chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_are_recognized_by_their_range() {
        let line = "lock:\t1: OFDLCK ADVISORY  READ -1 fe:00:4711 100 103";
        assert!(is_lock_on(line, 100) && is_lock_on(line, 103));
        assert!(!is_lock_on(line, 99) && !is_lock_on(line, 104));
        assert!(is_lock_on("lock:\t2: OFDLCK ADVISORY  WRITE -1 00:2b:92 0 EOF", 200));
        for other in [
            "lock:\t1: POSIX  ADVISORY  READ 812 fe:00:4711 100 103",
            "lock:\t1: FLOCK  ADVISORY  WRITE 812 fe:00:4711 0 EOF",
            "lock:\t1: OFDLCK ADVISORY  READ -1",
            "pos:\t0",
        ] {
            assert!(!is_lock_on(other, 100), "{other}");
        }
    }

    #[test]
    fn this_process_is_found_by_its_lock() {
        let file = tempfile::NamedTempFile::new().expect("creates");
        let file = file.as_file();
        assert!(super::super::lock_byte(file, 201).expect("locks"));
        let holder = lock_holder(file, 201).expect("found");
        assert_eq!(holder.pid, std::process::id());
        assert!(!holder.command.is_empty());
        assert!(lock_holder(file, 200).is_none());
    }
}
