//! Starting threads under limits on processes and memory.

use crate::storage::buffer;
use std::thread::{Builder, Scope, ScopedJoinHandle};

/// Bytes of memory that must be free before another thread is started: its stack takes 2 MiB. If the
/// rest is too short for what the C library allocates for each thread, it ends the process.
const ROOM: usize = 16 << 20;

/// Starts a thread. Returns `None` if that is not possible: the caller then does the work itself.
pub(crate) fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Option<ScopedJoinHandle<'scope, T>> {
    if !buffer::is_free(ROOM) {
        return None;
    }
    Builder::new().spawn_scoped(scope, work).ok()
}
