//! The operations on images. They use [`Image`](crate::Image) and the writing side of a format, and
//! name no format.

mod amend;
mod bench;
mod check;
mod commit;
mod compare;
mod convert;
mod create;
mod disk;
#[cfg(feature = "picture")]
mod draw;
mod guest_writer;
mod in_place;
mod info;
#[cfg(feature = "inspect")]
mod inspect;
mod map;
mod measure;
mod new_image;
mod pipeline;
mod plan;
mod progress;
mod rebase;
mod repair;
mod resize;

pub use amend::Amend;
pub use bench::Bench;
pub use check::Check;
pub use commit::{Commit, Committed};
pub use compare::{Compare, CompareError, CompareStage, Comparison};
pub use convert::{
    Convert, DigestAlgorithm, Digests, FileDigest, Reflink, Report, Salvaged, Sparse,
};
pub use create::{Create, Created};
#[cfg(feature = "picture")]
pub use draw::Draw;
pub use guest_writer::GuestWriter;
#[cfg(feature = "inspect")]
pub use inspect::{InspectOptions, inspect, inspect_source};
pub use map::{MapEntries, MapEntry, map};
pub use measure::{measure, measure_size};
pub use plan::Plan;
pub use progress::{Callback, Progress};
pub use rebase::{Rebase, Rebased};
pub use repair::{Repair, Repaired};
pub use resize::{NewSize, Resize, Resized};
