//! What a later run needs to continue an upload that was interrupted: a file in JSON.
//!
//! ```text
//!   first run: CreateMultipartUpload ─► file ─► part ─► file ─► part ─► file ─► killed
//!   next run:  file ─► ListParts ─► parts that differ or are missing ─► complete ─► no file
//! ```
//!
//! The next run writes the image again. A part is not sent again if its bytes have the SHA-256 hash
//! that the file records, and the store still has what it confirmed then: same `ETag`, same length.
//! The file has no secrets, and is not trusted: what it records wrongly is sent again, or refused by
//! the store when the upload is completed.

use super::digest::Digests;
use super::{LIMITS, Multipart, unexpected};
use crate::http::transport::{Attempt, Failure};
use crate::s3::object::{Call, Object, text};
use crate::s3::xml::Reply;
use crate::upload::Upload;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use ureq::http::{Method, StatusCode};

/// The field that tells such files from others, and its value.
const KIND: (&str, u64) = ("diskimg-upload", 1);

/// Maximum length of the file in bytes. One with 10,000 parts has about 2 MiB.
const MAX_LEN: u64 = 16 << 20;

/// Parts that are listed with one request: replies have a limited length.
const LISTED: &str = "400";

/// Parts by their numbers: length and `ETag`.
type Listed = BTreeMap<u32, (u64, String)>;

/// The file of an upload.
#[derive(Debug)]
pub(super) struct Resume {
    path: PathBuf,
    /// Which object is written, and where.
    destination: String,
    record: Mutex<Record>,
}

/// What the file contains.
#[derive(Debug, Default, PartialEq, Eq)]
struct Record {
    /// The identifier of the upload.
    id: Option<String>,
    /// By their numbers.
    parts: BTreeMap<u32, Part>,
}

/// A part that the store has confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    len: u64,
    /// In hexadecimal.
    sha256: String,
    etag: String,
}

