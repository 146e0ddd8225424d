//! Where tokens come from, with a server that plays all services, and what requests carry.

use super::*;
use crate::http::tests::server::{Received, Reply, Server};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use diskimg::storage::output::Durability;
use diskimg::storage::source::RetryPolicy;
use ring::signature::{KeyPair, RSA_PKCS1_2048_8192_SHA256, RsaKeyPair, UnparsedPublicKey};
use std::time::Duration;

fn http_options() -> HttpOptions {
    let mut http = HttpOptions::default();
    (http.netrc, http.stall_timeout) = (None, Duration::from_secs(2));
    let mut retry = RetryPolicy::default();
    (retry.attempts, retry.first_delay) = (2, Duration::from_millis(1));
    http.retry = retry;
    http
}

fn ok(body: &str) -> Reply {
    Reply::new("200 OK", &[], body.as_bytes())
}

const TOKEN: &str = r#"{"access_token":"ya29.T","expires_in":3599,"token_type":"Bearer"}"#;

fn tokens(variables: &[(&str, &str)]) -> Tokens {
    let environment = Environment::of(variables);
    Tokens::new(Identity::new(&http_options(), environment).expect("is valid"))
}

fn shown(tokens: &Tokens) -> std::result::Result<String, String> {
    use crate::http::transport::Failure;
    tokens.get().map(|token| token.text().to_owned()).map_err(|failure| match failure {
        Failure::Final(error) | Failure::Temporary(error, _) => error.to_string(),
    })
}

/// Writes a file with credentials, and returns its name.
fn file(folder: &tempfile::TempDir, value: &serde_json::Value) -> String {
    let path = folder.path().join("credentials.json");
    std::fs::write(&path, value.to_string()).expect("writes");
    path.display().to_string()
}

#[test]
fn a_service_account_signs_requests_for_tokens() {
    let pem = ["genpkey", "-quiet", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];
    let pem = diskimg_testkit::tool::run("openssl", pem);
    let key: RsaKeyPair = identity::key(&pem).expect("is a key");
    let server = Server::start(|_, _| ok(TOKEN));
    let folder = tempfile::tempdir().expect("a folder");
    let uri =
        format!("http://127.0.0.1:{}/token", server.url("").rsplit(':').next().expect("a port"));
    let name = file(
        &folder,
        &serde_json::json!({
            "type": "service_account", "client_email": "a@b.iam.gserviceaccount.com",
            "private_key": pem, "token_uri": uri,
        }),
    );
    let found = shown(&tokens(&[("GOOGLE_APPLICATION_CREDENTIALS", &name)]));
    assert_eq!(found.as_deref(), Ok("ya29.T"));
    let received = server.received();
    let body = String::from_utf8(received[0].body.clone()).expect("is text");
    let assertion = body.split("assertion=").nth(1).expect("has one");
    let (signed, signature) = assertion.rsplit_once('.').expect("is signed");
    let decode = |text: &str| BASE64_URL_SAFE_NO_PAD.decode(text).expect("is base64");
    let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key.public_key().as_ref());
    public.verify(signed.as_bytes(), &decode(signature)).expect("is signed by the key");
    let claims = signed.split('.').nth(1).expect("has claims");
    let claims: serde_json::Value = serde_json::from_slice(&decode(claims)).expect("is JSON");
    assert_eq!(claims["iss"], "a@b.iam.gserviceaccount.com");
    assert_eq!(claims["aud"], uri);
    assert!(claims["scope"].as_str().expect("is text").ends_with("devstorage.read_write"));
}

#[test]
fn files_and_machines_have_tokens() {
    let server = Server::start(|received, _| match received.header("metadata-flavor") {
        Some("Google") => ok(&TOKEN.replace("ya29.T", "machine")),
        _ if received.path.starts_with("/token") => {
            let body = String::from_utf8_lossy(&received.body).into_owned();
            match body.contains("refresh_token=1%2F%2Fr&")
                || body.ends_with("refresh_token=1%2F%2Fr")
            {
                true => ok(TOKEN),
                false => Reply::new("400 Bad Request", &[], received.body.as_slice()),
            }
        }
        _ => Reply::new("404 Not Found", &[], b""),
    });
    let port = server.url("").rsplit(':').next().expect("a port").to_owned();
    let uri = format!("http://127.0.0.1:{port}/token");
    let folder = tempfile::tempdir().expect("a folder");
    let user = |refresh: &str, uri: &str| {
        let value = serde_json::json!({
            "type": "authorized_user", "client_id": "i", "client_secret": "s",
            "refresh_token": refresh, "token_uri": uri,
        });
        shown(&tokens(&[("GOOGLE_APPLICATION_CREDENTIALS", &file(&folder, &value))]))
    };
    assert_eq!(user("1//r", &uri).as_deref(), Ok("ya29.T"));
    // The answer repeats the request.
    let error = user("wrong/secret", &uri).expect_err("is refused");
    assert!(!error.contains("wrong") && error.contains("400"), "{error}");
    let error = user("1//r", "http://token.example.org").expect_err("is not encrypted");
    assert!(error.contains("not an https URL"), "{error}");
    let external = serde_json::json!({"type": "external_account"});
    let error = shown(&tokens(&[("GOOGLE_APPLICATION_CREDENTIALS", &file(&folder, &external))]));
    assert!(error.expect_err("is another kind").contains("'external_account' is not supported"));
    let host = format!("127.0.0.1:{port}");
    let home = folder.path().display().to_string();
    let machine = [("GCE_METADATA_HOST", &*host), ("HOME", &home)];
    assert_eq!(shown(&tokens(&machine)).as_deref(), Ok("machine"));
}

