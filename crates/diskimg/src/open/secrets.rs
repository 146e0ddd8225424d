//! Secrets: passwords and keys, which images and locations refer to by ID.

use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::fmt;
use zeroize::Zeroizing;

/// Secrets by ID, as QEMU's `--object secret` defines them.
///
/// Descriptions of images refer to a secret by its ID (`encrypt.key-secret`). The bytes are
/// overwritten with zeros when they are dropped, and `Debug` prints only the IDs.
///
/// ```
/// use diskimg::{OpenOptions, Secrets};
///
/// let mut secrets = Secrets::new();
/// secrets.insert("sec0", b"correct horse".to_vec());
/// assert_eq!(secrets.get("sec0"), Some(&b"correct horse"[..]));
/// assert_eq!(format!("{secrets:?}"), r#"Secrets {"sec0"}"#);
/// let options = OpenOptions::new().secrets(secrets);
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secrets(BTreeMap<String, Zeroizing<Vec<u8>>>);

/// No secrets.
pub(crate) static NO_SECRETS: Secrets = Secrets(BTreeMap::new());

impl Secrets {
    /// Creates an empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a secret. It replaces one with the same ID.
    pub fn insert(&mut self, id: impl Into<String>, secret: impl Into<Vec<u8>>) -> &mut Self {
        self.0.insert(id.into(), Zeroizing::new(secret.into()));
        self
    }

    /// Returns the bytes of the secret `id`.
    pub fn get(&self, id: &str) -> Option<&[u8]> {
        self.0.get(id).map(|secret| secret.as_slice())
    }

    /// Returns true if there is a secret `id`.
    pub fn contains(&self, id: &str) -> bool {
        self.0.contains_key(id)
    }

    /// Returns the bytes of the secret `id`, which an image or a location needs.
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) if there is no such secret.
    pub fn require(&self, id: &str) -> Result<&[u8]> {
        self.get(id).ok_or_else(|| Error::invalid(format!("No secret with id '{id}'")))
    }
}

/// Prints only the IDs.
impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets ")?;
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OpenOptions;

    #[test]
    fn debug_output_has_no_bytes_of_a_secret() {
        let mut secrets = Secrets::new();
        secrets.insert("key", *b"hunter2").insert("key", *b"hunter3").insert("b", "");
        assert_eq!(secrets.get("key"), Some(&b"hunter3"[..]));
        assert_eq!(secrets.get("b"), Some(&b""[..]));
        let error = secrets.require("zz").expect_err("unknown");
        assert_eq!(error.to_string(), "No secret with id 'zz'");
        assert_eq!(format!("{secrets:?}"), r#"Secrets {"b", "key"}"#);
        let options = OpenOptions::new().secrets(secrets);
        assert!(format!("{options:?}").contains(r#"Secrets {"b", "key"}"#));
    }
}
