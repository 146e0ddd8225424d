//! Starting threads under limits on processes and memory.

use crate::storage::os::address_space_limit;
use std::thread::{Builder, Scope, ScopedJoinHandle};

/// Bytes of address space that must be free before another thread is started under a limit: its
/// stack takes 2 MiB. If the rest is too short for what the C library allocates for each thread, it
/// ends the process.
const ROOM: usize = 16 << 20;

/// Starts a thread. Returns `None` if that is not possible: the caller then does the work itself.
pub(crate) fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Option<ScopedJoinHandle<'scope, T>> {
    let has_room = || Vec::<u8>::new().try_reserve_exact(ROOM).is_ok();
    if address_space_limit().is_some() && !has_room() {
        return None;
    }
    Builder::new().spawn_scoped(scope, work).ok()
}
