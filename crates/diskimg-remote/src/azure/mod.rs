//! Azure Blob Storage: `az://CONTAINER/BLOB`.
//!
//! ```text
//!   Azure::open(URL)   ─► Get Blob, bytes 0-65535 ─► RangeSource ─► Cached
//!   Azure::create(URL) ─► blocks of a temporary file ─► Put Block, Put Block List; see `write`
//! ```
//!
//! Requests carry what the user's variables provide; see `access`. The first answer fixes the `ETag`
//! of the blob that is read, as in [`s3`](crate::s3).

mod access;
mod blob;
mod settings;
#[cfg(test)]
mod tests;
mod tokens;
mod url;
mod write;

use crate::environment::Environment;
use crate::http::answer::{Answer, Unexpected};
use crate::http::client::{at_first, first_answer};
use crate::http::transport::{Attempt, Transport, wrong};
use crate::http::{self, HttpOptions};
use crate::s3::credentials::environment::token_place;
use access::Access;
use blob::Blob;
use diskimg::open::{Location, OpenMode, Protocol, Url};
use diskimg::storage::output::Publish;
use diskimg::storage::source::{Source, SourceError};
use diskimg::{Error, Result};
use settings::Settings;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use url::BlobUrl;

/// How storage accounts are accessed.
///
/// What is not set is taken from variables, which have the names that Azure's own command uses; see
/// the documentation of the command. With [`HttpOptions::forbid_private_addresses`], they are not
/// used, and requests are only authorized by what is set here: URLs of strangers are not for the keys
/// of this user.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct AzureOptions {
    /// Certificates, time limits and attempts. Headers and `.netrc` are not used.
    pub http: HttpOptions,
    /// The name of the storage account (`AZURE_STORAGE_ACCOUNT`).
    pub account: Option<String>,
    /// The key of the account, in base64 (`AZURE_STORAGE_KEY`).
    pub key: Option<String>,
    /// A shared access signature (`AZURE_STORAGE_SAS_TOKEN`), instead of a key.
    pub sas_token: Option<String>,
    /// The URL of the blob service (`AZURE_STORAGE_SERVICE_ENDPOINT`);
    /// `https://ACCOUNT.blob.core.windows.net` without it. In emulators, its path is the name of the
    /// account.
    pub endpoint: Option<String>,
    /// Whether requests are not authorized: for public blobs.
    pub anonymous: bool,
    /// Whether an existing blob is not replaced.
    pub create_only: bool,
}

/// Without the secrets.
impl fmt::Debug for AzureOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AzureOptions")
            .field("account", &self.account)
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

impl AzureOptions {
    /// Returns the files and directories that are read to access storage accounts, for a program that
    /// restricts itself: certificates, the system's configuration of names, and tokens.
    pub fn files(&self) -> Vec<PathBuf> {
        let http = HttpOptions { netrc: None, ..self.http.clone() };
        let token = self.environment().get("AZURE_FEDERATED_TOKEN_FILE");
        http.files().into_iter().chain(token.map(|file| token_place(file.into()))).collect()
    }

    fn environment(&self) -> Environment {
        match self.http.forbid_private_addresses {
            true => Environment::empty(),
            false => Environment::of_process(),
        }
    }
}

/// The protocol of `az:` URLs.
#[derive(Debug)]
pub struct Azure {
    options: AzureOptions,
    environment: Environment,
    transport: Arc<Transport>,
    /// How the account of the options is accessed, once it was used.
    access: OnceLock<Arc<Access>>,
}

impl Azure {
    /// Creates the protocol with the default options.
    ///
    /// # Errors
    /// As [`with_options`](Self::with_options).
    pub fn new() -> Result<Self> {
        Self::with_options(AzureOptions::default())
    }

    /// Creates the protocol. Connects to nothing.
    ///
    /// # Errors
    /// Returns [`Io`](diskimg::ErrorKind::Io) if a file with certificates cannot be read.
    pub fn with_options(options: AzureOptions) -> Result<Self> {
        let environment = options.environment();
        Self::in_environment(options, environment)
    }

