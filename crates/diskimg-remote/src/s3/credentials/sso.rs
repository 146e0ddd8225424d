//! Keys of single sign-on, with the token of `aws sso login`.

use super::profile::Profile;
use super::services::{Services, endpoint, fetch, issued_by_json};
use super::{Environment, Issued, refused};
use crate::http::transport::Attempt;
use crate::percent::encoded;
use crate::s3::url::is_region;
use crate::upload::hash::hex;
use jiff::Timestamp;
use serde_json::Value;
use sha1::{Digest, Sha1};
use ureq::http::Request;

impl Services {
    /// Returns the keys of a profile with single sign-on.
    pub(super) fn single_sign_on(
        &self,
        environment: &Environment,
        profile: &Profile,
    ) -> Attempt<Issued> {
        const WHAT: &str = "the portal of single sign-on";
        let need = |name: &str| {
            profile.get(name).ok_or_else(|| refused(format!("the profile has no {name}")))
        };
        let (account, role) = (need("sso_account_id")?, need("sso_role_name")?);
        let region = need("sso_region")?;
        if !is_region(region) {
            return Err(refused("the sso_region of the profile is malformed"));
        }
        let session = profile.get("sso_session").or(profile.get("sso_start_url"));
        let token = session.and_then(|session| cached_token(environment, session));
        let Some(token) = token else {
            return Err(refused("the session of single sign-on has expired: run 'aws sso login'"));
        };
        let base = format!("https://portal.sso.{region}.amazonaws.com");
        let base = endpoint(environment, "SSO", &base);
        let (role, account) = (encoded(role), encoded(account));
        let url = format!("{base}/federation/credentials?account_id={account}&role_name={role}");
        let request = Request::get(url).header("x-amz-sso_bearer_token", token).body(());
        issued_by_json(&fetch(&self.remote, request, WHAT)?, WHAT)
    }
}

/// Returns the token of a session, or of a start URL in older profiles, if it is valid.
fn cached_token(environment: &Environment, session: &str) -> Option<String> {
    let name = format!("{}.json", hex(&Sha1::digest(session.as_bytes())));
    let text = std::fs::read_to_string(environment.sso_cache()?.join(name)).ok()?;
    let cached: Value = serde_json::from_str(&text).ok()?;
    let expires: Timestamp = cached.get("expiresAt")?.as_str()?.parse().ok()?;
    let token = cached.get("accessToken")?.as_str()?;
    (expires > Timestamp::now()).then(|| token.to_owned())
}
