//! ISO images against the tools that others use.

mod boot;
mod boot_reading;
mod machine;
mod sectors;
mod sessions;
mod tree;
mod udf;
mod writing;
mod zisofs;
