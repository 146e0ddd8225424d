//! The library against the tools that others use: qemu-img and qemu-io are
//! asked the same questions, over generated images and the whole option space.
//!
//! `DISKIMG_FAULTS=full` lets every operation fail once, not some (`faults`).
//!
//! `DISKIMG_CASES=N` runs N generated cases of each property instead of the
//! usual number.

#![allow(clippy::unwrap_used, unreachable_pub)]

mod appliance;
mod caching;
mod content_ids;
mod cve;
mod disk;
mod esx;
mod existing;
mod faults;
mod fuzzed;
mod guest_disk;
mod hosted;
mod hostile;
mod inspecting;
mod iso;
mod levels;
mod limits;
mod mapped;
mod maps;
mod measures;
mod mutations;
mod openstack;
mod oracles;
mod outputs;
mod ova;
mod ova_hostile;
mod ova_integrity;
mod ova_writing;
mod overlays;
mod passing;
mod read_back;
mod readers;
mod real_images;
mod references;
mod scale;
mod sharing;
mod split;
mod tool;
mod vmdk_layouts;
mod vmdk_matrix;
mod writers;
