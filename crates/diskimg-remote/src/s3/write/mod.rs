//! Writing of objects: a multipart upload, or one request for what fits into one part; see
//! [`upload`](crate::upload).
//!
//! ```text
//!   parts:    CreateMultipartUpload, UploadPart
//!   complete: CompleteMultipartUpload, HeadObject
//!   put:      PutObject, HeadObject
//!   abort:    AbortMultipartUpload
//! ```

mod complete;
mod digest;
mod resume;

use super::object::{Call, Object, Payload, text};
use super::xml::Reply;
use crate::http::answer::Unexpected;
use crate::http::transport::{Attempt, Failure, wrong};
use crate::upload::hash::md5_of_etag;
use crate::upload::{Limits, NewObject, Store, Upload};
use digest::{Checksum, Digests};
use diskimg::storage::source::RetryPolicy;
use resume::Resume;
pub(super) use resume::check as check_resume;
use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use ureq::http::{HeaderMap, HeaderName, Method, header};

/// Stores accept parts of 5 MiB, but for the last one, to 5 GiB.
const LIMITS: Limits =
    Limits { min_part: 8 << 20, max_part: 5 << 30, equal_parts: 9500, max_parts: 10_000 };

/// How long a store may take to confirm a part.
const CONFIRMATION: Duration = Duration::from_secs(120);

/// An object that is being written.
#[derive(Debug)]
pub(super) struct Multipart {
    object: Object,
    create_only: bool,
    checksum: Checksum,
    /// What a later run needs.
    resume: Option<Resume>,
    /// The identifier of a multipart upload, once there is one. Locked while it is created.
    id: Mutex<Option<String>>,
}

/// What the store has of a part.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    etag: String,
    digests: Digests,
}

/// Creates an object. With `create_only`, it must not exist. `resume` is a file that records the upload.
///
/// # Errors
/// Returns [`io::ErrorKind::AlreadyExists`] if the object does, [`io::ErrorKind::InvalidInput`] if the
/// file records another upload, and the underlying error if it cannot be read or the temporary file
/// cannot be created.
pub(super) fn create(
    object: Object,
    retry: RetryPolicy,
    create_only: bool,
    resume: Option<&Path>,
    name: String,
) -> io::Result<NewObject<Multipart>> {
    let checksum = if object.is_amazon() { Checksum::Crc32c } else { Checksum::Md5 };
    let resume = resume.map(|path| Resume::load(path, resume::destination(&object))).transpose()?;
    let store = Multipart { object, create_only, checksum, resume, id: Mutex::default() };
    let new = NewObject::create(store, LIMITS, retry, name)?;
    if create_only {
        let upload = new.upload();
        upload.store.require_absent(upload)?;
    }
    Ok(new)
}

impl Store for Multipart {
    type Receipt = Sent;

    fn begin(&self, upload: &Upload<Self>) -> io::Result<()> {
        let mut id = self.id.lock().unwrap_or_else(PoisonError::into_inner);
        if id.is_some() {
            return Ok(());
        }
        if let Some(kept) = self.resumed(upload)? {
            *id = Some(kept);
            return Ok(());
        }
        let algorithm = HeaderName::from_static("x-amz-checksum-algorithm");
        let headers = [(algorithm, "CRC32C")];
        let new = upload.repeat(|| {
            let response = self.object.attempt(&Call {
                query: &[("uploads", "")],
                headers: if self.checksum == Checksum::Crc32c { &headers } else { &[] },
                ..Call::new(Method::POST)
            })?;
            let text = text(response, self.object.transport.stall_timeout)?;
            let id = Reply::parse(&text).and_then(|r| r.find("UploadId").map(str::to_owned));
            id.ok_or_else(|| unexpected("the server began an upload without an identifier"))
        })?;
        if let Some(state) = &self.resume {
            // No later run would know it.
            state.begin(&new).inspect_err(|_| self.remove(upload, &new))?;
        }
        *id = Some(new);
        Ok(())
    }

    fn has_begun(&self) -> bool {
        self.id().is_some()
    }

