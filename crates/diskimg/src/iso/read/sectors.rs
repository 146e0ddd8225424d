//! Sectors.
use crate::host::source::Source;
use crate::vocabulary::error::Result;
use std::sync::Arc;
pub(crate) fn cooked(source: Arc<dyn Source>) -> Result<Arc<dyn Source>> {
    Ok(source)
}
