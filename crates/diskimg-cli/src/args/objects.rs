//! `--object`: objects of QEMU. Secrets and certificates are used; other objects make no difference.
//!
//! Files of secrets are read here, before the command is confined.

use crate::args::advice;
use crate::failure::Failure;
use crate::remote::TlsCredentials;
use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use diskimg::{Options, Secrets};
use serde_json::Value;
use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use zeroize::Zeroizing;

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

/// Maximum length in bytes of a file that holds a secret.
const MAX_SECRET: usize = 1 << 20;

/// Base64 with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Checks the objects in the way QEMU does, and returns the secrets.
pub(super) fn secrets(objects: &[String]) -> Result<Secrets, Failure> {
    let mut ids = HashSet::new();
    let mut secrets = Secrets::new();
    for text in objects {
        let (kind, mut properties) = parse(text)?;
        let id = properties.take("id").filter(|id| !id.is_empty());
        let id = id.ok_or_else(|| Failure::error("Parameter 'id' is missing"))?;
        if !is_identifier(&id) {
            return Err(Failure::error("Parameter 'id' expects an identifier"));
        }
        let secret = match kind.as_str() {
            "secret" => Some(secret(&mut properties, &secrets)?),
            other if OTHER_TYPES.contains(&other) => None,
            other => {
                let message = format!("Parameter 'qom-type' does not accept value '{other}'");
                let known = OTHER_TYPES.into_iter().chain(["secret"]);
                return Err(Failure::error(advice::with_suggestion(message, other, known)));
            }
        };
        if !ids.insert(id.clone()) {
            return Err(Failure::error(format!(
                "attempt to add duplicate property '{id}' to object (type 'container')"
            )));
        }
        if let Some(mut secret) = secret {
            secrets.insert(id, std::mem::take(&mut *secret));
        }
    }
    Ok(secrets)
}

/// Returns the certificates of clients. The objects were checked by [`secrets`].
pub(super) fn credentials(objects: &[String]) -> Result<Vec<TlsCredentials>, Failure> {
    let mut found = Vec::new();
    for text in objects {
        let (kind, mut properties) = parse(text)?;
        let id = properties.take("id").unwrap_or_default();
        let endpoint = properties.take("endpoint");
        // Those of servers, the default, are of no use.
        if kind != "tls-creds-x509" || endpoint.as_deref() != Some("client") {
            continue;
        }
        let directory = properties.take("dir");
        let directory = directory.ok_or_else(|| Failure::error("Parameter 'dir' is missing"))?;
        let verify_peer = match properties.take("verify-peer").as_deref() {
            None | Some("on" | "yes" | "true" | "y") => true,
            Some("off" | "no" | "false" | "n") => false,
            Some(_) => return Err(Failure::error("Parameter 'verify-peer' expects 'on' or 'off'")),
        };
        found.push(TlsCredentials { id, directory: directory.into(), verify_peer });
    }
    Ok(found)
}

/// Returns the type of an object and its properties.
fn parse(text: &str) -> Result<(String, Options), Failure> {
    if text.starts_with('{') {
        return parse_json(text);
    }
    let (kind, properties) = text.split_once(',').unwrap_or((text, ""));
    let kind = kind.strip_prefix("qom-type=").unwrap_or(kind).to_owned();
    Ok((kind, Options::parse(properties)?))
}

/// Parses an object that is written as JSON. Properties that are not text belong to objects that
/// make no difference, so they are kept as JSON.
fn parse_json(text: &str) -> Result<(String, Options), Failure> {
    let members: serde_json::Map<String, Value> =
        serde_json::from_str(text).map_err(|e| Failure::error(format!("JSON parse error, {e}")))?;
    let mut properties = Options::default();
    for (name, value) in members {
        let value = match value {
            Value::String(text) => text,
            other => other.to_string(),
        };
        properties.set(name, value);
    }
    let kind = properties.take("qom-type");
    let kind = kind.ok_or_else(|| Failure::error("Parameter 'qom-type' is missing"))?;
    Ok((kind, properties))
}

/// Returns true for letters, digits, `-`, `.` and `_`, of which the first is a letter.
fn is_identifier(id: &str) -> bool {
    id.starts_with(|c: char| c.is_ascii_alphabetic())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
}

