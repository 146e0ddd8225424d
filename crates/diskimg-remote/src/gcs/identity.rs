//! Tokens for the identity of this user or machine.
//!
//! | order | source | kind |
//! |---|---|---|
//! | 1 | the file that `GOOGLE_APPLICATION_CREDENTIALS` names | key of a service account, or refresh token |
//! | 2 | `gcloud auth application-default login`, which writes such a file | |
//! | 3 | the metadata service of a virtual machine or container | |

use crate::environment::Environment;
use crate::http::HttpOptions;
use crate::http::transport::Attempt;
use crate::percent::encoded;
use crate::s3::credentials::environment::read_token;
use crate::s3::credentials::refused;
use crate::s3::credentials::services::{Services, fetch, fetch_with};
use crate::tokens::{Issued, Issuer};
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD, Engine};
use diskimg::Result;
use jiff::Timestamp;
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use ureq::http::Request;

/// What the tokens are for.
const SCOPE: &str = "https://www.googleapis.com/auth/devstorage.read_write";

/// The service that issues tokens.
const TOKEN_URI: &str = "https://oauth2.googleapis.com/token";

/// The address of the metadata service.
const METADATA: &str = "169.254.169.254";

/// How long what is signed is valid, in seconds.
const LIFETIME: i64 = 3600;

/// Where tokens come from.
#[derive(Debug)]
pub(super) struct Identity {
    services: Services,
    environment: Environment,
}

/// Returns the files that may be read.
pub(super) fn files(environment: &Environment) -> Vec<PathBuf> {
    let named = environment.get("GOOGLE_APPLICATION_CREDENTIALS").map(PathBuf::from);
    named.into_iter().chain(default_file(environment)).collect()
}

/// Returns the file that `gcloud auth application-default login` writes.
fn default_file(environment: &Environment) -> Option<PathBuf> {
    let directory = match environment.get("CLOUDSDK_CONFIG") {
        Some(directory) => PathBuf::from(directory),
        None => match environment.get("APPDATA").filter(|_| cfg!(windows)) {
            Some(data) => Path::new(&data).join("gcloud"),
            None => Path::new(&environment.get("HOME")?).join(".config/gcloud"),
        },
    };
    Some(directory.join("application_default_credentials.json"))
}

impl Identity {
    /// Connects to nothing.
    ///
    /// # Errors
    /// As [`Services::new`].
    pub(super) fn new(options: &HttpOptions, environment: Environment) -> Result<Self> {
        Ok(Self { services: Services::new(options)?, environment })
    }

    /// Asks for a token with what is in a file.
    fn of_file(&self, file: &Path) -> Attempt<Issued> {
        const WHAT: &str = "Google's service of tokens";
        let text = read_token(file)?;
        let wrong = |what: &str| refused(format!("{what} in '{}'", file.display()));
        let value: Value = serde_json::from_str(&text).map_err(|_| wrong("there is no JSON"))?;
        let get = |name: &str| value.get(name).and_then(Value::as_str);
        let require = |name: &str| get(name).ok_or_else(|| wrong(&format!("{name} is missing")));
        let uri = get("token_uri").unwrap_or(TOKEN_URI);
        if !uri.starts_with("https://") && !uri.starts_with("http://127.0.0.1:") {
            return Err(wrong("token_uri is not an https URL"));
        }
        let (body, secret) = match require("type")? {
            "service_account" => {
                let key = key(require("private_key")?);
                let key = key.ok_or_else(|| wrong("private_key is malformed"))?;
                let token = signed(&key, require("client_email")?, uri, Timestamp::now());
                let token = token.ok_or_else(|| wrong("private_key is not usable"))?;
                let kind = encoded("urn:ietf:params:oauth:grant-type:jwt-bearer");
                (format!("grant_type={kind}&assertion={token}"), token)
            }
            "authorized_user" => {
                let secret = require("refresh_token")?;
                let body = format!(
                    "grant_type=refresh_token&client_id={}&client_secret={}&refresh_token={}",
                    encoded(require("client_id")?),
                    encoded(require("client_secret")?),
                    encoded(secret)
                );
                (body, secret.to_owned())
            }
            other => return Err(wrong(&format!("the type '{other}' is not supported"))),
        };
        let request = Request::post(uri)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body.as_bytes());
        let reply = fetch_with(&self.services.remote, request, WHAT, &[&secret])?;
        Issued::of_reply(&reply, WHAT)
    }

    /// Asks the metadata service.
    fn of_machine(&self) -> Attempt<Issued> {
        const WHAT: &str = "the machine's metadata service";
        let named = self.environment.get("GCE_METADATA_HOST");
        let host = named.clone().unwrap_or_else(|| METADATA.to_owned());
        let path = "computeMetadata/v1/instance/service-accounts/default/token";
        let request = Request::get(format!("http://{host}/{path}"))
            .header("metadata-flavor", "Google")
            .body(());
        match fetch(&self.services.local, request, WHAT) {
            Ok(text) => Issued::of_reply(&text, WHAT),
            // Most hosts are no machines of Google.
            Err(_) if named.is_none() => Err(refused(
                "no keys were found: set GS_ACCESS_KEY_ID and GS_SECRET_ACCESS_KEY, or \
                 GOOGLE_APPLICATION_CREDENTIALS; public objects need none",
            )),
            Err(failure) => Err(failure),
        }
    }
}

impl Issuer for Identity {
    fn issue(&self) -> Attempt<Issued> {
        let named = self.environment.get("GOOGLE_APPLICATION_CREDENTIALS").map(PathBuf::from);
        let default = default_file(&self.environment).filter(|file| file.exists());
        match named.or(default) {
            Some(file) => self.of_file(&file),
            None => self.of_machine(),
        }
    }
}

/// Returns the key in PEM (RFC 7468), as service accounts have it.
pub(super) fn key(pem: &str) -> Option<RsaKeyPair> {
    let text = pem.split("-----BEGIN PRIVATE KEY-----").nth(1)?;
    let text = text.split("-----END PRIVATE KEY-----").next()?;
    let text: String = text.split_whitespace().collect();
    RsaKeyPair::from_pkcs8(&BASE64_STANDARD.decode(text).ok()?).ok()
}

/// Returns a signed request for a token: RFC 7523 and RFC 7515, appendix A.2.
fn signed(key: &RsaKeyPair, account: &str, audience: &str, now: Timestamp) -> Option<String> {
    let encode = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let now = now.as_second();
    let claims = json!({
        "iss": account, "scope": SCOPE, "aud": audience, "iat": now, "exp": now + LIFETIME,
    });
    let text = format!("{}.{}", encode(&json!({"alg": "RS256", "typ": "JWT"})), encode(&claims));
    let mut signature = vec![0; key.public().modulus_len()];
    let random = SystemRandom::new();
    key.sign(&RSA_PKCS1_SHA256, &random, text.as_bytes(), &mut signature).ok()?;
    Some(format!("{text}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature)))
}
