//! Request signatures (`AclUtils.java`, `AclSigner.java`): HMAC-SHA1 in base64 over the values
//! of all fields but the signature, in the order of their names, and the body behind them.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::Sha1;

use crate::frame::Frame;

pub const ACCESS_KEY: &str = "AccessKey";
pub const SIGNATURE: &str = "Signature";

/// What a client proves that it knows.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Credentials {
    pub access_key: String,
    pub secret_key: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("access_key", &self.access_key)
            .finish_non_exhaustive()
    }
}

/// Adds the access key and the signature to a request.
pub fn sign(frame: &mut Frame, credentials: &Credentials) {
    frame.fields.set(ACCESS_KEY, &credentials.access_key);
    let fields: BTreeMap<&str, &str> = frame
        .fields
        .iter()
        .filter(|(name, _)| *name != SIGNATURE)
        .collect();
    let mut content: Vec<u8> = fields.into_values().flat_map(str::bytes).collect();
    content.extend_from_slice(&frame.body);
    let signature = signature(&content, &credentials.secret_key);
    frame.fields.set(SIGNATURE, signature);
}

fn signature(content: &[u8], secret_key: &str) -> String {
    let mut mac = Hmac::<Sha1>::new_from_slice(secret_key.as_bytes())
        .expect("invariant: HMAC takes keys of any length");
    mac.update(content);
    STANDARD.encode(mac.finalize().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::header::RouteOf;
    use crate::{Header as _, RequestCode};

    #[test]
    fn the_official_classes_compute_the_same() {
        assert_eq!(
            signature(b"AKfoo", "secret"),
            "xgzJHIByPIoaBXWrvnrBpK2KQCI="
        );
    }

    #[test]
    fn values_are_signed_in_the_order_of_their_names() {
        let mut frame = Frame::request(
            RequestCode::GetRouteinfoByTopic,
            &RouteOf {
                topic: "foo".into(),
                strict_json: None,
            },
        );
        let credentials = Credentials {
            access_key: "AK".into(),
            secret_key: "secret".into(),
        };
        sign(&mut frame, &credentials);
        assert_eq!(
            frame.fields.get(SIGNATURE),
            Some("xgzJHIByPIoaBXWrvnrBpK2KQCI=")
        );
        assert_eq!(RouteOf::read(&frame.fields).expect("topic").topic, "foo");
        assert!(!format!("{credentials:?}").contains("secret\""));
    }
}