    fn put_part(&self, upload: &Upload<Self>, index: usize, range: &Range<u64>) -> Attempt<Sent> {
        let part = u32::try_from(index + 1).unwrap_or(u32::MAX);
        let (number, len) = (part.to_string(), range.end - range.start);
        let id = self.id().unwrap_or_default();
        let digests = self.digests(upload, range)?;
        let kept = self.resume.as_ref().and_then(|state| state.kept(part, len, &digests));
        if let Some(etag) = kept {
            return Ok(Sent { etag, digests });
        }
        let headers = self.checksum_headers(&digests);
        let headers: Vec<_> = headers.iter().map(|(name, v)| (name.clone(), &**v)).collect();
        let response = self.object.attempt(&Call {
            query: &[("partNumber", &number), ("uploadId", &id)],
            headers: &headers,
            body: self.payload(range, &digests, &|| upload.reader(range)),
            time: Some(CONFIRMATION),
            ..Call::new(Method::PUT)
        })?;
        let etag = response.headers().get("etag").and_then(|etag| etag.to_str().ok());
        let etag = etag.ok_or_else(|| unexpected("the server confirmed a part without ETag"))?;
        let etag = etag.to_owned();
        self.require_kept(response.headers(), &digests)?;
        drop(text(response, self.object.transport.stall_timeout));
        if let Some(state) = &self.resume {
            state.sent(part, len, &digests, &etag).map_err(Failure::Final)?;
        }
        Ok(Sent { etag, digests })
    }

    fn complete(&self, upload: &Upload<Self>, parts: &[Sent]) -> io::Result<()> {
        let id = self.id();
        self.complete_parts(upload, parts)?;
        self.end_record(upload, id.as_deref());
        Ok(())
    }

    fn put(&self, upload: &Upload<Self>) -> io::Result<()> {
        self.put_whole(upload)?;
        self.end_record(upload, None);
        Ok(())
    }

    /// As the trait says, unless a later run may continue the upload.
    fn abort(&self, upload: &Upload<Self>) {
        if self.resume.is_some() {
            return;
        }
        if let Some(id) = self.id() {
            self.remove(upload, &id);
            self.forget();
        }
    }
}

impl Multipart {
    /// Returns the identifier of the multipart upload if there is one.
    fn id(&self) -> Option<String> {
        self.id.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Removes the parts of a multipart upload.
    fn remove(&self, upload: &Upload<Self>, id: &str) {
        // Stores can be told to remove old parts themselves.
        upload.repeat_removal(|| {
            let call = Call { query: &[("uploadId", id)], ..Call::new(Method::DELETE) };
            self.object.attempt(&call).map(drop)
        });
    }

    /// Forgets the multipart upload, which was completed or aborted.
    fn forget(&self) {
        *self.id.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Verifies what the store says that it kept of a body: the hash of it, which is the `ETag` unless
    /// the store encrypts with keys of others. Returns true if it could be verified.
    fn require_kept(&self, headers: &HeaderMap, digests: &Digests) -> Attempt<bool> {
        const MESSAGE: &str =
            "the store has not kept what was sent: its ETag is that of other bytes";
        let etag = headers.get(header::ETAG).and_then(|etag| etag.to_str().ok());
        match etag.and_then(md5_of_etag).filter(|_| self.checksum == Checksum::Md5) {
            Some(hash) if hash == digests.checksum => Ok(true),
            Some(_) if !has_other_etags(headers) => Err(unexpected(MESSAGE)),
            _ => Ok(false),
        }
    }

    fn digests(&self, upload: &Upload<Self>, range: &Range<u64>) -> Attempt<Digests> {
        let signs = self.object.credentials.is_some() && !self.object.is_encrypted();
        let signs = signs || self.resume.is_some();
        Digests::of(upload.reader(range), self.checksum, signs).map_err(Failure::Final)
    }

    /// Returns the headers by which the store verifies a body.
    fn checksum_headers(&self, digests: &Digests) -> Vec<(HeaderName, String)> {
        let name = match self.checksum {
            Checksum::Crc32c => "x-amz-checksum-crc32c",
            Checksum::Md5 => "content-md5",
        };
        vec![(HeaderName::from_static(name), digests.base64())]
    }

    fn payload<'a>(
        &self,
        range: &Range<u64>,
        digests: &'a Digests,
        open: &'a dyn Fn() -> Box<dyn Read + 'a>,
    ) -> Payload<'a> {
        let len = range.end - range.start;
        Payload::Stream { len, open, sha256: digests.sha256.as_deref() }
    }
}

/// Returns true for an answer about an encrypted object, whose `ETag` is not a hash of its content.
fn has_other_etags(headers: &HeaderMap) -> bool {
    let has_own_key = headers.contains_key("x-amz-server-side-encryption-customer-algorithm");
    let method = headers.get("x-amz-server-side-encryption").and_then(|v| v.to_str().ok());
    has_own_key || method.is_some_and(|method| method.starts_with("aws:kms"))
}

fn unexpected(message: &str) -> Failure {
    wrong(Unexpected(message.into()))
}
