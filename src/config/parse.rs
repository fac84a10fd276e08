//! The checks of single values. Each returns the end of a sentence that begins with the value.

use clap::ValueEnum;

/// A source name: it becomes part of object names, so it is kept plain.
pub fn parse_source(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if (1..=64).contains(&text.len()) && text.bytes().all(plain) && !text.starts_with('.') {
        return Ok(text.to_owned());
    }
    Err("is not a source name: 1 to 64 of A-Z a-z 0-9 . _ - and no dot at the start".into())
}

/// A run id: it stands in logs and reports.
pub(super) fn parse_run_id(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
    if (1..=128).contains(&text.len()) && text.bytes().all(plain) {
        return Ok(text.to_owned());
    }
    Err("is not a run id: 1 to 128 of A-Z a-z 0-9 . _ : -".into())
}

/// A store URL: a known scheme and no credentials. The caller must not repeat a text that may hold a password, so this
/// returns a whole sentence.
pub(super) fn check_store(text: &str) -> Result<(), String> {
    let url = url::Url::parse(text).map_err(|error| format!("it is not a URL ({error})"))?;
    if !["file", "s3", "gs", "az"].contains(&url.scheme()) {
        return Err(format!("`{}://` is not one of file://, s3://, gs://, az://", url.scheme()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("it holds credentials; give those by the variables of the storage service".into());
    }
    let place = if url.scheme() == "file" { url.path() } else { url.host_str().unwrap_or_default() };
    // The bucket of `s3:///prefix` comes from the variable BUCKET, as Railway sets it.
    if place.is_empty() && !text.trim_start().starts_with("s3:///") {
        return Err("it names no bucket or folder".into());
    }
    Ok(())
}

/// A size in bytes: `4096`, `512KiB`, `256MiB`, `1GiB`; `K`, `M`, `G` alone mean the same, powers of 1024.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || "is not a size, such as 256MiB or 1GiB".to_owned();
    let text = text.trim();
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        _ => return Err(wrong()),
    };
    number.checked_mul(factor).ok_or_else(|| "is too large".to_owned())
}

/// Memory for packs in flight: below 64 MiB not even one pack can be built while another is sent.
pub(super) fn parse_memory(text: &str) -> Result<u64, String> {
    match parse_size(text)? {
        size if size < 64 << 20 => Err("is too little: at least 64MiB".into()),
        size => Ok(size),
    }
}

/// What a run may store anew: with nothing it would never come to an end.
pub(super) fn parse_budget(text: &str) -> Result<u64, String> {
    match parse_size(text)? {
        0 => Err("is too little: at least 1, so that each run gets on".into()),
        size => Ok(size),
    }
}

/// How many uploads run at the same time.
pub(super) fn parse_concurrency(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(number @ 1..=64) => Ok(number),
        _ => Err("is not a number from 1 to 64".into()),
    }
}

/// One of the words of an enumeration.
pub(super) fn parse_word<T: ValueEnum>(text: &str) -> Result<T, String> {
    T::from_str(text, false).map_err(|_| {
        let words = T::value_variants().iter().filter_map(ValueEnum::to_possible_value);
        let words: Vec<String> = words.map(|word| word.get_name().to_owned()).collect();
        format!("is not one of {}", words.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_names() {
        for good in ["default", "openwork-production", "A.b_c-1", "x", &"a".repeat(64), "-x"] {
            assert!(parse_source(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", ".hidden", "a/b", "a b", "é", &"a".repeat(65), "a\n"] {
            assert!(parse_source(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("256MiB"), Ok(256 << 20));
        assert_eq!(parse_size("1 g"), Ok(1 << 30));
        for bad in ["", "MiB", "-1", "1.5GiB", "1XB", "18446744073709551615k", "99999999999999999999"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        assert!(parse_memory("1MiB").is_err() && parse_memory("64MiB").is_ok());
        assert!(parse_budget("0").is_err() && parse_budget("1GiB").is_ok());
        assert!(parse_concurrency("0").is_err() && parse_concurrency("65").is_err() && parse_concurrency("4").is_ok());
    }

    #[test]
    fn stores() {
        for good in
            ["file:///var/backups", "s3://bucket", "s3://bucket/prefix", "s3:///p", "gs://b/p", "az://container/p"]
        {
            assert_eq!(check_store(good), Ok(()), "{good}");
        }
        for bad in ["", "/var/backups", "http://x/y", "s3://", "s3:bucket", "s3://key:hunter2@bucket", "gs:///prefix"] {
            let why = check_store(bad).unwrap_err();
            assert!(!why.contains("hunter2"));
        }
    }
}
