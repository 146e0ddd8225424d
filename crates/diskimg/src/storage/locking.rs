//! Locks on image files, compatible with QEMU's: they keep two processes from using an image in
//! ways that conflict, such as converting the disk of a running virtual machine.
//!
//! ```text
//!   byte 100 + n of the file   locked by every process that uses permission n
//!   byte 200 + n of the file   locked by every process that does not share permission n
//!
//!   n = 0 consistent read, 1 write, 2 write unchanged, 3 resize
//! ```
//!
//! All locks are shared, so that any number of processes can lock the same byte. A process first
//! sets its own locks and then looks for conflicting locks of others. The bytes need not exist.
//!
//! The protocol is that of QEMU's `block/file-posix.c`. Locks are advisory, and belong to the open
//! file: they are released when it is closed.
//!
//! On Windows, where QEMU sets no such locks, the share modes of open files keep readers and writers
//! apart: as here, QEMU opens a file so that nobody can write it meanwhile. On other systems than
//! Linux and Windows, and on file systems without locks, nothing is locked.

use crate::storage::lock;
use crate::storage::os::{self, Exclusion, FileId};
use bitflags::bitflags;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex};

pub use crate::storage::os::LockHolder;

/// Offset of the locks for permissions that are used.
const USED_BASE: u64 = 100;

/// Offset of the locks for permissions that are not shared.
const UNSHARED_BASE: u64 = 200;

bitflags! {
    /// What a process does with an image file, in QEMU's terms.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct Permissions: u8 {
        /// Reads data that is consistent at some point in time.
        const CONSISTENT_READ = 1 << 0;
        /// Writes.
        const WRITE = 1 << 1;
        /// Writes without changing the visible data.
        const WRITE_UNCHANGED = 1 << 2;
        /// Changes the length.
        const RESIZE = 1 << 3;
    }
}

impl Permissions {
    /// Returns the number of the permission and QEMU's name for it, for each permission in the set.
    fn numbered(self) -> impl Iterator<Item = (u64, &'static str)> {
        let names = ["consistent read", "write", "write unchanged", "resize"];
        (0..).zip(names).filter(move |(n, _)| self.bits() & 1 << n != 0)
    }
}

/// What a process does with an image file, and what it lets other processes do at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lock {
    uses: Permissions,
    shares: Permissions,
}

impl Lock {
    /// Reads the disk's data. Other processes may read, too, but not write.
    pub const READ: Self = Self { uses: Permissions::CONSISTENT_READ, ..Self::READ_METADATA };

    /// Reads metadata. Other processes may read, too, but not write.
    pub const READ_METADATA: Self = Self {
        uses: Permissions::empty(),
        shares: Permissions::CONSISTENT_READ.union(Permissions::WRITE_UNCHANGED),
    };

    /// Modifies and resizes the image. No other process may open it, unless it ignores locks.
    pub const WRITE: Self = Self {
        uses: Permissions::CONSISTENT_READ.union(Permissions::WRITE).union(Permissions::RESIZE),
        ..Self::READ_METADATA
    };

    /// Locks the file until it is closed. The result must be dropped then.
    ///
    /// # Errors
    /// Returns an error that wraps a [`LockConflict`] if the lock conflicts with that of another
    /// process, and the error of the system if locking fails for another reason than that the file
    /// system has no locks.
    pub(crate) fn acquire(self, file: &File) -> io::Result<HeldLock> {
        let writes = self.uses.contains(Permissions::WRITE);
        let conflict = |_| LockConflict { permission: "write", shared: !writes, holder: None };
        if let Some(exclusion) = os::exclude_writers(file, writes).map_err(conflict)? {
            return Ok(HeldLock::new(self, FileId::of(file), Some(exclusion)));
        }
        let unshared = self.shares.complement();
        let own = self.uses.numbered().map(|(n, _)| USED_BASE + n);
        let own = own.chain(unshared.numbered().map(|(n, _)| UNSHARED_BASE + n));
        for byte in own {
            if !os::lock_byte(file, byte)? {
                WITHOUT_LOCKS.fetch_or(writes, Ordering::Relaxed);
                return Ok(HeldLock::new(self, None, None));
            }
        }
        self.check(file)?;
        Ok(HeldLock::new(self, FileId::of(file), None))
    }

