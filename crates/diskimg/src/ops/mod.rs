//! Floor 3: what one does with images. Verbs know [`Image`](crate::Image) and
//! the writing side of a format, and no format by name.

mod compare;
mod convert;
mod create;
mod disk;
mod inspect;
mod map;
mod measure;
mod new_image;
mod pipeline;
mod progress;

pub use compare::{CompareError, CompareStage, Comparison, compare};
pub use convert::{
    Convert, DigestAlgorithm, Digests, FileDigest, Reflink, Report, Salvaged, Sparse,
};
pub use create::{Create, Created};
pub use inspect::{InspectOptions, inspect, inspect_source};
pub use map::{MapEntry, map};
pub use measure::{measure, measure_size};
pub use progress::{Callback, Progress};