/// Writes an object, and returns the requests.
fn written(keys: Option<Keys>, dialect: Dialect) -> Vec<Received> {
    let server = Server::start(|received, _| match &*received.method {
        "PUT" => {
            use md5::{Digest, Md5};
            let hash = crate::upload::hash::hex(&Md5::digest(&received.body));
            Reply::new("200 OK", &[("ETag", &format!("\"{hash}\""))], b"")
        }
        _ => Reply::new("404 Not Found", &[], b""),
    });
    let endpoint = server.url("");
    let gcs = Gcs(S3::of_service(OtherService {
        http: http_options(),
        endpoint,
        keys,
        create_only: true,
        dialect,
    })
    .expect("is valid"));
    let at: Location = "gs://bucket/absent".parse().expect("is a URL");
    let new = gcs.create(&at).expect("creates");
    new.sink().write_all_at(b"abc", 0).expect("writes");
    new.flush(Durability::Flushed).expect("flushes");
    // Looking at the object does not find it.
    new.publish(Durability::Flushed).expect_err("it is not there");
    server.received()
}

#[test]
fn requests_have_a_token_or_a_signature() {
    let machine = Server::start(|_, _| ok(TOKEN));
    let host = machine.url("").replace("http://", "");
    let tokens = Arc::new(tokens(&[("GCE_METADATA_HOST", &host)]));
    for received in written(None, Dialect::Google(Some(tokens))) {
        assert_eq!(received.header("authorization"), Some("Bearer ya29.T"));
        // Both kinds of headers are an error.
        assert!(!received.headers.iter().any(|(name, _)| name.starts_with("x-amz-")));
        let condition = received.header("x-goog-if-generation-match");
        assert_eq!(condition, (received.method == "PUT").then_some("0"), "{received:?}");
    }
    for received in written(Some(Keys::new("GOOG1E", "secret", None)), Dialect::Google(None)) {
        let authorization = received.header("authorization").expect("is signed");
        assert!(authorization.starts_with("AWS4-HMAC-SHA256 Credential=GOOG1E/"));
        assert!(authorization.contains("/auto/s3/aws4_request"), "{authorization}");
        assert!(!received.headers.iter().any(|(name, _)| name.starts_with("x-goog-")));
    }
}

#[test]
fn tokens_are_for_google_alone() {
    let environment = Environment::of(&[("GOOGLE_APPLICATION_CREDENTIALS", "/absent")]);
    let secret_of = |change: &dyn Fn(&mut GcsOptions)| {
        let mut options = GcsOptions { http: http_options(), ..GcsOptions::default() };
        change(&mut options);
        let gcs = Gcs::in_environment(options, &environment).expect("is valid");
        let at: Location = "gs://bucket/a".parse().expect("is a URL");
        gcs.create(&at).err().map(|e| format!("{e:?}")).unwrap_or_default()
    };
    // The file is only read for requests to Google.
    assert!(secret_of(&|_| {}).contains("/absent"));
    assert_eq!(secret_of(&|o| o.endpoint = Some("http://127.0.0.1:1".to_owned())), "");
    assert_eq!(secret_of(&|o| o.anonymous = true), "");
    assert_eq!(secret_of(&|o| o.http.forbid_private_addresses = true), "");
}

#[test]
fn names_of_objects() {
    let translated = |text: &str| {
        let at = translated(&text.parse().expect("is a URL")).ok()?;
        let Location::Url(url) = at else { return None };
        Some(url.as_str().to_owned())
    };
    assert_eq!(translated("gs://b/a%3Fb").as_deref(), Some("s3://b/a%3Fb"));
    assert_eq!(translated("gs://b/a?generation=12").as_deref(), Some("s3://b/a?versionId=12"));
    for wrong in [
        "gs:b/a",
        "gs://b/a?generation=",
        "gs://b/a?generation=x",
        "gs://b/a?endpoint=http%3A%2F%2Fh",
        "gs://b/a?generation=1&generation=2",
    ] {
        assert_eq!(translated(wrong), None, "{wrong}");
    }
}
