//! Google Cloud Storage and Azure Blob Storage: from variables to a client.
//!
//! Invariants: variables come from the given [`Env`] alone; a build error never repeats its cause, which may quote a
//! key; and without any credential nothing waits for the metadata address of a cloud that this host is not in.

use std::sync::Arc;

use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GcpCredential, GoogleCloudStorageBuilder};
use object_store::{ObjectStore, StaticCredentialProvider};
use url::{Host, Url};

use super::env::{Env, first};
use super::error::StoreError;
use super::http::{Connector, no_inner_retries};
use super::location::Location;

fn bad(detail: &str) -> StoreError {
    StoreError::BadConfig { detail: detail.into() }
}

fn no_credentials(location: &Location, variables: &str) -> StoreError {
    StoreError::Denied { key: location.to_string(), detail: format!("no credentials: set {variables}") }
}

/// Checks the URL in a variable without ever repeating it.
fn base_url(name: &str, value: &str) -> Result<String, StoreError> {
    let problem = || bad(&format!("{name} is not a URL of scheme, host, port and path only"));
    let url = Url::parse(value).map_err(|_| problem())?;
    let plain = matches!(url.scheme(), "http" | "https")
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    if plain { Ok(url.as_str().trim_end_matches('/').to_owned()) } else { Err(problem()) }
}