impl Resume {
    /// Reads the file, if it exists.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::InvalidInput`] if it records an upload to another destination, or is
    /// another file, and the underlying error if it cannot be read.
    pub(super) fn load(path: &Path, destination: String) -> io::Result<Self> {
        let invalid = |why: &str| {
            let message = format!("'{}' {why}", path.display());
            io::Error::new(io::ErrorKind::InvalidInput, message)
        };
        let record = match File::open(path) {
            Ok(file) => {
                let mut text = String::new();
                file.take(MAX_LEN).read_to_string(&mut text).map_err(|e| in_file(path, &e))?;
                let parsed = parse(&text);
                let (recorded, record) =
                    parsed.ok_or_else(|| invalid("does not record an upload"))?;
                if recorded != destination {
                    return Err(invalid(&format!(
                        "records an upload to another destination, {}: remove it, or name another \
                         file",
                        diskimg::printable(&recorded)
                    )));
                }
                record
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Record::default(),
            Err(e) => return Err(in_file(path, &e)),
        };
        Ok(Self { path: path.to_owned(), destination, record: Mutex::new(record) })
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the identifier of the upload that the file records.
    pub(super) fn id(&self) -> Option<String> {
        self.record().id.clone()
    }

    /// Records a new upload without parts.
    ///
    /// # Errors
    /// Returns the underlying error if the file cannot be written.
    pub(super) fn begin(&self, id: &str) -> io::Result<()> {
        let mut record = self.record();
        *record = Record { id: Some(id.to_owned()), parts: BTreeMap::new() };
        self.write(&record)
    }

    /// Forgets the parts that the store does not list with their length and `ETag`.
    pub(super) fn retain(&self, listed: &Listed) {
        self.record().parts.retain(|number, part| {
            listed.get(number).is_some_and(|(len, etag)| {
                *len == part.len && etag.trim_matches('"') == part.etag.trim_matches('"')
            })
        });
    }

    /// Returns the `ETag` of a part with these bytes if the store has it. Otherwise the part is
    /// forgotten: it will be sent, and the answer may be lost.
    pub(super) fn kept(&self, number: u32, len: u64, digests: &Digests) -> Option<String> {
        let mut record = self.record();
        let part = record.parts.get(&number)?;
        if part.len == len && digests.sha256.as_ref() == Some(&part.sha256) {
            return Some(part.etag.clone());
        }
        record.parts.remove(&number);
        None
    }

    /// Records a part that the store has confirmed.
    ///
    /// # Errors
    /// Returns the underlying error if the file cannot be written.
    pub(super) fn sent(
        &self,
        number: u32,
        len: u64,
        digests: &Digests,
        etag: &str,
    ) -> io::Result<()> {
        let sha256 = digests.sha256.clone().unwrap_or_default();
        let mut record = self.record();
        record.parts.insert(number, Part { len, sha256, etag: etag.to_owned() });
        self.write(&record)
    }

    /// Removes the file: the upload is complete.
    pub(super) fn finish(&self) {
        *self.record() = Record::default();
        // One that remains names an upload that does not exist any more: another one is begun.
        let _ = fs::remove_file(&self.path);
    }

    /// Replaces the file, so that a crash leaves the old one or the new one.
    fn write(&self, record: &Record) -> io::Result<()> {
        let write = || {
            let mut name = std::ffi::OsString::from(".");
            name.push(self.path.file_name().unwrap_or_default());
            name.push(".diskimg-tmp");
            let temporary = self.path.with_file_name(name);
            match fs::remove_file(&temporary) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            let mut file = File::create_new(&temporary)?;
            file.write_all(self.text(record).as_bytes())?;
            file.sync_all()?;
            fs::rename(&temporary, &self.path)?;
            sync_directory(&self.path)
        };
        write().map_err(|e| in_file(&self.path, &e))
    }

    fn text(&self, record: &Record) -> String {
        let parts = record.parts.iter().map(|(number, part)| {
            let fields = json!({ "len": part.len, "sha256": part.sha256, "etag": part.etag });
            (number.to_string(), fields)
        });
        let parts: Map<_, _> = parts.collect();
        let text = json!({
            KIND.0: KIND.1,
            "destination": self.destination,
            "upload": record.id,
            "parts": parts,
        });
        format!("{text}\n")
    }
}

/// Returns the destination and the upload that a file records.
fn parse(text: &str) -> Option<(String, Record)> {
    let value: Value = serde_json::from_str(text).ok()?;
    if value.get(KIND.0)?.as_u64()? != KIND.1 {
        return None;
    }
    let word = |value: &Value, name: &str| Some(value.get(name)?.as_str()?.to_owned());
    let part = |(number, value): (&String, &Value)| {
        let len = value.get("len")?.as_u64()?;
        let part = Part { len, sha256: word(value, "sha256")?, etag: word(value, "etag")? };
        Some((number.parse().ok()?, part))
    };
    let parts = value.get("parts")?.as_object()?.iter().map(part).collect::<Option<_>>()?;
    Some((word(&value, "destination")?, Record { id: word(&value, "upload"), parts }))
}

impl Multipart {
    /// Returns the upload that the file records, if the store still has it. Parts that it has are not
    /// sent again.
    pub(super) fn resumed(&self, upload: &Upload<Self>) -> io::Result<Option<String>> {
        let Some((state, id)) = self.resume.as_ref().and_then(|state| Some((state, state.id()?)))
        else {
            return Ok(None);
        };
        let listed = upload.repeat(|| self.listed(upload, &id))?;
        if let Some(listed) = &listed {
            state.retain(listed);
        }
        Ok(listed.map(|_| id))
    }

    /// Returns the parts that the store has of an upload; `None` if there is no such upload.
    fn listed(&self, upload: &Upload<Self>, id: &str) -> Attempt<Option<Listed>> {
        let mut listed = Listed::new();
        let mut marker = 0;
        loop {
            upload.require_not_stopped().map_err(Failure::Final)?;
            let after = marker.to_string();
            let query = [("max-parts", LISTED), ("part-number-marker", &*after), ("uploadId", id)];
            let call = Call { query: &query, ..Call::new(Method::GET) };
            let response = match self.object.exchange(&call)? {
                Ok(response) => response,
                Err(refusal) if refusal.status == StatusCode::NOT_FOUND => return Ok(None),
                Err(refusal) => return Err(refusal.into_failure()),
            };
            let text = text(response, self.object.transport.stall_timeout)?;
            let malformed = || unexpected("the server's list of parts is malformed");
            let (reply, parts) = Reply::parse_list(&text, "Part").ok_or_else(malformed)?;
            for part in &parts {
                let number = |name| part.find(name).and_then(|value| value.parse::<u64>().ok());
                let parsed = number("PartNumber").zip(number("Size")).zip(part.find("ETag"));
                let ((number, len), etag) = parsed.ok_or_else(malformed)?;
                let number = u32::try_from(number).map_err(|_| malformed())?;
                if u64::from(number) > LIMITS.max_parts {
                    return Err(malformed());
                }
                listed.insert(number, (len, etag.to_owned()));
            }
            let last = listed.last_key_value().map_or(0, |(&number, _)| number);
            if reply.find("IsTruncated") != Some("true") {
                return Ok(Some(listed));
            }
            if last <= marker {
                return Err(malformed());
            }
            marker = last;
        }
    }

    /// Ends what the file records, after the object was completed. An upload that was not needed any
    /// more is aborted.
    pub(super) fn end_record(&self, upload: &Upload<Self>, used: Option<&str>) {
        let Some(state) = &self.resume else { return };
        if let Some(id) = state.id().filter(|id| Some(&**id) != used) {
            self.remove(upload, &id);
        }
        state.finish();
    }
}

/// Returns what is written, independently of how it is accessed.
pub(super) fn destination(object: &Object) -> String {
    let at = object.endpoint.as_ref().map_or_else(String::new, |endpoint| {
        format!(" at {}://{}", endpoint.scheme, endpoint.authority)
    });
    format!("s3://{}/{}{at}", object.bucket, object.key)
}

fn in_file(path: &Path, error: &io::Error) -> io::Error {
    let message = format!("cannot record the upload in '{}': {error}", path.display());
    io::Error::new(error.kind(), message)
}

/// Makes the name of a file durable.
#[cfg(unix)]
fn sync_directory(file: &Path) -> io::Result<()> {
    let directory = file.parent().filter(|path| !path.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

/// Directories cannot be flushed on this system.
#[cfg(not(unix))]
fn sync_directory(_: &Path) -> io::Result<()> {
    Ok(())
}

/// Parses a file for fuzzing.
pub(crate) fn check(text: &str) {
    drop(parse(text));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digests(sha256: &str) -> Digests {
        Digests { checksum: Vec::new(), sha256: Some(sha256.into()) }
    }

    fn load(path: &Path) -> Resume {
        Resume::load(path, "s3://bucket/key".into()).expect("loads")
    }

    #[test]
    fn parts_are_kept_if_their_bytes_and_the_store_say_so() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("state");
        let state = load(&path);
        assert_eq!(state.id(), None);
        state.begin("an \"id\"").expect("writes");
        for (number, etag) in [(1, "\"one\""), (2, "\"two\""), (3, "\"three\""), (4, "\"four\"")] {
            state.sent(number, 8, &digests("aa"), etag).expect("writes");
        }
        let state = load(&path);
        assert_eq!(state.id().as_deref(), Some("an \"id\""));
        let listed = [(1, (8, "one".into())), (2, (8, "other".into())), (3, (7, "three".into()))];
        state.retain(&listed.into());
        assert_eq!(state.kept(1, 8, &digests("aa")).as_deref(), Some("\"one\""));
        assert_eq!(state.kept(1, 9, &digests("aa")), None);
        // It may have been sent meanwhile.
        assert_eq!(state.kept(1, 8, &digests("aa")), None);
        let state = load(&path);
        assert_eq!(state.kept(4, 8, &digests("ab")), None);
        state.retain(&Listed::new());
        for number in [2, 3, 4] {
            assert_eq!(state.kept(number, 8, &digests("aa")), None, "{number}");
        }
        state.begin("new").expect("writes");
        assert_eq!(load(&path).kept(1, 8, &digests("aa")), None);
        state.finish();
        assert_eq!(fs::read_dir(folder.path()).expect("lists").count(), 0);
    }

    #[test]
    fn files_of_others_are_errors() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("state");
        let refused = || {
            let error = Resume::load(&path, "s3://bucket/other".into()).expect_err("is refused");
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            error.to_string()
        };
        load(&path).begin("id").expect("writes");
        assert!(refused().contains("another destination, s3://bucket/key"), "{}", refused());
        let text = fs::read_to_string(&path).expect("reads");
        for wrong in ["", "{}", "[1]", &text[..text.len() / 2], &text.replace(":1,", ":2,")] {
            fs::write(&path, wrong).expect("writes");
            assert!(refused().contains("does not record an upload"), "{wrong}: {}", refused());
            assert_eq!(fs::read_to_string(&path).expect("reads"), wrong);
        }
    }
}
