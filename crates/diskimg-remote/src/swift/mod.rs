//! OpenStack's object store: `swift://CONTAINER/OBJECT`.
//!
//! ```text
//!   Swift::open(URL)   ─► token ─► GET, bytes 0-65535 ─► RangeSource ─► Cached
//!   Swift::create(URL) ─► parts of a temporary file ─► segments, manifest; see `write`
//! ```
//!
//! The first answer fixes the `ETag` and the timestamp of the object that is read: an object that is
//! replaced while it is read is an error, never a mixture. Objects made of segments (SLO and DLO) are
//! read as others are: Swift puts them together.

mod limits;
mod object;
mod refusal;
#[cfg(test)]
mod tests;
mod url;
mod write;

pub use crate::openstack::Credentials;

use crate::environment::Environment;
use crate::http::answer::{Answer, Unexpected};
use crate::http::client::{at_first, first_answer};
use crate::http::transport::{Attempt, Transport, wrong};
use crate::http::{self, HttpOptions};
use crate::openstack::{Selection, Session, Settings, files};
use diskimg::open::{Location, OpenMode, Protocol, Url};
use diskimg::storage::output::Publish;
use diskimg::storage::source::{Source, SourceError};
use diskimg::{Error, Result};
use object::{Call, Object, Pinned};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use ureq::http::{Method, header};
use url::ObjectUrl;

/// How Swift is accessed.
///
/// What is not set is taken from the variables and files that OpenStack's own tools use; see
/// [`SwiftOptions::files`]. With [`HttpOptions::forbid_private_addresses`], neither is used: URLs of
/// strangers are not for this user's passwords.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct SwiftOptions {
    /// Certificates, time limits and attempts. Headers and `.netrc` are not used.
    pub http: HttpOptions,
    /// The cloud in `clouds.yaml` whose settings are used.
    pub cloud: Option<String>,
    /// The region, if the service is in several.
    pub region: Option<String>,
    /// Which endpoint is used: `public` (by default), `internal` or `admin`.
    pub interface: Option<String>,
    /// Who asks, instead of this user.
    pub credentials: Option<Credentials>,
    /// Whether an existing object is not replaced. Ceph cannot guarantee that if several programs create
    /// the object at the same time.
    pub create_only: bool,
}

impl SwiftOptions {
    /// Returns the files and directories that are read to access Swift, for a program that restricts
    /// itself: certificates, the system's configuration of names, `clouds.yaml` and `secure.yaml`.
    pub fn files(&self) -> Vec<PathBuf> {
        let http = HttpOptions { netrc: None, ..self.http.clone() };
        let mut all = http.files();
        let environment = self.environment();
        all.extend(files(&environment));
        // Clouds name their own files with certificates.
        let selection = self.selection(None);
        if let Ok(settings) = Settings::find(&selection, &environment, SERVICE_SETTING) {
            all.extend(settings.http(&http).ca_bundle);
        }
        all
    }

    fn environment(&self) -> Environment {
        match self.http.forbid_private_addresses {
            true => Environment::empty(),
            false => Environment::of_process(),
        }
    }

    fn selection(&self, cloud: Option<&str>) -> Selection {
        Selection {
            cloud: cloud.map(str::to_owned).or_else(|| self.cloud.clone()),
            region: self.region.clone(),
            interface: self.interface.clone(),
            credentials: self.credentials.clone(),
        }
    }
}

/// The type of the service in the catalogue.
const SERVICE: &str = "object-store";

/// Its name in settings.
const SERVICE_SETTING: &str = "object_store";

/// The protocol of `swift:` URLs, and of the locations of images in Glance's Swift store.
#[derive(Debug)]
pub struct Swift {
    options: SwiftOptions,
    environment: Environment,
    /// By the cloud that a URL names.
    sessions: Mutex<Vec<(Option<String>, Arc<Session>)>>,
}

impl Swift {
    /// Creates the protocol with the default options.
    ///
    /// # Errors
    /// As [`with_options`](Self::with_options).
    pub fn new() -> Result<Self> {
        Self::with_options(SwiftOptions::default())
    }

    /// Creates the protocol. Reads nothing, and connects to nothing, before an object is opened.
    ///
    /// # Errors
    /// Returns [`Io`](diskimg::ErrorKind::Io) if a file with certificates cannot be read, and
    /// [`Invalid`](diskimg::ErrorKind::Invalid) if it has none.
    pub fn with_options(options: SwiftOptions) -> Result<Self> {
        let environment = options.environment();
        Self::in_environment(options, environment)
    }

    fn in_environment(options: SwiftOptions, environment: Environment) -> Result<Self> {
        Transport::new(&options.http)?;
        Ok(Self { options, environment, sessions: Mutex::default() })
    }

