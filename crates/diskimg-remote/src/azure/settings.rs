//! What the caller and the user's variables say about a storage account.
//!
//! | order | source |
//! |---|---|
//! | 1 | the caller |
//! | 2 | `AZURE_STORAGE_ACCOUNT`, `AZURE_STORAGE_KEY`, `AZURE_STORAGE_SAS_TOKEN`, `AZURE_STORAGE_SERVICE_ENDPOINT` |
//! | 3 | `AZURE_STORAGE_CONNECTION_STRING` |
//! | 4 | tokens of Microsoft Entra ID; see `tokens` |

use super::AzureOptions;
use super::access::Access;
use super::tokens::Identity;
use crate::environment::Environment;
use crate::tokens::{Secret, Tokens};
use base64::prelude::{BASE64_STANDARD, Engine};
use diskimg::{Error, Result};

/// A storage account.
#[derive(Debug, Default)]
pub(super) struct Settings {
    pub(super) account: Option<String>,
    pub(super) endpoint: Option<String>,
    key: Option<Secret>,
    sas_token: Option<Secret>,
}

impl Settings {
    /// Finds the settings. What the caller sets replaces all of what others set about authorization.
    ///
    /// # Errors
    /// Returns [`Invalid`](diskimg::ErrorKind::Invalid) if a connection string is malformed.
    pub(super) fn of(options: &AzureOptions, environment: &Environment) -> Result<Self> {
        let get = |name: &str| environment.get(name).filter(|value| !value.is_empty());
        let string = get("AZURE_STORAGE_CONNECTION_STRING");
        let string = string.as_deref().map(connection_string).transpose()?.unwrap_or_default();
        let own = Self {
            account: options.account.clone(),
            endpoint: options.endpoint.clone(),
            key: options.key.as_ref().map(Secret::new),
            sas_token: options.sas_token.as_ref().map(Secret::new),
        };
        let variables = Self {
            account: get("AZURE_STORAGE_ACCOUNT"),
            endpoint: get("AZURE_STORAGE_SERVICE_ENDPOINT"),
            key: get("AZURE_STORAGE_KEY").map(Secret::new),
            sas_token: get("AZURE_STORAGE_SAS_TOKEN").map(Secret::new),
        };
        Ok(own.or(variables).or(string))
    }

    /// Completes these settings by others, if those are for the same account.
    fn or(self, other: Self) -> Self {
        if self.account.is_some() && other.account.is_some() && self.account != other.account {
            return self;
        }
        let has_secret = self.key.is_some() || self.sas_token.is_some();
        Self {
            account: self.account.or(other.account),
            endpoint: self.endpoint.or(other.endpoint),
            key: self.key.or(other.key.filter(|_| !has_secret)),
            sas_token: self.sas_token.or(other.sas_token.filter(|_| !has_secret)),
        }
    }

    /// Returns how requests are authorized.
    ///
    /// # Errors
    /// Returns [`Invalid`](diskimg::ErrorKind::Invalid) if a key is malformed, and the errors of
    /// [`Tokens::new`].
    pub(super) fn access(
        &self,
        options: &AzureOptions,
        environment: &Environment,
    ) -> Result<Access> {
        if options.anonymous {
            return Ok(Access::Anonymous);
        }
        match (&self.key, &self.sas_token, &self.account) {
            (Some(key), _, Some(account)) => {
                let malformed = || Error::invalid("the key of the storage account is malformed");
                let key = BASE64_STANDARD.decode(key.text().trim()).map_err(|_| malformed())?;
                Ok(Access::Key { account: account.clone(), key: key.into() })
            }
            (Some(_), ..) => {
                Err(Error::invalid("the key has no account").hint("set AZURE_STORAGE_ACCOUNT"))
            }
            (None, Some(token), _) => {
                Ok(Access::Signature(Secret::new(token.text().trim_start_matches('?'))))
            }
            (None, None, _) if options.http.forbid_private_addresses => Ok(Access::Anonymous),
            (None, None, _) => {
                let identity = Identity::new(&options.http, environment.clone())?;
                Ok(Access::Tokens(Tokens::new(identity)))
            }
        }
    }
}

/// Parses `NAME=VALUE;NAME=VALUE`.
fn connection_string(text: &str) -> Result<Settings> {
    let mut settings = Settings::default();
    let (mut scheme, mut suffix) = ("https", "core.windows.net");
    for item in text.split(';').map(str::trim).filter(|item| !item.is_empty()) {
        let malformed = || {
            Error::invalid("AZURE_STORAGE_CONNECTION_STRING is malformed; expected NAME=VALUE;…")
        };
        let (name, value) = item.split_once('=').ok_or_else(malformed)?;
        match name {
            "AccountName" => settings.account = Some(value.to_owned()),
            "AccountKey" => settings.key = Some(Secret::new(value)),
            "SharedAccessSignature" => settings.sas_token = Some(Secret::new(value)),
            "BlobEndpoint" => settings.endpoint = Some(value.to_owned()),
            "DefaultEndpointsProtocol" => scheme = value,
            "EndpointSuffix" => suffix = value,
            // Those of other services.
            _ => {}
        }
    }
    if let (None, Some(account)) = (&settings.endpoint, &settings.account) {
        settings.endpoint = Some(format!("{scheme}://{account}.blob.{suffix}"));
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&'static str, &'static str)], options: &AzureOptions) -> Settings {
        Settings::of(options, &Environment::of(variables)).expect("are valid")
    }

    #[test]
    fn variables_and_connection_strings() {
        let none = AzureOptions::default();
        let string = "DefaultEndpointsProtocol=https;AccountName=acc;AccountKey=a2V5;\
                      EndpointSuffix=core.chinacloudapi.cn";
        let found = settings(&[("AZURE_STORAGE_CONNECTION_STRING", string)], &none);
        assert_eq!(found.account.as_deref(), Some("acc"));
        let endpoint = "https://acc.blob.core.chinacloudapi.cn";
        assert_eq!(found.endpoint.as_deref(), Some(endpoint));
        assert_eq!(found.key.as_ref().map(Secret::text), Some("a2V5"));
        // Variables have precedence, and a key of one account is not used for another.
        let other =
            [("AZURE_STORAGE_CONNECTION_STRING", string), ("AZURE_STORAGE_ACCOUNT", "other")];
        let found = settings(&other, &none);
        assert_eq!(
            (found.account.as_deref(), found.key, found.endpoint),
            (Some("other"), None, None)
        );
        let signature = [
            ("AZURE_STORAGE_CONNECTION_STRING", string),
            ("AZURE_STORAGE_SAS_TOKEN", "?sv=1&sig=2"),
        ];
        let found = settings(&signature, &none);
        assert_eq!((found.account.as_deref(), &found.key), (Some("acc"), &None));
        let access = found.access(&none, &Environment::empty()).expect("is valid");
        let Access::Signature(signature) = access else { panic!("not a signature") };
        assert_eq!(signature.text(), "sv=1&sig=2");
        let environment = Environment::of(&[("AZURE_STORAGE_CONNECTION_STRING", "AccountName")]);
        Settings::of(&none, &environment).expect_err("malformed");
    }
}
