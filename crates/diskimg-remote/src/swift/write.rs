//! Writing of objects: what fits into one request by `PUT`, and else a static large object (SLO); see
//! [`upload`](crate::upload).
//!
//! ```text
//!   parts:    PUT CONTAINER_segments/NAME/ID/00000000 …
//!   complete: PUT CONTAINER/NAME?multipart-manifest=put, HEAD
//!   put:      PUT CONTAINER/NAME, HEAD
//!   abort:    DELETE of the segments
//! ```
//!
//! Swift compares each body with the hash in the request, and the segments with the manifest. The
//! segments of an object that is replaced are kept: other manifests may name them, and they may be
//! read at the moment.

use super::object::{Call, Object, Open, Payload};
use super::refusal::Refusal;
use super::url::path;
use crate::http::answer::Unexpected;
use crate::http::body::text;
use crate::http::transport::{Attempt, Failure, wrong};
use crate::upload::hash::hex;
use crate::upload::{Limits, NewObject, Store, Upload};
use diskimg::storage::source::RetryPolicy;
use md5::{Digest, Md5};
use serde_json::json;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io::{self, Read};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use ureq::http::{HeaderMap, HeaderName, Method, StatusCode, header};

/// How long a store may take to confirm a segment.
const CONFIRMATION: Duration = Duration::from_secs(120);

/// How long a store may take to verify the segments of a manifest.
const COMPLETION: Duration = Duration::from_secs(600);

/// Bytes that are read at a time.
const BUFFER: usize = 256 << 10;

const OCTETS: (HeaderName, &str) = (header::CONTENT_TYPE, "application/octet-stream");

/// An object that is being written.
#[derive(Debug)]
pub(super) struct Segments {
    object: Object,
    create_only: bool,
    /// The container of the segments, and the prefix of their names.
    container: String,
    prefix: String,
    state: Mutex<State>,
}

/// What there is to remove.
#[derive(Debug, Default)]
struct State {
    /// Whether the container of the segments exists.
    has_container: bool,
    /// Number of segments that may exist: their highest number, and one.
    count: usize,
}

/// What the store has of a part.
#[derive(Debug, Clone)]
pub(super) struct Segment {
    hash: String,
    len: u64,
}

/// What the store says of an object.
enum Found {
    Same,
    Different(String),
    Absent,
    /// This user may not ask.
    Unknown,
}

/// What the store must say of the complete object.
struct Expected {
    len: u64,
    /// Without quotes.
    etag: String,
    is_manifest: bool,
}

/// Creates an object. With `create_only`, it must not exist.
///
/// # Errors
/// Returns [`io::ErrorKind::AlreadyExists`] if it does, and the underlying error if the temporary file
/// cannot be created.
pub(super) fn create(
    object: Object,
    limits: Limits,
    retry: RetryPolicy,
    create_only: bool,
    name: String,
) -> io::Result<NewObject<Segments>> {
    let id = RandomState::new().build_hasher().finish();
    let store = Segments {
        container: format!("{}_segments", object.container),
        prefix: format!("{}/{id:016x}", object.name),
        object,
        create_only,
        state: Mutex::default(),
    };
    let new = NewObject::create(store, limits, retry, name)?;
    new.upload().store.require_allowed(new.upload())?;
    Ok(new)
}

impl Store for Segments {
    type Receipt = Segment;

    /// Creates the container of the segments, with the storage policy of the other one.
    fn begin(&self, upload: &Upload<Self>) -> io::Result<()> {
        let mut state = self.state();
        if state.has_container {
            return Ok(());
        }
        upload.repeat(|| self.require_container())?;
        state.has_container = true;
        Ok(())
    }

    fn has_begun(&self) -> bool {
        self.state().has_container
    }

    fn put_part(
        &self,
        upload: &Upload<Self>,
        index: usize,
        range: &Range<u64>,
    ) -> Attempt<Segment> {
        {
            let mut state = self.state();
            state.count = state.count.max(index + 1);
        }
        let hash = hash(upload.reader(range)).map_err(Failure::Final)?;
        let len = range.end - range.start;
        let part = Part { upload, range };
        let response = self.object.attempt(&Call {
            headers: &[(header::ETAG, &hash), OCTETS],
            body: Payload::Stream(len, &part),
            time: Some(CONFIRMATION),
            ..Call::new(Method::PUT, self.segment_path(index))
        })?;
        require_etag(response.headers(), &hash)?;
        drop(text(response, self.object.session.transport.stall_timeout));
        Ok(Segment { hash, len })
    }