    /// Returns the session of a cloud, or of the credentials in a URL.
    fn session(&self, url: &ObjectUrl) -> Result<Arc<Session>> {
        let mut selection = self.options.selection(url.cloud.as_deref());
        if let Some(credentials) = &url.credentials {
            selection.credentials = Some(credentials.clone());
            return Ok(Arc::new(self.new_session(&selection)?));
        }
        if self.options.http.forbid_private_addresses && selection.credentials.is_none() {
            let message = "this user's access to OpenStack is not for URLs of strangers, and private \
                           addresses are refused";
            return Err(Error::refused(message));
        }
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, session)) = sessions.iter().find(|(cloud, _)| *cloud == url.cloud) {
            return Ok(Arc::clone(session));
        }
        let session = Arc::new(self.new_session(&selection)?);
        sessions.push((url.cloud.clone(), Arc::clone(&session)));
        Ok(session)
    }

    fn new_session(&self, selection: &Selection) -> Result<Session> {
        let settings = Settings::find(selection, &self.environment, SERVICE_SETTING)?;
        let transport = Transport::new(&settings.http(&self.options.http))?;
        Ok(Session::new(settings, transport, SERVICE))
    }

    fn object(&self, at: &Location) -> Result<Object> {
        let Location::Url(url) = at else { return Err(Error::invalid("it is not a URL")) };
        let url = ObjectUrl::parse(url)?;
        let session = self.session(&url)?;
        Ok(Object { session, container: url.container, name: url.name })
    }
}

/// Requests the first bytes of an object.
fn first(object: &Object) -> Attempt<(Pinned, Answer)> {
    let range = 0..http::FIRST;
    let stall_timeout = object.session.transport.stall_timeout;
    // It is not known yet what kind of object it is.
    match object.get_range(&range, true)? {
        Ok(response) => {
            let pinned = Pinned::new(object.clone(), response.headers());
            Ok((pinned, first_answer(response, &range, stall_timeout)?))
        }
        // An empty object has no range.
        Err(refusal) if refusal.status == 416 => {
            let response = object.attempt(&Call::new(Method::HEAD, object.path()))?;
            let len = response.headers().get(header::CONTENT_LENGTH);
            match len.is_some_and(|len| len.as_bytes() == b"0") {
                true => Ok((Pinned::new(object.clone(), response.headers()), Answer::Empty)),
                false => {
                    let message = "the server refuses the first bytes of the object";
                    Err(wrong(Unexpected(message.into())))
                }
            }
        }
        Err(refusal) => Err(refusal.into_failure()),
    }
}

impl Protocol for Swift {
    fn schemes(&self) -> &[&str] {
        &["swift", "swift+http", "swift+https"]
    }

    fn open(&self, at: &Location, how: &OpenMode) -> Result<Arc<dyn Source>> {
        let object = self.object(at)?;
        let retry = self.options.http.retry.clone();
        let answer = at_first(&retry).repeat(|| first(&object).map_err(SourceError::from));
        let (file, answer) = answer.map_err(|e| Error::io("cannot open it", e))?;
        http::opened(file, answer, retry, how)
    }

    fn join(&self, base: &Location, name: &str) -> Result<Location> {
        let Location::Url(base) = base else { return Err(Error::invalid("it is not a URL")) };
        let joined = url::join(base.as_str(), name).and_then(Url::new);
        Ok(joined.ok_or_else(|| Error::invalid("the name is outside of the container"))?.into())
    }

    fn create(&self, at: &Location) -> Result<Box<dyn Publish>> {
        let Location::Url(url) = at else { return Err(Error::invalid("it is not a URL")) };
        if url.scheme() != "swift" {
            return Err(Error::unsupported("the location of an image in Glance is only read")
                .hint("write to swift://CONTAINER/OBJECT"));
        }
        let object = self.object(at)?;
        let retry = self.options.http.retry.clone();
        // What is missing should not be noticed at the end.
        let limits = at_first(&retry).repeat(|| limits::check(&object).map_err(SourceError::from));
        let limits = limits.map_err(|e| Error::io("cannot write it", e))?;
        let create_only = self.options.create_only;
        let new = write::create(object, limits, retry, create_only, at.to_string());
        Ok(Box::new(new.map_err(|e| Error::io("cannot create the object", e))?))
    }
}

/// Parses the description of a cluster as the client does, for fuzzing.
///
/// # Panics
/// If an object could not be divided by what was found.
#[doc(hidden)]
pub fn parse_for_fuzzing(bytes: &[u8]) {
    limits::of_info(&String::from_utf8_lossy(bytes));
}