    fn in_environment(options: AzureOptions, environment: Environment) -> Result<Self> {
        let transport = Arc::new(Transport::new(&options.http)?);
        Ok(Self { options, environment, transport, access: OnceLock::new() })
    }

    fn blob(&self, at: &Location) -> Result<Blob> {
        let Location::Url(url) = at else { return Err(Error::invalid("it is not a URL")) };
        let BlobUrl { container, name, snapshot, account, endpoint } = BlobUrl::parse(url)?;
        let settings = Settings::of(&self.options, &self.environment)?;
        // A key is for the account to which it belongs, and for nobody else.
        let is_other = account.as_ref().is_some_and(|name| settings.account.as_ref() != Some(name))
            || endpoint.is_some();
        let endpoint = endpoint.or(settings.endpoint.clone().filter(|_| !is_other));
        let account = account.or(settings.account.clone()).unwrap_or_default();
        if account.is_empty() && endpoint.is_none() {
            return Err(Error::invalid("the storage account is not known")
                .hint("set AZURE_STORAGE_ACCOUNT, or write az://CONTAINER/BLOB?account=NAME"));
        }
        let access = match is_other {
            true => Arc::new(Access::Anonymous),
            false => {
                let new = settings.access(&self.options, &self.environment)?;
                Arc::clone(self.access.get_or_init(|| Arc::new(new)))
            }
        };
        let base = url::base(endpoint.as_deref(), &account)?;
        Ok(Blob {
            transport: Arc::clone(&self.transport),
            access,
            url: url::request_url(&base, &container, &name),
            snapshot,
        })
    }
}

/// Requests the first bytes of a blob.
fn first(blob: &Blob) -> Attempt<Answer> {
    let range = 0..http::FIRST;
    match blob.get_range(&range, None)? {
        Ok(response) => first_answer(response, &range, blob.transport.stall_timeout),
        // An empty blob has no range.
        Err(refusal) if refusal.status == 416 => match blob.properties()?.len {
            0 => Ok(Answer::Empty),
            _ => Err(wrong(Unexpected("the server refuses the first bytes of the blob".into()))),
        },
        Err(refusal) => Err(refusal.into_failure()),
    }
}

impl Protocol for Azure {
    fn schemes(&self) -> &[&str] {
        &["az"]
    }

    fn open(&self, at: &Location, how: &OpenMode) -> Result<Arc<dyn Source>> {
        let blob = self.blob(at)?;
        let retry = self.options.http.retry.clone();
        let answer = at_first(&retry).repeat(|| first(&blob).map_err(SourceError::from));
        let answer = answer.map_err(|e| Error::io("cannot open it", e))?;
        http::opened(blob, answer, retry, how)
    }

    fn join(&self, base: &Location, name: &str) -> Result<Location> {
        let Location::Url(base) = base else { return Err(Error::invalid("it is not a URL")) };
        let joined = url::join(base.as_str(), name).and_then(Url::new);
        Ok(joined.ok_or_else(|| Error::invalid("the name is outside of the container"))?.into())
    }

    fn create(&self, at: &Location) -> Result<Box<dyn Publish>> {
        let blob = self.blob(at)?;
        if blob.snapshot.is_some() {
            return Err(Error::invalid("a new blob has no snapshot"));
        }
        // Keys that are missing should not be noticed at the end.
        let retry = self.options.http.retry.clone();
        let authorized = || blob.access.prepare().map_err(SourceError::from);
        let authorized = at_first(&retry).repeat(authorized);
        authorized.map_err(|e| Error::io("cannot write it", e))?;
        let new = write::create(blob, retry, self.options.create_only, at.to_string());
        Ok(Box::new(new.map_err(|e| Error::io("cannot create the blob", e))?))
    }
}
