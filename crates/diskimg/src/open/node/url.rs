//! Nodes of the protocols that the caller adds.

use super::options::NodeOptions;
use crate::error::{Error, Result};
use crate::open::location::Url;

/// The options of a node whose driver is a [protocol](crate::open::Protocol), which have not been used
/// yet.
#[derive(Debug)]
pub struct NodeUrl<'a> {
    driver: &'a str,
    options: &'a mut NodeOptions,
}

impl<'a> NodeUrl<'a> {
    pub(super) fn new(driver: &'a str, options: &'a mut NodeOptions) -> Self {
        Self { driver, options }
    }

    /// Returns the driver: a scheme of the protocol.
    pub fn driver(&self) -> &str {
        self.driver
    }

    /// Removes an option and returns its text. Keys of nested objects are joined by dots:
    /// `server.path`.
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) if the value is `null`.
    pub fn take(&mut self, key: &str) -> Result<Option<String>> {
        self.options.take(key)
    }

    /// Removes a switch and returns it.
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) if the value is neither `on` nor `off` nor a
    /// synonym.
    pub fn take_switch(&mut self, key: &str) -> Result<Option<bool>> {
        self.options.take_switch(key)
    }

    /// Removes options that make no difference here.
    pub fn ignore(&mut self, keys: &[&str]) {
        self.options.ignore(keys);
    }

    /// Removes the option `url` and returns its value.
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) if it is missing, or not a URL with the driver
    /// as its scheme.
    pub fn take_url(&mut self) -> Result<Url> {
        let driver = self.driver;
        let url = self.take("url")?.ok_or_else(|| {
            Error::invalid(format!("The '{driver}' block driver requires the option 'url'"))
        })?;
        Url::new(url).filter(|url| url.scheme() == driver).ok_or_else(|| {
            Error::invalid(format!("The URL of a '{driver}' node must start with '{driver}:'"))
        })
    }
}
