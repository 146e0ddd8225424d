//! The backing file that a new image refers to.

use crate::model::target::Backing;

impl Backing {
    /// Returns a backing file with this name, which the new image records as it is given here. A
    /// relative name is resolved from the directory of the new image.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Sets the name of the backing file's format, which the new image records. Without it, the
    /// format is probed.
    #[must_use]
    pub fn with_format(mut self, format: impl Into<String>) -> Self {
        self.format = Some(format.into());
        self
    }
}
