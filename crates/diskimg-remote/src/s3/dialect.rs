//! What differs between S3 and a service that has its requests.

#[cfg(feature = "gcs")]
use crate::http::answer::Unexpected;
use crate::http::transport::Attempt;
#[cfg(feature = "gcs")]
use crate::http::transport::wrong;
#[cfg(feature = "gcs")]
use crate::tokens::Tokens;
#[cfg(feature = "gcs")]
use std::sync::Arc;
#[cfg(feature = "gcs")]
use ureq::http::HeaderValue;
use ureq::http::{HeaderMap, HeaderName, Uri, header};

/// A kind of service.
#[derive(Debug, Clone, Default)]
pub(crate) enum Dialect {
    /// Amazon's, or one that is compatible.
    #[default]
    S3,
    /// Google's XML API. With tokens, requests carry one instead of a signature.
    #[cfg(feature = "gcs")]
    Google(Option<Arc<Tokens>>),
}

impl Dialect {
    /// Returns the name of the protocol.
    pub(crate) fn protocol(&self) -> &'static str {
        match self {
            Self::S3 => "s3",
            #[cfg(feature = "gcs")]
            Self::Google(_) => "gs",
        }
    }

    /// Returns the parameter of a request that selects a version of the object.
    pub(super) fn version(&self) -> &'static str {
        match self {
            Self::S3 => "versionId",
            #[cfg(feature = "gcs")]
            Self::Google(_) => "generation",
        }
    }

    /// Returns the header by which an existing object is not replaced, if there is one for a request
    /// with the whole object, or for that which completes a multipart upload.
    #[cfg_attr(not(feature = "gcs"), expect(unused_variables, reason = "S3 has one for both"))]
    pub(super) fn absent(&self, is_whole: bool) -> Option<(HeaderName, &'static str)> {
        match self {
            Self::S3 => Some((header::IF_NONE_MATCH, "*")),
            #[cfg(feature = "gcs")]
            Self::Google(Some(_)) if is_whole => {
                Some((HeaderName::from_static("x-goog-if-generation-match"), "0"))
            }
            // Headers of Google and of Amazon, which a signature needs, exclude each other.
            #[cfg(feature = "gcs")]
            Self::Google(_) => None,
        }
    }

    /// Adds a token to a request.
    #[cfg_attr(not(feature = "gcs"), expect(unused_variables, reason = "S3 has no tokens"))]
    pub(super) fn authorize(&self, uri: &Uri, headers: &mut HeaderMap) -> Attempt<()> {
        match self {
            Self::S3 => Ok(()),
            #[cfg(feature = "gcs")]
            Self::Google(None) => Ok(()),
            #[cfg(feature = "gcs")]
            Self::Google(Some(tokens)) => {
                if !crate::tokens::may_be_sent(uri) {
                    return Err(wrong(Unexpected("tokens are sent by https only".into())));
                }
                let value = HeaderValue::try_from(format!("Bearer {}", tokens.get()?.text()));
                let malformed = |_| wrong(Unexpected("the token cannot be sent".into()));
                let mut value = value.map_err(malformed)?;
                value.set_sensitive(true);
                headers.insert(header::AUTHORIZATION, value);
                Ok(())
            }
        }
    }

    /// Finds out whether there is a token, if one is needed.
    pub(super) fn prepare(&self) -> Attempt<()> {
        match self {
            Self::S3 => Ok(()),
            #[cfg(feature = "gcs")]
            Self::Google(tokens) => tokens.as_ref().map_or(Ok(()), |tokens| tokens.get().map(drop)),
        }
    }

    /// Returns the token that is used, which must not be shown.
    pub(super) fn secret(&self) -> Option<String> {
        match self {
            Self::S3 => None,
            #[cfg(feature = "gcs")]
            Self::Google(tokens) => tokens.as_ref()?.known().map(|token| token.text().to_owned()),
        }
    }
}
