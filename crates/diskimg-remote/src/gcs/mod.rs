//! Google Cloud Storage: `gs://BUCKET/OBJECT`, by its XML API, which has the requests of S3.
//!
//! | | |
//! |---|---|
//! | HMAC keys | requests are signed as for S3 |
//! | tokens of OAuth 2.0 | requests carry the token; see `identity` |
//!
//! Everything else is that of [`s3`](crate::s3).

mod identity;
#[cfg(test)]
mod tests;

use crate::environment::Environment;
use crate::http::HttpOptions;
use crate::s3::{Dialect, Keys, OtherService, S3};
use crate::tokens::Tokens;
use diskimg::open::{Location, OpenMode, Protocol, Url};
use diskimg::storage::output::Publish;
use diskimg::storage::source::Source;
use diskimg::{Error, Result};
use identity::Identity;
use std::path::PathBuf;
use std::sync::Arc;

/// Google's service.
const ENDPOINT: &str = "https://storage.googleapis.com";

/// How Google Cloud Storage is accessed.
///
/// What is not set is taken from variables and files that Google's own libraries use. With
/// [`HttpOptions::forbid_private_addresses`], neither is used, and requests are not authorized unless
/// there are [`keys`](Self::keys): URLs of strangers are not for this user's keys.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct GcsOptions {
    /// Certificates, time limits and attempts. Headers and `.netrc` are not used.
    pub http: HttpOptions,
    /// The URL of the service or an emulator (`STORAGE_EMULATOR_HOST`).
    pub endpoint: Option<String>,
    /// HMAC keys (`GS_ACCESS_KEY_ID`, `GS_SECRET_ACCESS_KEY`), instead of tokens.
    pub keys: Option<Keys>,
    /// Whether requests are not authorized: for public objects.
    pub anonymous: bool,
    /// Whether an existing object is not replaced. If another program creates it at the same moment, the
    /// service guarantees it for objects of one request, with tokens, only.
    pub create_only: bool,
}

impl GcsOptions {
    /// Returns the files and directories that are read to access the service, for a program that
    /// restricts itself: certificates, the system's configuration of names, and keys.
    pub fn files(&self) -> Vec<PathBuf> {
        let http = HttpOptions { netrc: None, ..self.http.clone() };
        http.files().into_iter().chain(identity::files(&self.environment())).collect()
    }

    fn environment(&self) -> Environment {
        match self.http.forbid_private_addresses {
            true => Environment::empty(),
            false => Environment::of_process(),
        }
    }
}

/// The protocol of `gs:` URLs.
#[derive(Debug)]
pub struct Gcs(S3);

impl Gcs {
    /// Creates the protocol with the default options.
    ///
    /// # Errors
    /// As [`with_options`](Self::with_options).
    pub fn new() -> Result<Self> {
        Self::with_options(GcsOptions::default())
    }

    /// Creates the protocol. Connects to nothing.
    ///
    /// # Errors
    /// Returns [`Io`](diskimg::ErrorKind::Io) if a file with certificates cannot be read, and
    /// [`Invalid`](diskimg::ErrorKind::Invalid) if an option is malformed.
    pub fn with_options(options: GcsOptions) -> Result<Self> {
        let environment = options.environment();
        Self::in_environment(options, &environment)
    }

    fn in_environment(options: GcsOptions, environment: &Environment) -> Result<Self> {
        let emulator = environment.get("STORAGE_EMULATOR_HOST");
        let is_emulator = options.endpoint.is_none() && emulator.is_some();
        let endpoint = options.endpoint.clone().or(emulator);
        let endpoint = endpoint.unwrap_or_else(|| ENDPOINT.to_owned());
        let endpoint = match endpoint.contains("://") {
            true => endpoint,
            false => format!("http://{endpoint}"),
        };
        let get = |name: &str| environment.get(name).map(|value| value.trim().to_owned());
        let keys = match (get("GS_ACCESS_KEY_ID"), get("GS_SECRET_ACCESS_KEY")) {
            (Some(access), Some(secret)) => Some(Keys::new(access, secret, None)),
            _ => None,
        };
        let keys = options.keys.clone().or(keys).filter(|_| !options.anonymous);
        // Emulators have no accounts. Others are not for the tokens of this user.
        let is_google = endpoint.trim_end_matches('/') == ENDPOINT;
        let tokens = match keys.is_some()
            || options.anonymous
            || options.http.forbid_private_addresses
            || is_emulator
            || !is_google
        {
            true => None,
            false => Some(Tokens::new(Identity::new(&options.http, environment.clone())?)),
        };
        Ok(Self(S3::of_service(OtherService {
            http: options.http,
            endpoint,
            keys,
            create_only: options.create_only,
            dialect: Dialect::Google(tokens.map(Arc::new)),
        })?))
    }
}

/// Returns the URL of an object as that of one of S3.
fn translated(at: &Location) -> Result<Location> {
    let malformed = || Error::invalid("the URL is malformed; expected gs://BUCKET/OBJECT");
    let Location::Url(url) = at else { return Err(malformed()) };
    let rest = url.as_str().strip_prefix("gs://").ok_or_else(malformed)?;
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let mut text = format!("s3://{path}");
    for (number, item) in query.split('&').filter(|item| !item.is_empty()).enumerate() {
        let generation = item.strip_prefix("generation=").filter(|id| {
            number == 0 && !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit())
        });
        let unknown =
            || Error::invalid("the URL of an object has one parameter at most: generation=NUMBER");
        text += &format!("?versionId={}", generation.ok_or_else(unknown)?);
    }
    Ok(Url::new(text).ok_or_else(malformed)?.into())
}

impl Protocol for Gcs {
    fn schemes(&self) -> &[&str] {
        &["gs"]
    }

    fn open(&self, at: &Location, how: &OpenMode) -> Result<Arc<dyn Source>> {
        self.0.open(&translated(at)?, how)
    }

    fn join(&self, base: &Location, name: &str) -> Result<Location> {
        let Location::Url(joined) = self.0.join(&translated(base)?, name)? else {
            return Err(Error::invalid("it is not a URL"));
        };
        let joined = joined.as_str().replacen("s3:", "gs:", 1);
        Ok(Url::new(joined).ok_or_else(|| Error::invalid("it is not a URL"))?.into())
    }

    fn create(&self, at: &Location) -> Result<Box<dyn Publish>> {
        self.0.create_named(&translated(at)?, at.to_string())
    }
}
