//! Signatures of the Standard Webhooks: HMAC-SHA256 over id, time and body.

use actpass_protocol::Secret;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;

/// Length of a secret in bytes, as the specification recommends.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// A webhook's signing secret: `whsec_` and 24 to 64 bytes in base64.
#[derive(Clone)]
pub struct SigningSecret(hmac::Key);

impl std::fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningSecret(..)")
    }
}

impl SigningSecret {
    /// Parses a secret; `None` if it has another form.
    pub fn parse(text: &Secret) -> Option<Self> {
        let encoded = text.expose().trim().strip_prefix("whsec_")?;
        let bytes = zeroize::Zeroizing::new(STANDARD.decode(encoded).ok()?);
        SECRET_BYTES.contains(&bytes.len()).then(|| Self(hmac::Key::new(hmac::HMAC_SHA256, &bytes)))
    }

    /// Returns the header `webhook-signature` of a message sent at `seconds` since 1970.
    pub(super) fn sign(&self, id: &str, seconds: i64, body: &[u8]) -> String {
        let mut signed = hmac::Context::with_key(&self.0);
        signed.update(format!("{id}.{seconds}.").as_bytes());
        signed.update(body);
        format!("v1,{}", STANDARD.encode(signed.sign()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Option<SigningSecret> {
        SigningSecret::parse(&Secret::new(text.to_owned()))
    }

    /// The example of the specification's reference libraries.
    #[test]
    fn signature_matches_reference() {
        let secret = parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").unwrap();
        let signature =
            secret.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn secret_has_prefix_and_24_to_64_bytes() {
        for (text, expected) in [
            (format!("whsec_{}", STANDARD.encode([7; 24])), true),
            (format!("whsec_{}", STANDARD.encode([7; 64])), true),
            (format!("whsec_{}", STANDARD.encode([7; 23])), false),
            (format!("whsec_{}", STANDARD.encode([7; 65])), false),
            (STANDARD.encode([7; 32]), false),
            ("whsec_?".to_owned(), false),
        ] {
            assert_eq!(parse(&text).is_some(), expected, "{text}");
        }
    }
}
