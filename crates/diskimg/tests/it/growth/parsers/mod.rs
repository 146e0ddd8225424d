//! The work of every parser of text, archives, ISO 9660 and UDF grows no faster than its input.
//!
//! Each input is built at three sizes, up to the limit of its parser where that is possible. What
//! is read is counted; only where there is nothing to count, processor time is compared.

mod archives;
mod iso;
mod text;
mod udf;

use diskimg::storage::source::MemorySource;
use diskimg::{Format, OpenOptions, Source};
use diskimg_testkit::growth::require_linear_time;
use std::sync::Arc;

/// Makes an input of about this size.
type Make<'a> = &'a dyn Fn(usize) -> Vec<u8>;

/// Opens `bytes` in `format`. Whether that succeeds does not matter.
fn open(format: Format, bytes: &[u8]) {
    let source: Arc<dyn Source> = Arc::new(MemorySource::new(bytes.to_vec()));
    let _ = OpenOptions::new().format(format).open_source(source, "input");
}

/// Requires that opening an input takes time in proportion to its length. `make` makes one of about
/// this many bytes; the longest has `max`.
fn require_linear_open(what: &str, format: Format, max: usize, make: impl FnMut(usize) -> Vec<u8>) {
    require_linear_time(what, max / 64, max / 4, make, |bytes| open(format, bytes));
}
