//! What lies in a bucket, as a client sees it that is not opsctl's.

use std::sync::Arc;

use futures::TryStreamExt as _;
use object_store::ObjectStore;
use object_store::aws::{AmazonS3, AmazonS3Builder, S3ConditionalPut};

/// An S3 client for a bucket on a server of this host.
pub fn s3(bucket: &str, endpoint: &str, access_key: &str, secret_key: &str) -> AmazonS3 {
    AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_region("us-east-1")
        .with_endpoint(endpoint)
        .with_allow_http(true)
        .with_virtual_hosted_style_request(false)
        .with_access_key_id(access_key)
        .with_secret_access_key(secret_key)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .build()
        .expect("the settings are complete")
}

/// Names and sizes of all objects below a prefix, in order of name.
pub fn names_and_sizes(client: &Arc<dyn ObjectStore>, prefix: &str) -> Vec<(String, u64)> {
    let list = async { client.list(Some(&prefix.into())).try_collect::<Vec<_>>().await };
    let found = tokio::runtime::Runtime::new().expect("a runtime").block_on(list).expect("list");
    let below = |path: String| path.strip_prefix(&format!("{prefix}/")).expect("below the prefix").to_owned();
    let mut found: Vec<_> = found.into_iter().map(|o| (below(o.location.to_string()), o.size)).collect();
    found.sort();
    found
}
