//! An open directory of the host. Its entries are created by a single path component, relative to
//! it: no name and no link leads elsewhere.

#[cfg_attr(unix, path = "directory/unix.rs")]
#[cfg_attr(windows, path = "directory/windows.rs")]
mod imp;

pub(super) use imp::{Directory, set_attributes};