/// Whether a URL stays on this host.
fn is_loopback(url: &str) -> bool {
    match Url::parse(url).ok().as_ref().and_then(Url::host) {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// A client for `gs://`.
pub(super) fn google(location: &Location, env: &dyn Env, http: &Connector) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let emulator = first(env, &["STORAGE_EMULATOR_HOST"])
        .map(|host| if host.contains("://") { host } else { format!("http://{host}") })
        .map(|url| base_url("STORAGE_EMULATOR_HOST", &url))
        .transpose()?;
    let plain_http = emulator.as_ref().is_some_and(|url| url.starts_with("http://"));
    let mut builder = GoogleCloudStorageBuilder::new()
        .with_bucket_name(&location.bucket)
        .with_client_options(http.options(plain_http))
        .with_retry(no_inner_retries())
        .with_http_connector(http.clone());
    if let Some(url) = emulator {
        // An emulator wants no credentials; a real key must not be sent to it.
        let nobody = StaticCredentialProvider::new(GcpCredential { bearer: String::new() });
        builder = builder.with_base_url(&url).with_skip_signature(true).with_credentials(Arc::new(nobody));
    } else if let Some(key) = first(env, &["GOOGLE_SERVICE_ACCOUNT_KEY"]) {
        builder = builder.with_service_account_key(key);
    } else if let Some(path) = first(env, &["GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_PATH"]) {
        builder = builder.with_service_account_path(path);
    } else if let Some(path) = first(env, &["GOOGLE_APPLICATION_CREDENTIALS"]) {
        builder = builder.with_application_credentials(path);
    } else {
        return Err(no_credentials(
            location,
            "GOOGLE_APPLICATION_CREDENTIALS or GOOGLE_SERVICE_ACCOUNT (a file), or GOOGLE_SERVICE_ACCOUNT_KEY (its content)",
        ));
    }
    let store = builder.build().map_err(|_| {
        bad("the GOOGLE_* variable for the credentials names no readable file, or no service account key in JSON")
    })?;
    Ok(Arc::new(store))
}

/// A client for `az://`.
pub(super) fn azure(location: &Location, env: &dyn Env, http: &Connector) -> Result<Arc<dyn ObjectStore>, StoreError> {
    // It would stand for an account, a key and an address; one way to name these is enough.
    if first(env, &["AZURE_STORAGE_USE_EMULATOR"]).is_some_and(|value| value != "false") {
        return Err(bad(
            "AZURE_STORAGE_USE_EMULATOR is not supported: set AZURE_STORAGE_ENDPOINT to the emulator's address \
             with the account as its path (http://127.0.0.1:10000/devstoreaccount1), and account and key as for a real one",
        ));
    }
    let endpoint = first(env, &["AZURE_STORAGE_ENDPOINT"]);
    let endpoint = endpoint.map(|url| base_url("AZURE_STORAGE_ENDPOINT", &url)).transpose()?;
    let plain_http = endpoint.as_ref().is_some_and(|url| url.starts_with("http://"));
    // A shared access signature and a bearer token would be there for everyone on the way to read.
    if plain_http && !endpoint.as_deref().is_some_and(is_loopback) {
        return Err(bad(
            "AZURE_STORAGE_ENDPOINT is http:// and not an address of this host: only https:// is safe there",
        ));
    }
    let mut builder = MicrosoftAzureBuilder::new()
        .with_container_name(&location.bucket)
        .with_client_options(http.options(plain_http))
        .with_retry(no_inner_retries())
        .with_http_connector(http.clone());
    if let Some(endpoint) = endpoint {
        builder = builder.with_endpoint(endpoint);
    }

    let Some(account) = first(env, &["AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT"]) else {
        return Err(no_credentials(
            location,
            "AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN",
        ));
    };
    builder = builder.with_account(account);
    // In this order, the first complete set is used.
    let sets: [&[(AzureConfigKey, &[&str])]; 4] = [
        &[(AzureConfigKey::AccessKey, &["AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_KEY"])],
        &[(AzureConfigKey::SasKey, &["AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_SAS_KEY"])],
        &[
            (AzureConfigKey::ClientId, &["AZURE_CLIENT_ID"]),
            (AzureConfigKey::AuthorityId, &["AZURE_TENANT_ID"]),
            (AzureConfigKey::FederatedTokenFile, &["AZURE_FEDERATED_TOKEN_FILE"]),
        ],
        &[
            (AzureConfigKey::ClientId, &["AZURE_CLIENT_ID"]),
            (AzureConfigKey::AuthorityId, &["AZURE_TENANT_ID"]),
            (AzureConfigKey::ClientSecret, &["AZURE_CLIENT_SECRET"]),
        ],
    ];
    let complete = sets
        .iter()
        .find_map(|set| set.iter().map(|(key, names)| Some((*key, first(env, names)?))).collect::<Option<Vec<_>>>());
    let Some(complete) = complete else {
        return Err(no_credentials(location, "AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN"));
    };
    for (key, value) in complete {
        builder = builder.with_config(key, value);
    }
    let store = builder.build().map_err(|_| {
        bad("no Azure client can be made: AZURE_STORAGE_ACCOUNT_KEY must be base64, AZURE_STORAGE_SAS_TOKEN a query string")
    })?;
    Ok(Arc::new(store))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::providers::store::http::REQUEST_TIMEOUT;
    use crate::providers::store::tests::env;

    fn http() -> Connector {
        Connector::new(REQUEST_TIMEOUT)
    }

    type Open = fn(&Location, &dyn Env, &Connector) -> Result<Arc<dyn ObjectStore>, StoreError>;

    fn problem(open: Open, url: &str, variables: &[(&str, &str)]) -> StoreError {
        open(&Location::parse(url).unwrap(), &env(variables), &http()).map(|_| ()).unwrap_err()
    }

    #[test]
    fn google_needs_a_key_or_an_emulator() {
        let missing = problem(google, "gs://b", &[]);
        assert!(matches!(&missing, StoreError::Denied { .. }), "{missing:?}");
        assert!(missing.to_string().contains("GOOGLE_APPLICATION_CREDENTIALS"));
        let quoted = problem(google, "gs://b", &[("GOOGLE_SERVICE_ACCOUNT_KEY", "\"hunter2\"")]);
        assert!(matches!(quoted, StoreError::BadConfig { .. }) && !quoted.to_string().contains("hunter2"), "{quoted}");
        assert!(
            problem(google, "gs://b", &[("STORAGE_EMULATOR_HOST", "http://u:hunter2@h")]).to_string().contains("HOST")
        );
        google(&Location::parse("gs://b").unwrap(), &env(&[("STORAGE_EMULATOR_HOST", "localhost:4443")]), &http())
            .unwrap();
    }

    #[test]
    fn azure_needs_an_account_and_a_key() {
        let account = ("AZURE_STORAGE_ACCOUNT_NAME", "acc");
        assert!(problem(azure, "az://c", &[]).to_string().contains("AZURE_STORAGE_ACCOUNT_NAME"));
        assert!(problem(azure, "az://c", &[account]).to_string().contains("AZURE_STORAGE_SAS_TOKEN"));
        assert!(problem(azure, "az://c", &[account, ("AZURE_CLIENT_ID", "x")]).to_string().contains("SAS_TOKEN"));
        let quoted = problem(azure, "az://c", &[account, ("AZURE_STORAGE_ACCOUNT_KEY", "hunter2!")]);
        assert!(matches!(quoted, StoreError::BadConfig { .. }) && !quoted.to_string().contains("hunter2"), "{quoted}");
        let emulator = problem(azure, "az://c", &[("AZURE_STORAGE_USE_EMULATOR", "true")]);
        assert!(emulator.to_string().contains("AZURE_STORAGE_ENDPOINT"), "{emulator}");
        let location = Location::parse("az://c/p").unwrap();
        azure(&location, &env(&[account, ("AZURE_STORAGE_ACCOUNT_KEY", "aGk=")]), &http()).unwrap();
        azure(&location, &env(&[account, ("AZURE_STORAGE_SAS_TOKEN", "?sv=1&sig=x")]), &http()).unwrap();
        azure(&location, &env(&[("AZURE_STORAGE_ACCOUNT", "acc"), ("AZURE_STORAGE_KEY", "aGk=")]), &http()).unwrap();
    }

    #[test]
    fn plain_http_is_for_this_host_only() {
        let open = |endpoint: &str| {
            let account = [("AZURE_STORAGE_ACCOUNT_NAME", "acc"), ("AZURE_STORAGE_ACCOUNT_KEY", "aGk=")];
            let endpoint = ("AZURE_STORAGE_ENDPOINT", endpoint);
            azure(&Location::parse("az://c").unwrap(), &env(&[account[0], account[1], endpoint]), &http()).map(|_| ())
        };
        for url in
            ["http://127.0.0.1:10000/acc", "http://localhost:1/acc", "http://[::1]:1/acc", "https://blobs.example"]
        {
            open(url).unwrap();
        }
        for url in ["http://blobs.example/hunter2", "http://192.0.2.1/hunter2", "http://localhost.example", "hunter2"] {
            let error = open(url).unwrap_err();
            assert!(matches!(error, StoreError::BadConfig { .. }) && !error.to_string().contains("hunter2"), "{error}");
        }
    }
}
