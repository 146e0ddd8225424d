//! Where tokens come from, with a server that plays all services, and what requests carry.

use super::*;
use crate::http::tests::server::{Received, Reply, Server};
use diskimg::storage::output::Durability;
use diskimg::storage::source::RetryPolicy;
use std::time::Duration;

fn http_options() -> HttpOptions {
    let mut http = HttpOptions::default();
    (http.netrc, http.stall_timeout) = (None, Duration::from_secs(2));
    let mut retry = RetryPolicy::default();
    (retry.attempts, retry.first_delay) = (3, Duration::from_millis(1));
    http.retry = retry;
    http
}

/// Issues tokens for identities, and answers requests for blobs with the token that they have.
fn answer(received: &Received) -> Reply {
    let token = |name: &str| {
        let text = format!("{{\"access_token\":\"{name}\",\"expires_in\":\"3600\"}}");
        Reply::new("200 OK", &[], text.as_bytes())
    };
    let body = String::from_utf8_lossy(&received.body).into_owned();
    if received.path.starts_with("/metadata/identity/") {
        return match received.header("metadata") {
            Some("true") if received.path.contains("client_id=") => token("user-assigned"),
            Some("true") => token("machine"),
            _ => Reply::new("400 Bad Request", &[], b""),
        };
    }
    if received.path == "/tenant/oauth2/v2.0/token" {
        return match () {
            () if body.contains("client_assertion=file-token") => token("workload"),
            () if body.contains("client_secret=p%26w") => token("application"),
            () => Reply::new("401 Unauthorized", &[], body.as_bytes()),
        };
    }
    Reply::part(received, b"content", "\"0x1\"")
}

/// Returns what authorizes a request for a blob, or the error.
fn authorization(variables: &[(&str, &str)]) -> std::result::Result<String, String> {
    let server = Server::start(|received, _| answer(received));
    let url = server.url("");
    let own = [
        ("AZURE_STORAGE_ACCOUNT", "acc"),
        ("AZURE_STORAGE_SERVICE_ENDPOINT", &*url),
        ("AZURE_POD_IDENTITY_AUTHORITY_HOST", &url),
        ("AZURE_AUTHORITY_HOST", &url),
    ];
    // The first value counts.
    let environment = Environment::of(&[variables, &own].concat());
    let options = AzureOptions { http: http_options(), ..AzureOptions::default() };
    let azure = Azure::in_environment(options, environment).expect("is valid");
    let opened = azure.open(&"az://disks/a".parse().expect("is a URL"), &OpenMode::default());
    opened.map_err(|e| format!("{e:?}"))?;
    let received = server.received();
    let last = received.last().expect("was asked");
    Ok(last.header("authorization").unwrap_or(&last.path).to_owned())
}

#[test]
fn identities_have_tokens() {
    assert_eq!(authorization(&[]).as_deref(), Ok("Bearer machine"));
    let id = ("AZURE_CLIENT_ID", "id");
    assert_eq!(authorization(&[id]).as_deref(), Ok("Bearer user-assigned"));
    let tenant = ("AZURE_TENANT_ID", "tenant");
    let secret = ("AZURE_CLIENT_SECRET", "p&w");
    let found = authorization(&[id, tenant, secret]);
    assert_eq!(found.as_deref(), Ok("Bearer application"));
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("token").display().to_string();
    std::fs::write(&file, "file-token\n").expect("writes");
    let workload = [id, tenant, ("AZURE_FEDERATED_TOKEN_FILE", &*file), secret];
    assert_eq!(authorization(&workload).as_deref(), Ok("Bearer workload"));
    // The answer repeats the request.
    let wrong = authorization(&[id, tenant, ("AZURE_CLIENT_SECRET", "other&secret")]);
    let error = wrong.expect_err("is refused");
    assert!(error.contains("401") && !error.contains("other"), "{error}");
    let plain = ("AZURE_AUTHORITY_HOST", "http://login.example.org");
    let error = authorization(&[id, tenant, secret, plain]).expect_err("is not encrypted");
    assert!(error.contains("must be an https URL"), "{error}");
}

#[test]
fn keys_and_signatures_are_for_their_account() {
    let key = ("AZURE_STORAGE_KEY", "a2V5");
    assert!(authorization(&[key]).expect("is answered").starts_with("SharedKey acc:"));
    let sas = ("AZURE_STORAGE_SAS_TOKEN", "sv=1&sig=s%2Bx");
    assert_eq!(authorization(&[sas]).as_deref(), Ok("/disks/a?sv=1&sig=s%2Bx"));
    let error = authorization(&[("AZURE_STORAGE_KEY", "not base64")]).expect_err("is no key");
    assert!(error.contains("the key of the storage account is malformed"), "{error}");
    // A URL that names another account, or another server, gets neither.
    let server = Server::start(|received, _| answer(received));
    let url = server.url("");
    for parameter in ["account=other", "endpoint=SERVER"] {
        let variables = [key, ("AZURE_STORAGE_ACCOUNT", "acc")];
        let environment = Environment::of(&variables);
        let mut options = AzureOptions { http: http_options(), ..AzureOptions::default() };
        options.endpoint = Some(url.clone());
        let azure = Azure::in_environment(options, environment).expect("is valid");
        let parameter = parameter.replace("SERVER", &url.replace('/', "%2F"));
        let parameter = match parameter.contains("account") {
            true => format!("{parameter}&endpoint={}", url.replace('/', "%2F")),
            false => parameter,
        };
        let at: Location = format!("az://disks/a?{parameter}").parse().expect("is a URL");
        azure.open(&at, &OpenMode::default()).expect("is public");
        let received = server.received();
        assert_eq!(received.last().expect("was asked").header("authorization"), None);
    }
}

#[test]
fn a_list_of_blocks_without_an_answer_is_looked_at() {
    use std::sync::Mutex;
    let list = Mutex::new(String::new());
    let server = Server::start(move |received, _| {
        let mut list = list.lock().expect("no panic");
        let is_list = received.path.contains("comp=blocklist");
        match (&*received.method, is_list) {
            ("PUT", false) => Reply::new("201 Created", &[], b""),
            ("PUT", true) if list.is_empty() => {
                let body = String::from_utf8_lossy(&received.body).into_owned();
                let id = body.split("<Uncommitted>").nth(1).and_then(|s| s.split('<').next());
                *list = format!(
                    "<BlockList><CommittedBlocks><Block><Name>{}</Name><Size>3</Size></Block>\
                     </CommittedBlocks></BlockList>",
                    id.expect("names a block")
                );
                // The blob is there, but the answer is lost.
                Reply { closes: true, ..Reply::default() }
            }
            ("PUT", true) => {
                Reply::new("400 Bad Request", &[("x-ms-error-code", "InvalidBlockList")], b"")
            }
            _ => Reply::new("200 OK", &[], list.as_bytes()),
        }
    });
    let mut options = AzureOptions { http: http_options(), ..AzureOptions::default() };
    (options.account, options.key) = (Some("acc".to_owned()), Some("a2V5".to_owned()));
    options.endpoint = Some(server.url(""));
    let azure = Azure::in_environment(options, Environment::empty()).expect("is valid");
    let new = azure.create(&"az://disks/a".parse().expect("is a URL")).expect("creates");
    new.sink().write_all_at(b"abc", 0).expect("writes");
    new.flush(Durability::Flushed).expect("flushes");
    new.publish(Durability::Flushed).expect("the blob is there");
    let puts = server.received().iter().filter(|r| r.path.contains("comp=blocklist")).count();
    assert!(puts >= 3, "{puts}");
}
