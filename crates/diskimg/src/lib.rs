//! Read, write and convert disk images.
pub mod formats;
pub mod host;
mod verbs;
mod vocabulary;

pub use host::output::{Durability, Output};
pub use host::source::Source;
pub use verbs::*;
pub use vocabulary::error::{Error, ErrorKind, Result};
pub use vocabulary::fetch::Fetcher;
pub use vocabulary::format::Format;
pub use vocabulary::image::{Image, Reader};
pub use vocabulary::layer::{Geometry, Layer, ParentReference};
pub use vocabulary::limits::Limits;
pub use vocabulary::open::{OpenOptions, SnapshotSelector};
pub use vocabulary::options::{OptionKind, OptionSpec, Options, parse_size};
pub use vocabulary::reference::References;
pub use vocabulary::{check, conformance, extent, info, open, reference, target};
