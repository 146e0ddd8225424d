//! Keys of the container or the EC2 instance that this process runs in.

use super::services::{Services, fetch, issued_by_json};
use super::{Environment, Issued, environment, refused};
use crate::http::transport::{Attempt, Failure};
use std::net::IpAddr;
use std::path::Path;
use ureq::http::{Request, Uri};

/// The address of the metadata service.
const METADATA: &str = "http://169.254.169.254";

/// The address of the service of ECS.
const CONTAINER: &str = "http://169.254.170.2";

/// Addresses besides loopback that may be asked over HTTP: those of ECS and of EKS.
const CONTAINER_ADDRESSES: [&str; 3] = ["169.254.170.2", "169.254.170.23", "fd00:ec2::23"];

impl Services {
    /// Returns the keys of the container.
    pub(super) fn container(&self, environment: &Environment) -> Attempt<Issued> {
        const WHAT: &str = "the container's service";
        let (uri, transport) = match environment.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") {
            Some(path) => (format!("{CONTAINER}/{}", path.trim_start_matches('/')), &self.local),
            None => {
                let variable = "AWS_CONTAINER_CREDENTIALS_FULL_URI";
                let uri = environment.get(variable).unwrap_or_default();
                let parsed: Uri =
                    uri.parse().map_err(|_| refused(format!("{variable} is malformed")))?;
                match parsed.scheme_str() {
                    Some("https") => (uri, &self.remote),
                    Some("http") if parsed.host().is_some_and(is_own_host) => (uri, &self.local),
                    _ => {
                        return Err(refused(format!(
                            "{variable} must be an https URL, or name this host"
                        )));
                    }
                }
            }
        };
        let mut builder = Request::get(uri);
        // The file is written anew when its token expires.
        let token = match environment.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") {
            Some(file) => Some(environment::read_token(Path::new(&file))?),
            None => environment.get("AWS_CONTAINER_AUTHORIZATION_TOKEN"),
        };
        if let Some(token) = token {
            builder = builder.header("authorization", token);
        }
        let text = fetch(transport, builder.body(()), WHAT)?;
        issued_by_json(&text, WHAT)
    }

    /// Returns the keys of the EC2 instance; `None` if this is not one, or if it has no role.
    pub(super) fn instance(&self, environment: &Environment) -> Attempt<Option<Issued>> {
        const WHAT: &str = "the instance's metadata service";
        if environment.is_on("AWS_EC2_METADATA_DISABLED") {
            return Ok(None);
        }
        let named = environment.get("AWS_EC2_METADATA_SERVICE_ENDPOINT");
        let base = named.clone().unwrap_or_else(|| METADATA.to_owned());
        let base = base.trim_end_matches('/');
        let request = Request::put(format!("{base}/latest/api/token"))
            .header("x-aws-ec2-metadata-token-ttl-seconds", "21600")
            .body(&[][..]);
        let token = match fetch(&self.local, request, WHAT) {
            Ok(token) => token,
            // Most hosts are not instances.
            Err(_) if named.is_none() => return Ok(None),
            Err(failure) => return Err(failure),
        };
        let get = |path: &str| {
            let url = format!("{base}/latest/meta-data/iam/security-credentials/{path}");
            let header = ("x-aws-ec2-metadata-token", token.trim());
            fetch(&self.local, Request::get(url).header(header.0, header.1).body(()), WHAT)
        };
        let roles = match get("") {
            Ok(roles) => roles,
            // An instance without a role.
            Err(Failure::Final(e)) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(failure) => return Err(failure),
        };
        let Some(role) = roles.lines().map(str::trim).find(|role| !role.is_empty()) else {
            return Ok(None);
        };
        issued_by_json(&get(role)?, WHAT).map(Some)
    }
}

/// Returns true if a host is this one, or has an address of the services of ECS and EKS.
fn is_own_host(host: &str) -> bool {
    let address: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
    let is_service =
        |address: IpAddr| CONTAINER_ADDRESSES.iter().any(|known| known.parse() == Ok(address));
    match address {
        Some(address) => address.is_loopback() || is_service(address),
        None => host.eq_ignore_ascii_case("localhost"),
    }
}
