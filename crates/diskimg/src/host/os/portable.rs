//! Systems of which nothing is assumed: every optional ability answers "no".

use super::Segment;
use std::fs::File;
use std::io;

pub(super) fn segment_at(_: &File, _: u64, _: u64) -> io::Result<Option<Segment>> {
    Ok(None)
}

pub(super) fn punch_hole(_: &File, _: u64, _: u64) -> io::Result<bool> {
    Ok(false)
}

pub(super) fn preallocate(_: &File, _: u64, _: u64) -> io::Result<bool> {
    Ok(false)
}

pub(super) fn reflink(_: &File, _: u64, _: &File, _: u64, _: u64) -> io::Result<bool> {
    Ok(false)
}

pub(super) fn copy_in_kernel(_: &File, _: u64, _: &File, _: u64, _: u64) -> io::Result<bool> {
    Ok(false)
}

pub(super) fn address_space_limit() -> Option<u64> {
    None
}
