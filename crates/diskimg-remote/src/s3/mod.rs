//! S3 and compatible stores: `s3://BUCKET/KEY`.
//!
//! ```text
//!   S3::open(URL)   ─► GetObject, bytes 0-65535 ─► RangeSource ─► Cached
//!   S3::create(URL) ─► parts of a temporary file ─► multipart upload; see `write`
//! ```
//!
//! Requests are signed (Signature Version 4) with the user's keys; see `credentials`. The first answer
//! fixes the `ETag` of the object that is read: an object that is replaced while it is read is an
//! error, never a mixture.

pub(crate) mod credentials;
mod dialect;
pub(crate) mod object;
pub(crate) mod refusal;
mod sigv4;
#[cfg(test)]
mod tests;
mod url;
mod write;
mod xml;

pub use credentials::Keys;
pub(crate) use dialect::Dialect;

use crate::http::answer::{Answer, Unexpected};
use crate::http::client::{at_first, first_answer};
use crate::http::transport::{Attempt, Transport, wrong};
use crate::http::{self, HttpOptions};
use credentials::{Chain, Credentials, Environment, Profiles, Services};
use diskimg::open::{Location, OpenMode, Protocol, Url};
use diskimg::storage::output::Publish;
use diskimg::storage::source::{Source, SourceError};
use diskimg::{Error, Result};
use jiff::SignedDuration;
use object::{Learnt, Object};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use url::{Endpoint, ObjectUrl, is_region};

/// Where unsigned requests go, and signed ones until the bucket's region is known.
const DEFAULT_REGION: &str = "us-east-1";

/// How stores are accessed.
///
/// What is not set is taken from the variables and files that Amazon's own tools use; see
/// [`S3Options::files`]. With [`HttpOptions::forbid_private_addresses`], neither is used, and requests
/// are not signed unless there are [`keys`](Self::keys): URLs of strangers are not for this user's
/// keys.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct S3Options {
    /// Certificates, time limits and attempts. Headers and `.netrc` are not used.
    pub http: HttpOptions,
    /// The URL of a compatible store, `http[s]://HOST[:PORT]`; Amazon's without it.
    pub endpoint: Option<String>,
    /// The region of the bucket. If it is wrong, the store names the right one.
    pub region: Option<String>,
    /// The profile in `~/.aws/config` and `~/.aws/credentials` whose keys and settings are used.
    pub profile: Option<String>,
    /// The keys, instead of the user's.
    pub keys: Option<Keys>,
    /// Whether requests are not signed: for public objects.
    pub anonymous: bool,
    /// Whether this user agrees to pay for the requests to a bucket of others.
    pub requester_pays: bool,
    /// Whether an existing object is not replaced. Not all stores can guarantee that if several
    /// programs create the object at the same time.
    pub create_only: bool,
    /// A file that records the upload of one object, so that it can be continued after an error or
    /// the end of the process: it is not aborted then. The next run writes the object again, and the
    /// parts that the store has already are not sent again. The file is removed when the upload is
    /// complete. It is replaced after each part, by way of another file in its directory. Only one
    /// run at a time may use it.
    pub resume: Option<PathBuf>,
}

impl S3Options {
    /// Returns the files and directories that are read to access stores, for a program that restricts
    /// itself: certificates, the system's configuration of names, and the user's keys.
    pub fn files(&self) -> Vec<PathBuf> {
        let environment = self.environment();
        let http = HttpOptions { netrc: None, ..self.http(&environment) };
        let mut files = http.files();
        files.extend(environment.files());
        files
    }

    fn environment(&self) -> Environment {
        match self.http.forbid_private_addresses {
            true => Environment::empty(),
            false => Environment::of_process(),
        }
    }

    fn http(&self, environment: &Environment) -> HttpOptions {
        let mut http = self.http.clone();
        http.ca_bundle =
            http.ca_bundle.or_else(|| environment.get("AWS_CA_BUNDLE").map(Into::into));
        http
    }
}

/// The protocol of `s3:` URLs.
#[derive(Debug)]
pub struct S3 {
    options: S3Options,
    environment: Environment,
    transport: Arc<Transport>,
    credentials: Option<Arc<Credentials>>,
    /// From the options or the user's settings.
    endpoint: Option<Endpoint>,
    region: String,
    dialect: Dialect,
}

