//! Building of ISO images: assign every address, then write every byte in order.
//!
//! ```text
//!   Builder ──► tree of nodes ──► Plan ──► emit: to any writer, strictly in order
//!   tree, scan, rules,            │       write: to a file, with shared blocks if possible
//!   host, contents                │
//!                                 │
//!        names, joliet, identifier   a unique identifier for every file, in each tree
//!        charset                     character sets of names
//!        hierarchy                   numbers of directories, order of records
//!        translation                 files that list the original names
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
mod charset;
mod contents;
mod descriptors;
mod directory;
mod emit;
mod glob;
mod hierarchy;
mod host;
mod identifier;
mod interval;
mod joliet;
mod names;
mod options;
mod path_table;
mod plan;
mod rock_ridge;
mod rules;
mod same;
mod scan;
mod stream;
mod translation;
mod tree;
mod udf;
mod units;

pub use builder::Builder;
pub use charset::Charset;
pub(crate) use glob::matches as matches_pattern;
pub use interval::{Interval, IntervalOrigin, Zeroed};
pub use options::{
    AppendedPartition, BootEntry, BootImage, Charsets, CreateOptions, CylinderAlignment,
    Duplicates, Emulation, Hide, Hybrid, Joliet, Level, NameRules, PartitionContents,
    PartitionKind, RockRidge, TranslationTables,
};
pub use plan::Plan;
