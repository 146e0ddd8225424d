//! A store with one object, in memory.

use super::*;
use base64::prelude::{BASE64_STANDARD, Engine};
use md5::{Digest, Md5};
use std::collections::BTreeMap;

/// What a test answers instead of the store.
type Fault = dyn Fn(&Received, usize) -> Option<Reply> + Send + Sync;

/// A store whose answers a test replaces by others.
pub(super) struct Store {
    server: Server,
    inner: Arc<Inner>,
    fault: Arc<Mutex<Option<Arc<Fault>>>>,
}

/// The object and the uploads.
#[derive(Default)]
pub(super) struct Inner(Mutex<Contents>);

#[derive(Default)]
struct Contents {
    object: Option<(Vec<u8>, String)>,
    /// Parts by their number.
    uploads: BTreeMap<String, BTreeMap<u32, Vec<u8>>>,
    next: u32,
}

impl Store {
    pub(super) fn start(
        fault: impl Fn(&Received, usize) -> Option<Reply> + Send + Sync + 'static,
    ) -> Self {
        let (store, _) = Self::deferred();
        store.set_fault(fault);
        store
    }

    /// Starts a store, and returns what answers its requests.
    pub(super) fn deferred() -> (Self, Arc<Inner>) {
        let inner = Arc::new(Inner::default());
        let fault = Arc::new(Mutex::new(None::<Arc<Fault>>));
        let (own, faulty) = (Arc::clone(&inner), Arc::clone(&fault));
        let server = Server::start(move |received, number| {
            let fault = faulty.lock().expect("no panic").clone();
            let reply = fault.and_then(|fault| fault(received, number));
            reply.unwrap_or_else(|| own.answer(received))
        });
        (Self { server, inner: Arc::clone(&inner), fault }, inner)
    }

    pub(super) fn set_fault(
        &self,
        fault: impl Fn(&Received, usize) -> Option<Reply> + Send + Sync + 'static,
    ) {
        *self.fault.lock().expect("no panic") = Some(Arc::new(fault));
    }

    pub(super) fn endpoint(&self) -> String {
        self.server.url("")
    }

    pub(super) fn received(&self) -> Vec<Received> {
        self.server.received()
    }

    fn contents(&self) -> std::sync::MutexGuard<'_, Contents> {
        self.inner.0.lock().expect("no panic")
    }

    pub(super) fn put(&self, object: &[u8]) {
        self.contents().object = Some((object.to_vec(), "\"1\"".into()));
    }

    pub(super) fn object(&self) -> Option<Vec<u8>> {
        self.contents().object.as_ref().map(|(bytes, _)| bytes.clone())
    }

    /// Returns the number of uploads that are neither completed nor aborted.
    pub(super) fn uploads(&self) -> usize {
        self.contents().uploads.len()
    }
}

impl Inner {
    /// Answers a request as a store does.
    pub(super) fn answer(&self, received: &Received) -> Reply {
        let mut contents = self.0.lock().expect("no panic");
        let query = received.path.split_once('?').map_or("", |(_, query)| query);
        let field = |name: &str| {
            let mut items = query.split('&').filter_map(|item| item.split_once('='));
            items.find(|(found, _)| *found == name).map(|(_, value)| value.to_owned())
        };
        if let Some(md5) = received.header("content-md5")
            && BASE64_STANDARD.encode(Md5::digest(&received.body)) != md5
        {
            return error("400 Bad Request", "BadDigest");
        }
        let no_upload = || error("404 Not Found", "NoSuchUpload");
        match (&*received.method, field("uploadId"), field("partNumber")) {
            ("GET", ..) => match &contents.object {
                Some((bytes, etag)) => Reply::part(received, bytes, etag),
                None => error("404 Not Found", "NoSuchKey"),
            },
            ("HEAD", ..) => match &contents.object {
                Some((bytes, etag)) => {
                    let len = bytes.len().to_string();
                    Reply::head("200 OK", &[("Content-Length", &len), ("ETag", etag)])
                }
                None => Reply::head("404 Not Found", &[]),
            },
            ("POST", None, _) => {
                contents.next += 1;
                let id = format!("id+{}", contents.next);
                contents.uploads.insert(id.clone(), BTreeMap::new());
                let text = format!("<R xmlns=\"x\"><UploadId>{id}</UploadId></R>");
                Reply::new("200 OK", &[], text.as_bytes())
            }
            ("PUT", Some(id), Some(number)) => {
                let Some(upload) = contents.uploads.get_mut(&decoded(&id)) else {
                    return no_upload();
                };
                upload.insert(number.parse().expect("is a number"), received.body.clone());
                Reply::new("200 OK", &[("ETag", &etag(&received.body))], b"")
            }
            ("PUT", ..) => {
                contents.object = Some((received.body.clone(), etag(&received.body)));
                Reply::new("200 OK", &[("ETag", &etag(&received.body))], b"")
            }
            ("DELETE", Some(id), _) => match contents.uploads.remove(&decoded(&id)) {
                Some(_) => Reply::new("204 No Content", &[], b""),
                None => no_upload(),
            },
            ("POST", Some(id), _) => {
                let Some(upload) = contents.uploads.remove(&decoded(&id)) else {
                    return no_upload();
                };
                let text = String::from_utf8_lossy(&received.body);
                let mut hashes = Md5::new();
                let mut object = Vec::new();
                let mut count = 0;
                for part in text.split("<PartNumber>").skip(1) {
                    let number = part.split('<').next().and_then(|n| n.parse().ok());
                    let part_bytes = &upload[&number.expect("is a number")];
                    assert!(part.contains(&etag(part_bytes)), "an old part");
                    hashes.update(Md5::digest(part_bytes));
                    object.extend(part_bytes);
                    count += 1;
                }
                let etag = format!("\"{}-{count}\"", crate::upload::hash::hex(&hashes.finalize()));
                let text = format!(
                    "  \n<CompleteMultipartUploadResult><ETag>{}</ETag>\
                     </CompleteMultipartUploadResult>",
                    etag.replace('"', "&quot;")
                );
                contents.object = Some((object, etag));
                Reply::new("200 OK", &[], text.as_bytes())
            }
            _ => error("405 Method Not Allowed", "MethodNotAllowed"),
        }
    }
}

fn etag(bytes: &[u8]) -> String {
    format!("\"{}\"", crate::upload::hash::hex(&Md5::digest(bytes)))
}

fn decoded(text: &str) -> String {
    crate::percent::name_decoded(text).expect("is UTF-8")
}

/// Returns text as the value of a parameter.
pub(super) fn url_of(text: &str) -> String {
    crate::percent::encoded(text)
}

/// Returns a refusal.
pub(super) fn error(status: &str, code: &str) -> Reply {
    let text = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code></Error>");
    Reply::new(status, &[], text.as_bytes())
}

impl Reply {
    /// A response to HEAD.
    pub(super) fn head(status: &str, headers: &[(&str, &str)]) -> Self {
        let lines = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
        let lines: String = lines.collect();
        let bytes = format!("HTTP/1.1 {status}\r\n{lines}\r\n").into_bytes();
        Self { bytes, ..Self::default() }
    }
}