/// A service with the requests of S3, but with other keys and settings than those of AWS.
#[cfg(feature = "gcs")]
pub(crate) struct OtherService {
    pub(crate) http: HttpOptions,
    pub(crate) endpoint: String,
    pub(crate) keys: Option<Keys>,
    pub(crate) create_only: bool,
    pub(crate) dialect: Dialect,
}

impl S3 {
    /// Creates the protocol with the default options.
    ///
    /// # Errors
    /// As [`with_options`](Self::with_options).
    pub fn new() -> Result<Self> {
        Self::with_options(S3Options::default())
    }

    /// Creates the protocol. Connects to nothing.
    ///
    /// # Errors
    /// Returns [`Io`](diskimg::ErrorKind::Io) if a file with certificates or profiles cannot be read,
    /// and [`Invalid`](diskimg::ErrorKind::Invalid) if an option is malformed.
    pub fn with_options(options: S3Options) -> Result<Self> {
        let environment = options.environment();
        Self::in_environment(options, environment)
    }

    fn in_environment(options: S3Options, environment: Environment) -> Result<Self> {
        let http = options.http(&environment);
        let unreadable =
            |failure| Error::io("cannot read the profiles", SourceError::from(failure));
        let profiles = Profiles::load(&environment).map_err(unreadable)?;
        let name = options.profile.clone().or_else(|| environment.get("AWS_PROFILE"));
        let profile = profiles.get(name.as_deref().unwrap_or("default")).unwrap_or_default();
        let setting = |names: [&str; 2], own: Option<String>| {
            let variable = names.iter().find_map(|name| environment.get(name));
            // A profile that the caller names is meant as a whole.
            match options.profile {
                Some(_) => own.or(variable),
                None => variable.or(own),
            }
        };
        let endpoint = match &options.endpoint {
            Some(url) => Some(url.clone()),
            None => {
                setting(["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"], profiles.endpoint(&profile)?)
            }
        };
        let endpoint = endpoint.map(|url| Endpoint::parse(&url)).transpose()?;
        let region = options.region.clone();
        let of_profile = || profile.get("region").map(str::to_owned);
        let region = region.or_else(|| setting(["AWS_REGION", "AWS_DEFAULT_REGION"], of_profile()));
        let region = checked_region(region.as_deref().unwrap_or(DEFAULT_REGION))?;
        let is_stranger = http.forbid_private_addresses;
        let is_anonymous = options.anonymous
            || (is_stranger && options.keys.is_none())
            || environment.is_on("AWS_SKIP_SIGNATURE");
        let credentials = match is_anonymous {
            true => None,
            false => Some(Arc::new(Credentials::new(Chain {
                keys: options.keys.clone(),
                profile: options.profile.clone(),
                environment: environment.clone(),
                services: Services::new(&http)?,
            }))),
        };
        let transport = Arc::new(Transport::new(&http)?);
        let dialect = Dialect::default();
        Ok(Self { options, environment, transport, credentials, endpoint, region, dialect })
    }

    /// Creates the protocol for another service. Connects to nothing.
    ///
    /// # Errors
    /// As [`with_options`](Self::with_options).
    #[cfg(feature = "gcs")]
    pub(crate) fn of_service(service: OtherService) -> Result<Self> {
        let OtherService { http, endpoint, keys, create_only, dialect } = service;
        let options = S3Options {
            endpoint: Some(endpoint),
            region: Some("auto".to_owned()),
            anonymous: keys.is_none(),
            keys,
            create_only,
            http,
            ..S3Options::default()
        };
        Ok(Self { dialect, ..Self::in_environment(options, Environment::empty())? })
    }