    /// Verifies that no other open file has a conflicting lock.
    fn check(self, file: &File) -> io::Result<()> {
        let unshared = self.uses.numbered().map(|(n, name)| (UNSHARED_BASE + n, name, false));
        let not_allowed = self.shares.complement().numbered();
        let used = not_allowed.map(|(n, name)| (USED_BASE + n, name, true));
        for (byte, permission, shared) in unshared.chain(used) {
            if os::is_byte_locked(file, byte)? {
                let holder = holder_of(file, byte);
                return Err(LockConflict { permission, shared, holder }.into());
            }
        }
        Ok(())
    }
}

/// Removes all locks of an open file. Closing it is not enough: a process that another thread is
/// starting has a copy of every descriptor until it runs its program.
pub(crate) fn release(file: &File) {
    for base in [USED_BASE, UNSHARED_BASE] {
        for (n, _) in Permissions::all().numbered() {
            // A lock that cannot be removed ends with the file.
            let _ = os::unlock_byte(file, base + n);
        }
    }
}

/// Whether a file was written whose file system has no locks.
static WITHOUT_LOCKS: AtomicBool = AtomicBool::new(false);

/// Returns true if, since the last call, this process has opened a file to modify it that cannot be
/// locked, because its file system has no locks: other processes that use it are not noticed then.
pub fn take_modified_without_locks() -> bool {
    WITHOUT_LOCKS.swap(false, Ordering::Relaxed)
}

/// Who holds locks on files, as far as it was noted.
static HOLDERS: LazyLock<Mutex<HashMap<FileId, LockHolder>>> = LazyLock::new(Mutex::default);

/// Finds out now which processes have locked these files, for the errors of a process that will not
/// be able to read `/proc`. Files that do not exist are ignored.
pub fn note_lock_holders<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>) {
    for path in paths {
        let Ok(found) = os::Located::at(path.as_ref()) else { continue };
        // A device or a pipe may do something when it is opened.
        let is_file = found.metadata().is_ok_and(|metadata| metadata.is_file());
        let Some(file) = is_file.then(|| found.open().ok()).flatten() else { continue };
        let bases = [UNSHARED_BASE, USED_BASE];
        let bytes = bases
            .into_iter()
            .flat_map(|base| Permissions::all().numbered().map(move |(n, _)| base + n));
        let is_locked = |byte: &u64| os::is_byte_locked(&file, *byte).unwrap_or(false);
        let holder = bytes.filter(is_locked).find_map(|byte| os::lock_holder(&file, byte));
        if let Some((id, holder)) = FileId::of(&file).zip(holder) {
            lock(&HOLDERS).insert(id, holder);
        }
    }
}

/// Returns the process that has locked a byte.
fn holder_of(file: &File, byte: u64) -> Option<LockHolder> {
    let noted = || lock(&HOLDERS).get(&FileId::of(file)?).cloned();
    os::lock_holder(file, byte).or_else(noted)
}

/// The files that this process has locked, with the number of locks.
static HELD: LazyLock<Mutex<HashMap<FileId, usize>>> = LazyLock::new(Mutex::default);

/// A lock that this process holds.
#[derive(Debug)]
pub(crate) struct HeldLock {
    file: Option<FileId>,
    #[allow(dead_code, reason = "held")]
    exclusion: Option<Exclusion>,
    lock: Lock,
}

impl HeldLock {
    /// Returns true if it includes what `wanted` would do: a lock for writing allows reading.
    pub(crate) fn includes(&self, wanted: Lock) -> bool {
        self.lock.uses.contains(wanted.uses) && wanted.shares.contains(self.lock.shares)
    }

