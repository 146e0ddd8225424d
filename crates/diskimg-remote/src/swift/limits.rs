//! What a cluster accepts: `/info`.

use super::object::{Call, Object};
use super::url::path;
use crate::http::answer::Unexpected;
use crate::http::body::text;
use crate::http::transport::{Attempt, Failure};
use crate::upload::Limits;
use serde_json::Value;
use std::io;
use ureq::http::{Method, Request, Uri};

/// Smallest segment that is used, in bytes, but for the last one.
const MIN_SEGMENT: u64 = 32 << 20;

/// Swift's own limits.
const DEFAULTS: Limits =
    Limits { min_part: MIN_SEGMENT, max_part: 5 << 30, equal_parts: 950, max_parts: 1000 };

/// Largest number of segments that is used, whatever the cluster allows.
const MAX_SEGMENTS: u64 = 10_000;

/// Verifies that there is a token and the container, and returns what the cluster accepts.
pub(super) fn check(object: &Object) -> Attempt<Limits> {
    let call = Call::new(Method::HEAD, path(&object.container, None));
    match object.exchange(&call)? {
        Ok(_) => {}
        Err(refusal) if refusal.status == 404 => {
            let message = format!(
                "there is no container '{}': create it first",
                diskimg::printable(&object.container)
            );
            return Err(Failure::Final(io::Error::new(
                io::ErrorKind::NotFound,
                Unexpected(message),
            )));
        }
        // Users who may write objects may not be allowed to see the container.
        Err(refusal) if refusal.status == 403 => {}
        Err(refusal) => return Err(refusal.into_failure()),
    }
    Ok(info(object).unwrap_or(DEFAULTS))
}

/// Requests the description of the cluster, which is beside the accounts. It needs no token.
fn info(object: &Object) -> Option<Limits> {
    let endpoint = object.session.issued().ok()?.endpoint.clone();
    let at =
        endpoint.find("/v1/").or_else(|| endpoint.ends_with("/v1").then(|| endpoint.len() - 3));
    let uri: Uri = format!("{}/info", &endpoint[..at?]).parse().ok()?;
    let mut request = Request::new(());
    *request.uri_mut() = uri;
    let transport = &object.session.transport;
    let response = transport.send(request).ok().filter(|r| r.status().is_success())?;
    of_info(&text(response, transport.stall_timeout).ok()?)
}

/// Interprets the description of a cluster; `None` if it is malformed.
pub(super) fn of_info(text: &str) -> Option<Limits> {
    let info: Value = serde_json::from_str(text).ok()?;
    let swift = info.get("swift").filter(|swift| swift.is_object())?;
    let number = |section: &Value, key: &str| section.get(key).and_then(Value::as_u64);
    let max_part = number(swift, "max_file_size").unwrap_or(DEFAULTS.max_part);
    let max_part = max_part.clamp(1 << 20, DEFAULTS.max_part);
    // Some have no segments: an object is at most as large as one request.
    let Some(segments) = info.get("slo").filter(|slo| slo.is_object()) else {
        return Some(Limits { min_part: max_part, max_part, equal_parts: 1, max_parts: 1 });
    };
    let max_parts = number(segments, "max_manifest_segments").unwrap_or(DEFAULTS.max_parts);
    let max_parts = max_parts.clamp(2, MAX_SEGMENTS);
    let least = number(segments, "min_segment_size").unwrap_or(1);
    let min_part = MIN_SEGMENT.max(least.min(max_part).next_multiple_of(1 << 20)).min(max_part);
    let equal_parts = (max_parts * 95 / 100).max(1);
    Some(Limits { min_part, max_part, equal_parts, max_parts })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cluster_says_how_objects_are_divided() {
        let found = of_info(
            "{\"swift\":{\"max_file_size\":5368709122},\"slo\":{\"max_manifest_segments\":100,\
             \"min_segment_size\":1}}",
        );
        let expected = Limits { equal_parts: 95, max_parts: 100, ..DEFAULTS };
        assert_eq!(found, Some(expected));
        let found = of_info("{\"swift\":{\"max_file_size\":1073741824}}").expect("is valid");
        assert_eq!((found.min_part, found.max_parts), (1 << 30, 1));
        let odd = "{\"swift\":{\"max_file_size\":0},\"slo\":{\"max_manifest_segments\":0,\
                   \"min_segment_size\":18446744073709551000}}";
        let found = of_info(odd).expect("is valid");
        assert_eq!((found.min_part, found.max_part, found.max_parts), (1 << 20, 1 << 20, 2));
        for wrong in ["", "[]", "{\"slo\":{}}", "<html>"] {
            assert_eq!(of_info(wrong), None, "{wrong}");
        }
    }
}
