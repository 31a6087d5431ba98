//! The passports of `tests/passports/vectors.json`, verified offline by the client.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs, reason = "tests")]

use actpass_core::transport::FixedResponse;
use actpass_core::{ActPass, OfflineVerifyRequest};
use serde_json::{Value, json};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/passports/vectors.json");

#[tokio::test]
async fn verifies_vectors() {
    let file: Value = serde_json::from_str(&std::fs::read_to_string(FILE).unwrap()).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let cases = file["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 56);
    for case in cases {
        let keys = json!({"keys": case.get("keys").unwrap_or(&file["keys"])});
        let client = ActPass::builder()
            .api_key("apk_vector_secret")
            .transport(FixedResponse::new(200, keys.to_string()))
            .build()
            .unwrap();
        let mut request = OfflineVerifyRequest::new(text(&case["token"]), text(&file["audience"]));
        request.issuer = Some(text(&file["issuer"]));
        let found = client.verify_passport_offline(&request).await.unwrap();
        let expected: Vec<String> = case["errors"].as_array().unwrap().iter().map(text).collect();
        assert_eq!(found.errors(), expected, "{}", case["description"]);
        assert_eq!(found.is_valid(), expected.is_empty(), "{}", case["description"]);
    }
}
