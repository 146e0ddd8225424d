//! Keystone's API, version 3: tokens and the catalogue of services.

use super::settings::{Identity, Named, Scope};
use crate::http::answer::Unexpected;
use crate::http::transport::{Failure, wrong};
use jiff::Timestamp;
use serde_json::{Value, json};

/// Maximum number of characters of a message that are repeated.
const MAX_MESSAGE: usize = 300;

/// Maximum number of endpoints that are kept.
const MAX_ENDPOINTS: usize = 10_000;

/// Where a service is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) service: String,
    pub(super) interface: String,
    pub(super) region: String,
    pub(super) url: String,
}

/// What Keystone says of a token.
#[derive(Debug, Clone)]
pub(super) struct Granted {
    pub(super) expires: Option<Timestamp>,
    pub(super) endpoints: Vec<Endpoint>,
}

/// Returns the URL that issues tokens.
///
/// # Errors
/// Returns an error for version 2 of the API.
pub(super) fn tokens_url(auth_url: &str) -> Result<String, Failure> {
    let url = auth_url.trim().trim_end_matches('/');
    let url = url.strip_suffix("/auth/tokens").unwrap_or(url);
    if url.ends_with("/v2.0") {
        return Err(wrong(Unexpected("Keystone's API version 2 is not supported".into())));
    }
    let version = if url.ends_with("/v3") { "" } else { "/v3" };
    Ok(format!("{url}{version}/auth/tokens"))
}

/// Returns the body of a request for a token.
pub(super) fn request(identity: &Identity, scope: &Scope) -> String {
    let (method, own) = match identity {
        Identity::Password { user, password } => {
            let mut user = named(user);
            user["password"] = (**password).clone().into();
            ("password", json!({ "user": user }))
        }
        Identity::Application { id, name, secret } => {
            let mut own = json!({ "secret": **secret });
            if let Some(id) = id {
                own["id"] = id.clone().into();
            }
            if let Some((name, user)) = name {
                own["name"] = name.clone().into();
                own["user"] = named(user);
            }
            ("application_credential", own)
        }
        Identity::Token(token) => ("token", json!({ "id": **token })),
    };
    let mut auth = json!({ "identity": { "methods": [method], method: own } });
    match scope {
        Scope::Implied => {}
        Scope::Project(project) => auth["scope"] = json!({ "project": named(project) }),
        Scope::Domain { id: Some(id), .. } => auth["scope"] = json!({ "domain": { "id": id } }),
        Scope::Domain { name, .. } => auth["scope"] = json!({ "domain": { "name": name } }),
    }
    json!({ "auth": auth }).to_string()
}

/// An identifier is unique; a name is that of a domain.
fn named(named: &Named) -> Value {
    if let Some(id) = &named.id {
        return json!({ "id": id });
    }
    let domain = match (&named.domain_id, &named.domain_name) {
        (Some(id), _) => json!({ "id": id }),
        (None, Some(name)) => json!({ "name": name }),
        (None, None) => json!({ "id": "default" }),
    };
    json!({ "name": named.name, "domain": domain })
}

/// Interprets a reply with a token.
///
/// # Errors
/// Returns an error if it is not one.
pub(super) fn granted(text: &str) -> Result<Granted, Failure> {
    let malformed = || wrong(Unexpected("the reply of Keystone is malformed".into()));
    let reply: Value = serde_json::from_str(text).map_err(|_| malformed())?;
    let token = reply.get("token").filter(|token| token.is_object()).ok_or_else(malformed)?;
    let expires = token.get("expires_at").and_then(|time| time.as_str()?.parse().ok());
    let mut endpoints = Vec::new();
    for service in array(token, "catalog") {
        for endpoint in array(service, "endpoints").iter().take(MAX_ENDPOINTS - endpoints.len()) {
            let region = text_of(endpoint, "region_id").or_else(|| text_of(endpoint, "region"));
            let Some(url) = text_of(endpoint, "url") else { continue };
            endpoints.push(Endpoint {
                service: text_of(service, "type").unwrap_or_default(),
                interface: text_of(endpoint, "interface").unwrap_or_default(),
                region: region.unwrap_or_default(),
                url,
            });
        }
    }
    Ok(Granted { expires, endpoints })
}

fn array<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], |array| array)
}

fn text_of(value: &Value, key: &str) -> Option<String> {
    value.get(key)?.as_str().map(str::to_owned)
}

/// Returns what a refusal says.
pub(super) fn message(text: &str) -> Option<String> {
    let reply: Value = serde_json::from_str(text).ok()?;
    let message: String = reply.get("error")?.get("message")?.as_str()?.chars().collect();
    Some(message)
}

/// Returns a message of a server for the user.
pub(crate) fn shown(message: &str) -> String {
    let message: String = message.trim().chars().take(MAX_MESSAGE).collect();
    diskimg::printable(&message).to_string()
}

/// Interprets a reply, for fuzzing.
///
/// # Panics
/// If what was found could harm the user who reads it.
pub(super) fn check(text: &str) {
    if let Ok(granted) = granted(text) {
        assert!(granted.endpoints.len() <= MAX_ENDPOINTS);
        for endpoint in granted.endpoints {
            if let Ok(base) = super::session::checked(&endpoint.url, true) {
                assert!(base.starts_with("https://"), "{base}");
            }
        }
    }
    if let Some(message) = message(text) {
        let shown = shown(&message);
        assert!(!shown.contains(char::is_control), "{shown:?}");
    }
}