    fn complete(&self, upload: &Upload<Self>, parts: &[Segment]) -> io::Result<()> {
        let entries: Vec<_> = (0..)
            .zip(parts)
            .map(|(index, part)| {
                let path = format!("/{}/{}", self.container, self.segment(index));
                json!({ "path": path, "etag": part.hash, "size_bytes": part.len })
            })
            .collect();
        let body = serde_json::Value::Array(entries).to_string();
        let hashes: String = parts.iter().map(|part| &*part.hash).collect();
        let etag = hex(&Md5::digest(hashes.as_bytes()));
        let expected = Expected { len: upload.len()?, etag, is_manifest: true };
        upload.join();
        let sent = self.publish(upload, &expected, Payload::Bytes(body.as_bytes()));
        match sent {
            Ok(()) => {}
            Err(NotPublished::Refused(error)) => return Err(error),
            Err(NotPublished::Unclear(error)) => {
                // A request that is late must find the segments: the object would be damaged.
                let message = format!(
                    "{error}; it is not known whether the object was replaced, so its segments \
                     {}/{} were kept",
                    self.container, self.prefix
                );
                self.forget();
                return Err(io::Error::new(error.kind(), message));
            }
        }
        // Segments that were sent before the object became shorter.
        self.remove(upload, parts.len());
        self.forget();
        self.verify(upload, &expected)
    }

    fn put(&self, upload: &Upload<Self>) -> io::Result<()> {
        let range = 0..upload.len()?;
        let etag = hash(upload.reader(&range))?;
        let expected = Expected { len: range.end, etag, is_manifest: false };
        let part = Part { upload, range: &range };
        let sent = self.publish(upload, &expected, Payload::Stream(range.end, &part));
        sent.map_err(|failed| match failed {
            NotPublished::Refused(error) | NotPublished::Unclear(error) => error,
        })?;
        self.verify(upload, &expected)
    }

    fn abort(&self, upload: &Upload<Self>) {
        self.remove(upload, 0);
        self.forget();
    }
}

/// A range of the temporary file.
struct Part<'u> {
    upload: &'u Upload<Segments>,
    range: &'u Range<u64>,
}

impl Open for Part<'_> {
    fn open(&self) -> Box<dyn Read + '_> {
        self.upload.reader(self.range)
    }
}

/// Why an object was not published.
enum NotPublished {
    /// The store will not publish it.
    Refused(io::Error),
    /// A request may have an effect later.
    Unclear(io::Error),
}

impl Segments {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets the segments, which belong to the object or were removed.
    fn forget(&self) {
        *self.state() = State::default();
    }

    /// Returns the name of a segment.
    fn segment(&self, index: usize) -> String {
        format!("{}/{index:08}", self.prefix)
    }

    fn segment_path(&self, index: usize) -> String {
        path(&self.container, Some(&self.segment(index)))
    }

    fn require_container(&self) -> Attempt<()> {
        let own = path(&self.container, None);
        match self.object.exchange(&Call::new(Method::HEAD, own.clone()))? {
            Ok(_) => return Ok(()),
            Err(refusal) if matches!(refusal.status.as_u16(), 403 | 404) => {}
            Err(refusal) => return Err(refusal.into_failure()),
        }
        let policy = HeaderName::from_static("x-storage-policy");
        let other = Call::new(Method::HEAD, path(&self.object.container, None));
        let other = self.object.exchange(&other)?.ok();
        let value = other.and_then(|r| Some(r.headers().get(&policy)?.to_str().ok()?.to_owned()));
        let headers: Vec<_> = value.iter().map(|value| (policy.clone(), &**value)).collect();
        let call = Call { headers: &headers, ..Call::new(Method::PUT, own) };
        match self.object.exchange(&call)? {
            Ok(_) => Ok(()),
            // Someone else has created it, with another policy.
            Err(refusal) if refusal.status == 409 => Ok(()),
            Err(refusal) => Err(refusal.into_failure()),
        }
    }