    fn new(lock: Lock, file: Option<FileId>, exclusion: Option<Exclusion>) -> Self {
        if let Some(file) = file {
            *crate::storage::lock(&HELD).entry(file).or_default() += 1;
        }
        Self { file, exclusion, lock }
    }
}

impl Drop for HeldLock {
    fn drop(&mut self) {
        let Some(file) = self.file else { return };
        let mut held = lock(&HELD);
        if let Some(count) = held.get_mut(&file) {
            *count -= 1;
            if *count == 0 {
                held.remove(&file);
            }
        }
    }
}

/// Verifies that no other process uses the file in a way that conflicts with `wanted`. Does not lock
/// it, so that several processes may check a file at the same time. Does nothing if this process
/// itself has locked the file, because the locks of others cannot be told apart from its own.
///
/// # Errors
/// As [`Lock::acquire`].
pub(crate) fn require_unlocked(file: &File, wanted: Lock) -> io::Result<()> {
    let own = FileId::of(file).is_some_and(|id| lock(&HELD).contains_key(&id));
    if own { Ok(()) } else { wanted.check(file) }
}

/// The error that another process uses a file in a conflicting way. The text is QEMU's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Failed to get {}\"{permission}\" lock", if *.shared { "shared " } else { "" })]
pub struct LockConflict {
    permission: &'static str,
    /// True if the other process uses a permission that this one does not share, false if it does
    /// not share a permission that this one uses.
    shared: bool,
    holder: Option<LockHolder>,
}

impl LockConflict {
    /// Returns the other process, if the system tells which it is. On Linux, this is so for
    /// processes whose open files this one may see in `/proc`.
    pub fn holder(&self) -> Option<&LockHolder> {
        self.holder.as_ref()
    }
}

impl From<LockConflict> for io::Error {
    fn from(conflict: LockConflict) -> Self {
        Self::new(io::ErrorKind::WouldBlock, conflict)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// Returns the result of acquiring `second` while `first` is held on another open file.
    fn while_held(first: Lock, second: Lock) -> Result<(), String> {
        let file = tempfile::NamedTempFile::new().expect("creates");
        let _held = first.acquire(file.as_file()).expect("locks");
        let other = File::options().read(true).write(true).open(file.path()).expect("opens");
        second.acquire(&other).map(drop).map_err(|e| e.to_string())
    }

    #[test]
    fn readers_share_a_file_and_writers_do_not() {
        assert_eq!(while_held(Lock::READ, Lock::READ), Ok(()));
        assert_eq!(while_held(Lock::READ, Lock::READ_METADATA), Ok(()));
        for reader in [Lock::READ, Lock::READ_METADATA] {
            let error = while_held(Lock::WRITE, reader).expect_err("conflict");
            assert_eq!(error, "Failed to get shared \"write\" lock");
            let error = while_held(reader, Lock::WRITE).expect_err("conflict");
            assert_eq!(error, "Failed to get \"write\" lock");
        }
        let error = while_held(Lock::WRITE, Lock::WRITE).expect_err("conflict");
        assert_eq!(error, "Failed to get \"write\" lock");
    }

    #[test]
    fn a_lock_ends_when_the_file_is_closed() {
        let file = tempfile::NamedTempFile::new().expect("creates");
        let open = || File::options().read(true).write(true).open(file.path()).expect("opens");
        let (first, second) = (open(), open());
        let held = Lock::WRITE.acquire(&first).expect("locks");
        Lock::READ.acquire(&second).expect_err("conflict");
        drop((first, held));
        Lock::READ.acquire(&second).expect("locks");
    }

    #[test]
    fn locks_of_this_process_do_not_keep_it_from_replacing_a_file() {
        let file = tempfile::NamedTempFile::new().expect("creates");
        let open = || File::options().read(true).write(true).open(file.path()).expect("opens");
        let (first, second) = (open(), open());
        let held = Lock::READ.acquire(&first).expect("locks");
        require_unlocked(&second, Lock::WRITE).expect("own lock");
        // As if another process held it.
        drop(held);
        require_unlocked(&second, Lock::WRITE).expect_err("conflict");
    }
}
