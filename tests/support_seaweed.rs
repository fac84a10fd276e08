//! The SeaweedFS guard starts a real S3 server that behaves as the stores opsctl needs: create-only PUT, LIST, ranged GET.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod support;

use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use serde_json::json;
use support::seaweed::{BUCKET, SeaweedFs};

fn create_only() -> PutOptions {
    PutOptions::from(PutMode::Create)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_run_at_once_and_create_only_puts_hold() {
    let (one, two) = (SeaweedFs::start(), SeaweedFs::start());
    let path = Path::from("packs/ab/object");
    for server in [&one, &two] {
        let store = server.client_for(server.access_key(), server.secret_key());
        let body = format!("stored on {}", server.endpoint());
        store.put_opts(&path, body.clone().into(), create_only()).await.unwrap();
        let again = store.put_opts(&path, "other".into(), create_only()).await;
        assert!(matches!(again, Err(Error::AlreadyExists { .. })), "{again:?}");
        assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), body);
        assert_eq!(store.get_range(&path, 0..6).await.unwrap(), "stored");
        let list = store.list_with_delimiter(Some(&Path::from("packs/ab"))).await.unwrap();
        assert_eq!(list.objects.len(), 1, "the readiness check leaves nothing in the bucket: {list:?}");
    }
    assert!(one.env().contains(&("AWS_S3_URL_STYLE", "path".to_owned())));
    // What one accepts the other refuses: they are two servers, each with its own keys.
    let stranger = one.client_for(two.access_key(), two.secret_key());
    assert!(stranger.get(&path).await.is_err());

    let pid = one.pid();
    drop(one);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "the server is gone with its guard");
    assert!(two.client_for(two.access_key(), two.secret_key()).get(&path).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_that_may_list_and_write_cannot_read() {
    let server = SeaweedFs::start_with(json!({"identities": [{
        "name": "host",
        "credentials": [{"accessKey": "hostkey", "secretKey": "hostsecret"}],
        "actions": [format!("List:{BUCKET}"), format!("Write:{BUCKET}")],
    }]}));
    let path = Path::from("packs/ab/object");
    let host = server.client_for("hostkey", "hostsecret");
    host.put_opts(&path, "content".into(), create_only()).await.unwrap();
    let again = host.put_opts(&path, "other".into(), create_only()).await;
    assert!(matches!(again, Err(Error::AlreadyExists { .. })), "{again:?}");
    assert_eq!(host.list_with_delimiter(Some(&Path::from("packs/ab"))).await.unwrap().objects.len(), 1);
    let read = host.get(&path).await;
    assert!(matches!(read, Err(Error::PermissionDenied { .. })), "{read:?}");
    let admin = server.client_for(server.access_key(), server.secret_key());
    assert_eq!(admin.get(&path).await.unwrap().bytes().await.unwrap(), "content");
}