    /// Makes the object visible. After a request whose outcome is not known, the object is looked at.
    fn publish(
        &self,
        upload: &Upload<Self>,
        expected: &Expected,
        body: Payload<'_>,
    ) -> Result<(), NotPublished> {
        // Ceph ignores the condition of the request.
        self.require_allowed(upload).map_err(NotPublished::Refused)?;
        let mut is_unclear = false;
        let outcome = upload.repeat_lookup(|| match self.publish_once(expected, body) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(refusal)) if refusal.is_definite() => {
                // An earlier request may have succeeded.
                match is_unclear && matches!(self.find(expected)?, Found::Same) {
                    true => Ok(()),
                    false => Err(refusal.into_failure()),
                }
            }
            Ok(Err(refusal)) => {
                is_unclear = true;
                Err(refusal.into_failure())
            }
            Err(failure) => {
                is_unclear = true;
                Err(failure)
            }
        });
        let Err(error) = outcome else { return Ok(()) };
        if !is_unclear {
            return Err(NotPublished::Refused(error));
        }
        match upload.repeat_lookup(|| self.find(expected)) {
            Ok(Found::Same) => Ok(()),
            _ => Err(NotPublished::Unclear(error)),
        }
    }

    /// Fails if the object exists and must not be replaced.
    fn require_allowed(&self, upload: &Upload<Self>) -> io::Result<()> {
        if self.create_only && upload.repeat_lookup(|| self.head())?.is_ok() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the object exists already"));
        }
        Ok(())
    }

    fn publish_once(&self, expected: &Expected, body: Payload<'_>) -> Attempt<Result<(), Refusal>> {
        let mut headers = vec![OCTETS];
        if self.create_only {
            headers.push((header::IF_NONE_MATCH, "*"));
        }
        if !expected.is_manifest {
            headers.push((header::ETAG, &expected.etag));
        }
        let response = self.object.exchange(&Call {
            query: if expected.is_manifest { "multipart-manifest=put" } else { "" },
            headers: &headers,
            body,
            time: Some(COMPLETION),
            ..Call::new(Method::PUT, self.object.path())
        })?;
        let response = match response {
            Ok(response) => response,
            Err(refusal) => return Ok(Err(refusal)),
        };
        require_etag(response.headers(), &expected.etag)?;
        drop(text(response, COMPLETION));
        Ok(Ok(()))
    }

    /// Fails if the object is not what was uploaded.
    fn verify(&self, upload: &Upload<Self>, expected: &Expected) -> io::Result<()> {
        match upload.repeat_lookup(|| self.find(expected))? {
            Found::Same | Found::Unknown => Ok(()),
            Found::Absent => Err(io::Error::other(
                "the object is not there after it was uploaded: someone else has removed it",
            )),
            Found::Different(what) => Err(io::Error::other(format!(
                "{what} of the object differs after it was uploaded: someone else has replaced it, \
                 or it is damaged"
            ))),
        }
    }

    fn head(&self) -> Attempt<Result<HeaderMap, StatusCode>> {
        let call = Call::new(Method::HEAD, self.object.path());
        match self.object.exchange(&call)? {
            Ok(response) => Ok(Ok(response.headers().clone())),
            Err(refusal) if matches!(refusal.status.as_u16(), 403 | 404) => Ok(Err(refusal.status)),
            Err(refusal) => Err(refusal.into_failure()),
        }
    }

    /// Compares the object with what it must be.
    fn find(&self, expected: &Expected) -> Attempt<Found> {
        let headers = match self.head()? {
            Ok(headers) => headers,
            Err(StatusCode::NOT_FOUND) => return Ok(Found::Absent),
            Err(_) => return Ok(Found::Unknown),
        };
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let len: Option<u64> = text("content-length").and_then(|len| len.parse().ok());
        let is_manifest = text("x-static-large-object").is_some_and(|text| text != "False");
        Ok(if len != Some(expected.len) {
            Found::Different("the length".into())
        } else if text("etag").map(plain) != Some(&expected.etag) {
            Found::Different("the ETag".into())
        } else if is_manifest != expected.is_manifest {
            Found::Different("the kind".into())
        } else {
            Found::Same
        })
    }

    /// Removes the segments from `first` on. What a request sends that is still under way remains.
    fn remove(&self, upload: &Upload<Self>, first: usize) {
        let count = self.state().count;
        let mut is_answered = true;
        for index in first..count {
            // A store that does not answer is not asked for each of them.
            if !is_answered {
                return;
            }
            is_answered = false;
            upload.repeat_removal(|| {
                let call = Call::new(Method::DELETE, self.segment_path(index));
                match self.object.exchange(&call)? {
                    Err(refusal) if refusal.status != StatusCode::NOT_FOUND => {
                        return Err(refusal.into_failure());
                    }
                    _ => {}
                }
                is_answered = true;
                Ok(())
            });
        }
    }
}

/// Returns the hash of what a reader returns, in hexadecimal.
fn hash(mut reader: impl Read) -> io::Result<String> {
    let mut buf = vec![0; BUFFER];
    let mut md5 = Md5::new();
    loop {
        match reader.read(&mut buf)? {
            0 => return Ok(hex(&md5.finalize())),
            n => md5.update(&buf[..n]),
        }
    }
}

/// Returns an `ETag` without its quotes, which some stores omit.
fn plain(etag: &str) -> &str {
    etag.trim().trim_matches('"')
}

/// Fails if the store kept other bytes than were sent.
fn require_etag(headers: &HeaderMap, hash: &str) -> Attempt<()> {
    let etag = headers.get(header::ETAG).and_then(|etag| etag.to_str().ok());
    match etag.map(plain) {
        Some(etag) if etag.eq_ignore_ascii_case(hash) => Ok(()),
        Some(_) => Err(wrong(Unexpected(
            "the store has not kept what was sent: its ETag is that of other bytes".into(),
        ))),
        None => Err(wrong(Unexpected("the store confirmed what was sent without ETag".into()))),
    }
}