/// Returns the bytes of a secret. `known` are the secrets that are defined before it.
fn secret(properties: &mut Options, known: &Secrets) -> Result<Zeroizing<Vec<u8>>, Failure> {
    if let Some((name, _)) = properties.iter().find(|(name, _)| !SECRET.contains(name)) {
        let message = format!("Parameter '{name}' is unexpected");
        let known = SECRET.into_iter().chain(["id"]);
        return Err(Failure::error(advice::with_suggestion(message, name, known)));
    }
    let base64 = match properties.take("format").as_deref() {
        None | Some("raw") => false,
        Some("base64") => true,
        Some(other) => {
            let message = format!("Parameter 'format' does not accept value '{other}'");
            return Err(Failure::error(message));
        }
    };
    let bytes = match (properties.take("data"), properties.take("file")) {
        (None, None) => return Err(Failure::error("Either 'file' or 'data' must be provided")),
        (Some(_), Some(_)) => {
            return Err(Failure::error("'file' and 'data' are mutually exclusive"));
        }
        (Some(data), None) => Zeroizing::new(data.into_bytes()),
        (None, Some(file)) => {
            read(&file).map_err(|e| Failure::error(format!("Unable to read {file}: {e}")))?
        }
    };
    if let Some(key) = properties.take("keyid") {
        known.require(&key)?;
        return Err(Failure::not_supported("a secret that is encrypted (keyid)"));
    }
    if base64 { decode(&bytes) } else { Ok(bytes) }
}

/// Reads a file, which may be a pipe.
fn read(file: &str) -> std::io::Result<Zeroizing<Vec<u8>>> {
    // The buffer does not grow, which would leave copies in memory.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_SECRET + 1));
    File::open(file)?.take(MAX_SECRET as u64 + 1).read_to_end(&mut bytes)?;
    match bytes.len() > MAX_SECRET {
        true => Err(std::io::Error::other(format!("it is longer than {MAX_SECRET} bytes"))),
        false => Ok(bytes),
    }
}

fn decode(text: &[u8]) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let is_valid = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=\n".contains(byte);
    if !text.iter().all(is_valid) {
        return Err(Failure::error("Base64 data contains invalid characters"));
    }
    let text: Zeroizing<Vec<u8>> =
        Zeroizing::new(text.iter().copied().filter(|byte| *byte != b'\n').collect());
    // Unlike QEMU's, the error is not a shorter secret.
    let bytes = BASE64.decode(&*text).map_err(|_| Failure::error("Base64 data is malformed"))?;
    Ok(Zeroizing::new(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(objects: &[&str]) -> Result<Secrets, Failure> {
        secrets(&objects.iter().map(|&text| text.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn secrets_have_the_bytes_of_their_text_file_or_base64() {
        let dir = tempfile::tempdir().expect("tempdir");
        let file = dir.path().join("key");
        std::fs::write(&file, b"a\0\xff\n").expect("writes");
        let from_file = format!("secret,id=file,file={}", file.display());
        std::fs::write(dir.path().join("64"), b"aGVs\nbG8=\n").expect("writes");
        let from_base64 = format!("secret,id=b,file={}/64,format=base64", dir.path().display());
        let secrets = parsed(&[
            "secret,id=text,data=a,,b=c",
            &from_file,
            &from_base64,
            "secret,id=unpadded,format=base64,data=aGVsbG8",
            "secret,id=iv,data=x,iv=AAAA",
            r#"{"qom-type":"secret","id":"json","data":"a,b"}"#,
            "iothread,id=t",
        ]);
        let secrets = secrets.expect("parses");
        for (id, bytes) in [
            ("text", &b"a,b=c"[..]),
            ("file", b"a\0\xff\n"),
            ("b", b"hello"),
            ("unpadded", b"hello"),
            ("iv", b"x"),
            ("json", b"a,b"),
        ] {
            assert_eq!(secrets.get(id), Some(bytes), "{id}");
        }
        assert!(!secrets.contains("t"));
    }

    #[test]
    fn malformed_base64_and_encrypted_secrets_are_errors() {
        for (objects, message) in [
            (&["secret,id=s,format=base64,data=a"][..], "Base64 data is malformed"),
            (&["secret,id=s,format=base64,data=eA==eA=="], "Base64 data is malformed"),
            (&["secret,id=k,data=x", "secret,id=s,data=y,keyid=k"], "(keyid) is not supported"),
            (&["secret,id=s,file=/dev/zero"], "longer than 1048576 bytes"),
        ] {
            let failure = format!("{:?}", parsed(objects).expect_err(message));
            assert!(failure.contains(message), "{failure}");
        }
    }
}
