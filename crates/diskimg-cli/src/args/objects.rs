//! `--object`: objects of QEMU, which programs define for encrypted images.
//!
//! Encryption is not supported yet, so no object is used. They are checked in the way QEMU does.

use crate::failure::Failure;
use diskimg::Options;
use std::collections::HashSet;

/// Types of objects that qemu-img has and that make no difference for files.
const OTHER_TYPES: [&str; 9] = [
    "authz-list",
    "authz-list-file",
    "authz-pam",
    "authz-simple",
    "iothread",
    "throttle-group",
    "tls-creds-anon",
    "tls-creds-psk",
    "tls-creds-x509",
];

/// Properties of a secret.
const SECRET: [&str; 5] = ["data", "file", "format", "iv", "keyid"];

/// Checks the objects.
pub(super) fn check(objects: &[String]) -> Result<(), Failure> {
    let mut ids = HashSet::new();
    for text in objects {
        let (kind, mut properties) = parse(text)?;
        let id = properties.take("id").filter(|id| !id.is_empty());
        let id = id.ok_or_else(|| Failure::error("Parameter 'id' is missing"))?;
        if kind == "secret" {
            check_secret(&properties)?;
        } else if !OTHER_TYPES.contains(&kind.as_str()) {
            return Err(Failure::error(format!(
                "Parameter 'qom-type' does not accept value '{kind}'"
            )));
        }
        if !ids.insert(id.clone()) {
            return Err(Failure::error(format!(
                "attempt to add duplicate property '{id}' to object (type 'container')"
            )));
        }
    }
    Ok(())
}

/// Returns the type of an object and its properties.
fn parse(text: &str) -> Result<(String, Options), Failure> {
    if text.starts_with('{') {
        return Err(Failure::not_supported("--object with a JSON object"));
    }
    let (kind, properties) = text.split_once(',').unwrap_or((text, ""));
    let kind = kind.strip_prefix("qom-type=").unwrap_or(kind).to_owned();
    Ok((kind, Options::parse(properties)?))
}

fn check_secret(properties: &Options) -> Result<(), Failure> {
    for (name, _) in properties.iter() {
        if !SECRET.contains(&name) {
            return Err(Failure::error(format!("Parameter '{name}' is unexpected")));
        }
    }
    match (properties.get("data"), properties.get("file")) {
        (None, None) => Err(Failure::error("Either 'file' or 'data' must be provided")),
        (Some(_), Some(_)) => Err(Failure::error("'file' and 'data' are mutually exclusive")),
        _ => Ok(()),
    }
}
