//! The URL of a store.
//!
//! Invariants: a location holds no credential, so it can be printed anywhere; a URL that carries one is refused
//! without being repeated; and what [`Location`] prints parses to the same location.

use std::fmt;
use std::str::FromStr;

use super::error::StoreError;

/// The kind of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Scheme {
    File,
    S3,
    Gs,
    Az,
    Memory,
}

/// Where a store is: `file:///abs/path`, `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`, or
/// `memory:///prefix` in tests. The bucket of `s3:///prefix` comes from the variable `BUCKET`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Location {
    pub(super) scheme: Scheme,
    /// Bucket or container. Empty for `file`, `memory`, and an `s3` bucket that is still to come from `BUCKET`.
    pub(super) bucket: String,
    /// The path without slash at either end.
    pub(super) path: String,
}

impl Location {
    /// Reads a URL.
    ///
    /// # Errors
    /// [`StoreError::BadLocation`]. The message never repeats the URL: it may hold a secret.
    pub fn parse(url: &str) -> Result<Self, StoreError> {
        let bad = |detail: &str| StoreError::BadLocation { detail: detail.into() };
        let Some((scheme, rest)) = url.trim().split_once("://") else {
            return Err(bad("it has no scheme; a directory is written as file:///absolute/path"));
        };
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "file" => Scheme::File,
            "s3" => Scheme::S3,
            "gs" => Scheme::Gs,
            "az" => Scheme::Az,
            "memory" => Scheme::Memory,
            _ => return Err(bad("its scheme is none of file, s3, gs, az")),
        };
        let (bucket, path) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.contains('@') || (scheme != Scheme::File && path.contains('@')) {
            return Err(bad("it holds a user name or a credential, and arguments are visible to everyone on the host"));
        }
        if rest.contains(['?', '#']) {
            return Err(bad("it has a query or a fragment, and no setting is taken from there"));
        }
        if rest.contains('%') || rest.contains('\\') || rest.chars().any(char::is_control) {
            return Err(bad("it holds a %, a backslash or a control character; paths are taken as they are"));
        }
        let path = path.trim_end_matches('/');
        if path.split('/').any(|part| matches!(part, "." | "..")) {
            return Err(bad("its path holds . or .."));
        }
        if !path.is_empty() && path.split('/').any(str::is_empty) {
            return Err(bad("its path holds an empty part (//)"));
        }
        match scheme {
            Scheme::File if !bucket.is_empty() => return Err(bad("file:// needs an absolute path: file:///path")),
            Scheme::File if path.is_empty() => return Err(bad("file:// needs the path of a directory")),
            Scheme::Memory if !bucket.is_empty() => return Err(bad("memory:// has no bucket")),
            Scheme::Gs | Scheme::Az if bucket.is_empty() => return Err(bad("the name of the bucket is missing")),
            _ => {}
        }
        if !bucket.chars().all(is_bucket_char) || bucket.starts_with(['.', '-']) || bucket.ends_with(['.', '-']) {
            return Err(bad("the name of the bucket holds characters that no bucket has"));
        }
        Ok(Self { scheme, bucket: bucket.into(), path: path.into() })
    }

    /// Whether this names a directory of this host.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.scheme == Scheme::File
    }

    /// The directory of a `file://` store.
    pub(super) fn directory(&self) -> std::path::PathBuf {
        format!("/{}", self.path).into()
    }

    /// What stands before every key in the backend. A `file://` backend is rooted in its directory already.
    pub(super) fn key_prefix(&self) -> &str {
        if self.scheme == Scheme::File { "" } else { &self.path }
    }

    /// Whether LIST comes in the order of keys. Directories, and S3 Express buckets, have none. SeaweedFS goes by parts
    /// (`a/b/x` before `a/b-`), which makes no difference after an offset that is the name looked for but for its last character.
    pub(super) fn lists_in_order(&self) -> bool {
        self.scheme != Scheme::File && !self.bucket.ends_with("--x-s3")
    }
}

const fn is_bucket_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '$')
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::File => "file",
            Scheme::S3 => "s3",
            Scheme::Gs => "gs",
            Scheme::Az => "az",
            Scheme::Memory => "memory",
        };
        write!(f, "{scheme}://{}", self.bucket)?;
        if self.path.is_empty() { Ok(()) } else { write!(f, "/{}", self.path) }
    }
}

impl FromStr for Location {
    type Err = StoreError;

    fn from_str(url: &str) -> Result<Self, StoreError> {
        Self::parse(url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_urls_print_as_they_are_understood() {
        for (url, printed) in [
            ("file:///srv/backups", "file:///srv/backups"),
            ("file:///srv/back ups@home/", "file:///srv/back ups@home"),
            ("s3://bucket", "s3://bucket"),
            ("s3://bucket/", "s3://bucket"),
            ("S3://my-bucket.v2/a/b/", "s3://my-bucket.v2/a/b"),
            ("  s3://bucket/a\n", "s3://bucket/a"),
            ("s3:///prefix", "s3:///prefix"),
            ("s3://", "s3://"),
            ("gs://bucket/a", "gs://bucket/a"),
            ("az://$root/ä", "az://$root/ä"),
            ("memory://", "memory://"),
            ("memory:///a", "memory:///a"),
        ] {
            let location = Location::parse(url).unwrap();
            assert_eq!(location.to_string(), printed, "{url}");
            assert_eq!(Location::parse(printed).unwrap(), location, "{url}");
        }
    }

    #[test]
    fn odd_urls_are_refused_and_never_repeated() {
        for url in [
            "",
            "hunter2",
            "/srv/hunter2",
            "file://hunter2/b",
            "file://",
            "file:///",
            "file:///a/../hunter2",
            "file:///a//hunter2",
            "file:////hunter2",
            "file:///a%20hunter2",
            "file:///a?hunter2",
            "https://hunter2.example/b",
            "s3:/hunter2",
            "s3://AKIA:hunter2@bucket/p",
            "s3://AKIA:hunter2/p",
            "s3://AKIA/hunter2@bucket",
            "s3://bucket/p?key=hunter2",
            "s3://bucket/p#hunter2",
            "s3://bucket/./hunter2",
            "s3://bucket/a\u{7}hunter2",
            "s3://bucket//hunter2",
            "s3://.hunter2",
            "s3://bück/hunter2",
            "gs:///hunter2",
            "az://",
            "memory://hunter2",
        ] {
            let error = Location::parse(url).unwrap_err();
            assert!(matches!(error, StoreError::BadLocation { .. }), "{url}: {error}");
            let error = crate::Error::from(error);
            assert_eq!(error.code(), crate::ExitCode::Usage);
            assert!(!format!("{error:?} {}", error.full_message()).contains("hunter2"), "{url}: {error}");
        }
    }
}
