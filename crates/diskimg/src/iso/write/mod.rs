//! Building ISO images: plan every address, then emit every byte in order.

mod options;

pub use options::{
    AppendedPartition, BootEntry, BootImage, CreateOptions, Emulation, Hybrid, Joliet, Level,
    NameRules, RockRidge,
};
