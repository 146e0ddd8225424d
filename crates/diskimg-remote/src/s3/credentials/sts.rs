//! Keys of roles: the Security Token Service.

use super::profile::Profile;
use super::services::{Services, endpoint, fetch_with};
use super::{Environment, Issued, Keys, refused};
use crate::http::transport::Attempt;
use crate::percent::encoded;
use crate::s3::sigv4::{Scope, sha256_hex, sign};
use crate::s3::url::is_region;
use crate::s3::xml::Reply;
use jiff::Timestamp;
use ureq::http::{HeaderMap, HeaderValue, Method, Request, Uri, header};

const WHAT: &str = "the token service (STS)";

/// The name of a session, which logs show.
const SESSION: &str = "diskimg";

impl Services {
    /// Returns the keys of a role for the token of an identity provider.
    pub(super) fn web_identity(
        &self,
        environment: &Environment,
        token: &str,
        role: &str,
        session: Option<&str>,
    ) -> Attempt<Issued> {
        let fields = [
            ("Action", "AssumeRoleWithWebIdentity"),
            ("RoleArn", role),
            ("RoleSessionName", session.unwrap_or(SESSION)),
            ("WebIdentityToken", token),
        ];
        let region = region(environment, None);
        self.ask(&sts_endpoint(environment, &region), &fields, None, &region)
    }

    /// Returns the keys of the role of a profile, for the keys of its source.
    pub(super) fn assume_role(
        &self,
        environment: &Environment,
        profile: &Profile,
        keys: &Keys,
    ) -> Attempt<Issued> {
        let mut fields = vec![
            ("Action", "AssumeRole"),
            ("RoleArn", profile.get("role_arn").unwrap_or_default()),
            ("RoleSessionName", profile.get("role_session_name").unwrap_or(SESSION)),
        ];
        fields.extend(profile.get("external_id").map(|id| ("ExternalId", id)));
        fields.extend(profile.get("duration_seconds").map(|time| ("DurationSeconds", time)));
        let region = region(environment, profile.get("region"));
        self.ask(&sts_endpoint(environment, &region), &fields, Some(keys), &region)
    }

    fn ask(
        &self,
        endpoint: &str,
        given: &[(&str, &str)],
        keys: Option<&Keys>,
        region: &str,
    ) -> Attempt<Issued> {
        let fields = given.iter().chain(&[("Version", "2011-06-15")]);
        let fields: Vec<_> = fields.map(|(n, value)| format!("{n}={}", encoded(value))).collect();
        let body = fields.join("&");
        let uri: Uri = format!("{endpoint}/")
            .parse()
            .map_err(|_| refused("the endpoint of the token service (STS) is malformed"))?;
        let mut headers = HeaderMap::new();
        let form = "application/x-www-form-urlencoded; charset=utf-8";
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(form));
        if let Some(keys) = keys {
            let scope = Scope { region, service: "sts", time: Timestamp::now() };
            let hash = sha256_hex(body.as_bytes());
            sign(&Method::POST, &uri, &mut headers, &hash, keys, scope);
        }
        let request = Request::post(uri).body(body).map(|mut request| {
            *request.headers_mut() = headers;
            request
        });
        let token = given.iter().find(|(name, _)| *name == "WebIdentityToken");
        let secrets: Vec<_> = token
            .map(|&(_, token)| token)
            .into_iter()
            .chain(keys.into_iter().flat_map(Keys::secrets))
            .collect();
        let text = fetch_with(&self.remote, request, WHAT, &secrets)?;
        keys_of_xml(&text).ok_or_else(|| refused(format!("the reply of {WHAT} is malformed")))
    }
}

/// Returns the keys in a reply.
pub(crate) fn keys_of_xml(text: &str) -> Option<Issued> {
    let reply = Reply::parse(text)?;
    let keys = Keys::new(
        reply.find("AccessKeyId")?,
        reply.find("SecretAccessKey")?,
        Some(reply.find("SessionToken")?.to_owned()),
    );
    Some(Issued { keys, expires: Some(reply.find("Expiration")?.parse().ok()?) })
}

/// Returns the region whose service is asked.
fn region(environment: &Environment, of_profile: Option<&str>) -> String {
    let named = environment.get("AWS_REGION").or_else(|| environment.get("AWS_DEFAULT_REGION"));
    let region = named.or_else(|| of_profile.map(str::to_owned));
    region.filter(|region| is_region(region)).unwrap_or_else(|| "us-east-1".to_owned())
}

fn sts_endpoint(environment: &Environment, region: &str) -> String {
    let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    endpoint(environment, "STS", &format!("https://sts.{region}.{domain}"))
}
