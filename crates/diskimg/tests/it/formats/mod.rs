//! Formats, against the tools that others use.

mod fuzzed;
mod guest_disk;
mod hostile;
mod ova;
mod overlays;
mod readers;
mod real_images;
mod vmdk;
mod writers;
