//! The sandbox on Linux: landlock(7) for files, seccomp(2) for system calls.

mod calls;
mod files;

pub(super) use calls::restrict_calls;
pub(super) use files::restrict_files;
