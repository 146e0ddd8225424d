//! ISO images against the tools that others use.

mod boot;
mod boot_reading;
mod machine;
mod tree;
mod writing;
