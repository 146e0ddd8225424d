//! How an upload ends: the object appears, or nothing is left.

use super::digest::{Checksum, Digests, crc32c_of_parts, etag_of_parts};
use super::{Multipart, Sent, unexpected};
use crate::http::transport::{Attempt, Failure};
use crate::s3::object::{Call, text};
use crate::s3::refusal::Refusal;
use crate::s3::xml::{Reply, escaped};
use crate::upload::Upload;
use crate::upload::hash::{hex, md5_of_etag};
use std::io;
use std::time::Duration;
use ureq::http::{HeaderMap, HeaderName, Method, StatusCode, header};

/// How long a store may take to put the parts of a large object together.
const COMPLETION: Duration = Duration::from_secs(600);

/// What the store must say of the complete object.
struct Expected {
    len: u64,
    /// Computed from what was uploaded.
    etag: Option<String>,
    crc32c: Option<String>,
    /// The `ETag` in the answer to the last request.
    confirmed: Option<String>,
}

/// What the store says of an object.
enum Found {
    /// Its checksum or `ETag` is that of what was uploaded.
    Same,
    /// It is what the store confirmed, and its length is that of what was uploaded.
    Confirmed,
    /// It has the length of what was uploaded, and may be an older object.
    Similar,
    Different(String),
    Absent,
    /// This user may not ask.
    Unknown,
}

impl Multipart {
    /// Makes the object of these parts visible.
    pub(super) fn complete_parts(&self, upload: &Upload<Self>, parts: &[Sent]) -> io::Result<()> {
        let etags = etag_of_parts(parts.iter().map(|part| &*part.etag));
        let crc32c = (self.checksum == Checksum::Crc32c)
            .then(|| crc32c_of_parts(parts.iter().map(|part| &*part.digests.checksum)));
        // Some stores compute other values for encrypted objects.
        let is_md5 = |part: &Sent| {
            self.checksum == Checksum::Md5
                && md5_of_etag(&part.etag).as_ref() == Some(&part.digests.checksum)
        };
        let hashes = parts.iter().filter(|part| is_md5(part)).count();
        if hashes > 0 && hashes < parts.len() {
            let message =
                "the store says of some parts, but not of others, that it kept what was sent";
            return Err(io::Error::other(message));
        }
        let etag = etags.filter(|_| hashes > 0);
        let mut expected = Expected { len: upload.len()?, etag, crc32c, confirmed: None };
        if self.create_only {
            self.require_absent(upload)?;
        }
        expected.confirmed = self.complete_repeated(upload, parts, &expected)?;
        upload.join();
        self.verify(upload, &expected)?;
        // If the store has not really completed the upload, it is aborted.
        self.forget();
        Ok(())
    }

    /// Completes a multipart upload. After a request whose outcome is not known, the object is looked
    /// at: completing twice is allowed, but the upload may be gone then. Returns the `ETag` that the
    /// store states.
    fn complete_repeated(
        &self,
        upload: &Upload<Self>,
        parts: &[Sent],
        expected: &Expected,
    ) -> io::Result<Option<String>> {
        let body = completion(parts, self.checksum);
        let mut is_repeated = false;
        let id = self.id().unwrap_or_default();
        let outcome = upload.repeat(|| {
            let was_repeated = std::mem::replace(&mut is_repeated, true);
            match self.complete_once(&id, &body)? {
                Ok(etag) => Ok(etag),
                Err(refusal) if was_repeated && refusal.code == "NoSuchUpload" => {
                    match self.find(expected)? {
                        Found::Same => Ok(None),
                        _ => Err(refusal.into_failure()),
                    }
                }
                Err(refusal) => Err(refusal.into_failure()),
            }
        });
        match outcome {
            Err(error) if is_repeated && is_unclear(&error) => {
                match self.find_repeated(upload, expected) {
                    Ok(Found::Same) => Ok(None),
                    _ => Err(error),
                }
            }
            outcome => outcome,
        }
    }

