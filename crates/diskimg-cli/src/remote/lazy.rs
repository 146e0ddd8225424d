//! Protocols that read their certificates, passwords and keys when the first URL is opened.

use diskimg::Result;
use diskimg::open::{Location, NodeUrl, OpenMode, Protocol, Url};
use diskimg::storage::edit::Storage;
use diskimg::storage::output::Publish;
use diskimg::storage::source::Source;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// A protocol that is made when it is used.
pub(super) struct Lazy<F> {
    schemes: &'static [&'static str],
    make: F,
    made: Mutex<Option<Arc<dyn Protocol>>>,
}

impl<F> Lazy<F>
where
    F: Fn() -> Result<Arc<dyn Protocol>>,
{
    pub(super) fn new(schemes: &'static [&'static str], make: F) -> Self {
        Self { schemes, make, made: Mutex::default() }
    }

    fn get(&self) -> Result<Arc<dyn Protocol>> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(protocol) = &*made {
            return Ok(Arc::clone(protocol));
        }
        let new = (self.make)()?;
        *made = Some(Arc::clone(&new));
        Ok(new)
    }
}

/// What it is made of may be secret.
impl<F> fmt::Debug for Lazy<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lazy").field("schemes", &self.schemes).finish_non_exhaustive()
    }
}

impl<F> Protocol for Lazy<F>
where
    F: Fn() -> Result<Arc<dyn Protocol>> + Send + Sync,
{
    fn schemes(&self) -> &[&str] {
        self.schemes
    }

    fn open(&self, at: &Location, how: &OpenMode) -> Result<Arc<dyn Source>> {
        self.get()?.open(at, how)
    }

    fn join(&self, base: &Location, name: &str) -> Result<Location> {
        self.get()?.join(base, name)
    }

    fn create(&self, at: &Location) -> Result<Box<dyn Publish>> {
        self.get()?.create(at)
    }

    fn modify(&self, at: &Location) -> Result<Arc<dyn Storage>> {
        self.get()?.modify(at)
    }

    fn node_url(&self, node: &mut NodeUrl<'_>) -> Result<Url> {
        self.get()?.node_url(node)
    }
}