    fn object(&self, at: &Location) -> Result<Object> {
        let Location::Url(url) = at else { return Err(Error::invalid("it is not a URL")) };
        let ObjectUrl { bucket, key, version, endpoint, region } = ObjectUrl::parse(url)?;
        let endpoint = endpoint.map(|url| Endpoint::parse(&url)).transpose()?;
        let region =
            region.map_or_else(|| Ok(self.region.clone()), |name| checked_region(&name))?;
        let requester_pays =
            self.options.requester_pays || self.environment.is_on("AWS_REQUEST_PAYER");
        Ok(Object {
            transport: Arc::clone(&self.transport),
            credentials: self.credentials.clone(),
            endpoint: endpoint.or_else(|| self.endpoint.clone()),
            bucket,
            key,
            version,
            requester_pays,
            dialect: self.dialect.clone(),
            learnt: Mutex::new(Learnt { region, skew: SignedDuration::ZERO }),
        })
    }
}

fn checked_region(name: &str) -> Result<String> {
    match is_region(name) {
        true => Ok(name.to_owned()),
        false => Err(Error::invalid(format!("'{name}' is not the name of a region"))),
    }
}

/// Requests the first bytes of an object.
fn first(object: &Object) -> Attempt<Answer> {
    let range = 0..http::FIRST;
    match object.get_range(&range, None)? {
        Ok(response) => first_answer(response, &range, object.transport.stall_timeout),
        // An empty object has no range. Its length is not stated.
        Err(refusal) if refusal.status == 416 => match object.len()? {
            0 => Ok(Answer::Empty),
            _ => Err(wrong(Unexpected("the server refuses the first bytes of the object".into()))),
        },
        Err(refusal) => Err(refusal.into_failure()),
    }
}

impl Protocol for S3 {
    fn schemes(&self) -> &[&str] {
        &["s3"]
    }

    fn open(&self, at: &Location, how: &OpenMode) -> Result<Arc<dyn Source>> {
        let object = self.object(at)?;
        let retry = self.options.http.retry.clone();
        let answer = at_first(&retry).repeat(|| first(&object).map_err(SourceError::from));
        let answer = answer.map_err(|e| Error::io("cannot open it", e))?;
        http::opened(object, answer, retry, how)
    }

    fn join(&self, base: &Location, name: &str) -> Result<Location> {
        let Location::Url(base) = base else { return Err(Error::invalid("it is not a URL")) };
        let joined = url::join(base.as_str(), name).and_then(Url::new);
        Ok(joined.ok_or_else(|| Error::invalid("the name is outside of the bucket"))?.into())
    }

    fn create(&self, at: &Location) -> Result<Box<dyn Publish>> {
        self.create_named(at, at.to_string())
    }
}

impl S3 {
    /// Creates a new object, which messages call `name`.
    pub(crate) fn create_named(&self, at: &Location, name: String) -> Result<Box<dyn Publish>> {
        let object = self.object(at)?;
        if object.version.is_some() {
            return Err(Error::invalid(format!(
                "a new object has no {}",
                object.dialect.version()
            )));
        }
        // Keys that are missing should not be noticed at the end.
        if let Some(credentials) = &object.credentials {
            let keys = || credentials.keys().map(drop).map_err(SourceError::from);
            let retry = at_first(&self.options.http.retry);
            retry.repeat(keys).map_err(|e| Error::io("cannot write it", e))?;
        }
        let retry = self.options.http.retry.clone();
        let authorized = || object.dialect.prepare().map_err(SourceError::from);
        let authorized = at_first(&retry).repeat(authorized);
        authorized.map_err(|e| Error::io("cannot write it", e))?;
        let create_only = self.options.create_only;
        let resume = self.options.resume.as_deref();
        let new = write::create(object, retry, create_only, resume, name);
        Ok(Box::new(new.map_err(|e| Error::io("cannot create the object", e))?))
    }
}

/// Parses the bytes of a reply or of a file as the client does, for fuzzing: an error if the first byte
/// is 0, keys in XML or JSON if it is 1 or 2, the record of an upload
/// if it is 3, or else profiles.
///
/// # Panics
/// If what was found could harm the user who reads it.
#[doc(hidden)]
pub fn parse_for_fuzzing(bytes: &[u8]) {
    let Some((&kind, text)) = bytes.split_first() else { return };
    let text = &*String::from_utf8_lossy(text);
    match kind {
        0 => refusal::check(text),
        1 => drop(credentials::keys_of_xml(text)),
        2 => drop(credentials::keys_of_json(text)),
        3 => write::check_resume(text),
        _ => drop(Profiles::parse(text, text)),
    }
}
