//! JSON over HTTP without copies that stay in memory.
//!
//! Why not `Response::json` and `RequestBuilder::json`: the buffers that they make hold every secret of a request or an
//! answer, and are freed as they are.
//!
//! Invariant: each buffer here is wiped before it is freed, also the ones that it outgrows.

use bytes::Bytes;
use reqwest::{Body, Response};
use serde::Serialize;
use zeroize::Zeroizing;

/// A buffer that is wiped.
pub type Wiped = Zeroizing<Vec<u8>>;

/// The JSON of a value, in a buffer of exactly its size.
///
/// # Errors
/// When the value has no JSON.
pub fn json<T: Serialize + ?Sized>(value: &T) -> serde_json::Result<Wiped> {
    let mut length = Length(0);
    serde_json::to_writer(&mut length, value)?;
    let mut buffer = Zeroizing::new(Vec::with_capacity(length.0));
    serde_json::to_writer(&mut *buffer, value)?;
    Ok(buffer)
}

/// A body that is wiped when it was sent.
#[must_use]
pub fn body(buffer: Wiped) -> Body {
    struct Owner(Wiped);
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    Body::from(Bytes::from_owner(Owner(buffer)))
}

/// Why an answer was not read whole.
#[derive(Debug, thiserror::Error)]
pub enum Unread {
    /// It is longer than so many bytes.
    #[error("the answer is larger than {} MiB", .0 >> 20)]
    Large(usize),
    /// The connection failed on the way.
    #[error("the answer was cut off")]
    Cut(#[source] reqwest::Error),
}

/// The whole body of an answer, of at most `limit` bytes.
///
/// # Errors
/// When it is larger, or the connection fails.
pub async fn read(mut response: Response, limit: usize) -> Result<Wiped, Unread> {
    let announced = response.content_length().and_then(|length| usize::try_from(length).ok()).unwrap_or(64 << 10);
    let mut buffer = Zeroizing::new(Vec::with_capacity(announced.min(limit)));
    while let Some(chunk) = response.chunk().await.map_err(Unread::Cut)? {
        append(&mut buffer, &chunk);
        if buffer.len() > limit {
            return Err(Unread::Large(limit));
        }
    }
    Ok(buffer)
}

/// Adds bytes without leaving a copy behind where the buffer has to grow.
pub fn append(buffer: &mut Wiped, bytes: &[u8]) {
    let length = buffer.len() + bytes.len();
    if length > buffer.capacity() {
        let mut larger = Zeroizing::new(Vec::with_capacity(length.max(buffer.capacity() * 2)));
        larger.extend_from_slice(buffer);
        *buffer = larger;
    }
    buffer.extend_from_slice(bytes);
}

/// Counts what is written.
struct Length(usize);

impl std::io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
