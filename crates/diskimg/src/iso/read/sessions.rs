//! Sessions.
use crate::host::source::Source;
use crate::vocabulary::error::Result;
use serde::Serialize;
/// A session.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct SessionInfo {
    /// First sector.
    pub start_sector: u64,
    /// First descriptor.
    pub descriptors_sector: u64,
}
pub(crate) fn find(_: &dyn Source) -> Result<Vec<SessionInfo>> {
    Ok(Vec::new())
}
