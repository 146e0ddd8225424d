//! The backing file that a new image refers to.

/// The backing file of a new image.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Backing {
    /// Name to record, as given by the user.
    pub name: String,
    /// Name of its format, to record.
    pub format: Option<String>,
    /// The first of its [`Layer::content_ids`](crate::Layer::content_ids), for formats that record
    /// it. The operations fill it in.
    pub content_id: Option<String>,
    /// Its [`Layer::disk_id`](crate::Layer::disk_id), which an overlay has as well. The operations
    /// fill it in.
    pub disk_id: Option<String>,
    /// Its [`Layer::sector_sizes`](crate::Layer::sector_sizes), which an overlay has as well. The
    /// operations fill it in.
    pub sector_sizes: Option<[u64; 2]>,
}

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