    fn complete_once(&self, id: &str, body: &str) -> Attempt<Result<Option<String>, Refusal>> {
        let mut headers = vec![(header::CONTENT_TYPE, "application/xml")];
        headers.extend(self.object.dialect.absent(false).filter(|_| self.create_only));
        let response = self.object.exchange(&Call {
            query: &[("uploadId", id)],
            headers: &headers,
            body: crate::s3::object::Payload::Bytes(body.as_bytes()),
            time: Some(COMPLETION),
            ..Call::new(Method::POST)
        })?;
        let response = match response {
            Ok(response) => response,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let headers = response.headers().clone();
        // The status is sent before the outcome is known.
        let text = text(response, COMPLETION)?;
        match Reply::parse(&text) {
            Some(reply) if reply.name == "Error" => {
                Ok(Err(self.object.late_refusal(headers, &text)))
            }
            Some(reply) if reply.name == "CompleteMultipartUploadResult" => {
                Ok(Ok(reply.find("ETag").map(str::to_owned)))
            }
            // That of a proxy, for example.
            Some(_) => {
                Err(unexpected("the answer to the end of the upload is not that of a store"))
            }
            None => {
                let message = "the server's answer to the end of the upload is cut off";
                Err(Failure::Temporary(io::Error::other(message), None))
            }
        }
    }

    /// Uploads an object that fits into one part.
    pub(super) fn put_whole(&self, upload: &Upload<Self>) -> io::Result<()> {
        let range = 0..upload.len()?;
        let mut expected = Expected { len: range.end, etag: None, crc32c: None, confirmed: None };
        let mut is_repeated = false;
        upload.repeat(|| {
            let was_repeated = std::mem::replace(&mut is_repeated, true);
            let digests = self.digests(upload, &range)?;
            self.expect(&mut expected, &digests);
            let mut headers = self.checksum_headers(&digests);
            let absent = self.object.dialect.absent(true).filter(|_| self.create_only);
            headers.extend(absent.map(|(name, value)| (name, value.to_owned())));
            let headers: Vec<_> = headers.iter().map(|(name, v)| (name.clone(), &**v)).collect();
            let response = self.object.exchange(&Call {
                headers: &headers,
                body: self.payload(&range, &digests, &|| upload.reader(&range)),
                time: Some(COMPLETION),
                ..Call::new(Method::PUT)
            })?;
            match response {
                Ok(response) => {
                    let etag = response.headers().get(header::ETAG);
                    expected.confirmed = etag.and_then(|e| e.to_str().ok()).map(str::to_owned);
                    if !self.require_kept(response.headers(), &digests)? {
                        expected.etag = None;
                    }
                    text(response, COMPLETION).map(drop)
                }
                // An earlier attempt may have succeeded.
                Err(refusal) if was_repeated && refusal.status == 412 => {
                    match self.find(&expected)? {
                        Found::Same => Ok(()),
                        _ => Err(refusal.into_failure()),
                    }
                }
                Err(refusal) => Err(refusal.into_failure()),
            }
        })?;
        self.verify(upload, &expected)
    }

    fn expect(&self, expected: &mut Expected, digests: &Digests) {
        match self.checksum {
            Checksum::Crc32c => expected.crc32c = Some(digests.base64()),
            Checksum::Md5 => {
                let hash = hex(&digests.checksum);
                expected.etag = Some(format!("\"{hash}\""));
            }
        }
    }

    /// Fails if the object is not what was uploaded.
    fn verify(&self, upload: &Upload<Self>, expected: &Expected) -> io::Result<()> {
        match self.find_repeated(upload, expected)? {
            Found::Same | Found::Confirmed | Found::Unknown => Ok(()),
            Found::Similar => Err(io::Error::other(
                "the store does not say that the object is the one that was uploaded",
            )),
            Found::Absent => Err(io::Error::other(
                "the object is not there after it was uploaded: someone else has removed it",
            )),
            Found::Different(what) => Err(io::Error::other(format!(
                "{what} of the object differs after it was uploaded: someone else has replaced it, \
                 or it is damaged"
            ))),
        }
    }

    /// Fails if the object exists, as far as this user may know.
    pub(super) fn require_absent(&self, upload: &Upload<Self>) -> io::Result<()> {
        match upload.repeat_lookup(|| self.head())? {
            Ok(_) => Err(io::Error::new(io::ErrorKind::AlreadyExists, "the object exists already")),
            Err(_) => Ok(()),
        }
    }

    fn find_repeated(&self, upload: &Upload<Self>, expected: &Expected) -> io::Result<Found> {
        upload.repeat_lookup(|| self.find(expected))
    }

    fn head(&self) -> Attempt<Result<HeaderMap, StatusCode>> {
        let mode = HeaderName::from_static("x-amz-checksum-mode");
        let headers = [(mode, "ENABLED")];
        let response = self.object.exchange(&Call {
            headers: if self.checksum == Checksum::Crc32c { &headers } else { &[] },
            ..Call::new(Method::HEAD)
        })?;
        match response {
            Ok(response) => Ok(Ok(response.headers().clone())),
            Err(refusal) if matches!(refusal.status.as_u16(), 401 | 403 | 404) => {
                Ok(Err(refusal.status))
            }
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
        let is_same = |found: Option<&str>, expected: &Option<String>| {
            Some(plain(found?) == plain(expected.as_ref()?))
        };
        let checksum = is_same(text("x-amz-checksum-crc32c"), &expected.crc32c);
        let etag = is_same(text("etag").filter(|etag| is_hash(etag)), &expected.etag);
        let confirmed = is_same(text("etag"), &expected.confirmed);
        Ok(match len {
            None => return Err(unexpected("the server does not state the length of the object")),
            Some(len) if expected.len != len => Found::Different("the length".into()),
            _ if checksum == Some(false) => Found::Different("the checksum".into()),
            _ if etag == Some(false) => Found::Different("the ETag".into()),
            _ if confirmed == Some(false) => Found::Different("the ETag".into()),
            _ if checksum.or(etag).is_some() => Found::Same,
            _ if confirmed.is_some() => Found::Confirmed,
            _ => Found::Similar,
        })
    }
}

/// Returns an `ETag` without what differs between responses.
fn plain(etag: &str) -> &str {
    etag.trim().trim_start_matches("W/").trim_matches('"')
}

/// Returns true for an `ETag` that is a hash of the object, or of those of its parts.
fn is_hash(etag: &str) -> bool {
    let text = etag.trim_matches('"');
    md5_of_etag(text.split_once('-').map_or(text, |(hash, _)| hash)).is_some()
}

/// Returns true for errors after which a request may have succeeded.
fn is_unclear(error: &io::Error) -> bool {
    !matches!(
        error.kind(),
        io::ErrorKind::PermissionDenied | io::ErrorKind::Interrupted | io::ErrorKind::NotFound
    )
}

/// Returns the body of the request that completes an upload.
fn completion(parts: &[Sent], checksum: Checksum) -> String {
    let mut text =
        String::from("<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
    for (number, part) in (1..).zip(parts) {
        let etag = escaped(&part.etag);
        let crc = match checksum {
            Checksum::Crc32c => {
                format!("<ChecksumCRC32C>{}</ChecksumCRC32C>", part.digests.base64())
            }
            Checksum::Md5 => String::new(),
        };
        text += &format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag>{crc}</Part>");
    }
    text + "</CompleteMultipartUpload>"
}
