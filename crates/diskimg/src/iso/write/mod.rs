//! Building ISO images: plan every address, then emit every byte in order.
//!
//! ```text
//!   Builder ──► tree of nodes ──► Plan ──► emit: any writer, strictly in order
//!   tree, scan, host, contents    │            write: a file, shared blocks where it can
//!                                 │
//!        names, joliet, identifier   a unique name for every file, in each tree
//!        hierarchy                   directories numbered, records in order
//!        plan                        every address, the exact size
//!        boot                        what starts a machine
//!        descriptors, path_table, directory, rock_ridge      the bytes, when they are wanted
//!        stream, emit                                        and out they go
//! ```
//!
//! The same tree and options make the same bytes, whatever the order in which
//! a file system lists its names, and wherever the tree lies.

mod boot;
mod builder;
mod contents;
mod descriptors;
mod directory;
mod emit;
mod glob;
mod hierarchy;
mod host;
mod identifier;
mod joliet;
mod names;
mod options;
mod path_table;
mod plan;
mod rock_ridge;
mod same;
mod scan;
mod stream;
mod tree;

pub use builder::Builder;
pub use options::{
    AppendedPartition, BootEntry, BootImage, CreateOptions, Emulation, Hybrid, Joliet, Level,
    NameRules, PartitionContents, RockRidge,
};
pub use plan::Plan;
