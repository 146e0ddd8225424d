//! Building of ISO images: assign every address, then write every byte in order.
//!
//! ```text
//!   Builder ──► tree of nodes ──► Plan ──► emit: to any writer, strictly in order
//!   tree, scan, host, contents    │            write: to a file, with shared blocks if possible
//!                                 │
//!        names, joliet, identifier   a unique identifier for every file, in each tree
//!        hierarchy                   numbers of directories, order of records
//!        plan                        every address, the exact size
//!        boot                        boot catalog, boot images, MBR, GPT
//!        descriptors, path_table, directory, rock_ridge      encoding, on demand
//!        stream, emit                                        output
//! ```
//!
//! The same tree and options produce the same bytes, independent of the location of the tree and of
//! the order in which the file system lists names.

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
