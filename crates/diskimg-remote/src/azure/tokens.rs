//! Tokens of Microsoft Entra ID, for the identity of a workload, an application or a machine.
//!
//! | order | variables | identity |
//! |---|---|---|
//! | 1 | `AZURE_CLIENT_ID`, `AZURE_TENANT_ID`, `AZURE_FEDERATED_TOKEN_FILE` | a workload of Kubernetes |
//! | 2 | `AZURE_CLIENT_ID`, `AZURE_TENANT_ID`, `AZURE_CLIENT_SECRET` | an application |
//! | 3 | `AZURE_CLIENT_ID`, which may be missing | a virtual machine: the metadata service |

use crate::environment::Environment;
use crate::http::HttpOptions;
use crate::http::transport::Attempt;
use crate::percent::encoded;
use crate::s3::credentials::environment::read_token;
use crate::s3::credentials::refused;
use crate::s3::credentials::services::{Services, fetch, fetch_with};
use crate::tokens::{Issued, Issuer};
use diskimg::Result;
use std::path::Path;
use ureq::http::Request;

/// What the tokens are for.
const RESOURCE: &str = "https://storage.azure.com/";

/// The service that issues tokens.
const AUTHORITY: &str = "https://login.microsoftonline.com";

/// The metadata service of a virtual machine.
const METADATA: &str = "http://169.254.169.254";

/// Where tokens come from.
#[derive(Debug)]
pub(super) struct Identity {
    services: Services,
    environment: Environment,
}

impl Identity {
    /// Connects to nothing.
    ///
    /// # Errors
    /// As [`Services::new`].
    pub(super) fn new(options: &HttpOptions, environment: Environment) -> Result<Self> {
        Ok(Self { services: Services::new(options)?, environment })
    }
}

impl Issuer for Identity {
    fn issue(&self) -> Attempt<Issued> {
        let get = |name: &str| self.environment.get(name).map(|value| value.trim().to_owned());
        let (client, tenant) = (get("AZURE_CLIENT_ID"), get("AZURE_TENANT_ID"));
        let secret = match (get("AZURE_FEDERATED_TOKEN_FILE"), get("AZURE_CLIENT_SECRET")) {
            // The file is written anew when its token expires.
            (Some(file), _) => Some(Proof::Assertion(read_token(Path::new(&file))?)),
            (None, secret) => secret.map(Proof::Secret),
        };
        match (client, tenant, secret) {
            (Some(client), Some(tenant), Some(proof)) => self.of_client(&client, &tenant, &proof),
            (client, ..) => self.of_machine(client.as_deref()),
        }
    }
}

impl Identity {
    /// Asks for a token by OAuth 2.0 (RFC 6749, section 4.4, and RFC 7523).
    fn of_client(&self, client: &str, tenant: &str, proof: &Proof) -> Attempt<Issued> {
        const WHAT: &str = "Microsoft Entra ID";
        let authority = self.environment.get("AZURE_AUTHORITY_HOST");
        let authority = authority.unwrap_or_else(|| AUTHORITY.to_owned());
        let is_own_host = authority.starts_with("http://127.0.0.1:");
        if !authority.starts_with("https://") && !is_own_host {
            return Err(refused("AZURE_AUTHORITY_HOST must be an https URL"));
        }
        let (secret, proof) = match proof {
            Proof::Secret(secret) => (secret, format!("client_secret={}", encoded(secret))),
            Proof::Assertion(token) => {
                let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
                let kind = encoded(kind);
                let token_text = encoded(token);
                (token, format!("client_assertion_type={kind}&client_assertion={token_text}"))
            }
        };
        let body = format!(
            "grant_type=client_credentials&client_id={}&scope={}&{proof}",
            encoded(client),
            encoded(&format!("{RESOURCE}.default"))
        );
        let url =
            format!("{}/{}/oauth2/v2.0/token", authority.trim_end_matches('/'), encoded(tenant));
        let request = Request::post(url)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body.as_bytes());
        let reply = fetch_with(&self.services.remote, request, WHAT, &[secret])?;
        Issued::of_reply(&reply, WHAT)
    }

    /// Asks the metadata service, which issues tokens to machines with a managed identity.
    fn of_machine(&self, client: Option<&str>) -> Attempt<Issued> {
        const WHAT: &str = "the machine's metadata service";
        // The name of this variable is that of Azure's libraries.
        let named = self.environment.get("AZURE_POD_IDENTITY_AUTHORITY_HOST");
        let base = named.clone().unwrap_or_else(|| METADATA.to_owned());
        let client = client.map(|id| format!("&client_id={}", encoded(id))).unwrap_or_default();
        let url = format!(
            "{}/metadata/identity/oauth2/token?api-version=2018-02-01&resource={}{client}",
            base.trim_end_matches('/'),
            encoded(RESOURCE)
        );
        let request = Request::get(url).header("metadata", "true").body(());
        match fetch(&self.services.local, request, WHAT) {
            Ok(text) => Issued::of_reply(&text, WHAT),
            // Most hosts are no machines of Azure.
            Err(_) if named.is_none() => Err(refused(
                "there is no key, signature or identity for the storage account: set \
                 AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN or AZURE_STORAGE_CONNECTION_STRING",
            )),
            Err(failure) => Err(failure),
        }
    }
}

/// What proves the identity of a client.
enum Proof {
    Secret(String),
    Assertion(String),
}
