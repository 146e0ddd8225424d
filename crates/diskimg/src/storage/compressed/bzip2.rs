//! bzip2.

use super::READ_BUFFER;
use crate::storage::source::{Source, SourceReader};
use bzip2::bufread::MultiBzDecoder;
use std::io::{BufReader, Read};

pub(super) fn reader(source: &dyn Source) -> impl Read + Send + '_ {
    MultiBzDecoder::new(BufReader::with_capacity(READ_BUFFER, SourceReader::whole(source)))
}
